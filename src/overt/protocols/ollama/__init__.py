"""Ollama's own API, whole: what its clients and tools need to find no difference.

Field-level facts: api/types.go and server/routes.go of Ollama 0.33. What is otherwise here:

- A prompt that is longer than the context is an error; `truncate` and `shift` do not cut it.
- There is no cloud: `/api/me`, `/api/signout` and the experimental addresses say so.
- `insecure` changes nothing: registries are spoken to by https, but for those on this machine.
- A model is pushed to OCI registries, not to Ollama's, which takes keys of Ollama only.
"""

from overt.protocols.base import Call, Protocol, Reply, Route
from overt.protocols.ollama import models, wire
from overt.protocols.ollama.chat import Chat
from overt.protocols.ollama.chat import chat as _chat
from overt.protocols.ollama.embed import Embed, Embeddings
from overt.protocols.ollama.embed import embed as _embed
from overt.protocols.ollama.embed import embeddings as _embeddings
from overt.protocols.ollama.generate import Generate
from overt.protocols.ollama.generate import generate as _generate


async def _root(call: Call) -> Reply:
    return Reply(b"Ollama is running", media_type="text/plain; charset=utf-8")


async def _version(call: Call) -> Reply:
    return Reply({"version": wire.VERSION, "overt": call.services.version})


async def _status(call: Call) -> Reply:
    return Reply({"cloud": {"disabled": True, "source": "env"}})


async def _recommended(call: Call) -> Reply:
    return Reply({"recommendations": []})


_NO_SEARCH = models.no_cloud("web search is unavailable")
_NO_FETCH = models.no_cloud("web fetch is unavailable")
_NO_ACCOUNT = models.no_cloud("there are no accounts here")
_BLOB = "/api/blobs/{digest}"
_MAX_BLOB = 1 << 41  # bytes of one file

PROTOCOL = Protocol(
    name="ollama",
    routes=(
        Route("GET", "/", _root, "Whether it is running"),
        Route("HEAD", "/", _root, "Whether it is running"),
        Route("GET", "/api/version", _version, "The version"),
        Route("HEAD", "/api/version", _version, "The version"),
        Route("GET", "/api/tags", models.tags, "The models that are here"),
        Route("HEAD", "/api/tags", models.tags, "The models that are here"),
        Route("GET", "/api/status", _status, "Whether Ollama's cloud is used: never"),
        Route("GET", "/api/ps", models.ps, "The models in memory"),
        Route("POST", "/api/generate", _generate, "Continue a prompt", Generate),
        Route("POST", "/api/chat", _chat, "Answer a conversation", Chat),
        Route("POST", "/api/embed", _embed, "Embed texts", Embed),
        Route("POST", "/api/embeddings", _embeddings, "Embed one text (older form)", Embeddings),
        Route("POST", "/api/show", models.show, "Everything about a model", models.Show),
        Route("POST", "/api/pull", models.pull, "Fetch a model", models.Pull),
        Route("POST", "/api/push", models.push, "Send a model to a registry", models.Pull),
        Route("POST", "/api/create", models.create, "Make a model", models.Create),
        Route("POST", "/api/copy", models.copy, "Give a model one more name", models.Copy),
        Route("DELETE", "/api/delete", models.delete, "Remove a model", models.Delete),
        Route("HEAD", _BLOB, models.has_blob, "Whether a file is here"),
        Route(
            "POST", _BLOB, models.put_blob, "Send a file for create", limit=_MAX_BLOB, upload=True
        ),
        Route("POST", "/api/me", _NO_ACCOUNT, "Who is signed in: nobody"),
        Route("POST", "/api/signout", _NO_ACCOUNT, "Sign out"),
        Route("DELETE", "/api/user/keys/{key}", _NO_ACCOUNT, "Remove a key"),
        Route("POST", "/api/experimental/web_search", _NO_SEARCH, "Search the web: not here"),
        Route("POST", "/api/experimental/web_fetch", _NO_FETCH, "Fetch a page: not here"),
        Route("GET", "/api/experimental/model-recommendations", _recommended, "Recommended models"),
    ),
    refuse=wire.refuse,
)
