"""A model card: Markdown with YAML between two lines of three dashes, as the hub writes it.

The fields are those of the Hugging Face hub's model card metadata (``license``, ``base_model``,
``datasets``, ``model-index`` …); what is not among them is kept in `fields` as it stands.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from overt.errors import FormatError


@dataclass(frozen=True)
class Card:
    """One card.

    Attributes:
        name: the file.
        fields: the YAML at its top; empty where there is none.
        body: the Markdown below.
    """

    name: str
    fields: Mapping[str, Any]
    body: str

    def words(self, key: str) -> tuple[str, ...]:
        """A field that may be a text or a list of texts; other things in it are left out."""
        value = self.fields.get(key)
        if isinstance(value, str):
            return (value,)
        if isinstance(value, list):
            return tuple(item for item in value[:1000] if isinstance(item, str))
        return ()


def read(name: str, text: str) -> Card:
    """Read a card. Raises FormatError: its YAML is broken, too deep or too large."""
    from overt.formats import yamltext

    lines = text.split("\n")
    if lines[0].rstrip() != "---":
        return Card(name, {}, text)
    end = next((i for i, line in enumerate(lines[1:], 1) if line.rstrip() == "---"), None)
    if end is None:
        raise FormatError(f"{name} opens its fields with --- and never closes them")
    fields = yamltext.load("\n".join(lines[1:end]), name)
    if fields is None:
        fields = {}
    if not isinstance(fields, dict):
        raise FormatError(f"the fields of {name} are no mapping")
    return Card(name, fields, "\n".join(lines[end + 1 :]))
