"""The torch engine: its sampler, what it refuses, and its numbers against llama.cpp's."""

import asyncio
import json
import math
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import serving
import tiny_models
from overt.chat import (
    Answer,
    Logprobs,
    Message,
    Request,
    Sampling,
    ScoreRequest,
    Text,
    Tool,
)
from overt.engine import Capabilities
from overt.errors import (
    BadRequest,
    BadSetting,
    ContextExceeded,
    EngineFailed,
    OutOfMemory,
    OvertError,
    Unsupported,
)
from overt.formats import gguf
from overt.runtime import registry
from overt.runtime.llamacpp import sampler
from overt.runtime.torch import plan
from overt.runtime.torch.engine import Torch
from overt.settings import load

needed = pytest.mark.skipif(
    not (registry.find_spec("torch") and registry.find_spec("llama_cpp_py_sync")),
    reason="torch and llama-cpp-py-sync are not on this machine",
)
GREEDY = Sampling(temperature=0)


# ---- which token comes next ----------------------------------------------------------------


def drawn(
    logits: list[float],
    past: tuple[int, ...] | list[int] = (),
    bias: Any = (),
    seed: int = 0,
    **over: Any,
):
    sampling = {**sampler.DEFAULTS, **over}
    array = np.array(logits, np.float32)
    return sampler.next_token(array, past, sampling, bias, np.random.default_rng(seed))


def shares(logits: list[float], count: int = 4000, **over: Any) -> list[float]:
    generator = np.random.default_rng(1)
    array, sampling = np.array(logits, np.float32), {**sampler.DEFAULTS, **over}
    found = [sampler.next_token(array, [], sampling, (), generator) for _ in range(count)]
    return [found.count(id) / count for id in range(len(logits))]


PLAIN = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}


def test_a_draw_has_the_shares_of_the_softmax():
    logits = [math.log(p) for p in (0.5, 0.3, 0.15, 0.05)]
    assert shares(logits, **PLAIN) == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.03)
    hot = [p**0.5 for p in (0.5, 0.3, 0.15, 0.05)]
    want = [p / sum(hot) for p in hot]
    assert shares(logits, **{**PLAIN, "temperature": 2.0}) == pytest.approx(want, abs=0.03)


@pytest.mark.parametrize(
    ("over", "kept"),
    [
        ({"top_k": 2}, [0.5, 0.3, 0, 0]),
        ({"top_p": 0.6}, [0.5, 0.3, 0, 0]),
        ({"top_p": 0.1}, [0.5, 0, 0, 0]),
        ({"min_p": 0.4}, [0.5, 0.3, 0, 0]),
        # Expected surprise is 1.142: 0.3 (1.204) is nearest, 0.5 (0.693) next, 0.15 (1.897) after.
        ({"typical_p": 0.2}, [0, 0.3, 0, 0]),
        ({"typical_p": 0.7}, [0.5, 0.3, 0, 0]),
    ],
)
def test_each_filter_keeps_what_its_paper_says(over, kept):
    logits = [math.log(p) for p in (0.5, 0.3, 0.15, 0.05)]
    want = [p / sum(kept) for p in kept]
    assert shares(logits, **{**PLAIN, **over}) == pytest.approx(want, abs=0.03)


def test_penalties_and_biases():
    assert drawn([2.0, 1.0, 0.5], temperature=0) == 0
    assert drawn([2.0, 1.0, 0.5], [0], temperature=0, repeat_penalty=4.0) == 1
    assert drawn([-1.0, -1.5, -9], [0], temperature=0, repeat_penalty=2.0) == 1
    assert drawn([2.0, 1.0], [0], temperature=0, presence_penalty=1.5) == 1
    assert drawn([2.0, 1.0], [0, 0, 0], temperature=0, frequency_penalty=0.4) == 1
    assert drawn([2.0, 1.0], [0, 1], temperature=0, repeat_penalty=9.0, repeat_last_n=1) == 0
    assert drawn([2.0, 1.0], [0, 1], temperature=0, repeat_penalty=9.0, repeat_last_n=-1) == 0
    assert drawn([2.0, 1.0], [0, 1], temperature=0, repeat_penalty=9.0, repeat_last_n=0) == 0
    assert drawn([2.0, 1.0], bias=[(1, 5.0)], temperature=0) == 1
    assert drawn([2.0, 1.0], bias=[(0, -100)], temperature=0) == 1


def test_a_token_is_left_where_one_filter_drops_what_another_would_keep():
    logits = [math.log(p) for p in (0.5, 0.3, 0.15, 0.05)]
    assert drawn(logits, **{**PLAIN, "typical_p": 0.2, "top_p": 0.0}) == 1


@given(
    st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=30),
    st.fixed_dictionaries(
        {
            "temperature": st.floats(0, 5), "top_k": st.integers(0, 40), "top_p": st.floats(0, 1),
            "min_p": st.floats(0, 1), "typical_p": st.floats(0, 1),
            "repeat_penalty": st.floats(0.01, 10), "repeat_last_n": st.integers(-1, 9),
        }
    ),
    st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_every_draw_is_a_token_and_the_same_seed_draws_it_again(logits, over, seed):
    past = list(range(len(logits)))
    found = drawn(logits, past, seed=seed, **over)
    assert 0 <= found < len(logits)
    assert drawn(logits, past, seed=seed, **over) == found


# ---- the parent's half ---------------------------------------------------------------------


class Says:
    def __init__(self, *chunks: object) -> None:
        self.chunks = [c if isinstance(c, bytes) else json.dumps(c).encode() for c in chunks]
        self.asked: dict[str, Any] = {}

    async def call(self, kind: str, body: bytes) -> AsyncGenerator[bytes, None]:
        self.asked = {"kind": kind, **json.loads(body)}
        for chunk in self.chunks:
            yield chunk

    async def stop(self) -> None: ...


def engine(*chunks: object, chat: bool = True) -> Torch:
    return Torch(Says(*chunks), Capabilities(context=64, chat=chat, logprobs=True))


def events(one: Torch, request: Request) -> list[Any]:
    async def all_of_them() -> list[Any]:
        return [event async for event in one.stream(request)]

    return asyncio.run(all_of_them())


def answer(found: list[Any]) -> Answer:
    whole = Answer()
    for event in found:
        whole.add(event)
    return whole


def wrote(*pieces: bytes, why: str = "stop") -> list[object]:
    import base64

    said = [
        {"tokens": [{"id": 7, "raw": base64.b64encode(raw).decode(), "logprob": -1.0}]}
        for raw in pieces
    ]
    end = {"why": why, "read": 3, "written": len(pieces), "seconds": [0.5, 0.25]}
    return [{"read": 3, "of": 3}, *said, {"end": end}]


def test_letters_cut_in_two_are_put_together():
    found = answer(
        events(engine(*wrote(b"a", b"\xe2\x82", b"\xac", b"\xff")), Request("m", prompt="x"))
    )
    assert found.text == "a€\ufffd"
    assert (found.finish, found.usage.tokens_in, found.usage.tokens_out) == ("stop", 3, 4)
    assert (found.usage.prompt_seconds, found.usage.decode_seconds) == (0.5, 0.25)


def test_a_stop_ends_it_wherever_it_lies_between_tokens():
    one = engine(*wrote(b"one tw", b"o en", b"d more"))
    found = events(one, Request("m", prompt="x", stop=("two end", "")))
    assert answer(found).text == "one "
    assert (answer(found).finish, answer(found).stop) == ("stop", "two end")
    texts = [event.text for event in found if isinstance(event, Text)]
    assert texts == ["one "]
    late = answer(
        events(engine(*wrote(b"one tw", b"ice")), Request("m", prompt="x", stop=("two",)))
    )
    assert late.text == "one twice"


@given(
    st.lists(st.sampled_from(["a", "b", "ab", "€", "ba"]), max_size=12),
    st.lists(st.text("ab€", min_size=1, max_size=4), max_size=3),
)
def test_what_is_written_ends_before_the_first_stop(pieces, stops):
    text = "".join(pieces)
    chunks = wrote(*(piece.encode() for piece in pieces))
    found = answer(events(engine(*chunks), Request("m", prompt="x", stop=tuple(stops))))
    firsts = [at for stop in stops if (at := text.find(stop)) >= 0]
    if not firsts:
        assert found.text == text
    else:  # the stop that is complete first may begin after another one
        assert text.startswith(found.text)
        assert any(text[len(found.text) :].startswith(stop) for stop in stops)
        assert found.stop in stops


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"json_schema": {}}, "no JSON schemas"),
        ({"grammar": 'root ::= "a"'}, "no grammars"),
        ({"suffix": "y"}, "no filling gaps"),
        ({"tools": (Tool("f"),)}, "no tools"),
    ],
)
def test_what_it_has_not_is_refused_by_name(change, words):
    with pytest.raises(Unsupported, match=words):
        events(engine(), replace(Request("m", prompt="x"), **change))


def test_every_choice_of_the_draw_is_handed_over():
    one = engine(*wrote(b"a", why="length"))
    asked = Request(
        "m", (Message.of("user", "hi"),), sampling=Sampling(top_k=3, seed=9), max_tokens=1,
        logit_bias=((4, -2.0),), thinking=False,
    )  # fmt: skip
    assert answer(events(one, asked)).finish == "length"
    assert one._worker.asked == {
        "kind": "write", "sampling": {**sampler.DEFAULTS, "top_k": 3}, "seed": 9, "most": 1,
        "bias": [[4, -2.0]], "top": None,
        "values": {"messages": [{"role": "user", "content": "hi"}], "enable_thinking": False},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("problem", "kind", "words"),
    [
        ({"kind": "too_long", "tokens": 9, "context": 4}, ContextExceeded, "is 9 tokens"),
        ({"kind": "bad_token", "message": "7 is no token"}, BadRequest, "7 is no token"),
        ({"kind": "template", "message": "no such role"}, BadRequest, "chat template cannot be"),
        ({"kind": "empty"}, BadRequest, "the prompt is empty"),
        ({"kind": "failed", "message": "boom"}, EngineFailed, "boom"),
    ],
)
def test_problems_of_the_worker_become_ours(problem, kind, words):
    with pytest.raises(kind, match=words):
        events(engine({"error": problem}), Request("m", prompt="x"))


@given(
    st.lists(st.binary(max_size=40) | st.just(b'{"tokens":[{"id":1,"raw":"YQ=="}]}'), max_size=4)
)
def test_whatever_a_worker_says_ends_in_events_or_an_error(chunks):
    try:
        events(engine(*chunks), Request("m", prompt="x"))
    except OvertError:
        return


def test_a_setting_chooses_it_and_vectors_are_refused(tmp_path, home):
    assert load({"OVERT_ENGINE": "torch"}).engine == "torch"
    with pytest.raises(BadSetting, match="engine is 'jax'"):
        load({"OVERT_ENGINE": "jax"})
    with pytest.raises(Unsupported, match="makes no vectors"):
        plan.refuse("embed", ())
    with pytest.raises(Unsupported, match="no adapters"):
        plan.refuse("answer", (Path("a"),))
    header = gguf.read(tiny_models.gguf(tmp_path / "t.gguf", "llama", "F32"))
    assert plan.choose(header, 0, 0, 1 << 30, 128, "t").context == 512
    with pytest.raises(OutOfMemory, match="in 32 bits with a context of 9000 tokens"):
        plan.choose(header, 9000, 0, 1 << 20, 128, "t")


# ---- with a model --------------------------------------------------------------------------


async def _with(weights: Path, run: Path, which: str, purpose: Any, use: Any, **more: Any) -> Any:
    from overt.runtime.worker.supervisor import Worker, WorkerSpec

    is_torch = which == "torch"
    spec = WorkerSpec(
        host=registry.TORCH if is_torch else registry.HOSTS[purpose],
        parameters=registry.parameters(
            purpose, weights=weights, context=256, parallel=1, batch=32, threads=1,
            prompt_threads=1, **more,
        ),
        readable=(weights,), memory=2 << 30, label=weights.name,
    )  # fmt: skip
    worker = await Worker.start(spec, run, timeout=90)
    can = Capabilities(context=256, chat=bool(more.get("template")), logprobs=True)
    one = registry.engine(purpose, worker, can, torch=is_torch)
    try:
        return await use(one)
    finally:
        await one.close()


@pytest.fixture(scope="module", params=["llama", "gemma3"])
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("torch")
    return tiny_models.gguf(folder / f"{request.param}.gguf", request.param, "F32", seed=3)


async def whole(one: Any, request: Request) -> Answer:
    found = Answer()
    async for event in one.stream(request):
        found.add(event)
    return found


LINE = "the rain in there and on another one, or the other in an area, then on and on"


async def _scores(one: Any) -> Any:
    ids = await one.tokenize(LINE)
    assert await one.detokenize(ids) == LINE
    whole = await one.score(ScoreRequest("m", LINE, 3))
    assert await one.tokenize(LINE, around=True) == tuple(token.id for token in whole)
    return whole, await one.score(ScoreRequest("m", ids))


@needed
def test_its_numbers_are_those_of_llama_cpp_and_what_it_writes_follows_from_them(tiny, tmp_path):
    template = tiny_models.CHAT_TEMPLATE
    run = tmp_path / "run"
    theirs = asyncio.run(_with(tiny, run, "wheel", "score", _scores))
    chat = Request("m", (Message.of("user", "the rain"),), max_tokens=12, logprobs=2)

    async def use(one: Any) -> Any:
        _same(await _scores(one), theirs)
        greedy = await whole(one, replace(chat, sampling=GREEDY))
        assert [len(told.top) for told in greedy.logprobs] == [2] * len(greedy.logprobs)
        for told in greedy.logprobs:
            assert told.logprob == max(logprob for _, logprob in told.top)
        rendered = await one.render(chat)
        count = await one.count(chat)
        assert greedy.usage.tokens_in == count
        # The same prompt as text; a score of what was written agrees with what was told.
        ids = (*await one.tokenize(rendered), *[told.id for told in greedy.logprobs])
        scored = await one.score(ScoreRequest("m", ids))
        tail = [one.logprob for one in scored][-len(greedy.logprobs) :]
        assert [told.logprob for told in greedy.logprobs] == pytest.approx(tail, abs=1e-4)
        draws = [
            (await whole(one, replace(chat, sampling=Sampling(temperature=1.5, seed=seed)))).text
            for seed in (1, 1, 2)
        ]
        assert draws[0] == draws[1]
        assert len(set(draws)) == 2
        with pytest.raises(ContextExceeded, match="256"):
            await whole(one, Request("m", prompt=tuple([5] * 300), max_tokens=1))
        with pytest.raises(BadRequest, match="4000 is no token"):
            await whole(one, Request("m", prompt=(4000,), max_tokens=1))
        full = await whole(one, Request("m", prompt=tuple([5] * 250), sampling=GREEDY))
        assert full.usage.tokens_out <= 6
        async for event in one.stream(replace(chat, logprobs=None)):
            assert not isinstance(event, Logprobs)
            break  # a reader who leaves does not leave the worker busy
        return (await whole(one, replace(chat, sampling=GREEDY))).text == greedy.text

    assert asyncio.run(_with(tiny, run, "torch", "answer", use, template=template))


def _same(ours: Any, theirs: Any) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        assert [one.id for one in mine] == [one.id for one in other]
        assert [one.token for one in mine] == [one.token for one in other]
        assert mine[0].logprob is other[0].logprob is None
        found, want = ([one.logprob for one in side[1:]] for side in (mine, other))
        # llama.cpp keeps keys and values in 16 bits
        assert found == pytest.approx(want, abs=5e-3)


@needed
@pytest.mark.slow
def test_openais_own_client_completes_and_echoes(tmp_path):
    from openai import OpenAI

    from overt.formats.modelfile import Modelfile, ModelfileCommand
    from overt.models.modelfile_build import create

    file = tiny_models.gguf(tmp_path / "tiny.gguf", "llama", "F32", seed=3)
    home = tmp_path / "served"
    home.mkdir()
    modelfile = Modelfile((ModelfileCommand("from", str(file)),))
    create("tiny", modelfile, tmp_path, load({"OVERT_HOME": str(home)}))
    with (
        serving.serving(home, "--threads", "1", env={"OVERT_ENGINE": "torch"}) as served,
        OpenAI(base_url=f"{served.url}/v1", api_key="none", timeout=120) as client,
    ):
        echoed = client.completions.create(
            model="tiny", prompt=LINE, max_tokens=0, echo=True, logprobs=2
        )
        told = echoed.choices[0].logprobs
        assert echoed.choices[0].text == "".join(told.tokens) == LINE
        assert told.token_logprobs[0] is None
        assert max(told.token_logprobs[1:]) < 0
        done = client.completions.create(
            model="tiny", prompt=LINE, max_tokens=5, temperature=0, logprobs=1
        )
        likely = [max(top.values()) for top in done.choices[0].logprobs.top_logprobs]
        assert done.choices[0].logprobs.token_logprobs == likely
        parts = client.chat.completions.create(
            model="tiny", max_tokens=5, temperature=0, stream=True,
            messages=[{"role": "user", "content": "the rain"}],
        )  # fmt: skip
        assert [part.choices[0].finish_reason for part in parts if part.choices][-1]
        with pytest.raises(Exception, match="the torch engine has no JSON schemas"):
            client.chat.completions.create(
                model="tiny", messages=[{"role": "user", "content": "x"}],
                response_format={"type": "json_object"},
            )  # fmt: skip
