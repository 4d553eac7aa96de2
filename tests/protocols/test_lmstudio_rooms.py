"""Models, files and downloads on the sockets of LM Studio's SDK."""

import asyncio
import base64
import math
from dataclasses import replace

import pytest
from lmstudio_fake import CARDS, HELLO, KEY, PNG, Fake, line, predict, query, stack

from overt.errors import BadRequest, NotFound
from overt.protocols.base import NOBODY, ModelHold
from overt.protocols.lmstudio import files

pytestmark = pytest.mark.anyio

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
        assert fake.holds == [ModelHold(60.0)]
        opened.open("getOrLoad", asked, 2)
        packets, _ = await opened.packets()
        assert [p["type"] for p in packets] == ["alreadyLoaded"]
        listed = (await opened.ask("listLoaded"))["result"]
        assert [one["identifier"] for one in listed] == ["smollm2"]
        opened.open("predict", predict("hi"), 3)
        await opened.packets()
        assert fake.asked[0][2] == ModelHold(60.0)
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
        assert fake.holds[0] == ModelHold(math.inf)
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
        assert fake.holds == [ModelHold(math.inf, 1234)]
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
        assert (tokens[0], tokens[-1], len(tokens), count) == (101, 102, 4, 2)


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
        # what it is once it is here
        fake.cards[-1] = replace(CARDS[0], id=options[0]["downloadIdentifier"])
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


def test_files_make_room_for_newer_ones() -> None:
    kept = files.Files(room=100)
    image = base64.b64decode(PNG)
    first, kind = kept.add(NOBODY, "a.png", image)
    assert kind == "image"
    assert kept.image(NOBODY, first).data == image
    kept.add(NOBODY, "b.txt", b"x" * 60)
    with pytest.raises(NotFound):
        kept.image(NOBODY, first)
    with pytest.raises(BadRequest):
        kept.add(NOBODY, "c", b"x" * 101)
