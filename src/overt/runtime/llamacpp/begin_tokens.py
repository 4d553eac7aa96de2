"""How a model begins a text, asked of its worker once.

For harnesses a server finds out before each of thousands of prompts what the model puts around a
text: the tokens of `PROBE`, with it and without. They are those of the model's file, which an
engine never changes.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

PROBE: Final = "a"
"""Any text that is one token or more."""


class Probed:
    """Mixed into engines whose worker tokenizes, which `_tokens` asks."""

    _probed: Mapping[bool, tuple[int, ...]] = MappingProxyType({})

    async def tokenize(
        self, text: str, *, special: bool = True, around: bool = False
    ) -> tuple[int, ...]:
        """Token ids of `text`; `around` adds those that the model puts around every prompt."""
        if text != PROBE or not special:
            return await self._tokens(text, special=special, around=around)
        if around not in self._probed:
            tokens = await self._tokens(text, around=around)
            self._probed = {**self._probed, around: tokens}
        return self._probed[around]

    async def _tokens(
        self, text: str, *, special: bool = True, around: bool = False
    ) -> tuple[int, ...]:
        raise NotImplementedError
