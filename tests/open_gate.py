"""A gate that admits everybody, for applications that tests run in their own process."""

from starlette.types import Scope

from overt.protocols.base import NOBODY, Caller


class OpenGate:
    def preflight(self, scope: Scope) -> list[tuple[bytes, bytes]] | None:
        return None

    def admit(self, scope: Scope) -> Caller:
        return NOBODY

    def cors(self, scope: Scope) -> list[tuple[bytes, bytes]]:
        return []
