"""Files: what is uploaded comes back byte for byte, to its owner, until deleted or expired."""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import stateful
from hypothesis import given
from hypothesis import strategies as st
from stateful import World

from overt.errors import OutOfDisk
from overt.protocols import disk
from overt.protocols.base import BadBody, Caller, HttpCall
from overt.protocols.openai import files as openai_files
from overt.protocols.openai.files import create, sweep, write
from overt.protocols.openai.stored import integer

pytestmark = pytest.mark.anyio

FILES = "/v1/files"
ANNE = Caller("anne")


@pytest.fixture
async def world(home: Path) -> AsyncIterator[World]:
    async with stateful.world(home) as made:
        yield made


async def _upload(
    world: World, content: bytes = b"data", name: str = "a.txt", **fields: str
) -> Any:
    answer = await world.client.post(
        FILES,
        data={"purpose": "user_data", **fields},
        files={"file": (name, content)},
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_file_comes_back_as_it_was_sent(world: World, home: Path) -> None:
    content = bytes(range(256)) * 5000 + b"\r\n--"
    file = await _upload(world, content, purpose="batch")
    assert file == {
        "id": file["id"],
        "object": "file",
        "bytes": len(content),
        "created_at": file["created_at"],
        "filename": "a.txt",
        "purpose": "batch",
        "status": "processed",
    }
    one = f"{FILES}/{file['id']}"
    assert await world.ask("GET", one) == file
    answer = await world.client.get(f"{one}/content")
    assert answer.content == content
    assert answer.headers["content-length"] == str(len(content))
    (kept,) = (home / "files/uploads").iterdir()
    assert kept.stat().st_mode & 0o077 == 0
    assert await world.ask("DELETE", one) == {"id": file["id"], "object": "file", "deleted": True}
    assert list((home / "files/uploads").iterdir()) == []
    for path in (one, f"{one}/content"):
        status, error = await world.refused("GET", path)
        assert (status, file["id"] in error["message"]) == (404, True)


async def test_nobody_reads_or_deletes_anothers(world: World) -> None:
    one = f"{FILES}/{(await _upload(world))['id']}"
    for method, path in (("GET", one), ("GET", f"{one}/content"), ("DELETE", one)):
        answer = await world.client.request(method, path, headers={"x-key": "ben"})
        assert answer.status_code == 404
    answer = await world.client.get(FILES, headers={"x-key": "ben"})
    assert answer.json()["data"] == []
    assert (await world.client.get(f"{one}/content")).content == b"data"


async def test_files_are_listed_in_pages(world: World) -> None:
    files = [
        await _upload(world, name=name, purpose=purpose)
        for name, purpose in zip("abcd", ("batch", "evals", "batch", "batch"), strict=True)
    ]

    async def names(query: str = "") -> tuple[str, bool]:
        found = await world.ask("GET", FILES + query)
        return "".join(file["filename"] for file in found["data"]), found["has_more"]

    assert await names() == ("dcba", False)
    assert await names("?order=asc&limit=2") == ("ab", True)
    assert await names(f"?order=asc&limit=2&after={files[1]['id']}") == ("cd", False)
    assert await names("?purpose=batch&limit=2") == ("dc", True)
    assert await names("?purpose=batch&limit=3") == ("dca", False)
    assert await names("?purpose=vision") == ("", False)
    assert (await world.refused("GET", FILES + "?limit=0"))[1]["param"] == "limit"
    assert (await world.refused("GET", FILES + "?after=nothing"))[0] == 404


async def test_files_expire(world: World, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expiry = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    file = await _upload(world, **expiry)
    assert file["expires_at"] == file["created_at"] + 3600
    assert (await world.client.get(f"{FILES}/{file['id']}/content")).content == b"data"
    (kept,) = (home / "files/uploads").iterdir()
    before = time.time()
    monkeypatch.setattr(time, "time", lambda: before + 3601)
    await sweep(world.services)  # the content goes by itself, whatever the records do
    assert not kept.exists()
    assert (await world.refused("GET", f"{FILES}/{file['id']}/content"))[0] == 404


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"purpose": "fun"}, "purpose"),
        ({"purpose": ""}, "purpose"),
        ({"purpose": "batch", "colour": "red"}, "colour"),
        ({"purpose": "b" * 5000}, "purpose"),
        ({"purpose": "batch", "expires_after[anchor]": "now"}, "expires_after[anchor]"),
        ({"purpose": "batch", "expires_after[seconds]": "3600"}, "expires_after[anchor]"),
        (
            {"purpose": "batch", "expires_after[anchor]": "created_at"},
            "expires_after[seconds]",
        ),
        *(
            (
                {
                    "purpose": "batch",
                    "expires_after[anchor]": "created_at",
                    "expires_after[seconds]": seconds,
                },
                param,
            )
            for seconds, param in [
                ("soon", "expires_after[seconds]"),
                ("-5", "expires_after[seconds]"),
                ("3599", "expires_after.seconds"),
                ("2592001", "expires_after.seconds"),
            ]
        ),
    ],
)
async def test_a_form_that_is_wrong_is_refused_and_leaves_nothing(
    world: World, home: Path, fields: dict[str, str], param: str
) -> None:
    answer = await world.client.post(FILES, data=fields, files={"file": ("a", b"data")})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert list((home / "files/uploads").iterdir()) == []
    assert (await world.ask("GET", FILES))["data"] == []


async def test_a_form_needs_one_file(world: World) -> None:
    none = await world.client.post(FILES, data={"purpose": "batch"}, files={"other": ("a", b"")})
    assert (none.status_code, none.json()["error"]["param"]) == (400, "other")
    two = [("file", ("a", b"")), ("file", ("b", b""))]
    answer = await world.client.post(FILES, data={"purpose": "batch"}, files=two)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "file")
    answer = await world.client.post(FILES, json={"file": "a", "purpose": "batch"})
    assert answer.status_code == 400


async def test_too_large_a_file_is_refused_and_removed(
    world: World, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai_files, "MAX_FILE_BYTES", 1000)
    answer = await world.client.post(
        FILES, data={"purpose": "batch"}, files={"file": ("a", b"x" * 1001)}
    )
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "file")
    assert list((home / "files/uploads").iterdir()) == []


async def test_a_file_that_would_fill_the_disk_is_refused_and_removed(
    world: World, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, free = shutil.disk_usage(home), [1 << 40, disk.SPARE - 1]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: real._replace(free=free.pop(0)))
    monkeypatch.setattr(disk, "LOOK", 1 << 16)

    async def chunks() -> AsyncIterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
        for _ in range(8):
            yield b"x" * (1 << 15)

    headers = {"content-type": "multipart/form-data; boundary=x"}
    call = HttpCall(world.services, ANNE, "", "POST", FILES, {}, {}, headers, chunks=chunks())
    with pytest.raises(OutOfDisk, match="255 MiB are free"):
        await create(call)
    assert free == [], "it is looked at again on the way"
    assert list((home / "files/uploads").iterdir()) == []


async def test_a_client_that_leaves_leaves_nothing(world: World, home: Path) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
        yield b"data" * 100
        raise asyncio.CancelledError  # as the server ends a request whose client is gone

    headers = {"content-type": "multipart/form-data; boundary=x"}
    call = HttpCall(world.services, ANNE, "", "POST", FILES, {}, {}, headers, chunks=chunks())
    with pytest.raises(asyncio.CancelledError):
        await create(call)
    assert list((home / "files/uploads").iterdir()) == []


async def test_what_a_killed_server_left_is_swept(world: World, home: Path) -> None:
    file = await _upload(world)
    folder = home / "files/uploads"
    (folder / "file-dead.part").write_bytes(b"half")
    (folder / f"file-old.{int(time.time()) - 5}").write_bytes(b"old")
    (folder / f"file-new.{int(time.time()) + 500}").write_bytes(b"new")
    await sweep(world.services)
    assert {path.name.partition(".")[0] for path in folder.iterdir()} == {file["id"], "file-new"}


async def test_files_are_there_after_a_restart(home: Path) -> None:
    async with stateful.world(home) as world:
        file = await _upload(world, b"kept")
    async with stateful.world(home) as world:
        await sweep(world.services)
        assert (await world.client.get(f"{FILES}/{file['id']}/content")).content == b"kept"


async def test_writing_the_same_output_again_makes_no_second_file(world: World) -> None:
    first = await write(world.services, ANNE, "o.jsonl", [b"1\n", b"2\n"], seed="s")
    again = await write(world.services, ANNE, "o.jsonl", [b"1\n", b"2\n"], seed="s")
    assert first is not None
    assert again is not None
    assert (first.id, first.purpose, first.bytes) == (again.id, "batch_output", 4)
    assert len((await world.ask("GET", FILES))["data"]) == 1
    assert await write(world.services, ANNE, "o.jsonl", [], seed="t") is None


@pytest.mark.parametrize(
    ("sent", "kept"),
    [("../../etc/passwd", "passwd"), ("C:\\dir\\a.txt", "a.txt"), ("a\x00b", "ab"), ("", "upload")],
)
async def test_a_file_name_is_only_a_name(world: World, sent: str, kept: str) -> None:
    body = (
        b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="%b"\r\n\r\n1\r\n--x--\r\n'
    ) % sent.replace("\\", "\\\\").encode()
    answer = await world.client.post(
        FILES, content=body, headers={"content-type": "multipart/form-data; boundary=x"}
    )
    assert answer.json()["filename"] == kept


@given(body=st.binary(max_size=60))
def test_whole_numbers_are_read_or_refused(body: bytes) -> None:
    call = HttpCall(None, ANNE, "", "GET", FILES, {}, {"limit": body.decode("latin-1")}, {})  # type: ignore[arg-type]
    with suppress(BadBody):
        assert 1 <= integer(call, "limit", 5, least=1, most=100) <= 100
