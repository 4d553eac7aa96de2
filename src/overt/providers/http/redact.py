"""Keys out of sentences: providers repeat what they were sent, pieces of keys included."""

from typing import TypeVar

from overt.errors import OvertError

E = TypeVar("E", bound=OvertError)

PIECE = 8
"""So many characters of a key in a row are taken out, wherever they stand."""
_WHOLE = 4  # a shorter key is a word such as "x", which stands in every text
INSTEAD = "[key]"


def clean(text: str, secret: str) -> str:
    """`text` without `secret` and without pieces of it of `PIECE` characters or more."""
    if len(secret) < PIECE:
        return text.replace(secret, INSTEAD) if len(secret) >= _WHOLE else text
    pieces = {secret[at : at + PIECE] for at in range(len(secret) - PIECE + 1)}
    clean_parts: list[str] = []
    here = 0  # text before it is settled
    at = 0
    while at <= len(text) - PIECE:
        if text[at : at + PIECE] not in pieces:
            at += 1
            continue
        end = at + PIECE
        while end < len(text) and text[end - PIECE + 1 : end + 1] in pieces:
            end += 1
        clean_parts += [text[here:at], INSTEAD]
        here = at = end
    return "".join([*clean_parts, text[here:]])


def cleaned(error: E, secret: str) -> E:
    """`error` itself, its message and its hint without the key."""
    error.message = clean(error.message, secret)
    error.args = (error.message,)
    if error.hint:
        error.hint = clean(error.hint, secret)
    return error
