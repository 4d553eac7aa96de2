"""A release's tokenizer in GGUF gives llama.cpp the tokens that its own library gives, and back.

Oracles: `tokenizers`, `sentencepiece`, and llama.cpp's own vocabulary.
"""

import contextlib
import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import words_rig as rig
from overt.errors import FormatError, Unsupported
from overt.formats import gguf, sentencepiece
from overt.lab.convert import pre_tokenizers, tokenizer_files, vocabulary

tokenizers = pytest.importorskip("tokenizers")
native = pytest.importorskip("llama_cpp_py_sync")

NAMES = [one.name for one in pre_tokenizers.table()]
TEXTS = [*rig.corpus(20), *rig.noise(40), "", " ", "a   b", "<|im_start|>user\nhi<|im_end|>"]
FUZZ = settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))


def metadata(texts: dict[str, Any], size: int, architecture: str = "llama") -> dict[str, Any]:
    return dict(vocabulary.metadata(texts, {"vocab_size": size}, architecture))


def count(file: dict[str, Any]) -> int:
    ids = [*file["model"]["vocab"].values(), *(one["id"] for one in file["added_tokens"])]
    return max(ids) + 1


def back(path: Path) -> dict[str, Any]:
    """The files of a release that a GGUF file's vocabulary gives, as they are read."""
    return {
        name: data.decode() if name.endswith(".jinja") else json.loads(data)
        for name, data in tokenizer_files.files(gguf.read(path)).items()
    }


@pytest.fixture(scope="module")
def small() -> dict[str, Any]:
    return rig.over_bytes("smollm")


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    pytest.importorskip("sentencepiece")
    return rig.over_characters(tmp_path_factory.mktemp("pieces"))


# ---- BPE over bytes ------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_pre_tokenizer_gives_the_same_tokens(name: str, tmp_path: Path) -> None:
    file = rig.over_bytes(name)
    keys = metadata({"tokenizer.json": file}, count(file), "olmo" if name == "olmo" else "llama")
    assert keys["tokenizer.ggml.pre"] == name
    oracle = tokenizers.Tokenizer.from_str(json.dumps(file))
    written = rig.write(list(keys.items()), tmp_path / "words.gguf")
    again = back(written)
    twin = tokenizers.Tokenizer.from_str(json.dumps(again["tokenizer.json"]))
    with rig.native(written) as ids:
        for text in TEXTS:
            assert ids(text) == oracle.encode(text).ids == twin.encode(text).ids, repr(text)
            assert twin.decode(ids(text), skip_special_tokens=False) == text
    assert metadata(again, count(file), "olmo" if name == "olmo" else "llama") == keys


def test_a_person_may_name_the_pre_tokenizer(small: dict[str, Any], pieces: bytes) -> None:
    """One that is not recognised; of a vocabulary that has none it makes no sense."""
    config = {"vocab_size": count(small)}
    odd = small | {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [
        {"type": "Digits", "individual_digits": False},
        {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
    ]}}  # fmt: skip
    with pytest.raises(Unsupported, match="no name in llama") as caught:
        vocabulary.metadata({"tokenizer.json": odd}, config, "llama")
    assert "--pre NAME" in str(caught.value.hint)
    keys = dict(vocabulary.metadata({"tokenizer.json": odd}, config, "llama", "mine"))
    assert keys["tokenizer.ggml.pre"] == "mine"
    with pytest.raises(Unsupported, match="no BPE over bytes"):
        vocabulary.metadata({"tokenizer.model": pieces}, {"vocab_size": 500}, "llama", "mine")


def test_rows_without_a_token_get_a_name(small: dict[str, Any]) -> None:
    size = count(small)
    keys = metadata({"tokenizer.json": small}, size + 3)
    assert keys["tokenizer.ggml.tokens"][size:] == [f"[PAD{size + i}]" for i in range(3)]
    assert keys["tokenizer.ggml.token_type"][-4:] == [4, 5, 5, 5]
    assert keys["tokenizer.ggml.token_type"][:4] == [3, 3, 3, 1]
    assert keys["tokenizer.ggml.tokens"][size - 1] == "   "


def test_an_empty_token_is_called_so(small: dict[str, Any]) -> None:
    file = copy.deepcopy(small)
    file["model"]["vocab"][""] = count(small)
    empty = f"the token {count(small)} of the tokenizer is empty"
    with pytest.raises(FormatError, match=empty) as caught:
        metadata({"tokenizer.json": file}, count(small) + 1)
    assert caught.value.hint


def test_what_stands_around_a_text(small: dict[str, Any], tmp_path: Path) -> None:
    special = {"id": "<|im_start|>", "ids": [1], "tokens": ["<|im_start|>"]}
    file = copy.deepcopy(small) | {"post_processor": {
        "type": "TemplateProcessing", "pair": [],
        "single": [{"SpecialToken": {"id": "<|im_start|>", "type_id": 0}},
                   {"Sequence": {"id": "A", "type_id": 0}}],
        "special_tokens": {"<|im_start|>": special},
    }}  # fmt: skip
    said = {"eos_token": {"content": "<|im_end|>"}, "pad_token": "<|endoftext|>",
            "chat_template": [{"name": "default", "template": "D"},
                              {"name": "tool_use", "template": "T"}]}  # fmt: skip
    keys = metadata({"tokenizer.json": file, "tokenizer_config.json": said}, count(file))
    assert keys["tokenizer.ggml.add_bos_token"] is True
    assert keys["tokenizer.ggml.add_eos_token"] is False
    assert [keys[f"tokenizer.ggml.{role}_token_id"] for role in ("bos", "eos", "padding")] == [
        1, 2, 0,
    ]  # fmt: skip
    assert keys["tokenizer.chat_template"] == "D"
    assert keys["tokenizer.chat_template.tool_use"] == "T"
    written = rig.write(list(keys.items()), tmp_path / "words.gguf")
    twin = tokenizers.Tokenizer.from_str(json.dumps(back(written)["tokenizer.json"]))
    with rig.native(written) as ids:
        assert ids("hello", around=True) == twin.encode("hello").ids
        assert ids("hello", around=True)[0] == 1


def test_a_second_end_that_llama_cpp_would_not_know(small: dict[str, Any]) -> None:
    file = copy.deepcopy(small)
    file["added_tokens"][1]["content"] = "<turn>"
    file["model"]["vocab"]["<turn>"] = file["model"]["vocab"].pop("<|im_start|>")
    texts = {"tokenizer.json": file, "tokenizer_config.json": {"eos_token": "<|endoftext|>"}}
    ends = {"generation_config.json": {"eos_token_id": [0, 1, 2]}}
    assert metadata(texts | ends, count(file))["tokenizer.ggml.eot_token_id"] == 1
    assert "tokenizer.ggml.eot_token_id" not in metadata(texts, count(file))


REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "another pre-tokenizer": (
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": "x+"}, "behavior": "Isolated"},
            {"type": "ByteLevel", "use_regex": False}]}}, Unsupported, "x\\+"),
    "a space first": (
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}}, Unsupported, "space"),
    "small letters": ({"normalizer": {"type": "Lowercase"}}, Unsupported, "Lowercase"),
    "words of pieces": ({"model": {"type": "WordPiece", "vocab": {}}}, Unsupported, "WordPiece"),
    "no pre-tokenizer": ({"pre_tokenizer": None}, Unsupported, "fallback"),
    "two tokens first": (
        {"post_processor": {"type": "TemplateProcessing", "single": [
            {"SpecialToken": {"id": "<|im_start|>"}}, {"SpecialToken": {"id": "<|im_end|>"}},
            {"Sequence": {"id": "A"}}]}}, Unsupported, "2 tokens before"),
    "merges of nothing": (
        {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}}, FormatError, "merges"),
    "two tokens alike": (
        {"added_tokens": [{"id": 5, "content": "a"}]}, FormatError, "both"),
    "a number too high": (
        {"model": {"type": "BPE", "vocab": {"a": 1 << 40}, "merges": []}}, FormatError, "numbers"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_llama_cpp_would_read_otherwise_is_refused(case: str, small: dict[str, Any]) -> None:
    change, kind, words = REFUSED[case]
    with pytest.raises(kind, match=words):
        metadata({"tokenizer.json": copy.deepcopy(small) | change}, count(small))


@pytest.mark.parametrize("size", [None, 0, "400", True, 1 << 40])
def test_a_size_that_cannot_be(size: object, small: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match="vocab_size"):
        vocabulary.metadata({"tokenizer.json": small}, {"vocab_size": size}, "llama")


def test_the_table_names_a_source_and_writes_what_it_reads() -> None:
    for one in pre_tokenizers.table():
        written, ignores = pre_tokenizers.spelled(one.name)
        architecture = one.architectures[0] if one.architectures else "llama"
        assert pre_tokenizers.recognise(written, ignores, architecture) == one.name
        assert pre_tokenizers.spelled((*one.also, one.name)[0]) == (written, ignores)
    with pytest.raises(Unsupported, match="none"):
        pre_tokenizers.spelled("none")


# ---- SentencePiece -------------------------------------------------------------------------


@pytest.mark.parametrize("first", [True, False])
def test_pieces_give_the_same_tokens(first: bool, tmp_path: Path) -> None:
    processor = pytest.importorskip("sentencepiece").SentencePieceProcessor
    data = rig.over_characters(tmp_path, add_dummy_prefix=first, user_defined_symbols=["<tag>"])
    size = processor(model_proto=data).vocab_size()
    keys = metadata({"tokenizer.model": data}, size)
    assert keys["tokenizer.ggml.model"] == "llama"
    assert keys["tokenizer.ggml.add_space_prefix"] is first
    written = rig.write(list(keys.items()), tmp_path / "words.gguf")
    texts = back(written)
    twin = tokenizers.Tokenizer.from_str(json.dumps(texts["tokenizer.json"]))
    oracle = processor(model_proto=data)
    # llama.cpp and `tokenizers` put a space after a tag too, and give the empty text no token
    lines = [text for text in TEXTS if text and "<" not in text]
    with rig.native(written) as ids:
        for text in lines:
            assert ids(text) == oracle.encode(text) == twin.encode(text).ids[1:], repr(text)
        for text in ("<tag>", "a <tag>b"):
            assert ids(text) == twin.encode(text).ids[1:]
    # without tokenizer.model: what is merged first has the highest score
    ranked = metadata({"tokenizer.json": texts["tokenizer.json"]}, size)
    second = rig.write(list(ranked.items()), tmp_path / "ranked.gguf")
    with rig.native(second) as ids:
        assert all(ids(text) == oracle.encode(text) for text in lines)
    for key in ("tokens", "add_space_prefix", "add_bos_token", "pre"):
        assert ranked[f"tokenizer.ggml.{key}"] == keys[f"tokenizer.ggml.{key}"]


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"model_type": "unigram"}, "unigram"),
        ({"normalization_rule_name": "nmt_nfkc"}, "rewrites"),
        ({"remove_extra_whitespaces": True}, "removes"),
        ({"byte_fallback": False}, "no token for the byte"),
    ],
)
def test_pieces_that_llama_cpp_would_read_otherwise(
    told: dict[str, Any], words: str, tmp_path: Path
) -> None:
    pytest.importorskip("sentencepiece")
    data = rig.over_characters(tmp_path, size=120 if "byte_fallback" in told else 320, **told)
    with pytest.raises(Unsupported, match=words):
        metadata({"tokenizer.model": data}, 600)


def test_both_files_have_to_agree(pieces: bytes, tmp_path: Path) -> None:
    keys = metadata({"tokenizer.model": pieces}, 500)
    file = back(rig.write(list(keys.items()), tmp_path / "words.gguf"))["tokenizer.json"]
    assert metadata({"tokenizer.model": pieces, "tokenizer.json": file}, 500)
    vocab = file["model"]["vocab"]
    a, b = sorted(vocab, key=lambda token: vocab[token])[-2:]
    vocab[a], vocab[b] = vocab[b], vocab[a]
    with pytest.raises(FormatError, match=r"tokenizer\.model numbers"):
        metadata({"tokenizer.model": pieces, "tokenizer.json": file}, 500)


# ---- real vocabularies ---------------------------------------------------------------------


def _same(path: Path, lines: list[str], rest: set[str]) -> dict[str, Any]:
    """Out to a tokenizer.json and in again; `rest`: keys that may be other."""
    texts, header = back(path), gguf.read(path)
    assert header.vocabulary_size
    keys = metadata(texts, header.vocabulary_size, header.architecture)
    for key, value in header.metadata.items():
        if key.startswith("tokenizer.") and key.removeprefix("tokenizer.ggml.") not in rest:
            stored = value.load() if isinstance(value, gguf.Array) else value
            assert (list(stored) if isinstance(stored, tuple) else stored) == keys[key], key
    twin = tokenizers.Tokenizer.from_str(json.dumps(texts["tokenizer.json"]))
    with rig.native(path) as ids:
        for line in lines:
            assert ids(line, around=True) == twin.encode(line).ids, repr(line)
    return keys


def _lines(shared_data: Callable[[str], Path]) -> list[str]:
    plays = shared_data("text/tinyshakespeare.txt").read_text().splitlines()
    return [*plays[:250], "\n".join(plays[:50]), *rig.noise(250), *TEXTS]


@pytest.mark.model
def test_smollm2_out_and_in_again(smollm2_gguf: Path, shared_data: Callable[[str], Path]) -> None:
    # a switch that llama.cpp does not read in a BPE vocabulary
    _same(smollm2_gguf, _lines(shared_data), {"add_space_prefix"})


@pytest.mark.slow
@pytest.mark.model
def test_gemma_out_and_in_again(gemma3_gguf: Path, shared_data: Callable[[str], Path]) -> None:
    # scores count from the first merge; those of single characters, which no merge makes, differ
    keys = _same(gemma3_gguf, _lines(shared_data), {"scores", "add_sep_token"})
    header = gguf.read(gemma3_gguf)
    tokens, old = (header.metadata[f"tokenizer.ggml.{key}"].load() for key in ("tokens", "scores"))
    pairs = zip(tokens, old, keys["tokenizer.ggml.scores"], strict=True)
    assert all(one == other for token, one, other in pairs if len(token) > 1)


# ---- broken files --------------------------------------------------------------------------


def _reads(texts: dict[str, Any], size: int) -> None:
    with contextlib.suppress(FormatError, Unsupported):
        metadata(texts, size)


@FUZZ
@given(data=st.data())
def test_a_broken_tokenizer_json_is_refused(small: dict[str, Any], data: st.DataObject) -> None:
    short = copy.deepcopy(small)
    vocab = {token: id for token, id in short["model"]["vocab"].items() if id < 264}
    merges = [pair for pair in short["model"]["merges"] if "".join(pair) in vocab]
    short["model"] |= {"vocab": vocab, "merges": merges}
    short["post_processor"] = {
        "type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<|im_end|>"}},
                                                 {"Sequence": {"id": "A"}}],
    }  # fmt: skip
    whole = {
        "tokenizer.json": short, "tokenizer_config.json": {
            "eos_token": "<|endoftext|>", "add_bos_token": True, "chat_template": "x",
            "added_tokens_decoder": {"0": {"content": "<|endoftext|>", "special": True}}},
        "special_tokens_map.json": {"bos_token": {"content": "<|im_end|>"}},
        "generation_config.json": {"eos_token_id": [1, 2]},
        "added_tokens.json": {"<x>": 300},
    }  # fmt: skip
    _reads(data.draw(rig.broken(whole)), 402)


@FUZZ
@given(data=st.data())
def test_a_broken_tokenizer_model_is_refused(pieces: bytes, data: st.DataObject) -> None:
    _reads({"tokenizer.model": data.draw(rig.damaged(pieces, len(pieces)))}, 500)
    with contextlib.suppress(FormatError):
        sentencepiece.read(data.draw(st.binary(max_size=64)))


@FUZZ
@given(data=st.data())
def test_a_broken_vocabulary_of_gguf_is_refused(
    small: dict[str, Any], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    texts = {"tokenizer.json": small, "tokenizer_config.json": {"eos_token": "<|endoftext|>"}}
    path = tmp_path_factory.mktemp("words") / "words.gguf"
    keys = metadata(texts, count(small))
    keys["tokenizer.ggml.add_bos_token"] = True
    if data.draw(st.booleans()):
        keys["tokenizer.ggml.model"] = "llama"
        keys["tokenizer.ggml.scores"] = [float(-id) for id in range(count(small))]
    path.write_bytes(data.draw(rig.damaged(rig.write(list(keys.items()), path).read_bytes())))
    with contextlib.suppress(FormatError, Unsupported):
        tokenizer_files.files(gguf.read(path))
