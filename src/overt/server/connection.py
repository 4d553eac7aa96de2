"""uvicorn's HTTP by httptools, with the bounds on the head of a request that it lacks."""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES = 32 << 10  # the longest head of a request
HEAD_SECONDS = 30  # that a client has to send it


class ClientConnection(HttpToolsProtocol):
    """One connection of a client."""

    head = 0  # bytes that came since this head began, those of its first reading left out
    fields = 0  # bytes of its fields that are whole
    whole = False
    late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._waited()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self.head += len(data)
        super().data_received(data)
        if self.head > HEAD_BYTES and not self.whole and not self.transport.is_closing():
            self.send_400_response("The head of the request is too long.")

    def on_message_begin(self) -> None:
        self.head, self.fields, self.whole = 0, 0, False
        self._wait()
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.whole:  # fields after the body would be kept, and there is no end of them
            return
        self.fields += len(name) + len(value) + 4
        if self.fields > HEAD_BYTES:
            raise ValueError("the head is too long")  # which the parser makes an error 400
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self.whole = True
        self._waited()
        super().on_headers_complete()

    def _wait(self) -> None:
        self._waited()
        self.late = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _waited(self) -> None:
        if self.late is not None:
            self.late.cancel()
            self.late = None
