"""`/repository`: what can be pulled, and pulling it.

Searching finds the short names of Overt's catalogue, and ``owner/repository`` of the hub as it is
written; the hub itself is not searched.
"""

import re
from contextlib import aclosing
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from overt.errors import BadRef, NotFound, Stopped
from overt.models.sources import catalogue
from overt.protocols.lmstudio import downloads
from overt.protocols.lmstudio.port import Channel, Context
from overt.ref import parse

_DEFAULT_LIMIT, _MAX_LIMIT = 10, 25


class SearchOptions(msgspec.Struct, rename="camel"):
    search_term: str = ""
    limit: Annotated[int, Meta(gt=0, le=_MAX_LIMIT)] = _DEFAULT_LIMIT
    compatibility_types: list[str] | None = None


class Search(msgspec.Struct):
    opts: SearchOptions = msgspec.field(default_factory=SearchOptions)


class Identifier(msgspec.Struct):
    type: Literal["catalog", "hf"]
    identifier: str


class GetOptions(msgspec.Struct, rename="camel"):
    model_search_result_identifier: Identifier


class DownloadRequest(msgspec.Struct, rename="camel"):
    download_identifier: str


async def search(context: Context, request: Search) -> dict[str, Any]:
    """``searchModels``."""
    opts = request.opts
    if opts.compatibility_types is not None and "gguf" not in opts.compatibility_types:
        return {"results": []}
    words = [_plain(word) for word in opts.search_term.split()]
    results = [
        {
            "name": str(entry.ref),
            "identifier": {"type": "catalog", "identifier": str(entry.ref)},
            "exact": _plain(opts.search_term) in (_plain(str(entry.ref)), _plain(entry.name)),
        }
        for entry in catalogue.entries()
        if all(word in _plain(f"{entry.ref} {entry.about}") for word in words)
    ]
    if repository := _repository(opts.search_term):
        results.insert(
            0,
            {
                "name": repository,
                "identifier": {"type": "hf", "identifier": repository},
                "exact": True,
            },
        )
    return {"results": results[: opts.limit]}


async def options(context: Context, request: GetOptions) -> dict[str, Any]:
    """One way to have a model: the catalogue and the hub's rules choose its quantization."""
    identifier = request.model_search_result_identifier
    if identifier.type == "hf":
        repository = _repository(identifier.identifier)
        if repository is None:
            raise NotFound(f"{identifier.identifier[:200]!r} is no owner/repository")
        return {"results": [_option(repository, f"hf:{repository}", 0)]}
    try:
        entry = catalogue.lookup(parse(identifier.identifier))
    except BadRef:
        entry = None
    if entry is None:
        raise NotFound(
            f"the catalogue has no {identifier.identifier[:200]!r}", "search for a part of it"
        )
    return {"results": [_option(str(entry.ref), str(entry.ref), entry.size or 0)]}


async def download(context: Context, request: DownloadRequest, channel: Channel) -> None:
    """``downloadModel``."""
    ref = downloads.ref_of(request.download_identifier)
    with channel.until_cancelled() as scope:
        async with aclosing(downloads.steps(context.services, ref)) as amounts:
            async for amount in amounts:
                update = {
                    "downloadedBytes": amount.done,
                    "totalBytes": amount.total,
                    "speedBytesPerSecond": amount.speed,
                }
                await channel.send({"type": "downloadProgress", "update": update})
    if scope.cancelled_caught:
        raise Stopped("the download was cancelled", "start it again to go on where it was")
    await channel.send({"type": "startFinalizing"})
    card = await context.services.model(context.caller, ref)
    await channel.send({"type": "success", "defaultIdentifier": card.id})


def _option(name: str, ref: str, size: int) -> dict[str, Any]:
    return {
        "name": name,
        "sizeBytes": size,
        "fitEstimation": "fitWithoutGPU",
        "downloadIdentifier": ref,
        "indexedModelIdentifier": name,
        "recommended": True,
    }


def _repository(text: str) -> str | None:
    """``owner/repository`` in a search term or an address of the hub."""
    try:
        ref = downloads.ref_of(text.strip())
    except (NotFound, BadRef):
        return None
    return ref.removeprefix("hf:").partition("#")[0] if ref.startswith("hf:") else None


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())
