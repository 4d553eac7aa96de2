"""The GGUF reader against the `gguf` package, against real models, and against hostile files."""

import os
import re
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gguf as oracle
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gguf_writer as writer
from conftest import repeats
from gguf_writer import Tensor, Typed
from overt.errors import FormatError, ModelNotFound
from overt.formats import gguf
from overt.formats.ggml import TYPES


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.gguf"
    writer.write_llama(path)
    return path


# ---- the same as the reference reader --------------------------------------------------------


def assert_same_as_oracle(path: Path) -> None:
    header = gguf.read(path)
    expected = oracle.GGUFReader(path)
    fields = {k: v for k, v in expected.fields.items() if not k.startswith("GGUF.")}
    assert list(header.metadata) == list(fields)
    for key, wanted in fields.items():
        found = header.metadata[key]
        if isinstance(found, gguf.Array):
            assert len(found) == len(wanted.data)
            found = found.load()
        value = wanted.contents()
        assert found == (tuple(value) if isinstance(value, list) else value), key
    table = [
        (t.name, tuple(map(int, t.shape)), t.tensor_type.name, int(t.data_offset), int(t.n_bytes))
        for t in expected.tensors
    ]
    assert [(t.name, t.shape, t.type, t.offset, t.size) for t in header.tensors] == table
    assert header.data_offset == expected.data_offset
    assert header.alignment == expected.alignment


@pytest.mark.model
@pytest.mark.parametrize("name", ["smollm2_gguf", "gemma3_gguf"])
def test_reads_real_models_as_the_reference_does(name: str, request: pytest.FixtureRequest):
    assert_same_as_oracle(request.getfixturevalue(name))


def test_reads_a_generated_model_as_the_reference_does(small: Path):
    assert_same_as_oracle(small)


def test_block_sizes_are_those_of_the_reference():
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    theirs = {t.value: (t.name, *GGML_QUANT_SIZES[t]) for t in GGMLQuantizationType}
    # ggml-common.h: two halves and 32 bytes. The package still counts two floats.
    theirs[9] = ("Q8_1", 32, 36)
    ours = {number: tuple(kind) for number, kind in TYPES.items()}
    assert {number: ours[number] for number in theirs} == theirs


SCALARS: dict[str, st.SearchStrategy[Any]] = {
    "u8": st.integers(0, 2**8 - 1),
    "i8": st.integers(-(2**7), 2**7 - 1),
    "u16": st.integers(0, 2**16 - 1),
    "i16": st.integers(-(2**15), 2**15 - 1),
    "u32": st.integers(0, 2**32 - 1),
    "i32": st.integers(-(2**31), 2**31 - 1),
    "u64": st.integers(0, 2**64 - 1),
    "i64": st.integers(-(2**63), 2**63 - 1),
    "f32": st.floats(allow_nan=False, width=32),
    "f64": st.floats(allow_nan=False),
    "bool": st.booleans(),
}
TYPED = st.sampled_from(sorted(SCALARS)).flatmap(
    lambda kind: st.builds(
        Typed, st.just(kind), SCALARS[kind] | st.lists(SCALARS[kind], max_size=20)
    )
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
KEYS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30).filter(
    lambda key: key != "general.alignment"
)


@settings(
    max_examples=repeats(60, 150), suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(about=st.dictionaries(KEYS, TYPED | TEXT | st.lists(TEXT, min_size=1), max_size=12))
def test_what_was_written_is_read_back(about: dict[str, Any], tmp_path: Path):
    header = gguf.read(writer.write(tmp_path / "any.gguf", about))
    wanted = {key: item.value if isinstance(item, Typed) else item for key, item in about.items()}
    assert header.metadata == {
        key: tuple(item) if isinstance(item, list) else item for key, item in wanted.items()
    }


def test_version_2_and_another_alignment(tmp_path: Path):
    tensors = [Tensor("a", (32, 2), "Q8_0"), Tensor("b", (5,)), Tensor("c", ())]
    about = {"general.alignment": 128}
    path = writer.write(tmp_path / "two.gguf", about, tensors, version=2, alignment=128)
    header = gguf.read(path)
    assert (header.version, header.alignment) == (2, 128)
    assert [t.offset % 128 for t in header.tensors] == [0, 0, 0]
    assert [(t.type, t.size, t.parameters) for t in header.tensors] == [
        ("Q8_0", 68, 64), ("F32", 20, 5), ("F32", 4, 1),
    ]  # fmt: skip


# ---- facts about real models -----------------------------------------------------------------


@pytest.mark.model
def test_facts_of_smollm2(smollm2_gguf: Path):
    header = gguf.read(smollm2_gguf)
    assert header.version == 3
    assert header.architecture == "llama"
    assert header.name == "Smollm2 135M 8k Lc100K Mix1 Ep2"
    assert header.licence == "apache-2.0"
    assert header.parameters == 134_515_008
    assert header.file_type == "Q4_1"
    assert header.type_mix() == {
        "Q4_1": (210, 106_168_320, 66_355_200),
        "Q8_0": (1, 28_311_552, 30_081_024),
        "F32": (61, 35_136, 140_544),
    }
    assert header.bits_per_weight == pytest.approx(5.7437, abs=1e-4)
    assert (header.context_length, header.block_count) == (8192, 30)
    assert (header.embedding_length, header.vocabulary_size) == (576, 49152)
    assert header.feed_forward_lengths == (1536,) * 30
    assert header.head_counts == (9,) * 30
    assert header.kv_head_counts == (3,) * 30
    assert (header.key_length, header.value_length) == (64, 64)
    assert header.sliding_window is None
    assert (header.tokenizer, header.pre_tokenizer) == ("gpt2", "smollm")
    assert header.special_tokens == {"bos": 1, "eos": 2, "unknown": 0, "padding": 2}
    assert header.chat_template is not None
    assert header.chat_template.startswith("{% for message in messages %}{% if loop.first")
    assert header.chat_templates == {"default": header.chat_template}
    assert header.split_count == 1
    assert header.tensors[-1].offset + header.tensors[-1].size <= header.file_size == 98_362_432


@pytest.mark.model
def test_facts_of_gemma3(gemma3_gguf: Path):
    header = gguf.read(gemma3_gguf)
    assert header.architecture == "gemma3"
    assert header.licence == "gemma"
    assert header.parameters == 268_098_176
    assert header.file_type == "Q4_K_M"
    assert {kind: share.tensors for kind, share in header.type_mix().items()} == {
        "Q8_0": 10, "Q5_0": 81, "Q4_K": 27, "Q6_K": 9, "F32": 109,
    }  # fmt: skip
    assert header.bits_per_weight == pytest.approx(7.3581, abs=1e-4)
    assert (header.context_length, header.block_count) == (32768, 18)
    assert (header.key_length, header.value_length) == (256, 256)
    assert header.kv_head_counts == (1,) * 18
    assert header.sliding_window == 512
    assert header.vocabulary_size == 262144
    assert header.chat_template is None
    assert header.chat_templates == {}
    tokens = header.metadata["tokenizer.ggml.tokens"]
    assert isinstance(tokens, gguf.Array)
    assert tokens.load()[:4] == ("<pad>", "<eos>", "<bos>", "<unk>")
    assert header.metadata["tokenizer.ggml.scores"].load()[0] == -1000.0


@pytest.mark.model
def test_a_large_vocabulary_costs_less_than_60_ms(gemma3_gguf: Path):
    taken = []
    for _ in range(7):
        start = time.process_time()
        gguf.read(gemma3_gguf)
        taken.append(time.process_time() - start)
    assert min(taken) < 0.060


# ---- what the properties make of odd values --------------------------------------------------


def test_values_for_each_block(tmp_path: Path):
    about = {
        "general.architecture": "odd",
        "odd.block_count": 3,
        "odd.attention.head_count": Typed("u32", [8, 0, 4]),
        "odd.attention.head_count_kv": Typed("u32", [2, 0, 1]),
        "odd.embedding_length": 64,
        "odd.feed_forward_length": 100,
    }
    header = gguf.read(writer.write(tmp_path / "odd.gguf", about))
    assert header.head_counts == (8, 0, 4)
    assert header.kv_head_counts == (2, 0, 1)
    assert header.feed_forward_lengths == (100, 100, 100)
    assert header.key_length == 8


def test_named_templates_and_special_tokens(tmp_path: Path):
    about = {
        "tokenizer.chat_template": "{{ a }}",
        "tokenizer.chat_template.tool_use": "{{ b }}",
        "tokenizer.ggml.eot_token_id": 7,
        "tokenizer.ggml.bos_token_id": "seven",
        "general.file_type": 999,
        "general.quantized_by": "somebody",
        "general.license.link": "https://example.org/licence",
    }
    header = gguf.read(writer.write(tmp_path / "named.gguf", about))
    assert header.chat_templates == {"default": "{{ a }}", "tool_use": "{{ b }}"}
    assert header.special_tokens == {"eot": 7}
    assert header.file_type == "unknown (999)"
    assert header.quantized_by == "somebody"
    assert header.licence_link == "https://example.org/licence"


def test_wrong_types_read_as_absent(tmp_path: Path):
    about = {
        "general.architecture": "llama",
        "general.name": 5,
        "llama.context_length": "many",
        "llama.block_count": -1.5,
        "llama.attention.head_count": True,
        "llama.attention.sliding_window": Typed("i32", -4),
    }
    header = gguf.read(writer.write(tmp_path / "wrong.gguf", about))
    assert header.name is None
    assert header.context_length is None
    assert header.block_count is None
    assert header.head_counts == ()
    assert header.key_length is None
    assert header.sliding_window is None
    assert header.bits_per_weight == 0.0


def test_a_block_count_out_of_this_world_costs_nothing(tmp_path: Path):
    about = {
        "general.architecture": "llama",
        "llama.block_count": 2**32 - 1,
        "llama.attention.head_count": 4,
    }
    header = gguf.read(writer.write(tmp_path / "deep.gguf", about))
    assert len(header.head_counts) <= 4096


def test_long_arrays_stay_in_the_file_until_asked_for(tmp_path: Path):
    tokens = [f"token {number} \u2581" for number in range(5000)]
    about = {"t": tokens, "s": Typed("f32", [0.5] * 5000), "few": tokens[:10]}
    path = writer.write(tmp_path / "long.gguf", about)
    header = gguf.read(path)
    assert header.metadata["few"] == tuple(tokens[:10])
    assert header.metadata["t"].type == "string"
    assert header.metadata["t"].load() == tuple(tokens)
    assert header.metadata["s"].load() == (0.5,) * 5000
    with path.open("r+b") as file:
        file.truncate(20_000)
    with pytest.raises(FormatError, match="became shorter"):
        header.metadata["t"].load()
    path.unlink()
    with pytest.raises(ModelNotFound):
        header.metadata["t"].load()


def test_an_array_whose_file_changed_is_noticed(tmp_path: Path):
    path = writer.write(tmp_path / "changed.gguf", {"t": ["abc"] * 5000})
    header = gguf.read(path)
    array = header.metadata["t"]
    with path.open("r+b") as file:
        file.seek(array.offset)
        file.write(struct.pack("<Q", 2**63))
    with pytest.raises(FormatError, match="changed while in use"):
        array.load()


def test_text_that_is_not_utf8_is_marked(tmp_path: Path):
    header = gguf.read(writer.write(tmp_path / "latin.gguf", {"general.name": b"caf\xe9"}))
    assert header.name == "caf\ufffd"


# ---- the writer of these tests ---------------------------------------------------------------

_RUN = """
import os, secrets, sys, xllamacpp
common = xllamacpp.CommonParams()
common.model.path = sys.argv[1]
common.n_ctx = 256
common.n_parallel = 1
common.cpuparams.n_threads = common.cpuparams_batch.n_threads = 1
common.warmup = common.fit_params = False
common.verbosity = -1
common.hostnames = [f"@{secrets.token_hex(8)}.sock"]
server = xllamacpp.Server(common)
answer = server.handle_completions({"prompt": "hello", "max_tokens": 4, "temperature": 0})
print("tokens", answer["usage"]["completion_tokens"], flush=True)
os._exit(0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="abstract UNIX sockets are Linux's")
def test_llama_cpp_runs_what_the_writer_writes(small: Path):
    environ = {**os.environ, "OMP_WAIT_POLICY": "passive", "GGML_NO_BACKTRACE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", _RUN, str(small)], capture_output=True, env=environ, timeout=120
    )
    assert re.search(rb"tokens [1-4]", done.stdout), done.stderr[-2000:]
