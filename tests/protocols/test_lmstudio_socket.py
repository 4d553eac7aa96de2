"""The sockets of LM Studio's SDK, frame by frame."""

import json

import pytest
from lmstudio_fake import (
    HELLO,
    KEY,
    OWNER,
    PNG,
    TOOL,
    Closed,
    Fake,
    line,
    predict,
    query,
    text_of,
)

from overt.chat import ImagePart, TextPart, ToolCallPart, ToolResultPart
from overt.protocols.base import NOBODY
from overt.protocols.lmstudio import socket

pytestmark = pytest.mark.anyio

# ---- greeting ------------------------------------------------------------------------------


async def test_a_greeting_is_answered_and_calls_are_too() -> None:
    async with line(Fake(), "system") as opened:
        answer = await opened.ask("version", id=7)
        assert answer == {
            "type": "rpcResult", "callId": 7, "result": {"version": "1.2.3", "build": 0},
        }  # fmt: skip


@pytest.mark.parametrize(
    "hello",
    [
        {"authVersion": 2, "clientIdentifier": "a", "clientPasskey": "b"},
        {"authVersion": 1},
        {"authVersion": 1, "clientIdentifier": "a" * 300, "clientPasskey": "b"},
        [],
        None,
    ],
)
async def test_a_wrong_greeting_is_refused_and_the_socket_closed(hello: object) -> None:
    async with line(Fake(), "llm", None) as opened:
        opened.say(hello)
        answer = await opened.hear()
        assert answer["success"] is False
        assert answer["error"]
        with pytest.raises(Closed) as closed:
            await opened.hear()
        assert closed.value.code == 1008


async def test_nobody_greets_and_the_socket_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "_PATIENCE", 0.01)
    async with line(Fake(), "llm", None) as opened:
        assert (await opened.hear())["success"] is False
        with pytest.raises(Closed):
            await opened.hear()


async def test_a_token_in_the_greeting_is_a_key() -> None:
    fake = Fake(keys=True)
    name, _, word = KEY.removeprefix("sk-lm-").partition(":")
    hello = {"authVersion": 1, "clientIdentifier": name, "clientPasskey": word}
    async with line(fake, "llm", hello) as opened:
        opened.open("predict", predict("hi"))
        await opened.packets()
    assert fake.asked[0][0] == OWNER


async def test_a_key_in_the_handshake_is_a_key() -> None:
    fake = Fake(keys=True)
    headers = [(b"authorization", b"Bearer " + KEY.encode())]
    async with line(fake, "llm", HELLO, headers) as opened:
        opened.open("predict", predict("hi"))
        await opened.packets()
    assert fake.asked[0][0] == OWNER


@pytest.mark.parametrize("word", ["x" * 20, "0123456789abcdefghij", "sk-ov-abcd1234-nonsense"])
async def test_without_a_key_where_one_is_needed_nothing_is_answered(word: str) -> None:
    hello = {"authVersion": 1, "clientIdentifier": "wrongone", "clientPasskey": word}
    async with line(Fake(keys=True), "llm", None) as opened:
        opened.say(hello)
        answer = await opened.hear()
        assert answer == {
            "success": False, "error": "a key is needed; `overt keys add` makes one",
        }  # fmt: skip
        with pytest.raises(Closed):
            await opened.hear()


async def test_a_guest_is_nobody() -> None:
    fake = Fake()
    async with line(fake, "llm") as opened:
        opened.open("predict", predict("hi"))
        await opened.packets()
    assert fake.asked[0][0] == NOBODY


# ---- frames --------------------------------------------------------------------------------


async def test_keep_alive() -> None:
    async with line(Fake(), "system") as opened:
        opened.say({"type": "keepAlive"})
        assert await opened.hear() == {"type": "keepAliveAck"}


async def test_bytes_are_refused() -> None:
    async with line(Fake(), "system") as opened:
        opened.say_raw(bytes=b"\x00\x01", text=None)
        with pytest.raises(Closed) as closed:
            await opened.hear()
        assert closed.value.code == 1003


async def test_a_frame_beyond_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "LIMIT", 1000)
    async with line(Fake(), "system") as opened:
        opened.say({"type": "keepAlive", "padding": "x" * 1000})
        with pytest.raises(Closed) as closed:
            await opened.hear()
        assert closed.value.code == 1009


async def test_who_goes_on_talking_nonsense_is_sent_away() -> None:
    async with line(Fake(), "system") as opened:
        for nonsense in ("{", "[]", '{"type":"rpcCall"}', '{"type":"what"}', '{"type":1}'):
            opened.say_raw(text=nonsense)
        for _ in range(5):
            assert (await opened.hear())["type"] == "communicationWarning"
        with pytest.raises(Closed) as closed:
            await opened.hear()
        assert closed.value.code == 1008


async def test_unknown_endpoints_are_refused_by_name() -> None:
    async with line(Fake(), "llm") as opened:
        answer = await opened.ask("makeCoffee", {}, 3)
        assert (answer["type"], answer["callId"]) == ("rpcError", 3)
        assert "makeCoffee" in answer["error"]["title"]
        opened.open("makeCoffee", {}, 4)
        assert (await opened.hear())["type"] == "channelError"
        opened.say({"type": "signalSubscribe", "endpoint": "x", "subscribeId": 9})
        answer = await opened.hear()
        assert (answer["type"], answer["subscribeId"]) == ("signalError", 9)


@pytest.mark.parametrize("name", ["plugins", "diagnostics", "runtime"])
async def test_sockets_we_do_not_have_say_so(name: str) -> None:
    async with line(Fake(), name) as opened:
        answer = await opened.ask("listEngines")
        assert answer["type"] == "rpcError"
        assert answer["error"]["title"].startswith("this server")


async def test_a_wrong_parameter_is_an_error_of_its_call() -> None:
    async with line(Fake(), "llm") as opened:
        answer = await opened.ask("tokenize", {"specifier": {"type": "query"}, "inputString": 1})
        assert answer["type"] == "rpcError"
        assert answer["error"]["rootTitle"] == answer["error"]["title"]


async def test_there_is_a_bound_to_what_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "AT_ONCE", 3)
    async with line(Fake(), "system") as opened:
        for id in range(4):
            opened.open("alive", None, id)
        answer = await opened.hear()
        assert (answer["type"], answer["channelId"]) == ("channelError", 3)
        opened.cancel(0)
        assert await opened.hear() == {"type": "channelClose", "channelId": 0}
        opened.open("alive", None, 5)
        opened.cancel(5)
        assert await opened.hear() == {"type": "channelClose", "channelId": 5}


async def test_a_message_to_a_closed_channel_is_no_fault_but_one_to_no_channel_is() -> None:
    async with line(Fake(), "llm") as opened:
        opened.open("predict", predict("hi"), 1)
        await opened.packets()
        opened.cancel(1)
        opened.cancel(2)
        answer = await opened.hear()
        assert answer["type"] == "communicationWarning"
        assert "2" in answer["warning"]


async def test_an_acknowledgement_is_given_where_asked_for() -> None:
    async with line(Fake(), "system") as opened:
        opened.open("alive", None, 1)
        opened.say(
            {"type": "channelSend", "channelId": 1, "ackId": 5, "message": {"type": "hello"}}
        )
        assert await opened.hear() == {"type": "channelAck", "channelId": 1, "ackId": 5}


# ---- predictions ---------------------------------------------------------------------------


async def test_a_prediction() -> None:
    fake = Fake()
    async with line(fake, "llm") as opened:
        opened.open("predict", predict("one two three", temperature=0.5), 4)
        packets, end = await opened.packets()
    assert end == {"type": "channelClose", "channelId": 4}
    assert [p["type"] for p in packets] == [
        "promptProcessingProgress", "fragment", "fragment", "fragment", "success",
    ]  # fmt: skip
    assert packets[0]["progress"] == 1.0
    assert packets[1]["fragment"] == {
        "content": "one ", "tokensCount": 1, "containsDrafted": False, "reasoningType": "none",
        "isStructural": False,
    }  # fmt: skip
    last = packets[-1]
    assert last["stats"]["stopReason"] == "eosFound"
    assert last["stats"]["promptTokensCount"] == last["stats"]["predictedTokensCount"] == 3
    assert last["stats"]["totalTokensCount"] == 6
    assert last["stats"]["timeToFirstTokenSec"] >= 0
    assert last["modelInfo"]["identifier"] == "smollm2"
    fields = [{"key": "llm.prediction.temperature", "value": 0.5}]
    assert last["predictionConfig"] == {"fields": fields}
    assert fake.asked[0][1].sampling.temperature == 0.5


async def test_two_predictions_side_by_side() -> None:
    async with line(Fake("slow"), "llm") as opened:
        opened.open("predict", predict("a b c"), 1)
        opened.open("predict", predict("d e f"), 2)
        order = []
        while len(order) < 2 or order.count("close") < 2:
            frame = await opened.hear()
            if frame["type"] == "channelClose":
                order.append("close")
            elif frame["message"]["type"] == "fragment":
                order.append(frame["channelId"])
    assert order[:2] in ([1, 2], [2, 1])
    assert order.count(1) == order.count(2) == 3


async def test_cancelling_ends_a_prediction_with_what_came() -> None:
    fake = Fake("slow")
    async with line(fake, "llm") as opened:
        opened.open("predict", predict("word " * 1000))
        while (await opened.hear())["message"]["type"] != "fragment":
            pass
        opened.cancel()
        packets, end = await opened.packets()
        assert packets[-1]["stats"]["stopReason"] == "userStopped"
        assert 1 <= packets[-1]["stats"]["predictedTokensCount"] < 100
        assert end["type"] == "channelClose"
        assert fake.streams == 0


async def test_cancelling_at_once_is_not_lost() -> None:
    fake = Fake("slow")
    async with line(fake, "llm") as opened:
        opened.open("predict", predict("word " * 1000))
        opened.cancel()
        packets, _ = await opened.packets()
        assert packets[-1]["stats"]["stopReason"] == "userStopped"
        assert text_of(packets) in ("", "word ")


async def test_leaving_cancels_what_runs() -> None:
    fake = Fake("slow")
    async with line(fake, "llm") as opened:
        opened.open("predict", predict("word " * 1000))
        while (await opened.hear())["message"]["type"] != "fragment":
            pass
        assert fake.streams == 1
    assert fake.streams == 0


async def test_an_error_before_the_first_word_and_one_after_it() -> None:
    async with line(Fake("fail"), "llm") as opened:
        opened.open("predict", predict("a b c d e"))
        packets, end = await opened.packets()
        assert text_of(packets) == "a b c "
        assert end["type"] == "channelError"
        assert "three words" in end["error"]["title"]
        opened.open("predict", predict("hi", "no such model"), 2)
        packets, end = await opened.packets()
        assert packets == []
        assert end["error"]["displayData"] == {
            "code": "generic.noModelMatchingQuery", "query": {"identifier": "no such model"},
            "loadedModelsSample": [], "totalLoadedModels": 0,
        }  # fmt: skip


async def test_a_preset_is_not_there() -> None:
    async with line(Fake(), "llm") as opened:
        opened.open("predict", {**predict("hi"), "fuzzyPresetIdentifier": "mine"})
        _, end = await opened.packets()
        assert end["error"]["displayData"]["code"] == "generic.presetNotFound"


async def test_reasoning_is_told_between_its_tags() -> None:
    async with line(Fake("think"), "llm") as opened:
        opened.open("predict", predict("hello"))
        packets, _ = await opened.packets()
    told = [p["fragment"] for p in packets if p["type"] == "fragment"]
    assert [(one["reasoningType"], one["content"]) for one in told] == [
        ("reasoningStartTag", "<think>"),
        ("reasoning", "The message has 5 characters."),
        ("reasoningEndTag", "</think>"),
        ("none", "hello"),
    ]


async def test_reasoning_that_is_not_to_be_parsed_is_text() -> None:
    parsing = {"enabled": False, "startString": "[", "endString": "]"}
    async with line(Fake("think"), "llm") as opened:
        opened.open("predict", predict("hello", reasoning__parsing=parsing))
        packets, _ = await opened.packets()
    told = [p["fragment"] for p in packets if p["type"] == "fragment"]
    assert {one["reasoningType"] for one in told} == {"none"}
    assert text_of(packets) == "[The message has 5 characters.]hello"


async def test_log_probabilities_come_with_their_text() -> None:
    async with line(Fake(), "llm") as opened:
        opened.open("predict", predict("a b", logProbs={"checked": True, "value": 2}))
        packets, _ = await opened.packets()
    told = [p for p in packets if p["type"] == "fragment"]
    assert [one["fragment"]["content"] for one in told] == ["a ", "b"]
    assert told[0]["fragment"]["tokens"][0]["text"] == "a "
    assert told[0]["fragment"]["tokens"][0]["logProb"] == 0.0
    assert told[0]["logprobs"] == [[{"text": "a ", "logprob": 0.0}]]


async def test_a_tool_call() -> None:
    fake = Fake("tool")
    tools = {"type": "toolArray", "tools": [TOOL]}
    async with line(fake, "llm") as opened:
        opened.open("predict", predict("1 + 2", tools=tools))
        packets, _ = await opened.packets()
    assert [p["type"] for p in packets[1:]] == [
        "toolCallGenerationStart", "toolCallGenerationNameReceived",
        "toolCallGenerationArgumentFragmentGenerated", "toolCallGenerationEnd", "success",
    ]  # fmt: skip
    asked = packets[-2]["toolCallRequest"]
    assert asked == {
        "type": "function", "id": "call_0", "name": "add", "arguments": {"text": "1 + 2"},
    }  # fmt: skip
    assert packets[-1]["stats"]["stopReason"] == "toolCalls"
    assert fake.asked[0][1].tools[0].name == "add"


async def test_a_whole_conversation_becomes_messages() -> None:
    fake = Fake()
    asked = predict("x")
    call = {"type": "function", "name": "add", "arguments": {"a": 1}}
    async with line(fake, "files") as opened:
        kept = await opened.ask("uploadFileBase64", {"name": "a.png", "contentBase64": PNG})
    image = {"type": "file", "name": "a.png", "sizeBytes": 1, **kept["result"]}
    asked["history"]["messages"] = [
        {"role": "system", "content": [{"type": "text", "text": "be kind"}]},
        {"role": "user", "content": [{"type": "text", "text": "look"}, image]},
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "well"},
                {"type": "toolCallRequest", "toolCallRequest": call},
            ],
        },
        {"role": "tool", "content": [{"type": "toolCallResult", "content": "3"}]},
        {"role": "user", "content": [{"type": "text", "text": "so?"}]},
    ]
    async with line(fake, "llm") as opened:
        opened.open("predict", asked)
        await opened.packets()
    turns = fake.asked[0][1].messages
    assert [turn.role for turn in turns] == ["system", "user", "assistant", "tool", "user"]
    assert turns[1].parts[0] == TextPart("look")
    assert isinstance(turns[1].parts[1], ImagePart)
    called = turns[2].parts[1]
    assert isinstance(called, ToolCallPart)
    assert json.loads(called.arguments) == {"a": 1}
    assert turns[3].parts == (ToolResultPart(called.id, "3"),)


async def test_a_completion_continues_the_text() -> None:
    fake = Fake()
    asked = predict("Once upon", temperature=0)
    jinja = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    template = {"type": "jinja", "jinjaPromptTemplate": {"template": jinja}, "stopStrings": []}
    field = {"key": "llm.prediction.promptTemplate", "value": template}
    layer = {"layerName": "completeModeFormatting", "config": {"fields": [field]}}
    asked["predictionConfigStack"]["layers"].append(layer)
    async with line(fake, "llm") as opened:
        opened.open("predict", asked)
        packets, _ = await opened.packets()
        assert text_of(packets) == "Once upon"
        raw = {"modelSpecifier": query("smollm2"), "rawPrompt": "a <b>"}
        opened.open("completeRawText", {**raw, "predictionConfigStack": {"layers": []}}, 2)
        packets, _ = await opened.packets()
        assert text_of(packets) == "a <b>"
    assert [one[1].prompt for one in fake.asked] == ["Once upon", "a <b>"]
    assert fake.asked[0][1].messages == ()
