"""The llama.cpp engine on real models, in the real sandboxed worker."""

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

import projector_writer
from overt import settings
from overt.chat import Answer, ImagePart, Message, Request, Sampling, Text, TextPart, Tool
from overt.errors import BadRequest, ContextExceeded
from overt.gateway.exchange import Exchange

pytestmark = pytest.mark.model
T = TypeVar("T")
GREEDY = Sampling(temperature=0, seed=1)
STORY = "Tell me a story about a lighthouse keeper and a storm."
OTHERS = [
    "Explain how bread rises.",
    "List the planets.",
    "Write a letter to a friend about the sea, and mention three birds by name.",
    "What is the capital of France?",
    "Translate 'good morning' into Spanish.",
    "Describe a forest in winter. " * 6,
    "Count from one to thirty.",
]


@pytest.fixture
def on(model_home: Path) -> Callable[..., T]:
    """``on(work, context=…)``: run ``await work(exchange)`` with an exchange on the test models."""

    def run(work: Callable[[Exchange], Awaitable[T]], **flags: object) -> T:
        async def inside() -> T:
            chosen = settings.load({"OVERT_HOME": str(model_home)}, flags)
            exchange = Exchange(chosen)
            try:
                return await work(exchange)
            finally:
                await exchange.close()

        return asyncio.run(inside())

    return run


async def ask(exchange: Exchange, text: str, model: str = "smollm2", **fields) -> Answer:
    fields.setdefault("sampling", GREEDY)
    fields.setdefault("max_tokens", 24)
    return await whole(exchange, Request(model, (Message.of("user", text),), **fields))


async def whole(exchange: Exchange, request: Request) -> Answer:
    answer = Answer()
    async for event in exchange.stream(request):
        answer.add(event)
    assert answer.failed is None, answer.failed
    return answer


def test_it_answers_and_says_how_many_tokens(on):
    answer = on(lambda ex: ask(ex, "Why is the sky blue?"), context=512)
    assert "light" in answer.text
    assert 30 < answer.usage.tokens_in < 60
    assert answer.usage.tokens_out == 24
    assert answer.usage.decode_seconds > 0


def test_stop_and_max_tokens(on):
    async def work(ex: Exchange) -> None:
        whole = await ask(ex, STORY, max_tokens=16)
        assert (whole.finish, whole.usage.tokens_out) == ("length", 16)
        word = whole.text.split()[3]
        cut = await ask(ex, STORY, max_tokens=16, stop=(word,))
        assert cut.finish == "stop"
        assert cut.text == whole.text[: whole.text.index(word)]

    on(work, context=512)


def test_seeds(on):
    async def work(ex: Exchange) -> None:
        texts = [
            (await ask(ex, STORY, sampling=Sampling(temperature=1.0, seed=seed))).text
            for seed in (1, 1, 2)
        ]
        assert texts[0] == texts[1] != texts[2]

    on(work, context=512)


def test_sampling_knobs_change_what_is_drawn(on):
    async def work(ex: Exchange) -> None:
        greedy = (await ask(ex, STORY)).text
        hot = Sampling(temperature=50.0, seed=3)
        assert (await ask(ex, STORY, sampling=hot)).text != greedy
        # Each of these leaves only the most likely token, however hot.
        for knob in ({"top_k": 1}, {"top_p": 0.0}, {"min_p": 1.0}):
            sampling = Sampling(temperature=1.0, seed=3, **knob)
            assert (await ask(ex, STORY, sampling=sampling)).text == greedy, knob
        punished = Sampling(temperature=0, seed=1, repeat_penalty=1.8, frequency_penalty=2.0)
        assert (await ask(ex, STORY, sampling=punished)).text != greedy

    on(work, context=512)


def test_logprobs(on):
    answer = on(lambda ex: ask(ex, STORY, logprobs=3, max_tokens=8), context=512)
    assert len(answer.logprobs) == 8
    assert "".join(token.token for token in answer.logprobs) == answer.text
    for token in answer.logprobs:
        assert token.logprob <= 0
        assert len(token.top) == 3
        assert token.top[0] == (token.token, token.logprob)  # greedy takes the best
        assert token.top[0][1] >= token.top[1][1] >= token.top[2][1]


def test_json_schema(on):
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}, "people": {"type": "integer"}},
        "required": ["city", "people"],
        "additionalProperties": False,
    }

    async def work(ex: Exchange) -> None:
        answer = await ask(ex, "Describe Paris as JSON.", json_schema=schema, max_tokens=80)
        read = json.loads(answer.text)
        assert isinstance(read["city"], str)
        assert isinstance(read["people"], int)
        with pytest.raises(BadRequest, match="schema cannot be used"):
            await ask(ex, "x", json_schema={"type": "objekt"})

    on(work, context=512)


def test_grammar(on):
    async def work(ex: Exchange) -> None:
        answer = await ask(ex, "Yes or no?", grammar='root ::= ("yes" | "no") [0-9] [0-9]')
        assert re.fullmatch("(yes|no)[0-9]{2}", answer.text)
        with pytest.raises(BadRequest, match="GBNF"):
            await ask(ex, "x", grammar="root ::= ((")

    on(work, context=512)


@pytest.mark.parametrize(
    "pattern",
    [
        r"^\d{3}$",
        r"^\w+-\w{2,4}$",
        r"^a\-b\/c$",
        "^[^a-z]{4}$",
        r'^x\\y"$',
        "^(?:ja|nein)$",
        "b{3}$",
    ],
)
def test_a_pattern_binds_the_answer(on, pattern: str):
    """llama.cpp alone makes any text of most of these."""

    async def work(ex: Exchange) -> None:
        schema = {"type": "string", "pattern": pattern, "maxLength": 20}
        answer = await ask(ex, "Hi", json_schema=schema, max_tokens=64)
        if answer.finish == "stop":
            assert re.search(pattern, json.loads(answer.text)), answer.text
        else:
            assert pattern.startswith("b"), answer.text  # anything may come before

    on(work, context=512)


HOSTILE = [
    {"json_schema": {"pattern": "^((((a{0,100}){0,100}){0,100}){0,100})$"}},
    {"json_schema": {"pattern": "^(((("}},
    {"json_schema": {"pattern": "(" * 20_000}},
    {"json_schema": {"enum": [str(n) for n in range(100_000)]}},
    {"json_schema": {"type": "array", "minItems": 10**9}},
    {"json_schema": {"anyOf": [{"anyOf": [{"anyOf": [{"const": 1}] * 20}] * 60}] * 60}},
    {"json_schema": {"properties": {f"p{n}": {} for n in range(2000)}}},
    {"json_schema": {"type": "integer", "minimum": -1e30, "maximum": 1e30}},
    {"grammar": "root ::= " + "|".join(f'"x{n}"' for n in range(50_000))},
    {"grammar": "root ::= " + "(" * 50_000},
    {"grammar": 'root ::= ("a"?){0,500}'},
    {"grammar": "root ::= b{0,30}\nb ::= c{0,30}\nc ::= [a-z ]"},
]


def test_what_would_hold_llama_cpp_up_never_reaches_it(on):
    async def work(ex: Exchange) -> None:
        await ask(ex, "Hi", max_tokens=1)
        began = time.monotonic()
        for fields in HOSTILE:
            with pytest.raises(BadRequest) as refused:
                await ask(ex, "Hi", **fields)
            assert ("schema" if "json_schema" in fields else "grammar") in refused.value.message
        for messages in (
            (Message.of("user", "x" * 20_000_000),),
            (Message.of("user", "x"),) * 9999,
        ):
            with pytest.raises(ContextExceeded, match="at least"):
                await whole(ex, Request("smollm2", messages))
        assert time.monotonic() - began < 5
        assert (await ask(ex, "Hi", max_tokens=2)).text

    on(work, context=512)


def test_a_named_tool_is_called_although_the_model_was_never_taught_to(on):
    tool = Tool(
        "weather",
        "Weather of a city",
        {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}},
            "required": ["city"],
        },
    )

    async def work(ex: Exchange) -> None:
        answer = await ask(
            ex, "How is the weather in Rome?", tools=(tool,), tool_choice="weather", max_tokens=60
        )
        assert answer.finish == "tool_calls"
        assert answer.tool_calls[0].name == "weather"
        assert "city" in json.loads(answer.tool_calls[0].arguments)

    on(work, context=1024)


def test_a_prompt_that_does_not_fit_is_refused_with_both_numbers(on):
    async def work(ex: Exchange) -> None:
        with pytest.raises(ContextExceeded) as caught:
            await ask(ex, "word " * 900)
        assert caught.value.context == 512
        assert 900 < caught.value.tokens < 1000
        assert "--context 2048" in str(caught.value)
        assert (await ask(ex, "hi")).text  # and the engine goes on

    on(work, context=512)


def test_an_answer_ends_where_the_context_does(on):
    answer = on(lambda ex: ask(ex, STORY, max_tokens=None), context=256)
    assert answer.finish == "length"
    assert 250 <= answer.usage.tokens_in + answer.usage.tokens_out <= 256


def test_a_raw_prompt_is_continued_as_it_stands(on):
    async def work(ex: Exchange) -> Answer:
        answer = Answer()
        request = Request("smollm2", prompt="1, 2, 3, 4, 5,", sampling=GREEDY, max_tokens=6)
        async for event in ex.stream(request):
            answer.add(event)
        return answer

    assert on(work, context=512).text.strip().startswith("6, 7")


def test_an_image_reaches_the_model_and_changes_its_answer(on, smollm2_gguf, tmp_path):
    folder = tmp_path / "seeing"
    folder.mkdir()
    (folder / "model.gguf").symlink_to(smollm2_gguf)
    projector_writer.write(folder / "mmproj-model.gguf", text_embedding=576)

    async def work(ex: Exchange) -> list[str]:
        answers = []
        for colour in ((255, 0, 0), (0, 0, 255), (255, 0, 0)):
            image = ImagePart(projector_writer.png(*colour), "image/png")
            message = Message("user", (TextPart("What is this?"), image))
            request = Request(str(folder), (message,), sampling=GREEDY, max_tokens=12)
            answer = Answer()
            async for event in ex.stream(request):
                answer.add(event)
            answers.append(answer.text)
        return answers

    red, blue, again = on(work, context=1024)
    assert red == again != blue


def test_an_image_without_a_projector_is_refused(on):
    image = ImagePart(projector_writer.png(1, 2, 3), "image/png")

    async def work(ex: Exchange) -> None:
        request = Request("smollm2", (Message("user", (image,)),))
        with pytest.raises(BadRequest, match="no projector"):
            async for _ in ex.stream(request):
                pass

    on(work, context=512)


@pytest.mark.parametrize("model", ["smollm2", "gemma3"])
def test_deterministic_text_is_the_same_alone_in_chat_and_beside_seven_others(on, model):
    """Temperature 0, same seed: one-shot, as a second turn, and with seven streams running."""

    async def work(ex: Exchange) -> None:
        alone = await ask(ex, STORY, model, deterministic=True, max_tokens=32)
        assert alone.text
        again = await ask(ex, STORY, model, deterministic=True, max_tokens=32)
        assert again.text == alone.text  # with a prefix that could have been reused

        async def other(text: str) -> None:
            await ask(ex, text, model, max_tokens=40)

        others = [asyncio.create_task(other(text)) for text in OTHERS]
        await asyncio.sleep(0.5)  # they are being answered
        beside = await ask(ex, STORY, model, deterministic=True, max_tokens=32, logprobs=2)
        await asyncio.gather(*others)
        assert beside.text == alone.text

    on(work, context=512, parallel=8)
    shot = on(lambda ex: ask(ex, STORY, model, deterministic=True, max_tokens=32), context=512)
    many = on(lambda ex: ask(ex, STORY, model, deterministic=True, max_tokens=32),
              context=512, parallel=8)  # fmt: skip
    assert shot.text == many.text  # one-shot uses one slot, a server eight


def test_smollm2_needs_no_deterministic_mode(on):
    """Slots of their own are enough for this model: the plain mode is invariant too."""

    async def work(ex: Exchange) -> None:
        alone = await ask(ex, STORY, max_tokens=32)
        crowd = await asyncio.gather(
            ask(ex, STORY, max_tokens=32), *(ask(ex, text, max_tokens=40) for text in OTHERS)
        )
        assert crowd[0].text == alone.text

    on(work, context=512, parallel=8)


def test_cancel_during_a_long_prompt_frees_the_slot(on):
    """The bar is a second. Here it is bounded by the prompt's own speed, as others run here too."""

    async def work(ex: Exchange) -> None:
        long = "The history of the world. " * 165
        whole = (await ask(ex, long, max_tokens=1, deterministic=True)).usage.prompt_seconds
        for part in (0.1, 0.3, 0.5):
            task = asyncio.create_task(ask(ex, long, deterministic=True))
            await asyncio.sleep(part * whole)
            before = time.monotonic()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            # The slot is free: there is only one, and the rest of the prompt was not read.
            answer = await ask(ex, "hi", max_tokens=1, deterministic=True)
            assert answer.usage.tokens_out == 1
            assert time.monotonic() - before < max(1.0, 0.4 * whole)

    on(work, context=2048)


def test_cancel_during_an_answer(on):
    async def work(ex: Exchange) -> None:
        request = Request("smollm2", (Message.of("user", STORY),), sampling=GREEDY)
        events = ex.stream(request)
        async for event in events:
            if isinstance(event, Text):
                break
        before = time.monotonic()
        await events.aclose()
        assert (await ask(ex, "hi", max_tokens=1)).text
        assert time.monotonic() - before < 10  # the story would take far longer

    on(work, context=512)


def test_the_model_s_own_context_is_the_default(on):
    async def work(ex: Exchange) -> None:
        engine = await ex.open("smollm2")
        assert engine.capabilities.context == 8192
        assert ex.facts("smollm2").digest.startswith("sha256:")

    on(work)
