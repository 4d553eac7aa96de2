"""What the server does with the store: cards, shared pulls, pushes, new models, files that come."""

import asyncio
import dataclasses
import hashlib
import inspect
import os
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

import gguf_split
import projector_writer
import registries
from gguf_writer import Tensor, write, write_llama
from overt.errors import (
    BadRef,
    BadRequest,
    Busy,
    FormatError,
    ModelNotFound,
    NotFound,
    OutOfDisk,
    OvertError,
    Refused,
    Stopped,
    Unsupported,
)
from overt.formats import gguf, modelfile
from overt.models.modelfile_build import create
from overt.models.pull import find
from overt.models.sources.base import FetchProgress, Report
from overt.models.store import File, Manifest, Store
from overt.protocols import disk
from overt.protocols.ollama import wire
from overt.ref import parse
from overt.server.jobs import Jobs
from overt.server.library import ModelDetails, ModelLibrary
from overt.server.registries import registries as registries_of
from overt.settings import Settings, load

pytestmark = pytest.mark.anyio


@pytest.fixture
def settings(home: Path) -> Settings:
    return load()


@pytest.fixture
async def library(settings: Settings) -> AsyncIterator[ModelLibrary]:
    made = ModelLibrary(settings)
    yield made
    await made.close()


@pytest.fixture
def tiny(tmp_path: Path, settings: Settings) -> Path:
    """A model `tiny` in the store; the file it was made of."""
    file = tmp_path / "tiny.gguf"
    write_llama(file, metadata={"tokenizer.chat_template": "{{ tools }}{{ messages }} <think>"})
    add(settings, "tiny", f"FROM {file}\n", tmp_path)
    return file


def add(settings: Settings, name: str, text: str, folder: Path) -> Manifest:
    return create(name, modelfile.read(text.encode()), folder, settings).manifest


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


async def steps(events: AsyncGenerator[FetchProgress, None]) -> list[FetchProgress]:
    return [step async for step in events]


async def pieces(data: bytes, size: int = 60_000) -> AsyncGenerator[bytes, None]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


# ---- cards ---------------------------------------------------------------------------------


async def test_a_card_says_what_the_header_says(library: ModelLibrary, tiny: Path) -> None:
    card = await library.card("tiny")
    assert (card.id, card.kind, card.format, card.architecture) == ("tiny", "llm", "gguf", "llama")
    assert card.capabilities == ("completion", "tools", "thinking")
    assert (card.context, card.embedding, card.quantization) == (512, 64, "F32")
    assert card.size == tiny.stat().st_size + sum(
        file.size for file in Store(load().home).get(parse("tiny")).files if file.role == "recipe"
    )
    assert card.parameters == sum(tensor.parameters for tensor in gguf.read(tiny).tensors)
    assert time.time() - card.modified < 600


async def test_cards_are_one_for_each_name_and_the_newest_first(
    library: ModelLibrary, tiny: Path, settings: Settings
) -> None:
    await library.copy("tiny", "other:v1")
    names = settings.home / "names"
    os.utime(names / "tiny.json", (1_000_000, 1_000_000))
    found = await library.cards()
    assert [card.id for card in found] == ["other:v1", "tiny"]
    assert found[0].digest == found[1].digest
    assert found[1].modified == 1_000_000


async def test_two_names_of_the_catalogue_for_one_model_are_one_card(
    library: ModelLibrary, tiny: Path, settings: Settings
) -> None:
    store = Store(settings.home)
    manifest = store.get(parse("tiny"))
    store.name(parse("smollm2:135m-instruct-q4_1"), manifest)
    store.name(parse("smollm2"), manifest)
    assert sorted(card.id for card in await library.cards()) == ["smollm2", "tiny"]


async def test_a_name_of_the_catalogue_is_found_by_its_other_name(
    library: ModelLibrary, tiny: Path
) -> None:
    await library.copy("tiny", "smollm2")
    assert (await library.card("smollm2:135m-instruct-q4_1")).id == "smollm2"


async def test_latest_stands_for_a_name_without_a_tag(library: ModelLibrary, tiny: Path) -> None:
    assert (await library.card("tiny:latest")).id == "tiny"
    await library.copy("tiny", "other:latest")
    assert (await library.card("other:latest")).id == "other:latest", (
        "a name of its own comes first"
    )
    with pytest.raises(ModelNotFound, match="other is not"):
        await library.card("other")
    with pytest.raises(ModelNotFound, match="missing:latest is not"):
        await library.card("missing:latest")
    with pytest.raises(ModelNotFound):
        await library.card("tiny:v1")


async def test_the_first_of_several_refs_that_is_here(library: ModelLibrary, tiny: Path) -> None:
    assert (await library.card("tiny:latest", "tiny")).id == "tiny"
    await library.copy("tiny", "tiny:latest")
    assert (await library.card("tiny:latest", "tiny")).id == "tiny:latest", "a stale card"


async def test_a_card_follows_its_name(library: ModelLibrary, tiny: Path, tmp_path: Path) -> None:
    before = await library.card("tiny")
    assert await library.card("tiny") is before, "asked again it costs no thread"
    other = tmp_path / "other.gguf"
    write_llama(other, context=256)
    add(load(), "tiny", f"FROM {other}\n", tmp_path)
    assert (await library.card("tiny")).context == 256
    await library.delete("tiny")
    with pytest.raises(ModelNotFound):
        await library.card("tiny")


async def test_kinds(library: ModelLibrary, tmp_path: Path, settings: Settings, tiny: Path) -> None:
    bert = {"general.architecture": "bert", "bert.context_length": 512, "bert.embedding_length": 8}
    for name, more in {
        "embed": {"bert.pooling_type": 1},
        "old-embed": {},
        "rank": {"bert.pooling_type": 4},
    }.items():
        write(tmp_path / f"{name}.gguf", {**bert, **more}, [Tensor("token_embd.weight", (8, 4))])
        add(settings, name, f"FROM ./{name}.gguf\n", tmp_path)
    head = [Tensor("token_embd.weight", (8, 4)), Tensor("cls.weight", (8, 8))]
    write(tmp_path / "head.gguf", bert, head)
    add(settings, "head", "FROM ./head.gguf\n", tmp_path)
    projector_writer.write(tmp_path / "mmproj.gguf", 64)
    add(settings, "sees", "FROM tiny\nFROM ./mmproj.gguf\n", tmp_path)
    found = {card.id: card for card in await library.cards()}
    kinds = {id: (card.kind, card.capabilities) for id, card in found.items()}
    assert kinds["embed"] == kinds["old-embed"] == ("embedding", ("embedding",))
    assert kinds["rank"] == kinds["head"] == ("rerank", ()), "lists say what the engine does"
    assert kinds["sees"] == ("vlm", ("completion", "vision", "tools", "thinking"))
    assert found["sees"].families == ("llama", "clip")
    details = await library.show("sees")
    assert details.projector["general.architecture"] == "clip"


async def test_a_damaged_model_does_not_hide_the_others(
    library: ModelLibrary, tiny: Path, settings: Settings, tmp_path: Path
) -> None:
    add(settings, "other", "FROM tiny\nSYSTEM hello\n", tmp_path)
    broken = Manifest((File("weights", "m.gguf", digest(b"GGUF"), 4),), "hf:org/repo@main")
    new = tmp_path / "new"
    new.write_bytes(b"GGUF")
    Store(settings.home).commit(broken, {digest(b"GGUF"): new}, [parse("hf:org/repo")])
    found = {card.id: card for card in await library.cards()}
    assert set(found) == {"tiny", "other", "hf:org/repo"}
    assert (found["hf:org/repo"].parameters, found["hf:org/repo"].publisher) == (None, "org")


PATHS = ("/etc/passwd", "./tiny.gguf", "~/x", "..")


@pytest.mark.parametrize("path", PATHS)
async def test_no_client_names_a_file_of_this_machine(library: ModelLibrary, path: str) -> None:
    with pytest.raises(BadRef, match="is a file"):
        await library.card(path)
    with pytest.raises(BadRef, match="is a file"):
        await library.show(path)
    with pytest.raises(BadRef, match="is a file"):
        await library.copy(path, "mine")
    with pytest.raises(BadRef, match="is a file"):
        await library.delete(path)
    for call in (
        lambda: library.pull(path),
        lambda: library.create("mine", base=path),
        lambda: library.push(path, "oci:127.0.0.1:1/team/x"),
    ):
        with pytest.raises(BadRef, match="is a file"):
            await steps(call())


@pytest.mark.parametrize("ref", ["nothing", "echo:x", "openai:gpt-5", "a" * 12, "smollm2"])
async def test_what_is_not_in_the_store(library: ModelLibrary, ref: str) -> None:
    with pytest.raises(ModelNotFound):
        await library.card(ref)


# ---- show ----------------------------------------------------------------------------------

OVER = """FROM tiny
PARAMETER temperature 0.5
PARAMETER stop <a>
PARAMETER stop <b>
SYSTEM Be brief.
TEMPLATE {{ .Prompt }}
MESSAGE user Hello
MESSAGE assistant Hi.
LICENSE MIT
RENDERER own
REQUIRES 0.14.0
"""


async def test_show_tells_everything(
    library: ModelLibrary, tiny: Path, tmp_path: Path, settings: Settings
) -> None:
    add(settings, "ada", OVER, tmp_path)
    details = await library.show("ada")
    assert details.system == "Be brief."
    assert details.parameters == {"temperature": 0.5, "stop": ["<a>", "<b>"]}
    assert details.messages == (("user", "Hello"), ("assistant", "Hi."))
    assert details.licence == "MIT"
    assert details.said == {"renderer": "own", "requires": "0.14.0"}
    assert "{%" in details.template, "the Go template as the Jinja in force"
    assert details.metadata["llama.block_count"] == 2
    assert details.metadata["general.parameter_count"] == details.card.parameters
    assert details.tensors == ()
    assert modelfile.read(details.modelfile.encode()).last("system") == "Be brief."


async def test_show_verbose_brings_tensors(library: ModelLibrary, tiny: Path) -> None:
    details = await library.show("tiny", verbose=True)
    assert ("output_norm.weight", "F32", (64,)) in details.tensors
    assert len(details.metadata["tokenizer.ggml.tokens"]) > 256


async def test_show_tells_no_path_of_this_machine(
    library: ModelLibrary, tiny: Path, settings: Settings
) -> None:
    details = await library.show("tiny")
    assert str(settings.home) not in details.modelfile
    assert "FROM $OVERT_HOME/" in details.modelfile


# ---- jobs ----------------------------------------------------------------------------------


async def test_callers_who_ask_for_the_same_share_one_job() -> None:
    jobs, runs, go = Jobs(), [], threading.Event()

    def work(report: Report) -> None:
        runs.append(1)
        report(FetchProgress("part", 1, 2))
        go.wait(10)
        report(FetchProgress("part", 2, 2))

    first, second = jobs.watch("x", work), jobs.watch("x", work)
    assert await anext(first) == FetchProgress("part", 1, 2)
    assert await anext(second) == FetchProgress("part", 1, 2), (
        "who comes late is told what is known"
    )
    go.set()
    assert await steps(first) == await steps(second) == [FetchProgress("part", 2, 2)]
    assert runs == [1]


async def test_a_job_goes_on_until_the_last_watcher_leaves() -> None:
    jobs, ended, go = Jobs(), threading.Event(), threading.Event()
    found: list[BaseException] = []

    def work(report: Report) -> None:
        report(FetchProgress("part", 0, 9))
        go.wait(10)
        try:
            for done in range(1, 1000):
                report(FetchProgress("part", done, 1000))
                time.sleep(0.001)
        except Stopped as error:
            found.append(error)
            raise
        finally:
            ended.set()

    first, second = jobs.watch("x", work), jobs.watch("x", work)
    await anext(first)
    await anext(second)
    await first.aclose()
    assert not ended.is_set()
    await second.aclose()
    go.set()
    assert await asyncio.to_thread(ended.wait, 10)
    assert found, "the job was told to stop"


async def test_who_asks_after_the_last_has_left_begins_anew() -> None:
    jobs, runs, go = Jobs(), [], threading.Event()

    def work(report: Report) -> None:
        runs.append(1)
        report(FetchProgress("a", 0, 2))
        if len(runs) == 1:
            go.wait(10)
            report(FetchProgress("a", 2, 2))

    first = jobs.watch("x", work)
    await anext(first)
    await first.aclose()
    assert await steps(jobs.watch("x", work)) == [FetchProgress("a", 0, 2)]
    go.set()
    assert runs == [1, 1]


async def test_the_error_of_a_job_reaches_everybody() -> None:
    jobs, go = Jobs(), threading.Event()

    def work(report: Report) -> None:
        report(FetchProgress("a", 0, 2))
        go.wait(10)
        raise NotFound("gone")

    watchers = [jobs.watch("x", work) for _ in range(3)]
    for watcher in watchers:
        await anext(watcher)
    go.set()
    for watcher in watchers:
        with pytest.raises(NotFound, match="gone"):
            await steps(watcher)


async def test_a_slow_watcher_sees_the_newest_of_each_part() -> None:
    jobs = Jobs()

    def work(report: Report) -> None:
        for done in range(5000):
            report(FetchProgress("large", done, 5000))
        report(FetchProgress("large", 5000, 5000))
        report(FetchProgress("small", 1, 1))

    async with aclosing(jobs.watch("x", work)) as watched:
        found = [await anext(watched)]
        found += [step async for step in watched]
    assert found[-2:] == [FetchProgress("large", 5000, 5000), FetchProgress("small", 1, 1)]
    assert len(found) < 200


async def test_too_many_jobs_at_once() -> None:
    jobs, go = Jobs(), threading.Event()

    def work(report: Report) -> None:
        report(FetchProgress("a", 0, 2))
        go.wait(10)

    watched = [jobs.watch(f"{n}", work) for n in range(16)]
    for one in watched:
        await anext(one)
    with pytest.raises(Busy) as caught:
        await anext(jobs.watch("one more", work))
    assert caught.value.retry_after
    assert await anext(jobs.watch("3", work)) == FetchProgress("a", 0, 2), "watching costs nothing"
    go.set()
    for one in watched:
        await steps(one)
    assert await steps(jobs.watch("one more", lambda _: None)) == []


async def test_close_stops_what_runs() -> None:
    jobs, go = Jobs(), threading.Event()

    def work(report: Report) -> None:
        report(FetchProgress("a", 0, 2))
        go.wait(10)

    watched = jobs.watch("x", work)
    await anext(watched)
    await jobs.close()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await steps(watched)


# ---- pull and push -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[registries.Real]:
    with registries.docker_registry(tmp_path_factory.mktemp("registry")) as found:
        yield found


async def test_a_model_goes_to_a_registry_and_comes_back(
    library: ModelLibrary, tiny: Path, registry: registries.Real
) -> None:
    ref = f"oci:{registry.host}/team/tiny:v1"
    before = await library.card("tiny")
    sent = await steps(library.push("tiny", ref))
    assert digest(tiny.read_bytes()) in {step.digest for step in sent}
    again = await steps(library.push("tiny", ref))
    assert any("there already" in step.what for step in again)
    await library.delete("tiny")
    came = await steps(library.pull("nothing-here", ref))
    assert came[-1].total is None or came[-1].done == came[-1].total
    after = await library.card(ref)
    assert (after.parameters, after.architecture) == (before.parameters, before.architecture)


async def test_parts_that_come_have_their_digest(
    library: ModelLibrary, tiny: Path, registry: registries.Real
) -> None:
    ref = f"oci:{registry.host}/team/again:v1"
    await steps(library.push("tiny", ref))
    await library.delete("tiny")
    came = await steps(library.pull(ref))
    assert digest(tiny.read_bytes()) in {step.digest for step in came}


async def test_a_pull_says_why_the_first_name_failed(library: ModelLibrary) -> None:
    with pytest.raises(ModelNotFound, match="no model called nothing-here"):
        await steps(library.pull("nothing-here", "nothing-there"))


async def test_a_pull_stops_when_its_caller_leaves(
    library: ModelLibrary, settings: Settings, tmp_path: Path
) -> None:
    begun, left = threading.Event(), threading.Event()

    def endless(asked: registries.Asked) -> registries.Told:
        if "manifests" in asked.path:
            body = MANIFEST
            return registries.Told(200, body, {"Content-Type": registries.OCI_MANIFEST})

        def trickle() -> Iterator[bytes]:
            yield b"GGUF" + bytes(1 << 16)
            begun.set()
            try:
                while True:
                    yield bytes(1 << 16)
                    time.sleep(0.01)
            finally:
                left.set()

        return registries.Told(200, trickle(), {"Content-Length": str(SIZE)})

    with registries.scripted(endless) as host:
        watched = library.pull(f"oci:{host.host}/team/x:v1")
        await anext(watched)
        assert await asyncio.to_thread(begun.wait, 20)
        await watched.aclose()
        assert await asyncio.to_thread(left.wait, 20), "the download went on"


SIZE = 1 << 33
MANIFEST = (
    b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",'
    b'"artifactType":"application/vnd.cncf.model.manifest.v1+json",'
    b'"config":{"mediaType":"application/vnd.cncf.model.config.v1+json","digest":"sha256:'
    + hashlib.sha256(b"{}").hexdigest().encode()
    + b'","size":2,"data":"e30="},"layers":[{"mediaType":'
    b'"application/vnd.cncf.model.weight.v1.raw",'
    b'"digest":"sha256:' + b"a" * 64 + b'","size":' + str(SIZE).encode() + b","
    b'"annotations":{"org.cncf.model.filepath":"model.gguf"}}]}'
)


@pytest.fixture
async def guarded(settings: Settings) -> AsyncIterator[ModelLibrary]:
    """The library of a server whose clients are others than the person at this machine."""
    made = ModelLibrary(settings, registries_of(True, ["ours.example:5000"]))
    yield made
    await made.close()


async def test_clients_do_not_send_the_server_into_its_own_network(
    guarded: ModelLibrary, tiny: Path, settings: Settings
) -> None:
    asked: list[str] = []

    def listening(one: registries.Asked) -> registries.Told:
        asked.append(one.path)
        return registries.Told(404)

    with registries.scripted(listening) as host:
        port = host.host.rpartition(":")[2]
        for name in (host.host, f"localhost:{port}", f"LOCALHOST:{port}", f"[::1]:{port}"):
            ref = f"oci:{name}/team/x:v1"
            works = (
                guarded.pull(ref),
                guarded.pull("nothing-here", ref),
                guarded.pull(ref.replace("oci:", "ollama:")),
                guarded.push("tiny", ref),
                guarded.create("mine", base=ref),
            )
            for work in works:
                with pytest.raises(Refused, match="no public host") as caught:
                    await steps(work)
                assert "--registry" in str(caught.value.hint)
        assert asked == []
        named = ModelLibrary(settings, registries_of(True, [host.host]))
        with pytest.raises(ModelNotFound):
            await steps(named.pull(f"oci:{host.host}/team/x:v1"))
        await named.close()
        assert asked, "a registry that was named is asked"


async def test_a_model_that_is_here_may_be_built_on_wherever_it_came_from(
    library: ModelLibrary, guarded: ModelLibrary, tiny: Path
) -> None:
    await library.copy("tiny", "oci:127.0.0.1:9/team/tiny")
    await steps(guarded.create("mine", base="oci:127.0.0.1:9/team/tiny:latest"))
    assert (await guarded.card("mine")).id == "mine"


# ---- files that come, and models of them -----------------------------------------------------


async def test_a_model_is_made_of_a_file_that_was_sent(
    library: ModelLibrary, tmp_path: Path, settings: Settings
) -> None:
    file = tmp_path / "sent.gguf"
    write_llama(file)
    data = file.read_bytes()
    assert not await library.has_blob(digest(data))
    await library.put_blob(digest(data), pieces(data))
    assert await library.has_blob(digest(data).replace(":", "-"))
    commands = [("system", "", 'Be "brief".\n'), ("parameter", "temperature", "0.5")]
    await steps(library.create("mine", files={"m.gguf": digest(data)}, commands=commands))
    details = await library.show("mine")
    assert (details.system, details.parameters) == ('Be "brief".\n', {"temperature": 0.5})
    manifest = Store(settings.home).get(parse("mine"))
    assert manifest.weights.digest == digest(data)
    assert Store(settings.home).link(manifest.weights.digest) is None, "it is the store's own"
    assert find("mine", settings).weights.read_bytes() == data
    assert list((settings.home / "incoming").iterdir()) == []
    await library.delete("mine")
    assert not await library.has_blob(digest(data))


async def test_the_same_files_give_the_same_model(library: ModelLibrary, tmp_path: Path) -> None:
    file = tmp_path / "sent.gguf"
    write_llama(file)
    data = file.read_bytes()
    await library.put_blob(digest(data), pieces(data))
    await asyncio.gather(
        *(steps(library.create(f"m{n}", files={"m.gguf": digest(data)})) for n in range(4))
    )
    cards = await library.cards()
    assert len(cards) == 4
    weights = {Store(load().home).get(parse(card.id)).weights.digest for card in cards}
    assert weights == {digest(data)}


async def test_a_split_model_is_made_of_its_files(library: ModelLibrary, tmp_path: Path) -> None:
    whole = tmp_path / "whole.gguf"
    write_llama(whole)
    files = {}
    for part in gguf_split.cut(whole, tmp_path / "cut", 3):
        data = part.read_bytes()
        files[part.name] = digest(data)
        await library.put_blob(digest(data), pieces(data))
    await steps(library.create("cut", files=files))
    assert (await library.card("cut")).parameters == sum(
        t.parameters for t in gguf.read(whole).tensors
    )


async def test_a_model_over_one_that_is_here(library: ModelLibrary, tiny: Path) -> None:
    await steps(library.create("ada", base="tiny", commands=[("system", "", "Hi.")]))
    assert (await library.show("ada")).system == "Hi."


async def test_wrong_bytes_are_refused_and_leave_nothing(
    library: ModelLibrary, settings: Settings
) -> None:
    with pytest.raises(BadRequest, match="digest mismatch") as caught:
        await library.put_blob(digest(b"one"), pieces(b"two"))
    assert caught.value.status == 400
    assert not await library.has_blob(digest(b"one"))
    assert list((settings.home / "incoming").iterdir()) == []


async def test_a_client_that_leaves_half_way_leaves_nothing(
    library: ModelLibrary, settings: Settings
) -> None:
    async def broken() -> AsyncGenerator[bytes, None]:
        yield bytes(3 << 20)
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await library.put_blob(digest(b"x"), broken())
    assert list((settings.home / "incoming").iterdir()) == []


async def test_a_full_disk_is_told(library: ModelLibrary, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "SPARE", 1 << 60)
    data = bytes(2 << 20)
    with pytest.raises(OutOfDisk):
        await library.put_blob(digest(data), pieces(data))


async def test_old_files_are_deleted_when_the_next_comes(
    library: ModelLibrary, settings: Settings
) -> None:
    await library.put_blob(digest(b"old"), pieces(b"old"))
    (old,) = (settings.home / "incoming").iterdir()
    os.utime(old, (1, 1))
    await library.put_blob(digest(b"new"), pieces(b"new"))
    assert not await library.has_blob(digest(b"old"))
    assert await library.has_blob(digest(b"new"))


@pytest.mark.parametrize(
    "text", ["", "sha256:", "md5:" + "a" * 64, "../../etc", "sha256:" + "g" * 64]
)
async def test_what_is_no_digest(library: ModelLibrary, text: str) -> None:
    with pytest.raises(BadRequest, match="is not a digest"):
        await library.has_blob(text)
    with pytest.raises(BadRequest, match="is not a digest"):
        await library.put_blob(text, pieces(b""))


BAD: dict[str, tuple[dict[str, Any], type[OvertError]]] = {
    "nothing": ({}, BadRequest),
    "not sent": ({"files": {"m.gguf": digest(b"?")}}, NotFound),
    "leaves its folder": ({"files": {"../m.gguf": digest(b"?")}}, BadRef),
    "no GGUF by name": ({"files": {"m.safetensors": digest(b"?")}}, Unsupported),
    "base not to be had": ({"base": "nothing-here"}, ModelNotFound),
    "bad parameter": ({"base": "tiny", "commands": [("parameter", "top_k", "x")]}, FormatError),
    "unknown parameter": ({"base": "tiny", "commands": [("parameter", "x", "1")]}, FormatError),
}


@pytest.mark.parametrize("case", BAD)
async def test_what_no_model_can_be_made_of(library: ModelLibrary, tiny: Path, case: str) -> None:
    arguments, kind = BAD[case]
    with pytest.raises(kind):
        await steps(library.create("mine", **arguments))
    assert [card.id for card in await library.cards()] == ["tiny"]


async def test_what_is_no_model_goes_back_to_the_files_that_came(
    library: ModelLibrary, settings: Settings
) -> None:
    data = b"GGUF" + bytes(100)
    await library.put_blob(digest(data), pieces(data))
    with pytest.raises(OvertError):
        await steps(library.create("mine", files={"m.gguf": digest(data)}))
    assert await library.has_blob(digest(data)), "a second try need not send it again"
    assert [path.name for path in (settings.home / "incoming").iterdir()] == [digest(data)[7:]]


async def test_names_that_are_not_ones_own(library: ModelLibrary, tiny: Path) -> None:
    with pytest.raises(BadRef):
        await library.copy("tiny", "hf:org/repo")
    with pytest.raises(BadRef):
        await library.copy("tiny", "a" * 12)
    with pytest.raises(BadRef, match="catalogue"):
        await steps(library.create("smollm2", base="tiny"))


# ---- templates of clients --------------------------------------------------------------------


async def test_a_template_of_the_clients_own_is_filled(library: ModelLibrary) -> None:
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]
    assert await library.fill("[{{ .System }}]{{ .Prompt }}>", messages) == "[S]U>"
    jinja = "{% for m in messages %}{{ m.role }}={{ m.content }};{% endfor %}"
    assert await library.fill(jinja, messages) == "system=S;user=U;"


@pytest.mark.parametrize("bad", ["{{ define }}", "{{ .Prompt", "{% x", "{% if ''.__class__ %}"])
async def test_a_template_that_is_refused(library: ModelLibrary, bad: str) -> None:
    with pytest.raises(FormatError):
        await library.fill(bad, [{"role": "user", "content": "U"}])


# ---- what the protocol expects ---------------------------------------------------------------


def test_the_library_is_what_ollamas_protocol_expects() -> None:
    for name, wanted in vars(wire.LibraryInterface).items():
        if not name.startswith("_"):
            found = inspect.signature(getattr(ModelLibrary, name)).parameters
            assert list(found) == list(inspect.signature(wanted).parameters), name


def test_details_are_what_ollamas_protocol_expects() -> None:
    wanted = {name for name in vars(wire.ModelDetailsInterface) if not name.startswith("_")}
    assert wanted == {field.name for field in dataclasses.fields(ModelDetails)}
