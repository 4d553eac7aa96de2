"""What a card states in plain forms, against the artefact; and prose, which is left alone."""

import json
from hashlib import sha256

import hypothesis.strategies as st
import pytest
from check_files_case import found, only, results, subject, write
from hypothesis import given

import tiny_models as tiny
from overt.openness.subject import statements
from overt.openness.verdicts.components import Strength

CHECK = "card_agrees"

LIES = {
    "parameters": ("| Parameters | 7B |\n", "parameters: 2"),
    "parameters in a line": ("- **Number of parameters:** 135M\n", "parameters: 2"),
    "context": ("Context length: 8k\n", "context length: 512"),
    "context in a table": ("| Context window | 131,072 tokens |\n", "context length: 512"),
    "vocabulary": ("| Vocabulary size | 32,000 |\n", "vocabulary: 112"),
    "layers": ("* Layers: 24\n", "layers: 2"),
    "width": ("| hidden_size | 4096 |\n", "hidden size: 32"),
    "heads": ("| Attention heads | 32 |\n", "attention heads: 4"),
    "kv": ("| KV heads | 8 |\n", "key-value heads: 2"),
    "architecture": ("Architecture: MistralForCausalLM\n", "architecture: LlamaForCausalLM"),
    "dtype": ("| torch_dtype | float16 |\n", "dtype: BF16"),
    "licence": ("License: MIT\n", "licence: Apache-2.0"),
    "files": ("| File | Size |\n|---|---|\n| `a-Q4_K_M.gguf` | 3 GB |\n", "none of 1 is here"),
    "digest": ("`model.safetensors`: " + "ab" * 32 + "\n", "sha256 of model.safetensors"),
}


@pytest.mark.parametrize("name", LIES)
def test_a_stale_statement_is_found(name, tmp_path):
    body, told = LIES[name]
    one = only(CHECK, subject(tiny.release(tmp_path, body=f"# Tiny\n\n{body}")))
    assert (one.component, one.result) == ("model_card", "fail")
    assert told in one.observed
    assert one.expected.endswith("as README.md says")


TRUE = """# Tiny

| | |
|---|---|
| Parameters | 20K |
| Context length | 512 |
| Vocabulary size | 112 |
| Layers | 2 |
| Tensor type | BF16 |

License: Apache 2.0
Architecture: LlamaForCausalLM
"""
PROSE = """# Tiny

A 7B model would need more. Trained on 128K tokens a step with a context length of 8192 at first.
Context length: 8192 in the next version
Parameters: see the table
- Vocabulary: large
- Model size: 4
- **Hidden dim:** 14,336
| Model | Parameters | Context length |
|---|---|---|
| Other | 7B | 8192 |
| **Parameters** | 7B | 13B |

```
Context length: 4096
layers: 48
```

| Task | Score |
|---|---|
| Parameters of the teacher | 70B |

Architecture: a transformer
Model type: decoder-only
dtype: bfloat16 or float16
Layers: 2 of 3
Get `other-model.gguf` from us, or model.safetensors here.
License: see LICENSE
"""


def test_true_statements_are_counted(tmp_path):
    one = only(CHECK, subject(tiny.release(tmp_path, body=TRUE)))
    assert (one.result, one.strength) == ("pass", Strength.CONSISTENT)
    assert one.observed.startswith("7 statements agree")


def test_prose_raises_no_alarm(tmp_path):
    assert results(CHECK, subject(tiny.release(tmp_path, body=PROSE))) == []


def test_a_gguf_is_compared_too(tmp_path):
    tiny.gguf(tmp_path / "a.gguf")
    write(tmp_path, {"README.md": "# A\n\nContext length: 1024\nParameters: 20K\n"})
    one = only(CHECK, subject(tmp_path))
    assert one.observed == "context length: 512"


def test_scaled_context_and_padded_vocabulary_agree(tmp_path):
    config = {"rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 512}}
    for number, body in enumerate(
        ("Context length: 2048", "Context length: 2k", "Vocab size: 100")
    ):
        folder = tiny.release(tmp_path / str(number), config=config, body=f"# T\n\n{body}\n")
        assert results(CHECK, subject(folder)) == ["pass"], body


@pytest.mark.parametrize(
    ("card", "result"),
    [
        ({"pipeline_tag": "fill-mask"}, "fail"),
        ({"pipeline_tag": "text-generation"}, "pass"),
        ({"pipeline_tag": "feature-extraction"}, None),
        ({"library_name": "gguf"}, "fail"),
        ({"library_name": "peft"}, "fail"),
        ({"library_name": "vllm"}, None),
    ],
)
def test_tasks_and_libraries(card, result, tmp_path):
    assert results(CHECK, subject(tiny.release(tmp_path, card=card))) == (
        [result] if result else []
    )


def test_the_base_of_an_adapter(tmp_path):
    files = {"adapter_config.json": json.dumps({"base_model_name_or_path": "mistralai/Mistral-7B"})}
    wrong = tiny.release(tmp_path / "a", files=files, card={"base_model": "meta-llama/Llama-2-7b"})
    assert only(CHECK, subject(wrong)).observed == "base: mistralai/Mistral-7B"
    right = tiny.release(tmp_path / "b", files=files, card={"base_model": "other/mistral-7b"})
    assert results(CHECK, subject(right)) == ["pass"]


def test_the_base_of_a_header(tmp_path):
    about = {"general.base_model.count": 1, "general.base_model.0.name": "Qwen2.5 7B"}
    tiny.gguf(tmp_path / "a.gguf", metadata=about)
    write(tmp_path, {"README.md": "---\nbase_model: meta-llama/Llama-3.1-8B\n---\n# A\n"})
    assert only(CHECK, subject(tmp_path)).observed == "base: Qwen2.5 7B"
    write(tmp_path, {"README.md": "---\nbase_model: Qwen/Qwen2.5-7B-Instruct\n---\n# A\n"})
    assert results(CHECK, subject(tmp_path)) == ["pass"]


def test_a_config_that_was_saved_from_another_model(tmp_path):
    card = {"base_model": "meta-llama/Llama-3.1-8B"}
    known = tiny.release(tmp_path / "a", card=card, config={"_name_or_path": "Qwen/Qwen2.5-7B"})
    assert only(CHECK, subject(known)).observed == "config.json was saved from Qwen/Qwen2.5-7B"
    own = tiny.release(tmp_path / "b", card=card, config={"_name_or_path": "lab/otter-run-12"})
    assert results(CHECK, subject(own)) == ["inconclusive"]
    path = tiny.release(tmp_path / "c", card=card, config={"_name_or_path": "/data/x"})
    assert results(CHECK, subject(path)) == []


def index(value, kind="acc_norm", name="ARC Challenge"):
    return [{"results": [{"dataset": {"name": name, "type": "arc"}, "metrics": [
        {"type": kind, "value": value}]}]}]  # fmt: skip


RESULTS = json.dumps(
    {"results": {"arc_challenge": {"acc,none": 0.3412, "acc_norm,none": 0.3891, "alias": "x"}}}
)


@pytest.mark.parametrize(
    ("value", "result"),
    [
        (38.91, "pass"),
        (38.9, "pass"),
        (0.389, "pass"),
        (39.5, "fail"),
        (0.45, "fail"),
        (45.0, "fail"),
    ],
)
def test_scores_of_the_card_are_those_measured(value, result, tmp_path):
    folder = tiny.release(
        tmp_path, card={"model-index": index(value)}, files={"eval/results.json": RESULTS}
    )
    pieces = found(CHECK, subject(folder), "evaluation_results")
    assert [e.result for e in pieces] == [result]
    if result == "fail":
        assert "ARC Challenge acc_norm is 0.3891" in pieces[0].observed


def test_scores_in_a_table(tmp_path):
    for score, result in (("38.9", ["pass"]), ("62.0 %", ["fail"]), ("about 60", [])):
        body = f"# T\n\n| Task | Score |\n|---|---|\n| ARC-Challenge | {score} |\n| MMLU | 99 |\n"
        folder = tiny.release(tmp_path / score, body=body, files={"results.json": RESULTS})
        assert results(CHECK, subject(folder), "evaluation_results") == result


def test_a_true_digest(tmp_path):
    folder = tiny.release(tmp_path)
    digest = sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    tiny.release(tmp_path, body=f"# T\n\n| model.safetensors | {digest} |\n")
    assert results(CHECK, subject(folder)) == ["pass"]


@pytest.mark.parametrize(
    ("words", "values"),
    [
        ("8k", (8000, 8192)), ("128K", (128000, 131072)), ("8,192 tokens", (8192,)),
        ("7B", (7 * 10**9,)),
        ("~1.7B parameters", (1_700_000_000,)), ("135M", (135_000_000, 135 << 20)), ("1.000", (1,)),
        ("8 192", ()), ("7B-13B", ()), ("", ()), ("many", ()), ("8192 (extended)", ()),
    ],
)  # fmt: skip
def test_numbers_as_people_write_them(words, values):
    assert statements.stated(words).values == values


def test_what_is_stated_twice_counts_for_nothing():
    assert statements.read("Layers: 2\nLayers: 3\n") == {}
    assert statements.read("Layers: 2\n| layers | 2 |\n")["layers"].values == (2,)


@given(st.text(alphabet="|:*`-_ \n0123456789kKBMcontextlgh.safetensors,()[]#~", max_size=300))
def test_no_card_raises(text):
    for one in statements.read(text).values():
        assert isinstance(one.words, str)
    assert all(len(digest) == 64 for _, digest in statements.digests(text))
    assert isinstance(statements.weights(text), tuple)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=8,
)
KEYS = st.sampled_from(["hidden_size", "max_position_embeddings", "rope_scaling", "architectures",
                        "vocab_size", "text_config", "_name_or_path", "auto_map"])  # fmt: skip


@given(config=st.dictionaries(KEYS, VALUES), index=VALUES, scores=VALUES)
def test_no_config_raises(tmp_path_factory, config, index, scores):
    fields = json.dumps({"model-index": index, "base_model": "a/b", "pipeline_tag": "fill-mask"})
    folder = write(
        tmp_path_factory.mktemp("c"),
        {
            "config.json": json.dumps(config),
            "results.json": json.dumps({"results": scores}),
            "README.md": f"---\n{fields}\n---\n{TRUE}",
        },
    )
    found(CHECK, subject(folder))
    found("unsafe_files", subject(folder))
    found("documents", subject(folder))


@pytest.mark.parametrize(
    "body",
    [
        "Hidden dimension: 4096",
        "The vocabulary size is 32,000.",
        "| Layers | Attention heads |\n|---|---|\n| 48 | 64 |",
        "- **Architecture:** GPT-2 (GPT2LMHeadModel)",
        "This model may be used for non-commercial purposes only.",
        "Weights are stored in float32 precision.",
    ],
)
def test_plainer_words_are_compared_too(body, tmp_path):
    card = f"---\nlicense: apache-2.0\n---\n# T\n\n{body}\n"
    write(tiny.release(tmp_path), {"README.md": card})
    assert "fail" in results(CHECK, subject(tmp_path))
