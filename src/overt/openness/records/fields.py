"""Fields of a record that somebody typed: absent is fine, another kind of value is an error."""

import re
from collections.abc import Mapping
from typing import Any

from overt.errors import FormatError

_DATE = re.compile(r"[0-9]{4}(-[0-9]{2}(-[0-9]{2})?)?")
_MAX_CHARACTERS = 600


def text(content: Mapping[str, Any], key: str, what: str, most: int = _MAX_CHARACTERS) -> str:
    """A text or a number, in one line of at most `most` characters; "" where absent or null."""
    value = content.get(key)
    if value is None:
        return ""
    if isinstance(value, bool | dict | list):
        raise FormatError(f"{key} of {what} is {_kind(value)} and must be a text")
    from overt.openness.evidence import short

    return short(str(value), most)


def mapping(content: Mapping[str, Any], key: str, what: str) -> Mapping[str, Any]:
    """A mapping; empty where it is absent, null or an empty list."""
    value = content.get(key)
    if value is None or value == []:
        return {}
    if not isinstance(value, dict):
        raise FormatError(f"{key} of {what} is {_kind(value)} and must be a mapping")
    return value


def mappings(content: Mapping[str, Any], key: str, what: str) -> tuple[Mapping[str, Any], ...]:
    """A list of mappings; empty where it is absent, null or an empty mapping."""
    value = content.get(key)
    if value is None or value == {}:
        return ()
    if not isinstance(value, list):
        raise FormatError(f"{key} of {what} is {_kind(value)} and must be a list")
    for at, item in enumerate(value, 1):
        if not isinstance(item, dict):
            raise FormatError(
                f"entry {at} of {key} of {what} is {_kind(item)} and must be a mapping"
            )
    return tuple(value)


def address(content: Mapping[str, Any], key: str, what: str) -> str:
    """A text, or the first text of a list of them; "" where there is none."""
    value = content.get(key)
    if isinstance(value, list):
        if any(isinstance(item, dict | list) for item in value):
            raise FormatError(f"{key} of {what} holds a list and must hold addresses")
        value = next((item for item in value if isinstance(item, str) and item.strip()), None)
        return text({key: value}, key, what)
    return text(content, key, what)


def words(content: Mapping[str, Any], key: str, what: str) -> tuple[str, ...]:
    """Several words: a list of them, or one text with commas."""
    value = content.get(key)
    if isinstance(value, list):
        return tuple(text({key: item}, key, what) for item in value if item is not None)
    return tuple(word for word in text(content, key, what).split(",") if word.strip())


def day(date: str) -> str:
    """A date as far as it is written (year, month, day); "" for anything else."""
    return date if _DATE.fullmatch(date) else ""


def _kind(value: object) -> str:
    kinds = {dict: "a mapping", list: "a list", bool: "yes or no", str: "a text"}
    return kinds.get(type(value), "a number")
