"""YAML that nobody vouches for: plain data, at a bounded depth and size, without aliases or tags.

The events of PyYAML's parser are put together here, so that nothing of a document can make an
object, loop, or grow by repeating itself (an alias bomb is refused at its first alias).
"""

import re
from math import isfinite
from typing import Any, Final

from overt.errors import FormatError

MAX_BYTES: Final = 4 << 20
MAX_DEPTH: Final = 64
MAX_NODES: Final = 200_000

_INT = re.compile(r"[-+]?(?:0|[1-9][0-9_]{0,18})")
_FLOAT = re.compile(
    r"[-+]?(?:(?:\.[0-9]{1,40}|[0-9]{1,40}\.[0-9]{0,40})(?:[eE][-+]?[0-9]{1,4})?"
    r"|[0-9]{1,40}[eE][-+]?[0-9]{1,4})"
)
_TRUE = ("true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON")
_FALSE = ("false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF")
_NULL = ("", "~", "null", "Null", "NULL")
_TAGS = tuple(
    f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "seq", "map")
)


def load(text: str, what: str) -> Any:
    """The first document of `text` as dict, list, str, int, float, bool and None.

    Dates stay text. Keys become text; of a key that is written twice the file is refused, since
    readers differ on which counts.

    Args:
        what: what errors call it.

    Raises:
        FormatError: broken, too large, too deep, or with an alias or a tag; with the line.
    """
    import yaml

    if len(text) > MAX_BYTES:
        raise FormatError(
            f"{what} is {len(text)} characters and the most that is read is {MAX_BYTES}"
        )
    parser = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return _document(yaml.parse(text, Loader=parser), what)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1} of {what}" if mark else what
        problem = getattr(error, "problem", None) or str(error).split("\n")[0]
        raise FormatError(f"{where} is not YAML: {' '.join(str(problem).split())[:160]}") from None
    except (ValueError, RecursionError) as error:  # a character YAML cannot hold
        raise FormatError(f"{what} is not YAML: {' '.join(str(error).split())[:160]}") from None


def dump(value: Any) -> str:
    """`value` as YAML, keys in their own order, the same bytes for the same value.

    A text that `load` would take for a number is quoted, where YAML 1.1 would not.
    """
    import yaml

    class Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
        pass

    def text(dumper: Any, value: str) -> Any:
        style = "'" if _INT.fullmatch(value) or _FLOAT.fullmatch(value) else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    return str(yaml.dump(value, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=100))


class _OpenNode:
    """A list or mapping that is being read."""

    def __init__(self, value: Any) -> None:
        self.value = value
        self.key: str | None = None

    def put(self, item: Any, where: str) -> None:
        if isinstance(self.value, list):
            self.value.append(item)
        elif self.key is None:
            if isinstance(item, dict | list):
                raise FormatError(f"{where} has a list or a mapping for a key")
            self.key = item if isinstance(item, str) else str(item)
            if self.key in self.value:
                raise FormatError(f"{where} has the key {self.key[:60]!r} twice")
        else:
            self.value[self.key] = item
            self.key = None


def _document(events: Any, what: str) -> Any:
    from yaml import events as kinds

    open_: list[_OpenNode] = [_OpenNode([])]
    nodes = 0
    for event in events:
        where = f"line {event.start_mark.line + 1} of {what}"
        if isinstance(event, kinds.AliasEvent):
            raise FormatError(f"{where} has an alias, which is not read")
        if isinstance(event, kinds.NodeEvent):
            nodes += 1
            tag = getattr(event, "tag", None)
            if nodes > MAX_NODES:
                raise FormatError(f"{what} has more than {MAX_NODES} values")
            if tag and tag not in _TAGS:
                raise FormatError(f"{where} has the tag {tag[:60]!r}, which is not read")
        if isinstance(event, kinds.ScalarEvent):
            open_[-1].put(_scalar(event), where)
        elif isinstance(event, kinds.MappingStartEvent | kinds.SequenceStartEvent):
            if len(open_) > MAX_DEPTH:
                raise FormatError(f"{where} is more than {MAX_DEPTH} levels deep")
            open_.append(_OpenNode({} if isinstance(event, kinds.MappingStartEvent) else []))
        elif isinstance(event, kinds.MappingEndEvent | kinds.SequenceEndEvent):
            done = open_.pop()
            open_[-1].put(done.value, where)
        elif isinstance(event, kinds.DocumentEndEvent):
            break
    pair = open_[0].value
    return pair[0] if pair else None


def _scalar(event: Any) -> Any:
    text = event.value
    if not event.implicit[0]:  # quoted, or with a tag of its own
        return text
    if text in _NULL:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if _INT.fullmatch(text):
        return int(text.replace("_", ""))
    if _FLOAT.fullmatch(text) and isfinite(number := float(text)):
        return number
    return text
