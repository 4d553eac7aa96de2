"""Records of other indexes, recognised by their fields and turned into claims.

Each index has one module: `recognises` looks at the fields and never at a file's name, `record`
maps what the index says to claims by the index's own definitions. What it does not say is unknown;
its own verdicts are kept in `Record.said`. A claim taken from an index is somebody's word, never
evidence.
"""

from overt.openness.subject.record import Record


def read(text: str, what: str) -> Record | None:
    """The record in a text of YAML or JSON; None where it is not of an index that is known here.

    Raises:
        FormatError: it is not YAML, or a field of a record is not what that index puts there.
    """
    from overt.formats import yamltext
    from overt.openness.records import mot, os_ai_map, osai

    content = yamltext.load(text, what)
    if not isinstance(content, dict):
        return None
    if mot.recognises(content):
        return mot.record(content, what)
    if osai.recognises(content):
        return osai.record(content, what)
    return os_ai_map.record(content, what) if os_ai_map.recognises(content) else None
