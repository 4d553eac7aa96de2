"""Documents and code beside training: there, empty, or something else; and where things lie."""

import json
import random

import pytest
from check_files_case import card, claim, found, only, results, subject, write

import tiny_models as tiny
from overt.openness import checks
from overt.openness.evidence import finish
from overt.openness.subject import places
from overt.openness.verdicts.components import COMPONENTS, Availability

CHECK = "documents"
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


def state(folder, component, *claims, **about):
    """The state a dossier would show."""
    from check_files_case import DAY

    one = subject(folder, *claims, **about)
    kind = next(c for c in COMPONENTS if c.name == component)
    finished = finish(kind, one.record.claim(component), found(CHECK, one, component), DAY)
    return finished.state, finished.availability


WHOLE = {
    "README.md": card("# Tiny\n\nA small model of random numbers, made for tests.\n"),
    "DATA_CARD.md": "# The data\n\n" + "Sentences of a small program. " * 9,
    "report.pdf": b"%PDF-1.7\n" + bytes(range(1, 200)),
    "CITATION.cff": "title: On a tiny model that nobody needs\nyear: 2026\n",
    "eval/results.json": '{"arc": 0.5}',
    "USE_POLICY.md": "# What it may be used for\n\n" + "Be kind to otters. " * 9,
    "inference/generate.py": "print('a')\n",
    "eval/evaluate.py": "print('b')\n",
    "data/prepare.py": "print('c')\n",
    "requirements.txt": "torch\n",
    "eval/items.jsonl": "{}\n",
    "samples/a.txt": "Hello\n",
}
HELD = ("model_card", "report", "paper", "data_card", "evaluation_results", "safety_policy",
        "inference_code", "evaluation_code", "preprocessing_code", "libraries", "evaluation_data",
        "sample_outputs")  # fmt: skip


def test_a_whole_release_has_them_all(tmp_path):
    pieces = {e.component: e for e in found(CHECK, subject(write(tmp_path, WHOLE)))}
    assert tuple(pieces) == HELD
    assert {e.result for e in pieces.values()} == {"pass"}
    assert pieces["preprocessing_code"].strength.word == "pinned"
    assert pieces["report"].observed == "report.pdf, 208 bytes"
    for component in HELD:
        assert state(tmp_path, component) == ("verified", Availability.FULL)


def test_an_empty_release_misses_them_and_a_file_misses_nothing(tmp_path):
    folder = tiny.release(tmp_path)
    assert state(folder, "paper") == ("missing", Availability.ABSENT)
    assert state(folder, "paper", claim("paper", "https://arxiv.org/abs/1"))[0] == "declared"
    assert state(folder, "paper", claim("paper", "paper.pdf"))[0] == "contradicted"
    for about in ({"place": False}, {"remote": True}):
        assert state(folder, "paper", claim("paper", "paper.pdf"), **about)[0] == "declared"


@pytest.mark.parametrize(
    ("name", "data", "result", "told"),
    [
        ("paper.pdf", b"", "fail", "is empty"),
        ("paper.pdf", b"<html>not found</html>", "fail", "is no PDF"),
        ("paper.pdf", LFS, "fail", "pointer to a large file"),
        ("paper.md", b"\n \n", "fail", "nothing but blanks"),
        ("paper.md", b"TODO\n", "inconclusive", "has 1 words"),
        ("results.json", b"{}", "inconclusive", "holds no number"),
        ("results.json", b"{0.5", "inconclusive", "is not JSON"),
    ],
)
def test_what_only_has_the_name(name, data, result, told, tmp_path):
    folder = tiny.release(tmp_path, files={name: data})
    component = "paper" if name.startswith("paper") else "evaluation_results"
    one = only(CHECK, subject(folder), component)
    assert one.result == result
    assert told in one.observed + one.reason


def test_one_good_file_is_enough(tmp_path):
    folder = tiny.release(
        tmp_path, files={"paper.pdf": b"", "arxiv.md": "A long enough text of it"}
    )
    assert results(CHECK, subject(folder), "paper") == ["pass"]


def test_a_broken_card_settles_nothing(tmp_path):
    one = only(
        CHECK, subject(write(tmp_path, {"README.md": "---\na: [1\n---\n# T\n"})), "model_card"
    )
    assert one.result == "inconclusive"
    assert "README.md" in one.reason


PLACES = {
    "train.py": "training_code", "src/train.py": "training_code",
    "pretrain_gpt.py": "training_code",
    "scripts/run_train.sh": "training_code", "training/config.yaml": "training_code",
    "configs/7b.yaml": "training_code", "data/shard-0.jsonl": "training_data",
    "datasets/a.parquet": "training_data", "data/prepare.py": "preprocessing_code",
    "manifest.json": "training_data", "SHA256SUMS": "training_data",
    "croissant.json": "training_data", "checkpoints/step-10/model.safetensors": "checkpoints",
    "step1000/pytorch_model.bin": "checkpoints", "eval/run.py": "evaluation_code",
    "evaluate.py": "evaluation_code", "eval_results.json": "evaluation_results",
    "eval/results_arc.json": "evaluation_results", "CITATION.bib": "paper", "paper.pdf": "paper",
    "tech_report.pdf": "report", "OLMo-technical-report.pdf": "report", "DATA_CARD.md": "data_card",
    "datasheet.md": "data_card", "SAFETY.md": "safety_policy", "use_policy.md": "safety_policy",
    "ACCEPTABLE_USE.md": "safety_policy", "README.md": "model_card", "model.sig": "signature",
    "a.sigstore.json": "signature", "requirements.txt": "libraries", "inference/run.py":
    "inference_code", "modeling_tiny.py": "inference_code", "generate.py": "inference_code",
    "config.json": None, "model.safetensors": None, "tokenizer.json": None, "LICENSE": None,
    "training/README.md": "training_code", "docs/README.md": None, "LICENSE-step-3": None,
    "data/README.md": "training_data", "data/DATA_CARD.md": "data_card", "x.py": None,
    "generation_config.json": None, "special_tokens_map.json": None, "a/b/c.gguf": None,
}  # fmt: skip


@pytest.mark.parametrize("name", PLACES)
def test_where_people_put_things(name):
    assert places.component_of(name) == PLACES[name]


def test_a_claim_says_where_before_custom_does(tmp_path):
    write(tmp_path, {"lab/a.txt": "a", "lab/b.py": "b", "data/c.txt": "c"})
    one = subject(tmp_path, claim("training_data", "/lab/"), claim("paper", "./lab/a.txt"))
    assert [f.name for f in places.of(one, "training_data")] == [
        "lab/a.txt",
        "lab/b.py",
        "data/c.txt",
    ]
    assert [f.name for f in places.of(one, "paper")] == ["lab/a.txt"]
    for where in ("https://x.org/a", "../a", "", "s3://b"):
        assert places.inside(where) is None
    assert places.inside("/") == ""


NAMES = ["documents", "unsafe_files", "template_escape", "licence_text", "training_code",
         "data_manifest", "checkpoint_chain", "card_agrees", "signature", "replay"]  # fmt: skip


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mixtral", "bert", "gemma3"])
def test_honest_releases_raise_no_alarm(architecture, tmp_path):
    one = subject(tiny.release(tmp_path, architecture, files={k: v for k, v in WHOLE.items()
                                                              if k != "README.md"}))  # fmt: skip
    for name in NAMES:
        for piece in found(name, one):
            assert piece.result != "fail" or piece.absent, piece


def test_the_same_files_give_the_same_evidence(tmp_path):
    one, two = subject(tiny.release(tmp_path / "a")), subject(tiny.release(tmp_path / "b"))
    for name in NAMES:
        first, second = found(name, one), found(name, two)
        assert [e.id for e in first] == [e.id for e in second]


def test_no_pass_outweighs_a_bar_it_did_not_reach(tmp_path):
    """Files that are safe, licensed and signed are not yet the weights they are said to be."""
    one = subject(tiny.release(tmp_path, files=WHOLE))
    bars = {c.name: c.bar for c in COMPONENTS}
    for name in ("unsafe_files", "licence_text", "data_manifest", "signature"):
        for piece in found(name, one, "weights"):
            assert piece.strength < bars["weights"]


def test_replay_says_what_it_lacks(tmp_path):
    one = only("replay", subject(tiny.release(tmp_path)))
    assert (one.result, one.reason) == ("not_run", "no recipe of a training segment lies with it")


def test_no_damaged_release_raises(tmp_path):
    """Bytes of a whole release changed at random: findings, and never an exception."""
    draw = random.Random(5)
    extra = {"manifest.json": json.dumps([{"path": "samples/a.txt", "sha256": "0" * 64}]),
             "checkpoints/step-1/model.safetensors": b"x" * 30}  # fmt: skip
    for number in range(25):
        folder = tiny.release(tmp_path / str(number), files={**WHOLE, **extra})
        for path in draw.sample([p for p in sorted(folder.rglob("*")) if p.is_file()], 6):
            data = bytearray(path.read_bytes())
            for _ in range(3):
                data[draw.randrange(len(data))] = draw.randrange(256)
            path.write_bytes(data)
        one = subject(folder)
        for name in NAMES:
            if name != "template_escape" or number < 4:
                found(name, one)


def test_every_check_has_what_the_runner_needs():
    for name in NAMES:
        module = checks.load(name)
        assert isinstance(module.VERSION, int)
        assert module.TTL >= 0
