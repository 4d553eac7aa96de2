"""Words and tokens: what the listener of a real worker tells, and what a bad one may say."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loaded import answered, loaded

import projector_writer
from overt.chat import Done, ImagePart, Message, Request, Sampling, Text, Tool, ToolCall
from overt.engine import Capabilities
from overt.errors import BadRequest, EngineFailed, OvertError, Unsupported
from overt.runtime.llamacpp.engine import LlamaCpp

pytestmark = pytest.mark.anyio
GREEDY = Sampling(temperature=0, seed=1)
CHAT = Request("m", (Message.of("system", "Be brief."), Message.of("user", "Hi there")))


class Said:
    """A worker whose listener says what it is given for each path."""

    def __init__(self, replies: dict[str, object] | Callable[[str, dict], object]) -> None:
        self.replies = replies
        self.asked: list[tuple[str, dict]] = []

    async def ask(self, path: str, body: bytes) -> bytes:
        asked = json.loads(body)
        self.asked.append((path, asked))
        said = self.replies(path, asked) if callable(self.replies) else self.replies[path]
        return said if isinstance(said, bytes) else json.dumps(said).encode()

    async def stop(self) -> None: ...


def engine(replies, **can) -> LlamaCpp:
    return LlamaCpp(Said(replies), Capabilities(context=100, **can))


# ---- without a model -----------------------------------------------------------------------


async def test_what_is_asked_of_the_listener():
    one = engine({"/tokenize": {"tokens": [1, 2]}, "/apply-template": {"prompt": "p"},
                  "/v1/chat/completions/input_tokens": {"input_tokens": 7}})  # fmt: skip
    assert await one.tokenize("x", special=False) == (1, 2)
    request = Request("m", CHAT.messages, tools=(Tool("look"),), effort="low", thinking=False)
    assert (await one.render(request), await one.count(request)) == ("p", 7)
    tokenized, rendered, counted = one._worker.asked
    assert tokenized[1] == {"content": "x", "parse_special": False, "add_special": False}
    assert rendered[1] == counted[1]
    assert rendered[1]["chat_template_kwargs"] == {
        "enable_thinking": False,
        "reasoning_effort": "low",
    }
    assert rendered[1]["tools"][0]["function"]["name"] == "look"
    assert await one.count(Request("m", prompt=(4, 5, 6))) == 3


async def test_how_a_text_begins_is_asked_once():
    one = engine(lambda path, asked: {"tokens": [7, 1] if asked["add_special"] else [1]})
    for _ in range(3):
        assert (await one.tokenize("a"), await one.tokenize("a", around=True)) == ((1,), (7, 1))
        assert await one.around() == ((7,), ())
    assert len(one._worker.asked) == 2
    for text, special in (("b", True), ("b", True), ("a", False)):  # any other is
        await one.tokenize(text, special=special)
    assert len(one._worker.asked) == 5


async def test_what_makes_no_sense_is_refused_before_anybody_is_asked():
    one = engine({})
    with pytest.raises(BadRequest, match="not rendered"):
        await one.render(Request("m", prompt="x"))
    with pytest.raises(BadRequest, match="messages or a prompt"):
        await one.count(Request("m"))
    with pytest.raises(Unsupported, match="no chat template"):
        await engine({}, chat=False).render(CHAT)
    with pytest.raises(BadRequest, match="whole numbers"):
        await one.detokenize([-1])
    image = Request("m", (Message("user", (ImagePart(b"x", "image/png"),)),))
    with pytest.raises(BadRequest, match="cannot see images"):
        await one.count(image)


async def test_a_conversation_without_a_template_is_counted_as_the_words_it_becomes():
    one = engine({"/tokenize": {"tokens": [1, 2, 3]}}, chat=False)
    assert await one.count(CHAT) == 3
    assert one._worker.asked[0][1]["content"] == "Be brief.\n\nHi there"
    assert one._worker.asked[0][1]["add_special"] is True


@pytest.mark.parametrize(
    "said", [b"", b"[]", b"{", {}, {"tokens": None}, {"tokens": ["a"]}, {"tokens": [1.5]}]
)
async def test_nonsense_from_the_listener_is_an_engine_that_failed(said):
    with pytest.raises(EngineFailed):
        await engine({"/tokenize": said}).tokenize("x")


async def test_an_error_from_the_listener_is_one_of_ours():
    error = {"error": {"code": 400, "message": "no", "type": "invalid_request_error"}}
    with pytest.raises(BadRequest, match="refused the request: no"):
        await engine({"/tokenize": error}).tokenize("x")


@given(st.binary(max_size=20), st.integers(0, 40), st.integers(0, 20))
def test_no_reply_of_a_hostile_listener_escapes_the_error_tree(noise, at, cut):
    good = b'{"tokens":[1,2],"prompt":"p","content":"c","input_tokens":3}'
    reply = good[:at] + noise + good[at + cut :]
    one = engine(lambda path, asked: reply)

    async def each() -> None:
        for question in (one.tokenize("x"), one.detokenize([1]), one.render(CHAT), one.count(CHAT)):
            try:
                await question
            except OvertError:
                continue

    asyncio.run(each())


def vocabulary(marks: dict[str, int]) -> Callable[[str, dict], object]:
    """A listener whose tokens are letters, but for `marks` and a 1 before every text."""

    def say(path: str, asked: dict) -> object:
        text = asked["content"]
        ids = [marks[text]] if text in marks and asked["parse_special"] else list(text.encode())
        return {"tokens": [1, *ids] if asked["add_special"] else ids}

    return say


FIM = {"<|fim_prefix|>": 501, "<|fim_suffix|>": 502, "<|fim_middle|>": 503}


async def test_a_gap_is_a_prompt_with_the_model_s_own_marks():
    one = engine(vocabulary(FIM))
    request = Request("m", prompt="ab", suffix="<|fim_suffix|>")
    before, after = tuple(b"ab"), tuple(b"<|fim_suffix|>")  # words of a person stay words
    assert await one.gap(request) == (1, 501, *before, 502, *after, 503)
    assert await one.count(request) == 4 + len(before) + len(after)
    assert (await one.gap(Request("m", prompt=(7,), suffix="")))[:3] == (1, 501, 7)


async def test_a_model_without_marks_fills_no_gaps_and_is_asked_once():
    one = engine(vocabulary({"<|fim_prefix|>": 5}))
    for _ in range(2):
        with pytest.raises(BadRequest, match="not made to fill gaps"):
            async for _ in one.stream(Request("m", prompt="a", suffix="b")):
                pass
    probed = [body["content"] for _, body in one._worker.asked]
    assert len(probed) == len(set(probed))


# ---- with one ------------------------------------------------------------------------------


@pytest.mark.model
async def test_smollm2_s_words(smollm2_gguf: Path, home: Path):
    async with loaded("answer", smollm2_gguf, home / "run") as one:
        tokens = await one.tokenize("Hello <|im_end|> wörld")
        assert 2 in tokens  # as the header says of <|im_end|>
        assert 2 not in await one.tokenize("Hello <|im_end|>", special=False)
        assert await one.detokenize(tokens) == "Hello <|im_end|> wörld"
        assert await one.tokenize("") == ()
        rendered = await one.render(CHAT)
        assert rendered == (
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi there<|im_end|>\n"
            "<|im_start|>assistant\n"
        )
        counted = await one.count(CHAT)
        assert counted == len(await one.tokenize(rendered))
        answer = await answered(one, Request("m", CHAT.messages, max_tokens=1))
        assert counted == answer.usage.tokens_in
        for ids in ([49152], [2**31 - 1]):
            with pytest.raises(BadRequest, match="beyond this model's vocabulary"):
                await one.detokenize(ids)
        with pytest.raises(BadRequest, match="beyond this model's vocabulary"):
            await answered(one, Request("m", prompt=(10**9,)))


@pytest.mark.model
async def test_gemma_puts_a_token_before_every_text(gemma3_gguf: Path, home: Path):
    async with loaded("answer", gemma3_gguf, home / "run", chat=False) as one:
        assert await one.around() == ((2,), ())
        request = Request("m", prompt="The sea", sampling=GREEDY, max_tokens=4)
        whole = (2, *await one.tokenize("The sea"))
        assert await one.count(request) == len(whole)
        text = (await answered(one, request)).text
        again = await answered(one, Request("m", prompt=whole, sampling=GREEDY, max_tokens=4))
        assert again.text == text
        assert again.usage.tokens_in == len(whole)


@pytest.mark.model
async def test_images_are_counted(smollm2_gguf: Path, home: Path, tmp_path: Path):
    projector = tmp_path / "mmproj.gguf"
    projector_writer.write(projector, text_embedding=576)
    image = ImagePart(projector_writer.png(255, 0, 0), "image/png")
    async with loaded(
        "answer", smollm2_gguf, home / "run", projector=projector, images=True, context=512
    ) as one:
        request = Request("m", (Message("user", (image,)),), max_tokens=1)
        answer = await answered(one, request)
        assert await one.count(request) == answer.usage.tokens_in > 20


@pytest.mark.model
async def test_a_stop_sequence_is_named_and_biases_ban(smollm2_gguf: Path, home: Path):
    async with loaded("answer", smollm2_gguf, home / "run") as one:
        count = Request("m", prompt="1, 2, 3, 4,", sampling=GREEDY, max_tokens=12)
        plain = await answered(one, count)
        assert (plain.text, plain.stop) == (" 5, 6, 7, 8,", None)
        for request in (
            Request("m", prompt=count.prompt, sampling=GREEDY, max_tokens=12, stop=("9", "7,")),
            Request("m", CHAT.messages, sampling=GREEDY, max_tokens=40, stop=("zzz", "e")),
        ):
            answer = await answered(one, request)
            assert answer.finish == "stop"
            assert answer.stop in request.stop[-1:]
            assert not any(stop in answer.text for stop in request.stop)
            assert answer.usage.tokens_out > 0
        [five] = await one.tokenize("5")
        banned = Request(
            "m", prompt=count.prompt, sampling=GREEDY, max_tokens=12, logit_bias=((five, -100.0),)
        )
        assert "5" not in (await answered(one, banned)).text
        wanted = Request(
            "m", prompt=count.prompt, sampling=GREEDY, max_tokens=3, logit_bias=((five, 100.0),)
        )
        assert (await answered(one, wanted)).text == "555"


@pytest.mark.model
async def test_a_forced_call_streams_and_one_call_can_be_asked_for(smollm2_gguf: Path, home: Path):
    parameters = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 12}, "days": {"type": "integer"}},
        "required": ["city", "days"],
    }
    tools = (Tool("weather", "Weather of a city", parameters), Tool("clock"))
    asked = (Message.of("user", "How is the weather in Rome for the next 3 days?"),)
    async with loaded("answer", smollm2_gguf, home / "run", context=512) as one:
        request = Request(
            "m", asked, tools=tools, tool_choice="weather", sampling=GREEDY, max_tokens=80
        )
        events = [event async for event in one.stream(request)]
        pieces = [event for event in events if isinstance(event, ToolCall)]
        assert (pieces[0].name, pieces[0].arguments) == ("weather", "")
        assert len(pieces) > 3
        assert {piece.id for piece in pieces[1:]} == {""}
        given = json.loads("".join(piece.arguments for piece in pieces))
        assert isinstance(given["days"], int)
        assert events[-1] == Done("tool_calls")
        assert not any(isinstance(event, Text) for event in events)
        single = Request(
            "m", asked, tools=tools, parallel_tools=False, effort="low", sampling=GREEDY,
            max_tokens=20,
        )  # fmt: skip
        assert (await answered(one, single)).finish in ("length", "stop", "tool_calls")


@pytest.mark.model
async def test_logprobs_with_ids_bytes_and_as_many_alternatives_as_asked(
    smollm2_gguf: Path, home: Path
):
    async with loaded("answer", smollm2_gguf, home / "run") as one:
        for asked in (0, 1, 5):
            for prompt in ({"prompt": "1, 2, 3,"}, {"messages": CHAT.messages}):
                request = Request("m", **prompt, sampling=GREEDY, max_tokens=4, logprobs=asked)
                answer = await answered(one, request)
                assert [len(token.top) for token in answer.logprobs] == [asked] * 4
                ids = [token.id for token in answer.logprobs]
                assert await one.detokenize(ids) == answer.text
        # llama.cpp refuses its own `logprobs` beside tools
        request = Request(
            "m", CHAT.messages, sampling=GREEDY, max_tokens=4, logprobs=1, tools=(Tool("look"),)
        )
        assert len((await answered(one, request)).logprobs) == 4


@pytest.mark.model
async def test_a_gap_is_filled_by_a_model_that_has_the_marks(
    smollm2_gguf: Path, home: Path, tmp_path: Path
):
    """SmolLM2 under other names: three of its special words, as long as those of code models."""
    raw = smollm2_gguf.read_bytes()
    for old, new in zip(
        (b"<issue_closed>", b"<jupyter_text>", b"<jupyter_code>"), FIM, strict=True
    ):
        assert raw.count(old) == 1
        raw = raw.replace(old, new.encode())
    weights = tmp_path / "fim.gguf"
    weights.write_bytes(raw)
    async with loaded("answer", weights, home / "run") as one:
        request = Request(
            "m", prompt="def add(a, b):\n    return", suffix="\n\nprint(add(1, 2))\n",
            sampling=GREEDY, max_tokens=6, deterministic=True,
        )  # fmt: skip
        marks = [(await one.tokenize(name))[0] for name in FIM]
        tokens = await one.gap(request)
        assert [tokens.count(mark) for mark in marks] == [1, 1, 1]
        filled = await answered(one, request)
        assert filled.usage.tokens_in == len(tokens) == await one.count(request)
        plain = await answered(one, Request("m", prompt=tokens, sampling=GREEDY, max_tokens=6))
        assert filled.text == plain.text
    async with loaded("answer", smollm2_gguf, home / "run") as one:
        with pytest.raises(BadRequest, match="not made to fill gaps"):
            await answered(one, request)
