"""Fields of a record that somebody typed: absent is fine, another kind of value is an error."""

import re
from collections.abc import Mapping
from typing import Any

from overt.errors import FormatError

_DATE = re.compile(r"[0-9]{4}(-[0-9]{2}(-[0-9]{2})?)?")
_MOST = 600


def text(content: Mapping[str, Any], key: str, what: str, most: int = _MOST) -> str:
    """A text or a number, in one line of at most `most` characters; "" where absent or null."""
    found = content.get(key)
    if found is None:
        return ""
    if isinstance(found, bool | dict | list):
        raise FormatError(f"{key} of {what} is {_kind(found)} and must be a text")
    from overt.openness.evidence import short

    return short(str(found), most)


def mapping(content: Mapping[str, Any], key: str, what: str) -> Mapping[str, Any]:
    """A mapping; empty where it is absent, null or an empty list."""
    found = content.get(key)
    if found is None or found == []:
        return {}
    if not isinstance(found, dict):
        raise FormatError(f"{key} of {what} is {_kind(found)} and must be a mapping")
    return found


def mappings(content: Mapping[str, Any], key: str, what: str) -> tuple[Mapping[str, Any], ...]:
    """A list of mappings; empty where it is absent, null or an empty mapping."""
    found = content.get(key)
    if found is None or found == {}:
        return ()
    if not isinstance(found, list):
        raise FormatError(f"{key} of {what} is {_kind(found)} and must be a list")
    for at, one in enumerate(found, 1):
        if not isinstance(one, dict):
            raise FormatError(
                f"entry {at} of {key} of {what} is {_kind(one)} and must be a mapping"
            )
    return tuple(found)


def address(content: Mapping[str, Any], key: str, what: str) -> str:
    """A text, or the first text of a list of them; "" where there is none."""
    found = content.get(key)
    if isinstance(found, list):
        if any(isinstance(one, dict | list) for one in found):
            raise FormatError(f"{key} of {what} holds a list and must hold addresses")
        found = next((one for one in found if isinstance(one, str) and one.strip()), None)
        return text({key: found}, key, what)
    return text(content, key, what)


def words(content: Mapping[str, Any], key: str, what: str) -> tuple[str, ...]:
    """Several words: a list of them, or one text with commas."""
    found = content.get(key)
    if isinstance(found, list):
        return tuple(text({key: one}, key, what) for one in found if one is not None)
    return tuple(one for one in text(content, key, what).split(",") if one.strip())


def day(found: str) -> str:
    """A date as far as it is written (year, month, day); "" for anything else."""
    return found if _DATE.fullmatch(found) else ""


def _kind(found: object) -> str:
    kinds = {dict: "a mapping", list: "a list", bool: "yes or no", str: "a text"}
    return kinds.get(type(found), "a number")
