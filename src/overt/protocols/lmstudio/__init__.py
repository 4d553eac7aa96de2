"""LM Studio's protocols: REST `/api/v0` and `/api/v1`, and the sockets of its SDKs.

An address under `/api/v0` or `/api/v1` that does not exist is answered as LM Studio answers it:
with status 200 and an ``error`` that says so.
"""

from collections.abc import Awaitable, Callable

from starlette.websockets import WebSocket

from overt.protocols.base import HttpCall, HttpReply, HttpRoute, Protocol, ServicesInterface
from overt.protocols.lmstudio import (
    endpoints,
    models,
    predict,
    repository,
    socket,
    v0_rest,
    v1_chat,
    v1_models,
)
from overt.protocols.lmstudio.errors import refuse
from overt.protocols.lmstudio.model_info import Domain
from overt.protocols.lmstudio.port import ChannelKind, Namespace, Rpc


async def greeting(call: HttpCall) -> HttpReply:
    """How SDKs find out that LM Studio is there."""
    return HttpReply({"lmstudio": True})


async def unexpected(call: HttpCall) -> HttpReply:
    """Any address that does not exist."""
    return HttpReply({"error": f"Unexpected endpoint or method. ({call.method} {call.path[:500]})"})


# ---- the sockets ---------------------------------------------------------------------------


def _models(name: Domain) -> Namespace:
    """What both kinds of model have."""
    calls = {
        "unloadModel": Rpc(models.unload_model, models.Identified),
        "listLoaded": Rpc(models.list_loaded),
        "getModelInfo": Rpc(models.model_info, models.GetInfo),
        "getLoadConfig": Rpc(models.load_config, models.Specified),
        "getBasePredictionConfig": Rpc(models.prediction_config, models.Specified),
        "getInstanceProcessingState": Rpc(models.processing_state, models.GetInfo),
        "tokenize": Rpc(models.tokenize, models.OfText),
        "countTokens": Rpc(models.count_tokens, models.OfText),
    }
    channels = {
        "loadModel": ChannelKind(models.load_model, models.LoadModel),
        "getOrLoad": ChannelKind(models.get_or_load, models.GetOrLoad),
    }
    if name == "embedding":
        calls["embedString"] = Rpc(models.embed, models.EmbedCall)
        return Namespace(name, calls, channels, name)
    calls["applyPromptTemplate"] = Rpc(models.apply_template, models.ApplyTemplate)
    calls["preloadDraftModel"] = Rpc(models.preload_draft, models.Specified)
    channels["predict"] = ChannelKind(predict.predict, predict.Predict)
    channels["completeRawText"] = ChannelKind(predict.complete_raw, predict.CompleteRaw)
    return Namespace(name, calls, channels, name)


_SYSTEM = Namespace(
    "system",
    {
        "listDownloadedModels": Rpc(endpoints.list_downloaded),
        "listDownloadedModelVariants": Rpc(endpoints.list_variants, endpoints.Variants),
        "version": Rpc(endpoints.version),
        "info": Rpc(endpoints.info),
        "notify": Rpc(endpoints.notify),
        "getExperimentFlags": Rpc(endpoints.experiment_flags),
        "startHttpServer": Rpc(endpoints.start_server),
        "setExperimentFlag": Rpc(endpoints.not_by_clients),
        "stopHttpServer": Rpc(endpoints.not_by_clients),
        "requestShutdown": Rpc(endpoints.not_by_clients),
    },
    {"alive": ChannelKind(endpoints.alive)},
)
_FILES = Namespace(
    "files",
    {
        "uploadFileBase64": Rpc(endpoints.upload, endpoints.Upload),
        "getDocumentParsingLibrary": Rpc(endpoints.no_documents),
        "getLocalFileAbsolutePath": Rpc(endpoints.no_documents),
    },
    {
        "retrieve": ChannelKind(endpoints.no_document_channel),
        "parseDocument": ChannelKind(endpoints.no_document_channel),
    },
)
_REPOSITORY = Namespace(
    "repository",
    {
        "searchModels": Rpc(repository.search, repository.Search),
        "getModelDownloadOptions": Rpc(repository.options, repository.GetOptions),
    },
    {"downloadModel": ChannelKind(repository.download, repository.DownloadRequest)},
)
NAMESPACES = (
    _models("llm"),
    _models("embedding"),
    _SYSTEM,
    _FILES,
    _REPOSITORY,
    Namespace("plugins", unsupported="this server runs no plugins of LM Studio"),
    Namespace("diagnostics", unsupported="this server keeps no log for LM Studio's clients"),
    Namespace("runtime", unsupported="this server's engines are not chosen by clients"),
)


def _door(namespace: Namespace) -> Callable[[ServicesInterface, WebSocket], Awaitable[None]]:
    async def serve(services: ServicesInterface, opened: WebSocket) -> None:
        await socket.serve(services, opened, namespace)

    return serve


# ---- all of it -----------------------------------------------------------------------------

_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD")

PROTOCOL = Protocol(
    name="lmstudio",
    routes=(
        HttpRoute("GET", "/lmstudio-greeting", greeting, "Tell SDKs that they are right here"),
        *v0_rest.ROUTES,
        HttpRoute("GET", "/api/v1/models", v1_models.list_models, "List all models"),
        HttpRoute(
            "POST", "/api/v1/models/load", v1_models.load, "Load a model", v1_models.LoadBody
        ),
        HttpRoute(
            "POST",
            "/api/v1/models/unload",
            v1_models.unload,
            "Unload a model",
            v1_models.UnloadBody,
        ),
        HttpRoute(
            "POST",
            "/api/v1/models/download",
            v1_models.download,
            "Pull a model",
            v1_models.DownloadBody,
        ),
        HttpRoute(
            "GET",
            "/api/v1/models/download/status/{job}",
            v1_models.download_status,
            "How far a pull is",
        ),
        HttpRoute(
            "POST",
            "/api/v1/chat",
            v1_chat.chat,
            "Go on with a conversation",
            v1_chat.LmStudioChatBody,
        ),
        *(
            HttpRoute(method, f"/api/{version}/{{rest:path}}", unexpected, "Nothing is here")
            for version in ("v0", "v1")
            for method in _METHODS
        ),
        *(
            HttpRoute(
                "WEBSOCKET",
                f"/{namespace.name}",
                _door(namespace),
                f"LM Studio's socket {namespace.name}",
            )
            for namespace in NAMESPACES
        ),
    ),
    refuse=refuse,
)
