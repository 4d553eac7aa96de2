"""LM Studio's settings, and what they become."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overt.chat import Sampling, Tool
from overt.errors import OvertError, Unsupported
from overt.protocols.base import BadBody
from overt.protocols.lmstudio import kv

P = "llm.prediction."


def said(**fields: object) -> kv.Prediction:
    """A double underscore stands for a dot."""
    return kv.prediction({P + name.replace("__", "."): value for name, value in fields.items()})


def test_a_later_layer_overrides_an_earlier_one() -> None:
    layers = [
        kv.ConfigLayer(kv.ConfigFields([kv.Field("a", 1), kv.Field("b", 1)])),
        kv.ConfigLayer(kv.ConfigFields([kv.Field("b", 2)])),
    ]
    assert kv.Stack(layers).collapsed() == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("fields", "sampling"),
    [
        ({"temperature": 0.5}, Sampling(temperature=0.5)),
        ({"topKSampling": 40.0}, Sampling(top_k=40)),
        ({"topKSampling": -1}, Sampling(top_k=0)),
        ({"topPSampling": {"checked": True, "value": 0.9}}, Sampling(top_p=0.9)),
        ({"topPSampling": {"checked": False, "value": 0.9}}, Sampling(top_p=1.0)),
        ({"minPSampling": {"checked": False}}, Sampling(min_p=0.0)),
        ({"repeatPenalty": {"checked": True, "value": 1.1}}, Sampling(repeat_penalty=1.1)),
        ({"repeatPenalty": False}, Sampling(repeat_penalty=1.0)),
        ({"seed": {"checked": True, "value": 7}}, Sampling(seed=7)),
        ({"seed": {"checked": True, "value": -1}}, Sampling()),
        ({"llama__presencePenalty": {"checked": True, "value": 1}}, Sampling(presence_penalty=1)),
        ({"llama__frequencyPenalty": {"checked": False, "value": 1}}, Sampling()),
        ({"llama__cpuThreads": 99, "unheardOf": "x"}, Sampling()),
    ],
)
def test_sampling(fields: dict, sampling: Sampling) -> None:
    assert said(**fields).drawn() == sampling


def test_the_rest() -> None:
    assert said(maxPredictedTokens={"checked": True, "value": 5}).max_tokens == 5
    assert said(maxPredictedTokens={"checked": True, "value": -1}).max_tokens is None
    assert said(maxPredictedTokens={"checked": False, "value": 5}).max_tokens is None
    assert said(stopStrings=["a", "b"]).stop == ("a", "b")
    assert said(logProbs={"checked": True, "value": 3}).logprobs == 3
    assert said(llama__logitBias=[[5, 1.5], [6, "-inf"]]).logit_bias == ((5, 1.5), (6, -100.0))
    assert said(reasoning__enableThinking=False).thinking is False
    assert said(systemPrompt="be kind").system == "be kind"
    assert said(structured={"type": "json"}).json_schema == {"type": "object"}
    assert said(structured={"type": "gbnf", "gbnfGrammar": "root ::= x"}).grammar == "root ::= x"
    assert said(structured={"type": "none"}).json_schema is None


def test_tools() -> None:
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    use = {"type": "toolArray", "tools": [tool]}
    assert said(tools=use).tools == (Tool("add", "", {"type": "object"}),)
    assert said(tools=use).tool_choice == "auto"
    assert said(tools={**use, "force": True}).tool_choice == "required"
    assert said(tools=use, toolChoice={"type": "generic", "mode": "none"}).tool_choice == "none"
    assert said(tools={"type": "none"}).tools == ()


@pytest.mark.parametrize("quote", ["'", '"'])
@pytest.mark.parametrize("dash", ["", "-"])
def test_the_template_of_a_completion_is_known_in_its_spellings(quote: str, dash: str) -> None:
    text = (
        f"{{%{dash} for m in messages {dash}%}}{{{{ m[{quote}content{quote}] }}}}"
        f"{{%{dash} endfor {dash}%}}"
    )
    template = {"type": "jinja", "jinjaPromptTemplate": {"template": text}, "stopStrings": ["x"]}
    found = said(promptTemplate=template)
    assert found.as_text
    assert found.stop == ("x",)


@pytest.mark.parametrize(
    "fields",
    [
        {"promptTemplate": {"type": "jinja", "jinjaPromptTemplate": {"template": "{{ x }}"}}},
        {"llama__mirostatSampling": {"version": 2, "learningRate": 0.1, "targetEntropy": 5}},
        {"llama__xtcProbability": {"checked": True, "value": 0.5}},
        {"contextPrefill": [{"type": "jsonFile", "absPath": "/etc/passwd"}]},
    ],
)
def test_what_would_change_the_answer_and_is_not_to_be_had_is_refused(fields: dict) -> None:
    with pytest.raises(Unsupported, match=r"llm\.prediction|template"):
        said(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": -1}, {"temperature": "hot"}, {"topKSampling": 1.5}, {"stopStrings": "x"},
        {"structured": {"type": "json", "jsonSchema": 3}}, {"structured": {"type": "gbnf"}},
        {"logProbs": {"checked": True, "value": 21}}, {"tools": {"type": "toolArray", "tools": 1}},
        {"topPSampling": {"checked": "yes"}}, {"toolChoice": {"mode": "always"}},
    ],
)  # fmt: skip
def test_a_wrong_value_names_its_key(fields: dict) -> None:
    with pytest.raises(BadBody) as error:
        said(**fields)
    assert error.value.path == P + next(iter(fields))


def test_the_context_of_a_load() -> None:
    assert kv.context_length({"llm.load.contextLength": 512}) == 512
    assert kv.context_length({"embedding.load.contextLength": 512.0}) == 512
    assert kv.context_length({"llm.load.seed": 1}) is None
    for wrong in (0, -5, 1.5, "x", 1 << 40):
        with pytest.raises(BadBody):
            kv.context_length({"llm.load.contextLength": wrong})


_value = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inside: (
        st.lists(inside, max_size=3)
        | st.dictionaries(
            st.sampled_from(("checked", "value", "type", "tools", "mode", "version")), inside
        )
    ),
    max_leaves=8,
)


@given(values=st.dictionaries(st.sampled_from(sorted(kv._SETTERS)), _value, max_size=4))
def test_any_setting_is_taken_or_refused(values: dict) -> None:
    try:
        found = kv.prediction(values)
    except OvertError:
        return
    assert isinstance(found.drawn(), Sampling)
