"""The estimate against llama.cpp's own buffers and the measured peak; what is offered instead."""

import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gguf_writer as writer
from conftest import repeats
from gguf_writer import Tensor, Typed
from overt.errors import BadSetting, FormatError, OutOfMemory
from overt.formats import gguf
from overt.models import memory
from overt.models.memory import choose, human, need

MIB = 1 << 20

# ---- the measured peak -----------------------------------------------------------------------

_WORKER = """
import json, os, secrets, sys, threading
import xllamacpp
path, context, parallel, checkpoints = sys.argv[1], *map(int, sys.argv[2:])
common = xllamacpp.CommonParams()
common.model.path = path
common.n_ctx, common.n_parallel = context * parallel, parallel
common.kv_unified = common.warmup = common.fit_params = False
common.n_batch = common.n_ubatch = 128
common.n_gpu_layers = common.cache_ram_mib = 0
common.n_ctx_checkpoints = checkpoints
common.cpuparams.n_threads = common.cpuparams_batch.n_threads = 1
common.hostnames = [f"@{secrets.token_hex(8)}.sock"]
common.n_threads_http, common.offline, common.verbosity = 2, True, -1
server = xllamacpp.Server(common)
prompt = [270 + number % 29 for number in range(min(context - 24, 700))]  # token ids
answers = []
def ask(number):
    request = {"prompt": [260 + number, *prompt], "max_tokens": 16, "ignore_eos": True}
    answers.append(server.handle_completions(request))
asking = [threading.Thread(target=ask, args=(number,)) for number in range(parallel)]
for thread in asking: thread.start()
for thread in asking: thread.join()
lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
peak = int(lines["VmHWM"].split()[0]) * 1024
tokens = [answer["usage"]["total_tokens"] for answer in answers]
print(json.dumps({"peak": peak, "tokens": tokens}), flush=True)
os._exit(0)
"""


def measured_peak(path: Path, context: int, parallel: int) -> int:
    """Peak resident bytes of a fresh process that loads `path` and fills each slot.

    The one place that says how the peak is measured: the engine's configuration, one thread.
    """
    environ = {**os.environ, "OMP_WAIT_POLICY": "passive", "GGML_NO_BACKTRACE": "1"}
    numbers = map(str, (context, parallel, memory.CHECKPOINTS))
    done = subprocess.run(
        [sys.executable, "-c", _WORKER, str(path), *numbers],
        capture_output=True, env=environ, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:].decode()
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found["tokens"]) == parallel
    assert min(found["tokens"]) > min(context - 24, 700)  # the prompt was read, and some answered
    return int(found["peak"])


def assert_within_a_tenth(path: Path, context: int, parallel: int, record: Any) -> None:
    estimate = need(gguf.read(path), context, parallel).total
    measured = measured_peak(path, context, parallel)
    record("estimate", human(estimate))
    record("measured", human(measured))
    record("ratio", round(estimate / measured, 4))
    assert 0.9 < estimate / measured < 1.1, f"{human(estimate)} against {human(measured)}"


linux = pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
CONTEXTS = (512, 2048, 8192)


@linux
@pytest.mark.model
@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("model", ["smollm2_gguf", "gemma3_gguf"])
def test_estimate_of_one_slot(
    model: str, context: int, request: pytest.FixtureRequest, record_property: Any
):
    assert_within_a_tenth(request.getfixturevalue(model), context, 1, record_property)


@linux
@pytest.mark.model
@pytest.mark.slow
@pytest.mark.parametrize(  # the least and the most; one slot is tried at all lengths above
    ("model", "context"),
    [("smollm2_gguf", CONTEXTS[0]), ("smollm2_gguf", CONTEXTS[-1]), ("gemma3_gguf", CONTEXTS[1])],
)
def test_estimate_of_eight_slots(
    model: str, context: int, request: pytest.FixtureRequest, record_property: Any
):
    path = request.getfixturevalue(model)
    if need(gguf.read(path), context, 8).total > memory.free_memory():
        pytest.skip("this machine has too little memory free")
    assert_within_a_tenth(path, context, 8, record_property)


@linux
@pytest.mark.parametrize("kind", ["F32", "Q8_0", "Q4_0", "Q4_K", "IQ4_NL", "MXFP4"])
def test_estimate_of_each_kind_of_tensor(kind: str, tmp_path: Path, record_property: Any):
    """Types that the CPU backend reorders are held twice, the tied output too; others are not."""
    path = tmp_path / f"{kind}.gguf"
    writer.write_llama(
        path, type=kind, layers=4, embedding=512, heads=8, kv_heads=2, feed_forward=3072,
        words=20004, context=2048,
    )  # fmt: skip
    assert_within_a_tenth(path, 1024, 2, record_property)


# ---- llama.cpp's own buffers, as its log of b11549 states them -------------------------------


@pytest.mark.model
def test_buffers_of_smollm2(smollm2_gguf: Path):
    header = gguf.read(smollm2_gguf)
    for context, parallel, cache, graph, output in (
        (512, 1, 11.25, 3.79, 0.19), (2048, 1, 45, 4.16, 0.19), (8192, 1, 180, 5.66, 0.19),
        (512, 8, 90, 3.79, 1.5), (2048, 8, 360, 4.16, 1.5), (8192, 8, 1440, 5.66, 1.5),
    ):  # fmt: skip
        found = need(header, context, parallel)
        assert found.kv_cache == cache * MIB
        assert found.compute / MIB == pytest.approx(graph + output, abs=0.03)
        assert found.weights / MIB == pytest.approx(92.10, abs=0.01)


@pytest.mark.model
def test_buffers_of_gemma3(gemma3_gguf: Path, monkeypatch: pytest.MonkeyPatch):
    """Three layers of eighteen see everything; the others hold 768 cells."""
    monkeypatch.setattr(memory.platform, "machine", lambda: "x86_64")
    memory._repacked_types.cache_clear()
    header = gguf.read(gemma3_gguf)
    for context, parallel, full, windowed, graph, output in (
        (512, 1, 1.5, 7.5, 4.82, 1), (2048, 1, 6, 11.25, 5.26, 1), (8192, 1, 24, 11.25, 6.76, 1),
        (512, 8, 12, 60, 9.82, 8), (2048, 8, 48, 90, 10.26, 8), (8192, 8, 192, 90, 11.76, 8),
    ):  # fmt: skip
        found = need(header, context, parallel)
        checkpoints = memory.CHECKPOINTS * parallel * 7.5  # of the window's 512 cells
        assert found.kv_cache == (full + windowed + checkpoints) * MIB
        assert found.compute / MIB == pytest.approx(graph + output, abs=0.03)
        assert found.weights / MIB == pytest.approx(235.16 + 12.66, abs=0.01)
    memory._repacked_types.cache_clear()


# ---- made-up headers -------------------------------------------------------------------------

LLAMA: dict[str, Any] = {
    "general.architecture": "llama",
    "llama.context_length": 8192,
    "llama.block_count": 4,
    "llama.embedding_length": 256,
    "llama.feed_forward_length": 512,
    "llama.attention.head_count": 8,
    "llama.attention.head_count_kv": 2,
    "tokenizer.ggml.tokens": ["a", "b"],
}


def made(folder: Path, about: dict[str, Any], *tensors: Tensor) -> gguf.GgufHeader:
    return gguf.read(writer.write(folder / "made.gguf", about, tensors))


def renamed(architecture: str, **more: Any) -> dict[str, Any]:
    """LLAMA as another architecture; `more` are keys of it, dots written as two underscores."""
    about = {key.replace("llama.", f"{architecture}."): value for key, value in LLAMA.items()}
    about["general.architecture"] = architecture
    return about | {f"{architecture}.{k.replace('__', '.')}": v for k, v in more.items()}


ROW = 2 * 2 * 32 * 2  # keys and values, two heads of 32, two bytes


def test_a_context_is_rounded_up_to_256_cells(tmp_path: Path):
    header = made(tmp_path, LLAMA)
    assert need(header, 300).kv_cache == need(header, 512).kv_cache == 4 * 512 * ROW
    assert need(header, 513, 3).kv_cache == 3 * 4 * 768 * ROW


@pytest.mark.parametrize(("kv_type", "share"), [("f16", 1), ("f32", 2), ("q8_0", 34 / 64)])
def test_the_cache_has_a_type(kv_type: str, share: float, tmp_path: Path):
    assert need(made(tmp_path, LLAMA), 512, kv_type=kv_type).kv_cache == 4 * 512 * ROW * share


def test_an_unknown_cache_type(tmp_path: Path):
    with pytest.raises(BadSetting, match="the cache cannot have the type 'f17'"):
        need(made(tmp_path, LLAMA), 512, kv_type="f17")


def test_heads_of_each_layer_count(tmp_path: Path):
    heads = {"llama.attention.head_count_kv": Typed("u32", [2, 0, 8, 2])}
    assert need(made(tmp_path, LLAMA | heads), 512).kv_cache == 512 * ROW * 12 // 2


def test_windowed_layers_listed_in_the_file(tmp_path: Path):
    about = renamed(
        "gemma4",
        attention__sliding_window=100,
        attention__sliding_window_pattern=[True, True, False, True],
        attention__key_length=64,
        attention__value_length=64,
        attention__key_length_swa=32,
        attention__value_length_swa=32,
        attention__shared_kv_layers=1,
    )
    found = need(made(tmp_path, about), 2048)
    # 100 and a batch of 128 are 256 cells; the last layer shares another's cache.
    assert found.kv_cache == 2048 * 2 * ROW + 2 * (256 + memory.CHECKPOINTS * 100) * ROW


@pytest.mark.parametrize(
    ("architecture", "windowed"),
    [("gemma2", 2), ("gpt-oss", 2), ("olmo2", 3), ("cohere2moe", 3), ("unheard-of", 0)],
)
def test_windowed_layers_known_by_architecture(architecture: str, windowed: int, tmp_path: Path):
    about = renamed(architecture, attention__sliding_window=128)
    found = need(made(tmp_path, about), 1024)
    of_window = windowed * (256 + memory.CHECKPOINTS * 128)
    assert found.kv_cache == ((4 - windowed) * 1024 + of_window) * ROW


def test_a_window_of_zero_is_none(tmp_path: Path):
    about = renamed("olmo2", attention__sliding_window=0)
    assert need(made(tmp_path, about), 1024).kv_cache == 4 * 1024 * ROW


def test_hybrid_layers_hold_a_state_and_no_cells(tmp_path: Path):
    about = renamed(
        "qwen3next", ssm__inner_size=64, ssm__state_size=16, ssm__group_count=2, ssm__conv_kernel=4
    )
    state = 3 * 4 * (3 * (64 + 2 * 2 * 16) + 16 * 64)
    wanted = 512 * ROW + (1 + memory.CHECKPOINTS) * state
    assert need(made(tmp_path, about), 512).kv_cache == wanted


@pytest.mark.parametrize(
    ("machine", "system", "native", "twice"),
    [
        ("x86_64", "Linux", False, {"Q4_0", "Q4_K", "IQ4_NL"}),
        ("aarch64", "Linux", False, set()),
        ("arm64", "Darwin", False, {"Q4_0", "Q4_K", "Q6_K", "Q8_0", "IQ4_NL"}),
        ("aarch64", "Linux", True, {"Q4_0", "Q4_K", "Q6_K", "Q8_0", "IQ4_NL"}),
        ("riscv64", "Linux", False, set()),
    ],
)
def test_what_is_held_twice(
    machine: str, system: str, native: bool, twice: set[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    monkeypatch.setattr(memory.platform, "machine", lambda: machine)
    monkeypatch.setattr(memory.platform, "system", lambda: system)
    memory._repacked_types.cache_clear()
    kinds = ("Q4_0", "Q4_1", "Q4_K", "Q5_0", "Q6_K", "Q8_0", "IQ4_NL", "F16")
    tensors = [Tensor(f"blk.{n}.ffn_up.weight", (256, 8), kind) for n, kind in enumerate(kinds)]
    odd = [
        Tensor("token_embd.weight", (256, 8), "Q4_0"),  # only looked up: the output is not tied
        Tensor("output.weight", (256, 12), "Q4_0"),  # rows do not go by eight
        Tensor("blk.0.bias", (256,), "Q4_0"),
    ]
    header = made(tmp_path, LLAMA, *tensors, *odd)
    found = need(header, 512, native=native).weights
    extra = sum(t.size for t, kind in zip(tensors, kinds, strict=True) if kind in twice)
    assert found == header.file_size - header.data_offset + extra
    memory._repacked_types.cache_clear()


def test_a_projector_is_counted(tmp_path: Path):
    header = made(tmp_path, LLAMA)
    assert need(header, 512, projector=5 * MIB).total == need(header, 512).total + 5 * MIB


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    context=st.integers(1, 100_000),
    parallel=st.integers(1, 64),
    more=st.integers(0, 5000),
    slots=st.integers(0, 8),
)
def test_more_never_needs_less(context: int, parallel: int, more: int, slots: int, tmp_path: Path):
    header = made(tmp_path, renamed("gemma3", attention__sliding_window=512))
    assert need(header, context, parallel).total <= need(header, context + more, parallel).total
    assert need(header, context, parallel).total <= need(header, context, parallel + slots).total


def assert_one_sentence(error: OutOfMemory) -> None:
    assert str(error).count(";") == 1
    assert "\n" not in str(error)


def test_no_header_makes_it_fail(tmp_path: Path):
    """Whatever a file says of itself, there is a number, or a refusal by the reader."""
    path = tmp_path / "mutated.gguf"
    about = renamed(
        "gemma3", attention__sliding_window=512, attention__sliding_window_pattern=3,
        ssm__inner_size=4, ssm__state_size=4,
    )  # fmt: skip
    length = len(writer.header(about, []))
    data = writer.write(path, about).read_bytes()
    read = 0
    for number in range(repeats(250, 600)):
        pick = random.Random(number)
        out = bytearray(data)
        for _ in range(pick.choice((1, 2, 4))):
            out[pick.randrange(24, length)] = pick.choice((0, 1, 127, 255, pick.randrange(256)))
        path.write_bytes(out)
        try:
            header = gguf.read(path)
        except FormatError:
            continue
        read += 1
        try:
            assert choose(header, context=0, parallel=2, free=8 << 30).need.total <= 8 << 30
        except OutOfMemory as error:
            assert_one_sentence(error)
    assert read > repeats(40, 100)


# ---- choosing --------------------------------------------------------------------------------


@pytest.fixture
def header(tmp_path: Path) -> gguf.GgufHeader:
    return made(tmp_path, LLAMA | {"llama.context_length": 32768, "llama.block_count": 24})


def test_the_models_own_context_where_it_fits(header: gguf.GgufHeader):
    found = choose(header, context=0, parallel=1, free=8 << 30)
    assert (found.context, found.reduced_from) == (32768, None)
    assert found.need == need(header, 32768)


def test_reduced_to_the_largest_that_fits(header: gguf.GgufHeader):
    free = 150 * MIB
    found = choose(header, context=0, parallel=1, free=free)
    assert found.reduced_from == 32768
    assert found.context % 256 == 0
    assert found.need.total <= 0.9 * free < need(header, found.context + 256).total


def test_the_smallest_context_may_use_all_that_is_free(header: gguf.GgufHeader):
    free = need(header, 512).total
    assert choose(header, context=0, parallel=1, free=free).context == 512


def test_a_model_of_short_context_is_not_reduced_further(tmp_path: Path):
    header = made(tmp_path, LLAMA | {"llama.context_length": 384})
    found = choose(header, context=0, parallel=1, free=1 << 30)
    assert (found.context, found.reduced_from) == (384, None)
    with pytest.raises(OutOfMemory):
        choose(header, context=0, parallel=1, free=1 << 20)


def test_a_context_beyond_training_is_the_persons_choice(header: gguf.GgufHeader):
    assert choose(header, context=65536, parallel=1, free=8 << 30).context == 65536


def test_too_big_names_the_numbers_and_choices(tmp_path: Path):
    about = LLAMA | {"llama.block_count": 24}
    header = made(tmp_path, about, Tensor("output.weight", (1024, 16384), "F16"))
    with pytest.raises(OutOfMemory) as caught:
        choose(header, context=8192, parallel=4, free=260 * MIB, label="llama-test")
    assert str(caught.value) == (
        "llama-test needs 270 MiB of memory with a context of 8192 tokens for each of 4 requests "
        "at once and 260 MiB is free; use --context 7680 (258 MiB), or --parallel 3 (220 MiB), "
        "or a file of at most 22 MiB"
    )


def test_fewer_slots_and_a_smaller_context_together(header: gguf.GgufHeader):
    with pytest.raises(OutOfMemory) as caught:
        choose(header, context=32768, parallel=64, free=120 * MIB)
    assert re.search(r"use --parallel 1 --context \d+ \(1\d\d MiB\)$", str(caught.value))


def test_not_even_the_smallest(tmp_path: Path):
    header = made(tmp_path, LLAMA, Tensor("output.weight", (1024, 16384), "F16"))
    with pytest.raises(OutOfMemory) as caught:
        choose(header, context=0, parallel=1, free=50 * MIB, label="it")
    assert str(caught.value) == (
        "it needs 72 MiB of memory with a context of 512 tokens and 50 MiB is free; "
        "its weights alone take 32 MiB: free some memory, or use a file of at most 10 MiB"
    )
    with pytest.raises(OutOfMemory, match=r"alone take 32 MiB: free some memory$"):
        choose(header, context=4096, parallel=1, free=20 * MIB, label="it")


@settings(
    max_examples=repeats(60, 150), suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(context=st.integers(0, 100_000), parallel=st.integers(1, 16), free=st.integers(0, 3000))
def test_what_is_chosen_or_offered_fits(context: int, parallel: int, free: int, tmp_path: Path):
    header = made(tmp_path, LLAMA | {"llama.block_count": 24})
    free *= MIB
    try:
        found = choose(header, context=context, parallel=parallel, free=free)
    except OutOfMemory as error:
        assert need(header, context or 512, parallel).total > free
        assert_one_sentence(error)
        flags = re.findall(r"(--parallel \d+ --context \d+|--\w+ \d+)", error.hint or "")
        for flag in flags:
            slots = re.search(r"--parallel (\d+)", flag)
            tokens = re.search(r"--context (\d+)", flag)
            offered = int(tokens[1]) if tokens else context or 512
            assert need(header, offered, int(slots[1]) if slots else parallel).total <= free
            assert offered >= 1
        if free >= need(header, 512).total and context > 512:
            assert flags  # something fits, so something is offered
    else:
        assert found.need.total <= free
        assert found.need == need(header, found.context, parallel)
        assert found.context == context or (not context and found.context <= 8192)
