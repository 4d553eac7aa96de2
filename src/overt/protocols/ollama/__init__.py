"""Ollama's own API, whole: what its clients and tools need to find no difference.

Field-level facts: api/types.go and server/routes.go of Ollama 0.33. What is otherwise here:

- A prompt that is longer than the context is an error; `truncate` and `shift` do not cut it.
- There is no cloud: `/api/me`, `/api/signout` and the experimental addresses say so.
- `insecure` changes nothing: registries are spoken to by https, but for those on this machine.
- A model is pushed to OCI registries, not to Ollama's, which takes keys of Ollama only.
"""

from overt.protocols.base import HttpCall, HttpReply, HttpRoute, Protocol
from overt.protocols.ollama import models, wire
from overt.protocols.ollama.chat import OllamaChatBody
from overt.protocols.ollama.chat import chat as _chat
from overt.protocols.ollama.embed import LegacyEmbedBody, OllamaEmbedBody
from overt.protocols.ollama.embed import embed as _embed
from overt.protocols.ollama.embed import embeddings as _embeddings
from overt.protocols.ollama.generate import Generate
from overt.protocols.ollama.generate import generate as _generate


async def _root(call: HttpCall) -> HttpReply:
    return HttpReply(b"Ollama is running", media_type="text/plain; charset=utf-8")


async def _version(call: HttpCall) -> HttpReply:
    return HttpReply({"version": wire.VERSION, "overt": call.services.version})


async def _status(call: HttpCall) -> HttpReply:
    return HttpReply({"cloud": {"disabled": True, "source": "env"}})


async def _recommended(call: HttpCall) -> HttpReply:
    return HttpReply({"recommendations": []})


_NO_SEARCH = models.no_cloud("web search is unavailable")
_NO_FETCH = models.no_cloud("web fetch is unavailable")
_NO_ACCOUNT = models.no_cloud("there are no accounts here")
_BLOB = "/api/blobs/{digest}"
_MAX_BLOB = 1 << 41  # bytes of one file

PROTOCOL = Protocol(
    name="ollama",
    routes=(
        HttpRoute("GET", "/", _root, "Whether it is running"),
        HttpRoute("HEAD", "/", _root, "Whether it is running"),
        HttpRoute("GET", "/api/version", _version, "The version"),
        HttpRoute("HEAD", "/api/version", _version, "The version"),
        HttpRoute("GET", "/api/tags", models.tags, "The models that are here"),
        HttpRoute("HEAD", "/api/tags", models.tags, "The models that are here"),
        HttpRoute("GET", "/api/status", _status, "Whether Ollama's cloud is used: never"),
        HttpRoute("GET", "/api/ps", models.ps, "The models in memory"),
        HttpRoute("POST", "/api/generate", _generate, "Continue a prompt", Generate),
        HttpRoute("POST", "/api/chat", _chat, "Answer a conversation", OllamaChatBody),
        HttpRoute("POST", "/api/embed", _embed, "Embed texts", OllamaEmbedBody),
        HttpRoute(
            "POST", "/api/embeddings", _embeddings, "Embed one text (older form)", LegacyEmbedBody
        ),
        HttpRoute("POST", "/api/show", models.show, "Everything about a model", models.Show),
        HttpRoute("POST", "/api/pull", models.pull, "Fetch a model", models.Pull),
        HttpRoute("POST", "/api/push", models.push, "Send a model to a registry", models.Pull),
        HttpRoute("POST", "/api/create", models.create, "Make a model", models.CreateModelBody),
        HttpRoute("POST", "/api/copy", models.copy, "Give a model one more name", models.Copy),
        HttpRoute("DELETE", "/api/delete", models.delete, "Remove a model", models.Delete),
        HttpRoute("HEAD", _BLOB, models.has_blob, "Whether a file is here"),
        HttpRoute(
            "POST", _BLOB, models.put_blob, "Send a file for create", limit=_MAX_BLOB, upload=True
        ),
        HttpRoute("POST", "/api/me", _NO_ACCOUNT, "Who is signed in: nobody"),
        HttpRoute("POST", "/api/signout", _NO_ACCOUNT, "Sign out"),
        HttpRoute("DELETE", "/api/user/keys/{key}", _NO_ACCOUNT, "Remove a key"),
        HttpRoute("POST", "/api/experimental/web_search", _NO_SEARCH, "Search the web: not here"),
        HttpRoute("POST", "/api/experimental/web_fetch", _NO_FETCH, "Fetch a page: not here"),
        HttpRoute(
            "GET", "/api/experimental/model-recommendations", _recommended, "Recommended models"
        ),
    ),
    refuse=wire.refuse,
)
