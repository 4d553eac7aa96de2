"""Model names as Ollama's clients write them, and Overt's refs: pure translation, both ways.

::

    smollm2, smollm2:latest, library/smollm2     the same model
    hf.co/org/repo:Q4_K_M                        hf:org/repo#Q4_K_M
    namespace/name:tag                           ollama:namespace/name:tag
    host:5000/namespace/name:tag                 of an OCI or an Ollama registry there
    hf:…, echo:…, sha256:…                       refs of Overt are understood too

Ollama adds ``:latest`` where no tag is given. In the store of Overt a name without a tag is a name
of its own, so both are tried, the one that was written first.
"""

from collections.abc import Sequence
from contextlib import suppress

from overt.errors import BadRef, ModelNotFound
from overt.ref import Ref, parse

_HOST = "registry.ollama.ai"
_HUBS = ("hf.co", "huggingface.co")
_LATEST = "latest"


def candidates(name: str) -> tuple[str, ...]:
    """The refs that `name` may mean in the store, or when it is pulled; the likeliest first.

    Raises:
        ModelNotFound: no name a model can have; the words are Ollama's.
    """
    try:
        refs = tuple(dict.fromkeys(str(ref) for ref in _candidates(name)))
    except BadRef:
        raise not_found(name) from None
    if not refs:
        raise not_found(name)
    return refs


def not_found(name: str) -> ModelNotFound:
    """Ollama's own words, which clients look for."""
    return ModelNotFound(f"model '{name[:200]}' not found")


def shown(ref: str) -> str:
    """A ref of the store as Ollama's clients are shown it; `candidates` reads it back."""
    parsed = parse(ref)
    tag = parsed.tag or _LATEST
    if parsed.scheme == "name":
        return f"{parsed.name}:{tag}"
    if parsed.scheme == "hf" and parsed.tag is None:
        return f"hf.co/{parsed.name}" + (f":{parsed.file}" if parsed.file else "")
    if parsed.scheme in ("ollama", "oci") and not tag.startswith("sha256:"):
        host = f"{parsed.host}/" if parsed.host else ""
        return f"{host}{parsed.name}:{tag}"
    return ref


def place(name: str) -> str:
    """The ref that a copy, or a new model, of that name gets.

    Raises:
        BadRef: no such name.
    """
    for ref in _candidates(name):
        if ref.scheme == "name":
            return str(ref.name if ref.tag == _LATEST else ref)
        if ref.scheme == "oci" or (ref.scheme == "ollama" and not ref.host):
            return str(ref)
    raise BadRef(f"{name[:200]!r} cannot be the name of a model")


def target(name: str) -> str:
    """The ref of the registry that a model of that name is pushed to.

    Raises:
        BadRef: the name has no registry in it.
    """
    for ref in _candidates(name):
        if ref.scheme == "oci":
            return str(ref)
    raise BadRef(
        f"{name[:200]} names no registry to push to, and Ollama's own takes Ollama's keys only",
        "copy it to host/namespace/name first, and push that",
    )


def _candidates(name: str) -> Sequence[Ref]:
    """Raises BadRef: not a name."""
    with suppress(BadRef):
        parsed = parse(name)
        if parsed.scheme == "path":
            return []
        if parsed.scheme != "name":
            return [parsed]
    written, colon, tag = _cut(name)
    parts = written.split("/")
    if parts[0] == _HOST:
        parts = parts[1:]
    if parts[0] in _HUBS and len(parts) == 3:
        return _hub("/".join(parts[1:]), tag)
    if len(parts) == 2 and parts[0] == "library":
        parts = parts[1:]
    if len(parts) == 1:
        return _plain(parts[0] + colon + tag)
    path = "/".join(parts)
    if len(parts) == 2 and (":" in parts[0] or parts[0] == "localhost"):
        return _tagged(f"oci:{path}", tag)
    if len(parts) == 2:
        return _tagged(f"ollama:{path}", tag)
    return [*_tagged(f"oci:{path}", tag), *_tagged(f"ollama:{path}", tag)]


def _cut(name: str) -> tuple[str, str, str]:
    """Before the tag, the colon, the tag: a colon before the last slash is a port's."""
    head, slash, last = name.rpartition("/")
    word, colon, tag = last.partition(":")
    return head + slash + word, colon, tag


def _plain(name: str) -> list[Ref]:
    parsed = parse(name)
    if parsed.scheme != "name":
        raise BadRef(f"{name[:200]!r} is not a model name")
    return [*_tagged(parsed.name, parsed.tag or ""), *_tagged(f"ollama:{parsed.name}", parsed.tag)]


def _tagged(base: str, tag: str | None) -> list[Ref]:
    """With the tag that was written; for `latest` and for none the other one too."""
    bare, latest = parse(base), parse(f"{base}:{_LATEST}")
    if not tag:
        return [bare, latest]
    return [latest, bare] if tag == _LATEST else [parse(f"{base}:{tag}")]


def _hub(repository: str, kind: str) -> list[Ref]:
    bare = parse(f"hf:{repository}")
    if not kind or kind == _LATEST:
        return [bare]
    return [parse(f"hf:{repository}#{kind}")]
