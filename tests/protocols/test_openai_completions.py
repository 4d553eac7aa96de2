"""OpenAI's older completions: prompts of every kind, echo, log-probabilities as lm-eval reads."""

from typing import Any

import openai_rig as rig
import pytest
from openai.types import Completion

from overt.chat import (
    Done,
    Failed,
    Logprobs,
    Request,
    Sampling,
    ScoreRequest,
    Text,
    TokenLogprob,
    Usage,
)
from overt.protocols.openai.logprobs import legacy, without_added

PATH = "/v1/completions"

pytestmark = pytest.mark.anyio


async def ask(services: rig.Services | None = None, **fields: Any) -> rig.Answered:
    services = services or rig.Services()
    return await rig.ask(services, PATH, {"model": "echo:", "prompt": "one two", **fields})


async def choices(services: rig.Services | None = None, **fields: Any) -> list[Any]:
    """The choices, the same in one piece and added up from chunks."""
    answered = await ask(services, **fields)
    assert answered.status == 200, answered.body
    Completion.model_validate(answered.body)
    if services is None or services.script is not None:
        assert added_up((await ask(services, stream=True, **fields)).chunks) == [
            {**choice, "logprobs": choice["logprobs"] or None}
            for choice in answered.body["choices"]
        ]
    return answered.body["choices"]


def added_up(chunks: list[Any]) -> list[Any]:
    assert chunks[-1] == "[DONE]"
    found: dict[int, Any] = {}
    for chunk in chunks[:-1]:
        Completion.model_construct(**chunk)
        choice = chunk["choices"][0]
        whole = found.setdefault(
            choice["index"],
            {"text": "", "index": choice["index"], "logprobs": None, "finish_reason": None},
        )
        whole["text"] += choice["text"]
        whole["finish_reason"] = choice["finish_reason"]
        if choice["logprobs"]:
            whole["logprobs"] = whole["logprobs"] or {name: [] for name in choice["logprobs"]}
            for name, values in choice["logprobs"].items():
                whole["logprobs"][name] += values
    return [found[index] for index in sorted(found)]


# ---- the request ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "wanted"),
    [
        ("a b", ["a b"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [(1, 2)]),
        ([[1, 2], [3]], [(1, 2), (3,)]),
        (None, [""]),
        ("", [""]),
    ],
)
async def test_prompts(prompt: Any, wanted: list[Any]) -> None:
    services = rig.Services()
    await ask(services, prompt=prompt)
    assert [request.prompt for request in services.asked] == wanted


async def test_fields_arrive() -> None:
    services = rig.Services()
    await ask(
        services,
        max_tokens=3,
        temperature=0.5,
        seed=4,
        stop=["x"],
        suffix="end",
        logit_bias={"1": 2},
        user="u",
        best_of=1,
        grammar="root ::= [a]",
    )
    assert services.asked == [
        Request(
            "echo:",
            prompt="one two",
            suffix="end",
            sampling=Sampling(temperature=0.5, seed=4),
            max_tokens=3,
            stop=("x",),
            logit_bias=((1, 2.0),),
            grammar="root ::= [a]",
        )
    ]


async def test_sixteen_tokens_are_the_default_as_with_openai() -> None:
    services = rig.Services()
    await ask(services)
    assert services.asked[0].max_tokens == 16


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"prompt": [[1], []]}, "prompt"),
        ({"prompt": [-1]}, "prompt[0]"),
        ({"prompt": [1.5]}, "prompt[0]"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({"prompt": ["a"] * 2049}, "prompt"),
        ({"prompt": ["a"] * 2048, "n": 3}, "n"),
        ({"best_of": 3}, "best_of"),
        ({"best_of": 1, "n": 2}, "best_of"),
        ({"logprobs": 6}, "logprobs"),
        ({"echo": True, "suffix": "x"}, "suffix"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"stream_options": {}}, "stream_options"),
        ({"unknown": 1}, "unknown"),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_what_is_wrong_is_named(fields: dict[str, Any], param: str) -> None:
    answered = await ask(**fields)
    assert (answered.status, answered.body["error"]["param"]) == (400, param)


# ---- the answer ----------------------------------------------------------------------------


async def test_an_answer() -> None:
    answered = await ask(max_tokens=1)
    body = answered.body
    assert body["id"].startswith("cmpl-")
    assert (body["object"], body["model"]) == ("text_completion", "echo:")
    assert body["choices"] == [
        {"text": "one ", "index": 0, "logprobs": None, "finish_reason": "length"}
    ]
    assert body["usage"]["total_tokens"] == 3


async def test_several_prompts_and_answers_are_in_order() -> None:
    told = await choices(prompt=["a", "b"], n=2, stop="z")
    assert [(c["index"], c["text"], c["finish_reason"]) for c in told] == [
        (0, "a", "stop"), (1, "a", "stop"), (2, "b", "stop"), (3, "b", "stop"),
    ]  # fmt: skip


async def test_usage_counts_each_prompt_once() -> None:
    answered = await ask(prompt=["a b", "c"], n=3)
    assert answered.body["usage"]["prompt_tokens"] == 3
    assert answered.body["usage"]["completion_tokens"] == 9
    answered = await ask(
        prompt=["a b", "c"], n=3, stream=True, stream_options={"include_usage": True}
    )
    assert answered.chunks[-2]["usage"]["total_tokens"] == 12
    assert answered.chunks[-2]["choices"] == []


async def test_echo_puts_the_prompt_first() -> None:
    assert [c["text"] for c in await choices(echo=True)] == ["one twoone two"]
    assert [c["text"] for c in await choices(echo=True, prompt=[1, 2, 3])] == [" a bc1 2 3"]
    assert [c["text"] for c in await choices(echo=True, prompt=["a", "b"])] == ["aa", "bb"]


async def test_no_tokens_may_be_asked_for() -> None:
    services = rig.Services()
    answered = await ask(services, echo=True, max_tokens=0)
    assert answered.body["choices"][0]["text"] == "one two"
    assert answered.body["choices"][0]["finish_reason"] == "length"
    assert answered.body["usage"]["prompt_tokens"] == 7
    assert services.asked == []
    assert (await choices(max_tokens=0))[0]["text"] == ""


async def test_logprobs_of_an_answer() -> None:
    a = TokenLogprob("A", -0.5, (("A", -0.5), ("x", -1.0)))
    b = TokenLogprob("B", -3.0, (("y", -0.1), ("z", -2.0)))

    def script(request: Request) -> list[Any]:
        return [Text("A"), Logprobs((a,)), Text("B"), Logprobs((b,)), Usage(1, 2), Done("stop")]

    (choice,) = await choices(rig.Services(script=script), logprobs=1)
    assert choice["logprobs"] == {
        "text_offset": [0, 1],
        "tokens": ["A", "B"],
        "token_logprobs": [-0.5, -3.0],
        "top_logprobs": [{"A": -0.5}, {"y": -0.1, "B": -3.0}],
    }


async def test_a_prompt_is_scored_without_an_answer() -> None:
    services = rig.Services()
    (choice,) = (await ask(services, prompt="abc", echo=True, logprobs=2, max_tokens=0)).body[
        "choices"
    ]
    assert services.asked == [ScoreRequest("echo:", "abc", 2)]
    assert choice["text"] == "abc"
    assert choice["logprobs"] == {
        "text_offset": [0, 1, 2],
        "tokens": ["a", "b", "c"],
        "token_logprobs": [None, -1.0, -2.0],
        "top_logprobs": [None, {"top": -0.5, "b": -1.0}, {"top": -0.5, "c": -2.0}],
    }


async def test_what_the_model_puts_before_a_text_is_not_told() -> None:
    services = rig.Services(begin=True)
    answered = await ask(services, prompt="abc", echo=True, logprobs=1, max_tokens=0)
    told = answered.body["choices"][0]["logprobs"]
    assert told["tokens"] == ["a", "b", "c"]
    assert told["token_logprobs"] == [-1.0, -2.0, -3.0]
    assert answered.body["usage"]["prompt_tokens"] == 4


LM_EVAL = {"temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": True}


@pytest.mark.parametrize("stream", [False, True])
async def test_scoring_as_lm_eval_asks_loads_the_scorer_alone(stream: bool) -> None:
    """It reads token_logprobs[ctxlen:-1]: the last one is the answer's, and must be there."""
    services = rig.Services()
    answered = await ask(services, prompt=[[1, 2, 3], [4, 1]], stream=stream, **LM_EVAL)
    assert services.asked == [
        ScoreRequest("echo:", (1, 2, 3, 1), 1),
        ScoreRequest("echo:", (4, 1, 4), 1),
    ]
    told = added_up(answered.chunks) if stream else answered.body["choices"]
    assert [choice["text"] for choice in told] == [" a bctop", " d atop"]
    assert told[0]["logprobs"]["token_logprobs"] == [None, -1.0, -2.0, -0.5]
    assert told[0]["logprobs"]["top_logprobs"][-1] == {"top": -0.5}
    assert told[0]["logprobs"]["text_offset"] == [0, 2, 4, 5]
    if not stream:
        assert answered.body["usage"]["total_tokens"] == 5 + 2


async def test_a_text_is_scored_with_its_answer_in_two_passes() -> None:
    services = rig.Services()
    answered = await ask(services, prompt="ab", **LM_EVAL)
    assert [request.prompt for request in services.asked] == ["ab", (97, 98, 97)]
    assert answered.body["choices"][0]["logprobs"]["tokens"] == ["?", "?", "top"]


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 1},
        {"max_tokens": 2},
        {"logit_bias": {"1": 5}},
        {"stop": "x"},
        {"presence_penalty": 1},
        {"grammar": "root ::= [a]"},
    ],
    ids=str,
)
async def test_an_answer_that_is_not_just_the_likeliest_token_is_generated(
    fields: dict[str, Any],
) -> None:
    services = rig.Services()
    answered = await ask(services, prompt=[1, 2], **{**LM_EVAL, **fields})
    assert [type(request) for request in services.asked] == [ScoreRequest, Request]
    told = answered.body["choices"][0]["logprobs"]
    assert told["tokens"][:2] == [" a", " b"]
    assert len(told["tokens"]) >= 3 or fields == {"stop": "x"}


# ---- what goes wrong -----------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("prompt", ["a", ["a", "b"]])
async def test_an_error_before_the_answer_has_its_status(stream: bool, prompt: Any) -> None:
    answered = await ask(model="gone", stream=stream, prompt=prompt)
    assert (answered.status, answered.body["error"]["code"]) == (404, "model_not_found")


async def test_a_failure_in_the_middle_ends_the_stream() -> None:
    answered = await ask(model="echo:fail", prompt="a b c d", stream=True)
    assert answered.chunks[-1]["error"]["code"] == "engine_failed"
    answered = await ask(model="echo:fail", prompt="a b c d")
    assert answered.status == 500
    failed = rig.Services(script=lambda request: [Failed("worker_died", "gone", None)])
    assert (await ask(failed, stream=True)).status == 503


async def test_the_address_may_name_the_model_but_not_another() -> None:
    path = "/of/{model:path}/v1/completions"
    body = {"model": "echo:", "prompt": "a"}
    assert (await rig.ask(rig.Services(), path, body, model="echo:")).status == 200
    assert (await rig.ask(rig.Services(), path, body, model="other")).status == 400


# ---- how a prompt begins -------------------------------------------------------------------

OF = "/of/{model:path}/v1/completions"


async def begun(services: rig.Services, path: str, **body: Any) -> rig.Answered:
    model = {"model": "echo:"} if path == OF else {}
    return await rig.ask(services, path, {"model": "echo:", **body}, **model)


@pytest.mark.parametrize("stream", [False, True])
async def test_token_ids_of_harnesses_begin_as_a_text_does(stream: bool) -> None:
    """lm-eval sends no begin token but with an empty context; the model reads one all the same."""
    services = rig.Services(begin=True)
    answered = await begun(services, OF, prompt=[[1, 2], [9, 1, 2]], stream=stream, **LM_EVAL)
    asked = [one.prompt for one in services.asked if isinstance(one, ScoreRequest)]
    assert asked == [(9, 1, 2, 9), (9, 1, 2, 9)]
    told = added_up(answered.chunks) if stream else answered.body["choices"]
    logprobs = [choice["logprobs"]["token_logprobs"] for choice in told]
    assert logprobs == [[-1.0, -2.0, -0.5], [None, -1.0, -2.0, -0.5]]  # one for each that was sent
    assert [choice["text"] for choice in told] == [" a btop", "<s> a btop"]
    assert told[0]["logprobs"]["text_offset"] == [0, 2, 4]


@pytest.mark.parametrize(
    ("prompt", "read"),
    [
        ([1, 2], (9, 1, 2)),
        ([9, 1], (9, 1)),
        ("ab", "ab"),  # to a text an engine adds it by itself
        ("<s>ab", (9, 97, 98)),
    ],
)
async def test_what_is_written_after_them_begins_so_too(prompt: Any, read: Any) -> None:
    services = rig.Services(begin=True)
    await begun(services, OF, prompt=prompt, max_tokens=4)
    assert services.asked[-1].prompt == read


async def test_elsewhere_and_without_a_begin_token_ids_are_read_as_they_come() -> None:
    for services, path in ((rig.Services(begin=True), "/v1/completions"), (rig.Services(), OF)):
        await begun(services, path, prompt=[1, 2], max_tokens=4)
        assert services.asked[-1].prompt == (1, 2)
        answered = await begun(services, path, prompt=[1, 2], **LM_EVAL)
        assert answered.body["choices"][0]["logprobs"]["token_logprobs"] == [None, -1.0, -0.5]


async def test_an_echo_shows_what_was_sent() -> None:
    services = rig.Services(begin=True)
    echo = {"echo": True, "max_tokens": 0}
    answered = await begun(services, OF, prompt=[1, 2], **echo)
    assert answered.body["choices"][0]["text"] == " a b"


# ---- the pieces ----------------------------------------------------------------------------


async def test_offsets_count_whole_characters() -> None:
    tokens = [
        TokenLogprob("a", None),
        TokenLogprob("�", -1.0, (), None, b"\xe2\x82"),
        TokenLogprob("�", -1.0, (), None, b"\xac"),
        TokenLogprob("b", float("-inf")),
    ]
    told = legacy(tokens, 1)
    assert told.text_offset == [0, 1, 1, 2]
    assert told.token_logprobs == [None, -1.0, -1.0, -9999.0]


async def test_two_tokens_that_read_the_same_do_not_hide_the_likelier() -> None:
    token = TokenLogprob("a", -2.0, (("a", -0.1), ("b", -1.0)))
    assert legacy([token], 2).top_logprobs == [{"a": -0.1, "b": -1.0}]


@pytest.mark.parametrize(
    ("said", "prompt", "kept"),
    [
        (["<s>", "a", "b"], "ab", 2),
        (["a", "b"], "ab", 2),
        (["<s>", " a", "b"], "ab", 2),
        (["a", "a"], "a a", 2),
        ([], "", 0),
    ],
)
async def test_without_added(said: list[str], prompt: str, kept: int) -> None:
    tokens = tuple(TokenLogprob(word, -1.0) for word in said)
    assert without_added(tokens, prompt) == tokens[len(tokens) - kept :]
