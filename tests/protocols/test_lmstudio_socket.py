"""The sockets of LM Studio's SDK, frame by frame."""

import asyncio
import json
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lmstudio_fake import CARDS, HELLO, KEY, OWNER, Closed, Fake, Line, line

from overt.chat import ImagePart, TextPart, ToolCallPart, ToolResultPart
from overt.protocols.base import NOBODY, Hold
from overt.protocols.lmstudio import NAMESPACES, socket

pytestmark = pytest.mark.anyio

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="  # noqa: E501


def query(name: str) -> dict:
    return {"type": "query", "query": {"identifier": name}}


def stack(**fields: object) -> dict:
    """Settings; a double underscore stands for a dot."""
    said = [
        {"key": "llm.prediction." + k.replace("__", "."), "value": v} for k, v in fields.items()
    ]
    return {"layers": [{"layerName": "apiOverride", "config": {"fields": said}}]}


def predict(text: str, model: str = "smollm2", **fields: object) -> dict:
    messages = [{"role": "user", "content": [{"type": "text", "text": text}]}]
    return {
        "modelSpecifier": query(model),
        "history": {"messages": messages},
        "predictionConfigStack": stack(**fields),
    }


def text_of(packets: list) -> str:
    return "".join(p["fragment"]["content"] for p in packets if p["type"] == "fragment")


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


TOOL = {
    "type": "function",
    "function": {"name": "add", "parameters": {"type": "object", "properties": {}}},
}


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


# ---- models --------------------------------------------------------------------------------


async def test_loading_using_and_unloading_a_model() -> None:
    fake = Fake()
    async with line(fake, "llm") as opened:
        asked = {"identifier": "smollm2", "loadTtlMs": 60_000, "loadConfigStack": {"layers": []}}
        opened.open("getOrLoad", asked, 1)
        packets, _ = await opened.packets()
        assert [p["type"] for p in packets] == [
            "startLoading", "loadProgress", "loadProgress", "loadSuccess",
        ]  # fmt: skip
        info = packets[-1]["info"]
        assert info["identifier"] == info["modelKey"] == "smollm2"
        assert info["path"] == "HuggingFaceTB/smollm2"
        assert info["contextLength"] == 8192
        assert 59_000 < info["ttlMs"] <= 60_000
        assert fake.holds == [Hold(60.0)]
        opened.open("getOrLoad", asked, 2)
        packets, _ = await opened.packets()
        assert [p["type"] for p in packets] == ["alreadyLoaded"]
        listed = (await opened.ask("listLoaded"))["result"]
        assert [one["identifier"] for one in listed] == ["smollm2"]
        opened.open("predict", predict("hi"), 3)
        await opened.packets()
        assert fake.asked[0][2] == Hold(60.0)
        assert await opened.ask("unloadModel", {"identifier": "smollm2"}) == {
            "type": "rpcResult", "callId": 1,
        }  # fmt: skip
        assert fake.memory == {}
        answer = await opened.ask("unloadModel", {"identifier": "smollm2"})
        assert answer["error"]["displayData"]["code"] == "generic.noModelMatchingQuery"


async def test_a_second_instance_is_a_second_name() -> None:
    fake = Fake()
    async with line(fake, "llm") as opened:
        for id in (1, 2):
            opened.open("loadModel", {"modelKey": "HuggingFaceTB/smollm2"}, id)
            packets, _ = await opened.packets()
            assert packets[0]["type"] == "resolved"
        assert packets[-1]["info"]["identifier"] == "smollm2:2"
        assert packets[-1]["info"]["ttlMs"] is None
        assert fake.holds[0] == Hold(math.inf)
        opened.open("loadModel", {"modelKey": "smollm2", "identifier": "smollm2"}, 3)
        _, end = await opened.packets()
        assert end["error"]["title"].endswith("already exists")
        opened.open("loadModel", {"modelKey": "smollm2", "identifier": "mine"}, 4)
        await opened.packets()
        names = [one["identifier"] for one in (await opened.ask("listLoaded"))["result"]]
        assert names == ["smollm2", "smollm2:2", "mine"]
        opened.open("predict", predict("hi", "mine"), 5)
        packets, _ = await opened.packets()
        assert packets[-1]["modelInfo"]["identifier"] == "mine"
        assert fake.asked[0][1].model == "smollm2"
        for name in ("smollm2", "mine"):
            await opened.ask("unloadModel", {"identifier": name})
        assert len(fake.memory) == 1
        await opened.ask("unloadModel", {"identifier": "smollm2:2"})
        assert fake.memory == {}


async def test_what_is_gone_from_memory_is_no_instance() -> None:
    fake = Fake()
    async with line(fake, "llm") as opened:
        opened.open("loadModel", {"modelKey": "smollm2", "identifier": "mine"})
        packets, _ = await opened.packets()
        reference = packets[-1]["info"]["instanceReference"]
        specifier = {"type": "instanceReference", "instanceReference": reference}
        answer = await opened.ask("getModelInfo", {"specifier": specifier, "throwIfNotFound": True})
        assert answer["result"]["identifier"] == "mine"
        fake.memory.clear()
        assert (await opened.ask("listLoaded"))["result"] == []
        answer = await opened.ask("getModelInfo", {"specifier": specifier, "throwIfNotFound": True})
        assert answer["error"]["displayData"] == {"code": "generic.specificModelUnloaded"}
        quiet = {"specifier": specifier, "throwIfNotFound": False}
        assert await opened.ask("getModelInfo", quiet) == {"type": "rpcResult", "callId": 1}


async def test_a_context_length_is_asked_for() -> None:
    fake = Fake()
    fields = [{"key": "llm.load.contextLength", "value": 1234}]
    config = {"layers": [{"layerName": "apiOverride", "config": {"fields": fields}}]}
    async with line(fake, "llm") as opened:
        opened.open("loadModel", {"modelKey": "smollm2", "loadConfigStack": config})
        await opened.packets()
        assert fake.holds == [Hold(math.inf, 1234)]
        answer = await opened.ask("getLoadConfig", {"specifier": query("smollm2")})
        assert answer["result"]["fields"][0] == fields[0]


async def test_loading_can_be_cancelled() -> None:
    fake = Fake()
    fake.gate = asyncio.Event()
    async with line(fake, "llm") as opened:
        opened.open("loadModel", {"modelKey": "smollm2"})
        while (await opened.hear())["message"]["type"] != "progress":
            pass
        opened.cancel()
        _, end = await opened.packets()
        assert end["type"] == "channelError"
        fake.gate = None
        opened.open("loadModel", {"modelKey": "smollm2"}, 2)
        packets, _ = await opened.packets()
        assert packets[-1]["info"]["identifier"] == "smollm2"


async def test_an_embedding_model_does_not_write_nor_the_other_embed() -> None:
    async with line(Fake(), "llm") as opened:
        opened.open("predict", predict("hi", "text-embedding-nomic-embed-text-v1.5"))
        _, end = await opened.packets()
        assert end["error"]["displayData"]["code"] == "generic.domainMismatch"
    async with line(Fake(), "embedding") as opened:
        asked = {"modelSpecifier": query("smollm2"), "inputString": "x"}
        answer = await opened.ask("embedString", asked)
        assert answer["error"]["displayData"]["expectedDomain"] == "embedding"


@pytest.mark.parametrize(
    "name",
    ["nomic-embed-text-v1.5", "nomic-ai/nomic-embed-text-v1.5",
     "text-embedding-nomic-embed-text-v1.5", "Nomic-AI/nomic-embed-text-v1.5/model.gguf"],
)  # fmt: skip
async def test_embeddings_by_every_spelling(name: str) -> None:
    fake = Fake()
    async with line(fake, "embedding") as opened:
        answer = await opened.ask(
            "embedString", {"modelSpecifier": query(name), "inputString": "a cat"}
        )
        assert len(answer["result"]["embedding"]) == 8
        assert fake.embedded[0].model == CARDS[1].id
        asked = {"specifier": query(name), "inputString": "a cat"}
        tokens = (await opened.ask("tokenize", asked))["result"]["tokens"]
        count = (await opened.ask("countTokens", asked))["result"]["tokenCount"]
        assert (len(tokens), count) == (4, 2)


async def test_a_template_is_applied() -> None:
    async with line(Fake(), "llm") as opened:
        content = [
            {"type": "text", "text": "hi"},
            {"type": "file", "name": "a.txt", "identifier": "x", "fileType": "text/plain"},
        ]
        asked = {
            "specifier": query("smollm2"),
            "history": {"messages": [{"role": "user", "content": content}]},
            "predictionConfigStack": {"layers": []},
            "opts": {},
        }
        answer = await opened.ask("applyPromptTemplate", asked)
        assert answer["result"] == {"formatted": "<|user|>hi\n"}
        manual = dict.fromkeys(
            ("beforeSystem", "afterSystem", "beforeUser", "afterUser", "beforeAssistant",
             "afterAssistant"), "|"
        )  # fmt: skip
        template = {"type": "manual", "manualPromptTemplate": manual, "stopStrings": []}
        asked["predictionConfigStack"] = stack(promptTemplate=template)
        answer = await opened.ask("applyPromptTemplate", asked)
        assert answer["result"] == {"formatted": "|hi||"}


# ---- the other sockets ---------------------------------------------------------------------


async def test_downloaded_models_are_listed_and_rerankers_are_not() -> None:
    async with line(Fake(), "system") as opened:
        listed = (await opened.ask("listDownloadedModels"))["result"]
    assert [one["type"] for one in listed] == ["llm", "embedding", "llm"]
    first = listed[0]
    assert first["modelKey"] == "smollm2"
    assert first["paramsString"] == "135M"
    assert first["quantization"] == {"name": "Q4_1", "bits": 4}
    assert (first["vision"], first["trainedForToolUse"]) == (False, True)
    assert listed[2]["path"] == "ZiangWu/MobileVLM_V2-1.7B-GGUF"
    assert listed[2]["vision"] is True
    assert "vision" not in listed[1]


async def test_a_client_cannot_stop_the_server() -> None:
    async with line(Fake(), "system") as opened:
        for endpoint in ("stopHttpServer", "requestShutdown"):
            assert (await opened.ask(endpoint))["type"] == "rpcError"


async def test_files() -> None:
    fake = Fake()
    async with line(fake, "files") as opened:
        kept = await opened.ask("uploadFileBase64", {"name": "a.txt", "contentBase64": "YWJj"})
        assert kept["result"]["fileType"] == "text/plain"
        assert kept["result"]["sizeBytes"] == 3
        bad = await opened.ask("uploadFileBase64", {"name": "a.txt", "contentBase64": "!"})
        assert bad["type"] == "rpcError"
        opened.open("parseDocument", {"fileIdentifier": kept["result"]["identifier"]})
        assert (await opened.hear())["type"] == "channelError"
    text = {"type": "file", "name": "a.txt", **kept["result"]}
    missing = {"type": "file", "name": "b.png", "identifier": "file-1", "fileType": "image"}
    async with line(fake, "llm") as opened:
        for id, file in enumerate((text, missing)):
            asked = predict("look")
            asked["history"]["messages"][0]["content"].append(file)
            opened.open("predict", asked, id)
            _, end = await opened.packets()
            assert end["type"] == "channelError"
            assert file["identifier" if id else "name"] in end["error"]["title"]


async def test_a_file_belongs_to_the_key_that_sent_it() -> None:
    fake = Fake()
    headers = [(b"authorization", b"Bearer " + KEY.encode())]
    async with line(fake, "files", HELLO, headers) as opened:
        kept = await opened.ask("uploadFileBase64", {"name": "a.png", "contentBase64": PNG})
    asked = predict("look")
    image = {"type": "file", "name": "a.png", **kept["result"]}
    asked["history"]["messages"][0]["content"].append(image)
    for who, ending in ((headers, "channelClose"), ((), "channelError")):
        async with line(fake, "llm", HELLO, who) as opened:
            opened.open("predict", asked)
            assert (await opened.packets())[1]["type"] == ending


async def test_searching_and_downloading() -> None:
    fake = Fake()
    fake.cards.append(fake.cards[0])
    async with line(fake, "repository") as opened:
        found = await opened.ask("searchModels", {"opts": {"searchTerm": "smollm2-135m"}})
        first = found["result"]["results"][0]
        assert first["identifier"]["identifier"] == "smollm2:135m-instruct-q4_1"
        asked = {"modelSearchResultIdentifier": first["identifier"]}
        options = (await opened.ask("getModelDownloadOptions", asked))["result"]["results"]
        assert options[0]["sizeBytes"] == 98_362_432
        fake.cards[-1] = CARDS[0].__class__(
            options[0]["downloadIdentifier"], "sha256:55", 1, 1.0
        )  # what it is once it is here
        opened.open("downloadModel", {"downloadIdentifier": options[0]["downloadIdentifier"]})
        packets, _ = await opened.packets()
    assert [p["type"] for p in packets] == [
        *["downloadProgress"] * 3, "startFinalizing", "success",
    ]  # fmt: skip
    assert packets[2]["update"]["downloadedBytes"] == packets[2]["update"]["totalBytes"] == 100
    assert packets[-1]["defaultIdentifier"] == options[0]["downloadIdentifier"]
    assert fake.library.pulled == [options[0]["downloadIdentifier"]]


async def test_the_hub_is_not_searched_but_its_names_are_known() -> None:
    async with line(Fake(), "repository") as opened:
        found = await opened.ask("searchModels", {"opts": {"searchTerm": "owner/some-model"}})
        first = found["result"]["results"][0]
        assert first["identifier"] == {"type": "hf", "identifier": "owner/some-model"}
        asked = {"modelSearchResultIdentifier": first["identifier"]}
        options = (await opened.ask("getModelDownloadOptions", asked))["result"]["results"]
        assert options[0]["downloadIdentifier"] == "hf:owner/some-model"
        none = await opened.ask("searchModels", {"opts": {"searchTerm": "zzzz nothing"}})
        assert none["result"] == {"results": []}


async def test_a_download_can_be_cancelled() -> None:
    fake = Fake()
    fake.library.gate = asyncio.Event()
    async with line(fake, "repository") as opened:
        opened.open("downloadModel", {"downloadIdentifier": "smollm2"})
        await opened.hear()
        opened.cancel()
        _, end = await opened.packets()
        assert end["type"] == "channelError"
        assert fake.library.stopped == 1


# ---- anything at all -----------------------------------------------------------------------

_ENDPOINTS = sorted({name for one in NAMESPACES for name in (*one.calls, *one.channels)})
_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=20),
    lambda inside: (
        st.lists(inside, max_size=4) | st.dictionaries(st.text(max_size=12), inside, max_size=4)
    ),
    max_leaves=12,
)
_frame = st.fixed_dictionaries(
    {"type": st.sampled_from(
        ("rpcCall", "channelCreate", "channelSend", "keepAlive", "signalSubscribe",
         "writableSignalSubscribe", "channelAck", "communicationWarning", "nothing")
    )},
    optional={
        "endpoint": st.sampled_from(_ENDPOINTS) | _json,
        "callId": st.integers(0, 3) | _json,
        "channelId": st.integers(0, 3) | _json,
        "subscribeId": st.integers(0, 3) | _json,
        "ackId": st.integers(0, 3) | _json,
        "parameter": _json,
        "creationParameter": _json,
        "message": _json,
    },
)  # fmt: skip


def _mutated(draw: st.DrawFn, value: object, depth: int = 0) -> object:
    """A valid value with one or the other part replaced."""
    if draw(st.integers(0, 9)) == 0:
        return draw(_json)
    if isinstance(value, dict):
        return {
            k: _mutated(draw, v, depth + 1) for k, v in value.items() if draw(st.integers(0, 15))
        }
    if isinstance(value, list):
        return [_mutated(draw, one, depth + 1) for one in value]
    return value


_VALID = (
    ("llm", "channelCreate", "predict", predict(
        "hi", temperature=0.5, topKSampling=40, structured={"type": "json", "jsonSchema": {}},
        tools={"type": "toolArray", "tools": [TOOL]}, stopStrings=["x"],
        maxPredictedTokens={"checked": True, "value": 5}, llama__logitBias=[[5, "-inf"]],
        promptTemplate={"type": "jinja", "jinjaPromptTemplate": {"template": "x"}},
    )),
    ("llm", "channelCreate", "getOrLoad", {
        "identifier": "smollm2", "loadTtlMs": 5, "loadConfigStack": stack(),
    }),
    ("llm", "rpcCall", "tokenize", {"specifier": query("smollm2"), "inputString": "x"}),
    ("llm", "rpcCall", "getModelInfo", {"specifier": query("smollm2"), "throwIfNotFound": False}),
    ("embedding", "rpcCall", "embedString", {
        "modelSpecifier": query("nomic-embed-text-v1.5"), "inputString": "x",
    }),
    ("files", "rpcCall", "uploadFileBase64", {"name": "x", "contentBase64": PNG}),
    ("repository", "rpcCall", "searchModels", {"opts": {"searchTerm": "x", "limit": 3}}),
)  # fmt: skip


@st.composite
def _almost(draw: st.DrawFn) -> tuple[str, dict]:
    name, type, endpoint, parameter = draw(st.sampled_from(_VALID))
    field = "parameter" if type == "rpcCall" else "creationParameter"
    frame = {"type": type, "endpoint": endpoint, "callId": 1, "channelId": 1}
    return name, {**frame, field: _mutated(draw, parameter)}


async def _survives(name: str, frames: list[str], caplog: pytest.LogCaptureFixture) -> None:
    """Whatever is said, the server answers or hangs up, and no handler breaks."""
    caplog.clear()
    async with line(Fake(), name) as opened:
        for one in frames:
            opened.say_raw(text=one)
        opened.say({"type": "keepAlive"})
        code = 1008
        try:
            while (await opened.hear()) != {"type": "keepAliveAck"}:
                pass
        except Closed as closed:
            code = closed.code
        assert code in (1003, 1008)
        await _settled(opened)
    assert not caplog.records, caplog.text


async def _settled(opened: Line) -> None:
    for _ in range(20):
        await asyncio.sleep(0)


fuzz = settings(
    max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)


@fuzz
@given(name=st.sampled_from([one.name for one in NAMESPACES]), frames=st.lists(_frame, max_size=6))
async def test_any_frames(name: str, frames: list, caplog: pytest.LogCaptureFixture) -> None:
    await _survives(name, [json.dumps(one) for one in frames], caplog)


@fuzz
@given(frames=st.lists(st.text(max_size=60), max_size=6))
async def test_any_text(frames: list[str], caplog: pytest.LogCaptureFixture) -> None:
    await _survives("llm", frames, caplog)


@fuzz
@given(almost=_almost())
async def test_almost_valid_calls(almost: tuple, caplog: pytest.LogCaptureFixture) -> None:
    name, said = almost
    await _survives(name, [json.dumps(said)], caplog)


@fuzz
@given(text=st.text(max_size=200))
async def test_any_greeting(text: str) -> None:
    async with line(Fake(), "llm", None) as opened:
        opened.say_raw(text=text)
        assert (await opened.hear())["success"] is False
        with pytest.raises(Closed):
            await opened.hear()
