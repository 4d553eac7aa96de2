"""The list of a server's models: whatever comes, names that a ref can hold or one clear error."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overt import ref as refs
from overt.errors import BadRef, ProviderFailed, TimedOut
from overt.providers.manager import Providers
from overt.providers.openai.compatible import listed
from overt.settings import load

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["data", "id", "object", "x"]), inner, max_size=4)
    ),
    max_leaves=12,
)


def _names(body: bytes) -> tuple[str, ...] | None:
    try:
        return listed(body, "the server")
    except ProviderFailed:
        return None


@given(_json)
def test_any_json_is_a_list_or_an_error(value: object) -> None:
    _names(json.dumps(value).encode())


@given(st.binary(max_size=200))
def test_any_bytes_are_a_list_or_an_error(body: bytes) -> None:
    _names(body)


@given(st.lists(st.text(max_size=600), max_size=6))
def test_names_can_be_shown_and_come_once(names: list[str]) -> None:
    found = _names(json.dumps({"data": [{"id": name} for name in names]}).encode())
    if found is None:  # half a surrogate pair
        return
    assert len(set(found)) == len(found)
    assert all(name.isprintable() and "#" not in name and 0 < len(name) <= 512 for name in found)
    assert set(found) <= set(names)


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"data":' * 50_000, b'{"data": [{"id": 1}]}'])
def test_depth_and_wrong_types_are_errors(body: bytes) -> None:
    assert _names(body) is None


async def _answering(answer: bytes | None) -> tuple[asyncio.Server, str]:
    """A server that answers everything with `answer`, or nothing at all."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if answer is None:
            await reader.read()
        else:
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(answer)}\r\nConnection: close\r\n\r\n"
            writer.write(head.encode() + answer)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    return server, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        (b'{"data": []}', BadRef, "lists no models"),
        (b'{"data": [{"id": "b"}, {"id": "a"}]}', BadRef, "names a server and no model of it"),
        (b'["gpt"]', BadRef, "asked for a list: .* sent what no client understands"),
        (b'{"data": [{"id": "a#b"}]}', BadRef, "lists no models"),
        (None, TimedOut, "did not list its models within 0.2 s"),
    ],
)
async def test_a_server_whose_only_model_cannot_be_had(
    home: Path, answer: bytes | None, error: type[Exception], said: str
) -> None:
    server, url = await _answering(answer)
    providers = Providers(replace(load(), connect_timeout="0.2s", retries=0), environ={})
    async with server:
        try:
            with pytest.raises(error, match=said):
                await providers.opened(url)
        finally:
            await providers.close()


@pytest.mark.anyio
async def test_an_only_model_is_asked_for_once(home: Path) -> None:
    server, url = await _answering(b'{"data": [{"id": "org/model:7b"}]}')
    providers = Providers(replace(load(), retries=0), environ={})
    try:
        async with server:
            assert (await providers.opened(url)).facts.ref == f"{url}#org/model:7b"
        assert refs.parse(await providers.sole_model(url)).file == "org/model:7b"  # it has gone
    finally:
        await providers.close()
