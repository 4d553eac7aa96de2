"""Quantizing with the real llama.cpp, on tiny models whose rows fill the blocks of K-quants."""

import json
import subprocess
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gguf_split
import tiny_models
from overt.errors import BadRequest, EngineFailed, FormatError, UsageError
from overt.formats import gguf
from overt.lab.quantize import STEP, host, imatrix, measure, parameters, texts, types, worker
from overt.models.recipe import Input, Recipe
from overt.provenance import steps
from overt.provenance.steps import StepContext, StepInput
from overt.settings import Settings

SIZES = {"width": 256, "inner": 256, "layers": 1}


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny models: plain, of other weights, and with rows that fill no block of 256."""
    folder = tmp_path_factory.mktemp("quantize")
    return {
        "plain": tiny_models.gguf(folder / "plain.gguf", "llama", "F32", seed=1, **SIZES),
        "other": tiny_models.gguf(folder / "other.gguf", "llama", "F32", seed=2, **SIZES),
        "narrow": tiny_models.gguf(folder / "narrow.gguf", "llama", "F16", width=96, inner=160),
        "done": tiny_models.gguf(folder / "done.gguf", "llama", "Q8_0", seed=1, **SIZES),
    }


@pytest.fixture
def settings(home: Path) -> Settings:
    return Settings(home=home)


def run(
    source: Path, type: str, place: Path, settings: Settings, *more: tuple[str, Path], **given: Any
) -> tuple[list[steps.StepOutput], list[dict[str, Any]]]:
    """The step in a folder of its own; what it made, and what it told."""
    place.mkdir(parents=True, exist_ok=True)
    digest = "sha256:" + "0" * 64
    inputs = [Input("from", digest), *(Input(role, digest) for role, _ in more)]
    recipe = Recipe(
        "quantize", STEP.version, tuple(inputs), parameters(types.find(type), **given), {}
    )
    told: list[dict[str, Any]] = []
    files = [StepInput(source, None, {}), *(StepInput(path, None, {}) for _, path in more)]
    work = StepContext(
        recipe, tuple(files), place, lambda _: None, settings, lambda event: told.append(event)
    )
    return STEP.run(work), told


def digest_of(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


# Every type in one process, as each worker costs a second: quantized, loaded, and made to read.
_ALL = """
import json, sys
from pathlib import Path
from overt.lab.quantize.host import QuantizeHost
source, matrix, numbers = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
for name, number in numbers.items():
    host = QuantizeHost(); host.load({})
    asked = {"source": source, "number": number, "total": 1, "threads": 1, "pure": False,
             "keep_output": False, "output": None, "embedding": None, "tensors": [],
             "imatrix": matrix}
    host.handle("quantize", json.dumps(asked).encode(), lambda _: False)
    Path("model.gguf").rename(name + ".gguf")
    host = QuantizeHost(); host.load({"weights": name + ".gguf", "window": 32, "threads": 1})
    seen = []
    ask = json.dumps({"windows": [list(range(4, 36))]}).encode()
    host.handle("base", ask, lambda body: seen.append(json.loads(body)))
    print(json.dumps([name, sum(seen[0]["nll"])]), flush=True)
"""


# Their grids of neighbours take llama.cpp up to eight seconds each, once a process.
_GRIDS = ("iq1_m", "iq1_s", "iq2_m", "iq2_s", "iq2_xs", "iq2_xxs", "iq3_xxs")


@pytest.mark.parametrize("grids", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_every_type_is_written_loads_and_computes(
    sources: dict[str, Path], tmp_path: Path, *, grids: bool
) -> None:
    matrix = tmp_path / "imatrix.gguf"
    names = [
        tensor.name for tensor in gguf.read(sources["plain"]).tensors
        if tensor.name.startswith("blk.") and len(tensor.shape) > 1
    ]  # fmt: skip
    ones = (np.ones((1, 256)), np.ones(1))
    imatrix.write(matrix, dict.fromkeys(names, ones), imatrix.About("ones", 1, 1))
    wanted = {one.name: one.number for one in types.chosen("all") if (one.name in _GRIDS) == grids}
    given = [str(sources["plain"]), str(matrix), json.dumps(wanted)]
    done = subprocess.run(
        [sys.executable, "-c", _ALL, *given], capture_output=True, text=True, cwd=tmp_path,
        check=False, env={"OMP_NUM_THREADS": "1", "PATH": ""}, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = dict(json.loads(line) for line in done.stdout.splitlines())
    assert list(found) == list(wanted)
    assert all(0 < nll < 1000 for nll in found.values())
    for name in wanted:
        path = tmp_path / f"{name}.gguf"
        header = gguf.read(path)
        assert header.file_type == types.find(name).label
        mix = types.mix_of(header)
        if name not in ("q1_0", "q2_0"):  # which the package does not know yet
            assert mix.bits_per_weight == pytest.approx(bits_by_gguf(path))
        assert sum(mix.shares.values()) == pytest.approx(1)
        if name != "mxfp4_moe":  # of a model without experts it makes Q8_0, and says so
            assert mix.shares.get(types.find(name).tensor, 0) > 0.25, (name, mix)
    if not grids:
        header = gguf.read(tmp_path / "mxfp4_moe.gguf")
        said = types.warn_fallbacks(types.find("mxfp4_moe"), header, types.mix_of(header))
        assert "0 % of the weights are MXFP4" in said


def bits_by_gguf(path: Path) -> float:
    """Bits per weight as the `gguf` package counts them."""
    import gguf as library

    reader = library.GGUFReader(path)
    weights = sum(int(tensor.n_elements) for tensor in reader.tensors)
    found = 8 * sum(int(tensor.n_bytes) for tensor in reader.tensors) / weights
    del reader
    return found


def test_the_bytes_are_the_same_each_time_and_with_any_number_of_threads(
    sources: dict[str, Path], tmp_path: Path, settings: Settings
) -> None:
    made = [
        run(sources["plain"], "q4_k_m", tmp_path / str(at), settings, threads=threads)[0][0].file
        for at, threads in enumerate((1, 1, 2))
    ]
    assert len({digest_of(path) for path in made}) == 1


def test_mixes_output_and_embedding_types_are_what_was_asked_for(
    sources: dict[str, Path], tmp_path: Path, settings: Settings
) -> None:
    made, _ = run(
        sources["plain"], "q4_k_m", tmp_path, settings,
        tensors=[["ffn_down", "q8_0"], ["attn_[qk]", "q5_k"]], output="q6_k", embedding="f16",
    )  # fmt: skip
    kinds = {tensor.name: tensor.type for tensor in gguf.read(made[0].file).tensors}
    assert kinds["blk.0.ffn_down.weight"] == "Q8_0"
    assert kinds["blk.0.attn_q.weight"] == kinds["blk.0.attn_k.weight"] == "Q5_K"
    assert kinds["blk.0.ffn_up.weight"] == "Q4_K"
    assert kinds["output.weight"] == "Q6_K"
    assert kinds["token_embd.weight"] == "F16"


def test_a_label_that_lies_is_said_to(
    sources: dict[str, Path], tmp_path: Path, settings: Settings
) -> None:
    made, _ = run(sources["narrow"], "q4_k_m", tmp_path, settings)
    header = gguf.read(made[0].file)
    said = types.warn_fallbacks(types.find("q4_k_m"), header, types.mix_of(header))
    assert said.startswith("Q4_K_M is the label, and 0 % of the weights are Q4_K")
    assert said.endswith("rows of 96 and 160 elements do not fill its blocks of 256")
    assert types.warn_fallbacks(types.find("q8_0"), gguf.read(sources["done"]),
                     types.mix_of(gguf.read(sources["done"]))) == ""  # fmt: skip
    assert types.quantized_already(gguf.read(sources["done"])) == ("Q8_0",)


def test_what_is_there_whole_is_not_made_again(
    sources: dict[str, Path], tmp_path: Path, settings: Settings
) -> None:
    made, _ = run(sources["plain"], "q8_0", tmp_path, settings)
    before = made[0].file.stat().st_mtime_ns
    again, told = run(sources["plain"], "q8_0", tmp_path, settings)
    assert again[0].file.stat().st_mtime_ns == before
    assert told == []


@pytest.mark.parametrize(
    ("type", "source", "error", "words"),
    [
        ("iq2_xs", "plain", FormatError, "needs an importance matrix"),
        ("nvfp4", "plain", EngineFailed, "invalid output file type"),
    ],
)
def test_what_cannot_be_made_is_told_in_a_sentence(
    sources: dict[str, Path], tmp_path: Path, settings: Settings,
    type: str, source: str, error: type[Exception], words: str,
) -> None:  # fmt: skip
    with pytest.raises(error, match=words) as caught:
        run(sources[source], type, tmp_path, settings)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / host.MODEL).exists()


def test_files_that_are_no_model_are_refused_before_a_worker_starts(
    sources: dict[str, Path], tmp_path: Path, settings: Settings
) -> None:
    text = tmp_path / "text.gguf"
    text.write_text("not a model, and long enough to have a header")
    with pytest.raises(FormatError, match="starts with"):
        run(text, "q8_0", tmp_path / "a", settings)
    matrix = tmp_path / "matrix.gguf"
    imatrix.write(matrix, {"blk.0.x": (np.ones((1, 32)), np.ones(1))}, imatrix.About("", 1, 1))
    with pytest.raises(BadRequest, match="of the kind 'imatrix'"):
        run(matrix, "q8_0", tmp_path / "b", settings)
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(sources["plain"].read_bytes()[:-5000])
    with pytest.raises(FormatError, match="ends after"):
        run(cut, "q8_0", tmp_path / "c", settings)


def test_a_worker_that_is_killed_is_told_and_leaves_no_file(
    sources: dict[str, Path], tmp_path: Path, settings: Settings
) -> None:
    task = worker.Task(
        "collect", {"windows": [[4] * 64] * 100_000, "about": ""}, "collecting",
        made={host.IMATRIX: tmp_path / "x"},
        **worker.computing(
            sources["plain"], gguf.read(sources["plain"]), 64, 1, collect=True
        ),
    )  # fmt: skip

    def kill(reply: Any) -> None:
        import os
        import signal

        from overt.runtime.worker.supervisor import running

        for one in running(settings.home / "run"):
            os.kill(one.pid, signal.SIGKILL)

    with pytest.raises(EngineFailed, match="SIGKILL"):
        worker.carry_out(task, settings, kill)
    assert not (tmp_path / "x").exists()
    assert not list((settings.home / "run").glob("*.tmp"))


def test_a_file_that_is_a_link_is_not_taken_from_a_worker(tmp_path: Path, home: Path) -> None:
    (tmp_path / "hosts").mkdir()
    (tmp_path / "hosts" / "linking_host.py").write_text(
        "import os\n"
        "class Host:\n"
        "    def load(self, parameters): return {}\n"
        "    def handle(self, kind, body, emit):\n"
        "        os.symlink('/etc/passwd', 'model.gguf')\n"
    )
    target = tmp_path / "out.gguf"
    task = worker.Task("x", {}, "a liar", made={host.MODEL: target})
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(worker, "HOST", "linking_host:Host")
        patched.setattr(worker, "PYTHON_PATH", (tmp_path / "hosts",))
        with pytest.raises(EngineFailed, match="is no file"):
            worker.carry_out(task, Settings(home=home))
    assert not target.is_symlink()


# ---- against an independent computation ---------------------------------------------------------


def forward(seed: int, ids: list[int]) -> "np.ndarray[Any, Any]":
    """Logits of the tiny llama in plain numpy, from the weights as transformers has them."""
    found = {
        name: array.astype(np.float64)
        for name, array in tiny_models.weights("llama", seed, **SIZES).items()
    }
    size = tiny_models.sizes_of("llama", **SIZES)
    heads, kv, head = size["heads"], size["kv_heads"], size["head"]

    def norm(x: Any, weight: Any) -> Any:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * weight

    turn = np.outer(np.arange(len(ids)), 10000.0 ** (-np.arange(0, head, 2) / head))
    cos, sin = (np.concatenate([f(turn)] * 2, -1)[:, None] for f in (np.cos, np.sin))

    def rotated(x: Any) -> Any:
        half = head // 2
        return x * cos + np.concatenate([-x[..., half:], x[..., :half]], -1) * sin

    x = found["model.embed_tokens.weight"][ids]
    for layer in range(size["layers"]):
        w = {
            name.removeprefix(f"model.layers.{layer}.").removesuffix(".weight"): array
            for name, array in found.items()
        }
        h = norm(x, w["input_layernorm"])
        q = rotated((h @ w["self_attn.q_proj"].T).reshape(-1, heads, head))
        k = rotated((h @ w["self_attn.k_proj"].T).reshape(-1, kv, head)).repeat(heads // kv, 1)
        v = (h @ w["self_attn.v_proj"].T).reshape(-1, kv, head).repeat(heads // kv, 1)
        scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(head)
        scores += np.triu(np.full(scores.shape[1:], -np.inf), 1)
        share = np.exp(scores - scores.max(-1, keepdims=True))
        share /= share.sum(-1, keepdims=True)
        x = x + np.einsum("hqk,khd->qhd", share, v).reshape(len(ids), -1) @ w["self_attn.o_proj"].T
        h = norm(x, w["post_attention_layernorm"])
        gate = h @ w["mlp.gate_proj"].T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ w["mlp.up_proj"].T)) @ w["mlp.down_proj"].T
    out: np.ndarray[Any, Any] = norm(x, found["model.norm.weight"]) @ found["lm_head.weight"].T
    return out


def test_the_figures_are_those_of_an_independent_computation(
    sources: dict[str, Path], tmp_path: Path, settings: Settings
) -> None:
    draw = np.random.default_rng(5)
    windows = [[int(one) for one in draw.integers(4, 112, 64)] for _ in range(3)]
    text = measure.TextWindows(windows)
    base = measure.source(
        sources["plain"], text, tmp_path / "base.f16", 1, settings, lambda _: None
    )
    found = measure.against(sources["other"], "other", text, base, 1, settings, lambda _: None)
    kld, same, nll, base_nll = [], [], [], []
    for ids in windows:
        sides = []
        for seed in (1, 2):
            logits = forward(seed, ids)
            logs = logits - logits.max(-1, keepdims=True)
            sides.append(logs - np.log(np.exp(logs).sum(-1, keepdims=True)))
        for at in range(32, 63):
            p, q = sides[0][at], sides[1][at]
            kld.append(float((np.exp(p) * (p - q)).sum()))
            same.append(int(p.argmax() == q.argmax()))
            nll.append(-q[ids[at + 1]])
            base_nll.append(-p[ids[at + 1]])
    assert found["tokens"] == 93 == text.scored
    assert found["kld_mean"] == pytest.approx(np.mean(kld), rel=5e-3)
    assert found["kld_max"] == pytest.approx(np.max(kld), rel=1e-2)
    assert found["kld_p50"] == pytest.approx(np.sort(kld)[46], rel=1e-2)
    assert found["top1"] == pytest.approx(np.mean(same), abs=0.011)
    assert found["perplexity"] == pytest.approx(np.exp(np.mean(nll)), rel=2e-3)
    ratio = np.exp(np.mean(nll) - np.mean(base_nll))
    assert found["perplexity_ratio"] == pytest.approx(ratio, rel=2e-3)
    assert base.nll == pytest.approx(base_nll, rel=5e-3)


def test_a_model_held_against_itself_differs_by_rounding_alone(
    sources: dict[str, Path], tmp_path: Path, settings: Settings
) -> None:
    text = measure.TextWindows([[int(one) for one in range(4, 68)]] * 2)
    base = measure.source(
        sources["plain"], text, tmp_path / "base.f16", 1, settings, lambda _: None
    )
    found = measure.against(sources["plain"], "itself", text, base, 1, settings, lambda _: None)
    assert 0 <= found["kld_max"] < 1e-5
    assert found["top1"] == found["perplexity_ratio"] == 1.0
    assert base.file.stat().st_size == 2 * 112 * text.scored


def test_the_collected_sums_are_those_of_the_activations(
    sources: dict[str, Path], tmp_path: Path, settings: Settings
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the rain in the north and the other one on a train " * 12)
    made, told = run(
        sources["plain"], "q2_k_s", tmp_path / "a", settings, ("calibrate", text),
        window=64, windows=4,
    )  # fmt: skip
    assert [one.role for one in made] == ["weights", "other"]
    assert any("tokens only" in event["text"] for event in told)
    found = imatrix.read(made[1].file)
    assert found.windows == 4
    assert sorted(found.entries) == sorted(
        tensor.name for tensor in gguf.read(sources["plain"]).tensors
        if tensor.name.startswith("blk.") and len(tensor.shape) > 1
    )  # fmt: skip
    # Every token counts in every matrix, those of the last layer too.
    assert set(counts_in(made[1].file).values()) == {256.0}
    # What goes into q, k and v is the normed embedding: its squares can be had without a model.
    windows = texts.windows(text, sources["plain"], 64, 4, settings)
    weights = tiny_models.weights("llama", 1, **SIZES)
    x = weights["model.embed_tokens.weight"][np.concatenate(windows)].astype(np.float64)
    x /= np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)
    x *= weights["model.layers.0.input_layernorm.weight"]
    for name in ("attn_q", "attn_k", "attn_v"):
        values = found.entries[f"blk.0.{name}.weight"]
        np.testing.assert_allclose(values, (x**2).mean(0), rtol=1e-3)
    again, _ = run(
        sources["plain"], "q2_k_s", tmp_path / "b", settings, ("calibrate", text),
        window=64, windows=4,
    )  # fmt: skip
    assert [digest_of(one.file) for one in made] == [digest_of(one.file) for one in again]
    assert replace(made[0], file=Path()) == replace(again[0], file=Path())


def test_types_are_named_as_people_name_them() -> None:
    assert types.find("Q4_K_M") is types.find("q4_k-m") is types.find("q4_k")
    assert [one.name for one in types.chosen("q8_0, Q4_0")] == ["q8_0", "q4_0"]
    assert len(types.chosen("all")) == len(types.TYPES) - len(types.NOT_OFFERED)
    for wrong in ("q9_9", "", "q4_0,q4_0", "q4_0,,x"):
        with pytest.raises(UsageError):
            types.chosen(wrong)
    assert types.override("attn_v=Q8_0") == ("attn_v", "q8_0")
    for wrong in ("attn_v", "=q8_0", "attn_v=q9", "attn_(=q8_0", "a=i32"):
        with pytest.raises(UsageError):
            types.override(wrong)


def test_the_numbers_of_types_are_those_of_the_library() -> None:
    from llama_cpp_py_sync import _cffi_bindings as bindings

    library: Any = bindings.get_lib()
    for one in types.TYPES.values():
        name = "LLAMA_FTYPE_ALL_F32" if one.name == "f32" else f"LLAMA_FTYPE_MOSTLY_{one.label}"
        assert getattr(library, name) == one.number, one


def test_the_sums_of_experts_are_kept_apart(tmp_path: Path, settings: Settings) -> None:
    sizes = {"width": 64, "inner": 64, "layers": 1}
    source = tiny_models.gguf(tmp_path / "experts.gguf", "mixtral", "F16", **sizes)
    target = tmp_path / "imatrix.gguf"
    windows = [[int(one) for one in np.random.default_rng(1).integers(4, 112, 64)]] * 2
    task = worker.Task(
        "collect", {"windows": windows, "about": "x"}, "collecting", made={host.IMATRIX: target},
        **worker.computing(source, gguf.read(source), 64, 1, collect=True),
    )  # fmt: skip
    worker.carry_out(task, settings)
    found, lacks = imatrix.check(target, gguf.read(source))
    assert lacks == ()
    assert found.entries["blk.0.ffn_up_exps.weight"].size == 4 * 64
    rows = counts_in(target)
    assert rows["blk.0.attn_q.weight"] == rows["blk.0.attn_output.weight"] == 128
    for name in ("gate", "up", "down"):
        assert rows[f"blk.0.ffn_{name}_exps.weight"] == 256  # two experts a token


def counts_in(path: Path) -> dict[str, float]:
    """How many rows were summed for each matrix, by the `gguf` package."""
    import gguf as library

    reader = library.GGUFReader(path)
    found = {
        tensor.name.removesuffix(".counts"): float(tensor.data.sum())
        for tensor in reader.tensors
        if tensor.name.endswith(".counts")
    }
    del reader
    return found


@pytest.mark.model
def test_a_real_model(smollm2_gguf: Path, tmp_path: Path, settings: Settings) -> None:
    made, _ = run(smollm2_gguf, "q4_0", tmp_path, settings)
    path = made[0].file
    mix = types.mix_of(gguf.read(path))
    assert mix.bits_per_weight == pytest.approx(bits_by_gguf(path))
    assert mix.shares["Q4_0"] == pytest.approx(0.789, abs=0.001)
    text = measure.TextWindows(texts.windows(texts.MEASURE, smollm2_gguf, 256, 1, settings))
    base = measure.source(smollm2_gguf, text, tmp_path / "base", 1, settings, lambda _: None)
    found = measure.against(path, "q4_0", text, base, 1, settings, lambda _: None)
    assert found["tokens"] == 127
    assert 0.1 < found["kld_mean"] < 0.4
    assert 0.5 < found["top1"] < 0.8
    assert 10 < found["perplexity"] < 60


def test_a_split_model_is_quantized_to_one_file(tmp_path: Path, settings: Settings) -> None:
    whole = tiny_models.gguf(tmp_path / "whole.gguf", "llama", "F16", **SIZES)
    parts = gguf_split.cut(whole, tmp_path / "parts", 2)
    made, _ = run(parts[0], "q4_0", tmp_path / "a", settings)
    alone, _ = run(whole, "q4_0", tmp_path / "b", settings)
    header = gguf.read(made[0].file)
    assert header.split_count == 1
    assert types.mix_of(header).shares == types.mix_of(gguf.read(alone[0].file)).shares


def test_the_two_texts_share_no_sentence() -> None:
    first, second = (
        {one.strip() for one in path.read_text("utf-8").replace("\n", " ").split(". ")} - {""}
        for path in (texts.MEASURE, texts.CALIBRATE)
    )
    assert len(first) > 50 < len(second)
    assert first & second <= {"Mr"}
