"""Signatures of one provider on the wire of another: whose they are is written into them.

A client that speaks one protocol may be answered by any provider, and sends back what it was given.
A signature of the protocol's own provider stands as it is; another's as ``overt:ORIGIN:SIGNATURE``.
"""

import re

_FOREIGN = re.compile(r"overt:([a-z][a-z0-9_-]{0,31}):(.*)", re.DOTALL)


def with_origin(signature: str, origin: str | None, own: str) -> str:
    """`signature` of `origin` as it stands in the protocol of the provider `own`."""
    return signature if origin in (None, own) else f"overt:{origin}:{signature}"


def split(text: str, own: str) -> tuple[str, str]:
    """The signature and its origin, which is `own` where nothing else is written."""
    match = _FOREIGN.fullmatch(text)
    return (match[2], match[1]) if match else (text, own)
