"""Vocabularies for tests: trained ones, llama.cpp's own tokens of a text, and broken files."""

import copy
import json
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

LINES = (
    "the quick brown fox jumps over the lazy dog ", "I'll say: don't 123 4567, it's fine!\n",
    "naïve café Grüße, 你好 мир 🚀\n\n", "  two  spaces\tand tabs\r\n",
    "x = f(a[0]) + 3.14 # note\n",
)  # fmt: skip
_POOLS = (
    (0x20, 0x7E), (0xA0, 0x24F), (0x370, 0x52F), (0x590, 0x6FF), (0x900, 0x97F), (0xE00, 0xE7F),
    (0x1100, 0x11FF), (0x2000, 0x206F), (0x20A0, 0x27BF), (0x3040, 0x30FF), (0x4E00, 0x9FA5),
    (0xAC00, 0xD7A3), (0xFE00, 0xFE0F), (0x1F300, 0x1FAFF), (0x10000, 0x103FF),
)  # fmt: skip
_PARTS = (" ", "  ", "   ", "\n", "\n\n", "\t", "\r\n", "\u3000", "\u00a0", "'s", "'re", "123",
          "4567", "don't", "I'LL", " 12,345.67", "...", "<b>", "</div>", "```")  # fmt: skip


def corpus(lines: int = 300) -> list[str]:
    chance = random.Random(1)
    return ["".join(chance.choices(LINES, k=4)) for _ in range(lines)]


def noise(lines: int) -> list[str]:
    """Characters of many scripts, blanks and pieces of words."""
    chance, found = random.Random(2), []
    for _ in range(lines):
        parts = []
        for _ in range(chance.randint(1, 40)):
            first, last = chance.choice(_POOLS)
            some = "".join(chr(chance.randint(first, last)) for _ in range(chance.randint(1, 4)))
            parts.append(chance.choice(_PARTS) if chance.random() < 0.25 else some)
        found.append("".join(parts))
    return found


def over_bytes(pre: str, size: int = 400) -> dict[str, Any]:
    """A tokenizer.json: BPE over bytes, trained with the pre-tokenizer of llama.cpp's name."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers

    from overt.lab.convert import pre_tokenizers as known

    cutter, ignores = known.spelled(pre)
    file: dict[str, Any] = json.loads(Tokenizer(models.BPE()).to_str())
    made = Tokenizer.from_str(json.dumps(file | {"pre_tokenizer": cutter}))
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
    )  # fmt: skip
    made.train_from_iterator(corpus(), trainer)
    made.add_tokens([AddedToken("   ", normalized=False)])
    file = json.loads(made.to_str())
    file["model"]["ignore_merges"] = ignores
    return file


def over_characters(folder: Path, size: int = 500, **more: Any) -> bytes:
    """A tokenizer.model: SentencePiece's BPE, as Llama's and Gemma's are trained."""
    import sentencepiece

    (folder / "corpus.txt").write_text("\n".join(line.strip() for line in corpus()))
    told = {
        "model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False, "character_coverage": 1.0, **more,
    }  # fmt: skip
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "corpus.txt"), model_prefix=str(folder / "trained"), vocab_size=size,
        minloglevel=2, **told,
    )  # fmt: skip
    return (folder / "trained.model").read_bytes()


def write(keys: Sequence[tuple[str, Any]], target: Path) -> Path:
    """A GGUF file of nothing but a vocabulary."""
    from gguf import GGUFWriter

    writer = GGUFWriter(str(target), "llama")
    for name in ("context_length", "embedding_length", "block_count", "feed_forward_length",
                 "attention.head_count", "rope.dimension_count"):  # fmt: skip
        writer.add_uint32(f"llama.{name}", 1)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    for key, value in keys:
        add: Mapping[type, Callable[[str, Any], None]] = {
            bool: writer.add_bool, int: writer.add_uint32, str: writer.add_string,
            list: writer.add_array,
        }  # fmt: skip
        add[type(value)](key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return target


@contextmanager
def native(path: Path) -> Iterator[Callable[..., list[int]]]:
    """llama.cpp's tokens of a text: ``ids(text, around=False)``."""
    from llama_cpp_py_sync import _cffi_bindings as bindings

    from llamacpp_logits import _silent

    ffi: Any = bindings.get_ffi()
    lib: Any = bindings.get_lib()
    lib.llama_backend_init()
    lib.llama_log_set(_silent(ffi), ffi.NULL)
    options = lib.llama_model_default_params()
    options.vocab_only, options.n_gpu_layers = True, 0
    model = lib.llama_model_load_from_file(os.fsencode(path), options)
    assert model, f"llama.cpp does not load the vocabulary of {path}"
    vocab = lib.llama_model_get_vocab(model)

    def ids(text: str, around: bool = False) -> list[int]:
        raw = text.encode()
        room = len(raw) + 8
        found = ffi.new("llama_token[]", room)
        count = lib.llama_tokenize(vocab, raw, len(raw), found, room, around, True)
        assert count >= 0
        return list(found[0:count])

    yield ids
    lib.llama_model_free(model)


# ---- what nobody should send ---------------------------------------------------------------

_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-3, 1 << 70)
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(["\ud800", "BPE", "ByteLevel", "Sequence", "▁", "<unk>", "LORA"])
)
_ANYTHING = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "id", "content", "special"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@st.composite
def broken(draw: st.DrawFn, whole: Any) -> Any:
    """A copy of a JSON value with some of its parts replaced, dropped or added."""
    found = copy.deepcopy(whole)
    for _ in range(draw(st.integers(1, 3))):
        holder: Any = found
        key: Any = draw(st.sampled_from(sorted(holder)))
        while isinstance(holder[key], dict | list) and holder[key] and draw(st.integers(0, 3)):
            holder = holder[key]
            keys = sorted(holder) if isinstance(holder, dict) else range(len(holder))
            key = draw(st.sampled_from(keys))
        if isinstance(holder, dict) and len(holder) > 1 and draw(st.booleans()):
            del holder[key]
        else:
            holder[key] = draw(_ANYTHING)
    return found


@st.composite
def damaged(draw: st.DrawFn, whole: bytes, first: int = 1 << 16) -> bytes:
    """Bytes with some changed, most of them near the beginning; sometimes cut."""
    found = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, min(first, len(found)) - 1))
        found[place] = draw(st.integers(0, 255))
    return bytes(found[: draw(st.integers(0, len(found)))] if draw(st.booleans()) else found)
