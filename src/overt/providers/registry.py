"""Which dialect and which server a ref of another machine means."""

from collections.abc import Callable
from importlib import import_module
from urllib.parse import urlsplit, urlunsplit

from overt.errors import BadRef
from overt.providers.base import Destination, Dialect, HttpClientInterface, Provider
from overt.ref import Ref

_DIALECTS = {
    "openai": ("overt.providers.openai.dialect", "OpenAI"),
    "anthropic": ("overt.providers.anthropic.dialect", "Anthropic"),
    "gemini": ("overt.providers.gemini.dialect", "Gemini"),
    "http": ("overt.providers.openai.compatible", "CompatibleServer"),
}
"""By scheme of a ref: the module of its dialect and the class, imported when first asked for."""


def dialect(ref: Ref) -> Dialect:
    """What `ref` is spoken to in."""
    module, name = _DIALECTS[ref.scheme]
    made: Dialect = getattr(import_module(module), name)()
    return made


def base(ref: Ref) -> str:
    """The base URL of an ``http`` ref: without the model, and ``/v1`` where it has no path."""
    parts = urlsplit(ref.name)
    return urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/") or "/v1", "", ""))


def login_name(ref: Ref) -> str:
    """What the key of `ref` is kept under: the provider, or the server's URL."""
    return base(ref) if ref.scheme == "http" else ref.scheme


def destination(
    ref: Ref, spoken: Dialect, url: str, secret: str, *, bearer: bool = False
) -> Destination:
    """Where requests for `ref` go: to `url`, with `secret` ("" for none).

    A `bearer` is a token of the kind that goes into no other header than Authorization.
    """
    name = login_name(ref)
    headers = spoken.headers("" if bearer else secret)
    if bearer:
        headers["authorization"] = f"Bearer {secret}"
    if ref.scheme == "http" and url.startswith("http://"):
        # llama.cpp's server promises Keep-Alive and closes the connection behind each stream
        # (measured, xllamacpp 2026.10.11549): of requests sent over it again one in eight was
        # lost, and a lost request is not sent twice. Without TLS a new one costs little.
        headers["connection"] = "close"
    return Destination(
        base=url,
        headers=headers,
        secret=secret,
        label=urlsplit(url).netloc if ref.scheme == "http" else ref.scheme,
        add_key=f"overt login {name}",
    )


def open(
    ref: Ref,
    to: Destination,
    spoken: Dialect,
    wire: HttpClientInterface,
    notice: Callable[[str], None],
) -> Provider:
    """The engine for `ref`.

    Raises:
        BadRef: an ``http`` ref that names no model.
    """
    model = ref.file if ref.scheme == "http" else ref.name
    if not model:
        raise BadRef(
            f"{ref} names a server and no model of it", f"write {ref}#MODEL, as GET /models has it"
        )
    return Provider(spoken, model, to, wire, notice, str(ref))
