"""Records of other indexes: recognised by their fields, mapped by their own definitions."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import repeats
from overt.errors import FormatError
from overt.formats import yamltext
from overt.openness import records
from overt.openness.records import os_ai_map, osai
from overt.openness.subject.record import Record
from overt.openness.verdicts.components import Availability

A = Availability
LISTED = [
    line.split("\t")[0]
    for line in (Path(__file__).parents[1] / "data_sources.tsv").read_text("utf-8").splitlines()
]


def read(content: Any) -> Record:
    found = records.read(yamltext.dump(content), "r.yaml")
    assert found is not None
    return found


def level(record: Record, component: str) -> Availability:
    claim = record.claim(component)
    return claim.availability if claim else A.UNKNOWN


# -- recognising -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folder", "index", "count"),
    [
        ("mot", "Model Openness Tool", 273),
        ("mot_test_data", "Model Openness Tool", 27),
        ("osai", "European Open Source AI Index", 97),
        ("os_ai_map", "Open Source AI Map", 18),
    ],
)
def test_every_record_is_recognised(
    shared_data: Callable[[str], Path], folder: str, index: str, count: int
) -> None:
    names = [name for name in LISTED if name.startswith(f"openness/{folder}/")]
    assert len(names) == count
    for name in names:
        found = records.read(shared_data(name).read_text("utf-8"), "a-name-that-says-nothing")
        assert found is not None, name
        assert found.said["index"] == index
        assert found.kind == "record"
        assert found.name


@pytest.mark.parametrize(
    "text",
    [
        "",
        "just words",
        "[1, 2]",
        "a: 1\n",
        "license: mit\nbase_model: x/y\n",
        "release: 1.0\n",
        "release: {name: x}\n",
        "system: {name: x}\n",
        "system: linux\nweights_basemodel: open\n",
        "openness: high\nproduct: x\n",
        "openness: {class: open}\n",
        '{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}',
    ],
)
def test_other_texts_are_no_records(text: str) -> None:
    assert records.read(text, "x.yaml") is None


def test_json_is_read_too() -> None:
    content = {"framework": {"name": "Model Openness Framework"}, "release": {"name": "X"}}
    found = records.read(json.dumps(content), "x.json")
    assert found is not None
    assert found.name == "X"


# -- the Model Openness Tool -----------------------------------------------------------------


def mot(**release: Any) -> Record:
    return read(
        {
            "framework": {"name": "Model Openness Framework", "version": "1.0"},
            "release": {"name": "X", "license": {}, "components": [], **release},
        }
    )


HUB = {"huggingface": "https://hub.example/x"}


def test_mot_listed_is_released() -> None:
    found = mot(components=[{"name": "Datasets", "license": "ODC-By-1.0"}], **HUB)
    claim = found.claim("training_data")
    assert claim is not None
    assert (claim.availability, claim.licence) == (A.FULL, "ODC-By-1.0")
    assert level(found, "weights") == A.ABSENT


def test_mot_inheritance_of_licences() -> None:
    found = mot(
        license={
            "distribution": {"name": "MIT"},
            "data": {"name": "CC0-1.0"},
            "code": {"name": "", "path": ""},
        },
        components=[
            {"name": "Training code"},
            {"name": "Datasets"},
            {"name": "Model card", "license": "CC-BY-4.0"},
            {"name": "Data card", "license": "unlicensed"},
            {"name": "Technical report", "license": ""},
            {"name": "Sample model outputs"},
        ],
        **HUB,
    )
    licences = {one.component: one.licence for one in found.claims if one.availability}
    assert licences == {
        "training_code": "MIT",
        "training_data": "CC0-1.0",
        "model_card": "CC-BY-4.0",
        "data_card": None,
        "report": None,
        "sample_outputs": "MIT",
    }


@pytest.mark.parametrize(
    ("licence", "address", "expected"),
    [
        ("Proprietary", {}, A.UNKNOWN),
        ("Undisclosed", {}, A.UNKNOWN),
        ("unlicensed", {}, A.UNKNOWN),
        (None, {}, A.UNKNOWN),
        ("Proprietary", HUB, A.FULL),
        (None, {"repository": "https://code.example/x"}, A.FULL),
        ("Apache-2.0", {}, A.FULL),
        ("Llama 2 Community License", {}, A.FULL),
        ("Component not included", HUB, A.ABSENT),
        ("Component not include.", {}, A.ABSENT),
    ],
)
def test_mot_what_nobody_can_have_is_no_claim(
    licence: str | None, address: Mapping[str, str], expected: A
) -> None:
    entry = {"name": "Model parameters (Final)"} | ({"license": licence} if licence else {})
    assert level(mot(components=[entry], **address), "weights") == expected


def test_mot_an_address_of_its_own_is_a_claim() -> None:
    entry = {"name": "Datasets", "license": "Proprietary", "component_path": "https://d.example"}
    found = mot(components=[entry])
    claim = found.claim("training_data")
    assert claim is not None
    assert (claim.availability, claim.where) == (A.FULL, "https://d.example")


def test_mot_documents_are_read_without_a_licence() -> None:
    found = mot(components=[{"name": "Research paper", "license": "unlicensed"}])
    assert level(found, "paper") == A.FULL


def test_mot_other_fields() -> None:
    found = mot(
        producer="Lab",
        architecture="transformer decoder",
        type="language",
        origin="Base",
        date="2024-10-03",
        license={"distribution": {"name": "MIT", "path": "https://x.example/LICENSE"}},
        components=[{"name": "Perpetual motion"}],
    )
    assert found.facts == {
        "producer": "Lab",
        "architecture": "transformer decoder",
        "modality": "text",
    }
    assert [parent.name for parent in found.parents] == ["Base"]
    assert (found.date, found.licence) == ("2024-10-03", "MIT")
    assert found.licence_link == "https://x.example/LICENSE"
    assert "Perpetual motion" in found.said["not a component of the framework"]


@pytest.mark.parametrize(
    ("release", "says"),
    [
        ({"components": 7}, "components of r.yaml is a number and must be a list"),
        ({"components": ["Datasets"]}, "entry 1 of components of r.yaml is a text"),
        ({"components": [{"license": "MIT"}]}, "a component of r.yaml has no name"),
        ({"components": [{"name": ["x"]}]}, "name of r.yaml is a list and must be a text"),
        ({"license": "MIT"}, "license of r.yaml is a text and must be a mapping"),
        ({"license": {"code": "MIT"}}, "code of license of r.yaml is a text"),
        ({"name": {"a": 1}}, "name of r.yaml is a mapping"),
        ({"producer": True}, "producer of r.yaml is yes or no"),
    ],
)
def test_mot_wrong_kinds_name_the_field(release: Mapping[str, Any], says: str) -> None:
    with pytest.raises(FormatError, match=says):
        mot(**release)


def test_mot_incomplete_records() -> None:
    assert mot().name == "X"
    assert mot(license=None, components=None, name=None).name == "r.yaml"
    assert mot(license=[], components={}).claims


# -- the European Open Source AI Index -------------------------------------------------------


def index(**cells: Any) -> Record:
    content: dict[str, Any] = {"system": {"name": "X"}, "org": {"name": "Lab"}}
    content |= {cell: {"class": "closed", "link": None, "notes": None} for cell in osai.CELLS}
    for cell, value in cells.items():
        content[cell] = value if isinstance(value, dict) or cell == "org" else {"class": value}
    return read(content)


@pytest.mark.parametrize(
    ("base", "end", "expected"),
    [
        ("open", "open", A.FULL),
        ("partial", "partial", A.GATED),
        ("partial", "open", A.FULL),
        ("open", "partial", A.GATED),
        ("open", "closed", A.FULL),
        ("partial", "closed", A.GATED),
        ("closed", "open", A.FULL),
        ("closed", "closed", A.ABSENT),
        ("open", None, A.FULL),
        ("open", "N/A", A.FULL),
        (None, "partial", A.GATED),
        (None, None, A.UNKNOWN),
        ("Open", "CLOSED", A.FULL),
    ],
)
def test_osai_weights(base: str | None, end: str | None, expected: A) -> None:
    found = index(weights_basemodel=base, weights_endmodel=end)
    assert level(found, "weights") == expected


@pytest.mark.parametrize(
    ("base", "end", "expected"),
    [
        ("open", "open", A.FULL),
        ("open", "partial", A.PARTIAL),
        ("partial", "open", A.PARTIAL),
        ("closed", "open", A.ABSENT),
        ("open", "closed", A.ABSENT),
        ("open", None, A.FULL),
        ("N/A", "partial", A.PARTIAL),
        (None, None, A.UNKNOWN),
    ],
)
def test_osai_data_is_the_less_open(base: str | None, end: str | None, expected: A) -> None:
    found = index(datasources_basemodel=base, datasources_endmodel=end)
    assert level(found, "training_data") == expected


@pytest.mark.parametrize(
    ("source", "documentation", "expected"),
    [
        ("open", "closed", A.FULL),
        ("partial", "open", A.PARTIAL),
        ("closed", "partial", A.DESCRIBED),
        ("closed", "closed", A.ABSENT),
        (None, "open", A.UNKNOWN),
    ],
)
def test_osai_training_code(source: str | None, documentation: str, expected: A) -> None:
    found = index(trainingcode=source, code=documentation)
    assert level(found, "training_code") == level(found, "preprocessing_code") == expected
    assert level(found, "inference_code") == A.UNKNOWN


def test_osai_documents_and_licences() -> None:
    found = index(
        system={
            "name": "X",
            "endmodel license": "MIT",
            "releasedate": "2025-12",
            "type": "text,code",
        },
        preprint="open",
        paper="partial",
        modelcard={"class": "open", "link": ["", "https://a.example"], "notes": "fine"},
        datasheet="closed",
        licenses="open",
        trainingcode="open",
        weights_endmodel="open",
    )
    assert level(found, "report") == A.FULL
    assert level(found, "paper") == A.PARTIAL
    assert level(found, "data_card") == A.ABSENT
    card = found.claim("model_card")
    assert card is not None
    assert (card.where, card.note, card.licence) == ("https://a.example", "fine", "MIT")
    assert found.licence == "MIT"
    assert found.facts == {"producer": "Lab", "released": "2025-12", "modality": "text"}
    closed = index(system={"name": "X", "endmodellicense": "MIT"}, trainingcode="open")
    claim = closed.claim("training_code")
    assert claim is not None
    assert claim.licence is None


def test_osai_keeps_what_the_index_says() -> None:
    found = index(weights_endmodel="open", paper=None, code="Perhaps")
    assert found.said["weights_endmodel"] == "open"
    assert found.said["paper"] == "not given"
    assert found.said["code"] == "perhaps"


@pytest.mark.parametrize(
    ("modality", "facts"),
    [
        (["text", "image"], {"modality": "multimodal"}),
        ("image", {}),
        ("text", {"modality": "text"}),
        (None, {}),
    ],
)
def test_osai_types(modality: Any, facts: Mapping[str, Any]) -> None:
    assert index(system={"name": "X", "type": modality}, org=None).facts == facts


@pytest.mark.parametrize(
    ("cells", "says"),
    [
        ({"paper": {"class": ["open"]}}, "class of paper of r.yaml is a list"),
        ({"paper": {"class": True}}, "class of paper of r.yaml is yes or no"),
        ({"weights_endmodel": {"class": "open", "link": {"a": 1}}}, "link of weights_endmodel"),
        ({"weights_endmodel": {"class": "open", "link": [["a"]]}}, "link of weights_endmodel"),
        ({"org": "Lab"}, "org of r.yaml is a text and must be a mapping"),
        ({"system": {"name": ["X"]}}, "name of r.yaml is a list"),
    ],
)
def test_osai_wrong_kinds_name_the_field(cells: Mapping[str, Any], says: str) -> None:
    with pytest.raises(FormatError, match=says):
        index(**cells)


def test_osai_a_cell_that_is_a_text_names_the_field() -> None:
    content = {cell: {"class": "open"} for cell in osai.CELLS[:4]}
    with pytest.raises(FormatError, match=r"trainingcode of r\.yaml is a text"):
        read({"system": {"name": "X"}, **content, "trainingcode": "open"})


# -- the Open Source AI Map ------------------------------------------------------------------


def on_map(components: Any = None, class_: Any = "open_weights", **more: Any) -> Record:
    openness = {"score": 3, "class": class_, **more}
    if components is not None:
        openness["components"] = components
    return read({"product": "x", "openness": openness, "adoption": {}, "capability": {}})


CODE = ("training_code", "inference_code", "evaluation_code", "preprocessing_code")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("code:closed", {"training_code": A.ABSENT, "inference_code": A.ABSENT}),
        ("code:open", {"training_code": A.FULL, "inference_code": A.FULL}),
        ("code:partial", {"training_code": A.PARTIAL, "inference_code": A.PARTIAL}),
        (
            "code:partial(inference code in HF repo; no full training pipeline)",
            {"training_code": A.ABSENT, "inference_code": A.FULL},
        ),
        (
            "code:partial(inference/deploy; no training data or full pipeline)",
            {"training_code": A.ABSENT, "inference_code": A.FULL},
        ),
        (
            "code:partial(inference/utils via some-lib, no training code)",
            {"training_code": A.ABSENT, "inference_code": A.FULL},
        ),
        ("code:partial(inference/usage)", {"training_code": A.ABSENT, "inference_code": A.FULL}),
        ("code:open(inference only)", {"training_code": A.ABSENT, "inference_code": A.FULL}),
        ("code:open(recipes+21 configs)", {"training_code": A.FULL, "inference_code": A.FULL}),
        (
            "code:open(pretraining + eval, no restrictions)",
            {"training_code": A.FULL, "inference_code": A.FULL, "evaluation_code": A.FULL},
        ),
        (
            "code:partial(training code on a fork)",
            {"training_code": A.PARTIAL, "inference_code": A.PARTIAL},
        ),
        (
            "code:open(inference; training code not released)",
            {"training_code": A.ABSENT, "inference_code": A.FULL},
        ),
        (
            "code:open(data-processing and fine-tuning)",
            {"preprocessing_code": A.FULL, "training_code": A.FULL, "inference_code": A.FULL},
        ),
        ("code:missing", {"training_code": A.ABSENT, "inference_code": A.ABSENT}),
        ("code:whatever(training)", {}),
    ],
)
def test_map_code(line: str, expected: Mapping[str, A]) -> None:
    found = on_map(f"weights:open;{line};data:closed")
    assert {
        name: level(found, name) for name in CODE if level(found, name) != A.UNKNOWN
    } == expected


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("open", A.FULL),
        ("open(on HF)", A.FULL),
        (" Open (MIT, on HF) ", A.FULL),
        ("open(gated, terms acceptance required)", A.GATED),
        ("open(HF; not gated)", A.FULL),
        ("open(non-gated)", A.FULL),
        ("gated", A.GATED),
        ("partial(small sizes)", A.GATED),
        ("closed", A.ABSENT),
        ("closed(API-only)", A.ABSENT),
        ("missing", A.ABSENT),
        ("absent", A.ABSENT),
        ("none", A.ABSENT),
        ("unknown", A.UNKNOWN),
        ("n/a", A.UNKNOWN),
        ("", A.UNKNOWN),
        ("???", A.UNKNOWN),
    ],
)
def test_map_weights(word: str, expected: A) -> None:
    found = on_map(f"weights:{word};data:closed;code:closed;license:MIT")
    assert level(found, "weights") == expected


def test_map_data_and_checkpoints() -> None:
    found = on_map("weights:open;data:open(~10T tokens; a list);checkpoints:open;code:open")
    assert level(found, "training_data") == A.FULL
    assert level(found, "checkpoints") == A.FULL
    told = on_map("data:closed(synthesis described in the report; corpus not released)")
    assert level(told, "training_data") == A.DESCRIBED
    assert level(on_map("data:partial(8 GB subsample)"), "training_data") == A.PARTIAL


@pytest.mark.parametrize(
    ("line", "licence"),
    [
        ("license:MIT(OSI)", "MIT"),
        ("license:Apache-2.0(OSI) across sizes", "Apache-2.0"),
        ("license:mixed — small Apache-2.0, flagship its own", "mixed"),
        ("license:Proprietary(API-only)", "Proprietary"),
        ("licence: MIT ", "MIT"),
        ("license:", None),
        ("license:(none)", "(none)"),
        ("weights:open", None),
    ],
)
def test_map_licence(line: str, licence: str | None) -> None:
    assert on_map(line).licence == licence


def test_map_the_line_survives_semicolons_and_broken_parentheses() -> None:
    parts = os_ai_map.parse("weights:open(a;b(c;d));data:closed;code:open(never closed;license:MIT")
    assert parts == {
        "weights": ("open", "a;b(c;d"),
        "data": ("closed", ""),
        "code": ("open", "never closed;license:MIT"),
    }
    assert os_ai_map.parse("))weights:open") == {}
    assert os_ai_map.parse("weights:open;weights:closed") == {"weights": ("open", "")}


@pytest.mark.parametrize(
    ("class_", "weights", "code"),
    [
        ("open_source", A.FULL, A.FULL),
        ("open_weights", A.FULL, A.UNKNOWN),
        ("restricted", A.FULL, A.UNKNOWN),
        ("closed", A.ABSENT, A.UNKNOWN),
        ("open_core", A.UNKNOWN, A.UNKNOWN),
    ],
)
def test_map_without_a_line_the_class_speaks(class_: str, weights: A, code: A) -> None:
    found = on_map(None, class_)
    assert (level(found, "weights"), level(found, "training_code")) == (weights, code)


def test_map_sources_and_scores() -> None:
    sources = [
        {"url": "https://a.example", "shows": "x", "accessed": "2026-06-04"},
        {"url": "https://b.example", "shows": "y", "accessed": "2026-06-09"},
    ]
    found = on_map("weights:open", sources=sources, confidence="high")
    assert found.date == "2026-06-09"
    assert found.said == {
        "index": "Open Source AI Map",
        "score": "3",
        "class": "open_weights",
        "confidence": "high",
    }
    claim = found.claim("weights")
    assert claim is not None
    assert (claim.source, claim.date) == ("https://a.example", "2026-06-09")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"components": ["weights:open"]}, "components of openness of r.yaml is a list"),
        ({"class_": {"a": 1}}, "class of openness of r.yaml is a mapping"),
        ({"sources": "x"}, "sources of openness of r.yaml is a text and must be a list"),
        ({"sources": [1]}, "entry 1 of sources of openness of r.yaml is a number"),
        ({"confidence": ["high"]}, "confidence of openness of r.yaml is a list"),
    ],
)
def test_map_wrong_kinds_name_the_field(more: Mapping[str, Any], says: str) -> None:
    with pytest.raises(FormatError, match=says):
        on_map(**more)


# -- records on which indexes and facts are known to part --------------------------------------


@pytest.mark.parametrize(
    ("name", "component", "expected"),
    [
        # Listed as released, under "Proprietary" and without any address.
        ("mot/GPT-4.yml", "weights", A.UNKNOWN),
        # Listed, and its licence says that it is not included.
        ("mot/GPT-3.5.yml", "weights", A.ABSENT),
        # Listed under MIT: the record's own error, which is imported as it stands.
        ("mot/Claude-2.yml", "weights", A.FULL),
        # The index took note that the weights were withdrawn.
        ("osai/MPT.yaml", "weights", A.ABSENT),
        ("osai/FLUX.yaml", "weights", A.GATED),
        ("osai/Tulu.yaml", "weights", A.FULL),
        ("osai/Lucie.yaml", "training_data", A.PARTIAL),
        ("os_ai_map/gemma-2.yaml", "weights", A.GATED),
        ("os_ai_map/nemotron-3.yaml", "training_data", A.FULL),
        ("os_ai_map/kimi-k2-6.yaml", "training_code", A.ABSENT),
        ("os_ai_map/kimi-k2-6.yaml", "inference_code", A.FULL),
    ],
)
def test_single_records(
    shared_data: Callable[[str], Path], name: str, component: str, expected: A
) -> None:
    found = records.read(shared_data(f"openness/{name}").read_text("utf-8"), name)
    assert found is not None
    assert level(found, component) == expected


# -- hostile ---------------------------------------------------------------------------------

SEEDS = (
    "framework: {name: Model Openness Framework}\nrelease:\n  name: X\n  license:\n"
    "    distribution: {name: MIT, path: ''}\n  components:\n  - name: Datasets\n"
    "    license: unlicensed\n  - name: Model parameters (Final)\n",
    "system: {name: X, type: text, endmodellicense: MIT}\norg: {name: Lab}\n"
    "weights_endmodel: {class: open, link: [a, b], notes: x}\n"
    "weights_basemodel: {class: closed}\ntrainingcode: {class: partial}\n"
    "datasources_basemodel: {class: open}\nlicenses: {class: open}\n",
    "product: x\nopenness:\n  score: 3\n  class: open_weights\n"
    "  components: weights:open(a;b);data:closed;code:partial(inference; no training);license:MIT\n"
    "  sources:\n  - {url: 'https://a', shows: x, accessed: '2026-06-04'}\nadoption: {level: 1}\n",
)


@settings(max_examples=repeats(80, 200))
@given(
    st.sampled_from(SEEDS),
    st.lists(
        st.tuples(
            st.integers(0, 400),
            st.integers(0, 12),
            st.text(alphabet="[]{}:,-?&*|>'\"\n ();abc17~é\0", max_size=6),
        ),
        max_size=6,
    ),
)
def test_mutated_records_end_in_a_record_or_a_sentence(
    seed: str, edits: list[tuple[int, int, str]]
) -> None:
    for at, cut, new in edits:
        seed = seed[:at] + new + seed[at + cut :]
    try:
        found = records.read(seed, "m.yaml")
    except FormatError as error:
        message = str(error)
    else:
        message = ""
        assert found is None or isinstance(found.name, str)
    assert "\n" not in message


_ANY = st.recursive(
    st.none() | st.booleans() | st.integers(0, 99) | st.text("ab(:;)é ", max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=3), inner),
    max_leaves=6,
)


@settings(max_examples=repeats(80, 200))
@given(st.sampled_from(SEEDS), st.integers(0, 40), _ANY)
def test_any_value_in_any_place_ends_in_a_record_or_a_sentence(
    seed: str, place: int, value: Any
) -> None:
    content = yamltext.load(seed, "s")
    places = _places(content)
    holder, key = places[place % len(places)]
    holder[key] = value
    try:
        found = records.read(yamltext.dump(content), "m.yaml")
    except FormatError:
        found = None
    assert found is None or found.said


def _places(content: Any) -> list[tuple[Any, Any]]:
    keys = content if isinstance(content, dict) else range(len(content))
    found = [(content, key) for key in keys]
    for key in list(keys):
        if isinstance(content[key], dict | list):
            found += _places(content[key])
    return found


def test_map_a_long_line_is_read_to_its_end() -> None:
    found = on_map(f"weights:open({'a word ' * 300});data:open;code:open(training);license:MIT")
    assert (found.licence, level(found, "training_code")) == ("MIT", A.FULL)


def test_a_very_long_field_is_cut() -> None:
    found = on_map("weights:open(" + "a" * 100_000 + ");data:closed", class_="x" * 5000)
    assert all(len(one.note) <= 600 for one in found.claims)
    assert len(found.said["class"]) <= 600
