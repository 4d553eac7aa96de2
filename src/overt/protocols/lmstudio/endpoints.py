"""The sockets without models of their own: `/system`, `/files`, `/repository` and the rest."""

import base64
import binascii
import os
from typing import Any

import msgspec

from overt.errors import Unsupported
from overt.protocols.base import BadBody
from overt.protocols.lmstudio import files, instances, model_info
from overt.protocols.lmstudio.port import Channel, Context, Void

# ---- /system -------------------------------------------------------------------------------


class Variants(msgspec.Struct, rename="camel"):
    model_key: str


async def list_downloaded(context: Context, _: Any) -> list[model_info.Described]:
    """``listDownloadedModels``."""
    cards = await context.services.models(context.caller)
    return [model_info.described(card) for card in cards if model_info.domain(card)]


async def list_variants(context: Context, request: Variants) -> list[model_info.Described]:
    """A name is one set of weights here, so a model is its own only variant."""
    card = await instances.find(context.services, context.caller, request.model_key)
    return [model_info.described(card)]


async def version(context: Context, _: Any) -> dict[str, Any]:
    """``version``."""
    return {"version": context.services.version, "build": 0}


async def info(context: Context, _: Any) -> dict[str, Any]:
    """``info``."""
    return {"pid": os.getpid(), "isDaemon": True, "version": context.services.version}


async def experiment_flags(context: Context, _: Any) -> list[str]:
    """``getExperimentFlags``: none."""
    return []


async def notify(context: Context, _: Any) -> Void:
    """LM Studio would show it on its screen; this server has none."""
    return Void()


async def start_server(context: Context, _: Any) -> Void:
    """It runs: this is it."""
    return Void()


async def not_by_clients(context: Context, _: Any) -> Void:
    """What a client may not do to this server. Raises Unsupported."""
    raise Unsupported("a client cannot stop or change this server", "stop `overt serve` itself")


async def alive(context: Context, _: Any, channel: Channel) -> None:
    """Open for as long as both are there."""
    await channel.wait()


# ---- /files --------------------------------------------------------------------------------


class Upload(msgspec.Struct, rename="camel"):
    name: str
    content_base64: str


async def upload(context: Context, request: Upload) -> dict[str, Any]:
    """Keep a file for a conversation.

    Raises:
        BadBody: not base64.
        BadRequest: larger than there is room.
    """
    try:
        data = base64.b64decode(request.content_base64, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadBody(f"the file is not valid base64: {error}", "contentBase64") from None
    identifier, kind = files.of(context.services).add(context.caller, request.name, data)
    return {"identifier": identifier, "fileType": kind, "sizeBytes": len(data)}


async def no_documents(context: Context, _: Any) -> Void:
    """Documents are not read here. Raises Unsupported."""
    raise Unsupported(
        "documents are not read or searched here yet", "put their text into the message"
    )


async def no_document_channel(context: Context, _: Any, channel: Channel) -> None:
    """The same, for what would be a channel."""
    await no_documents(context, _)
