"""The one way out of this machine for the text of requests: every provider is asked here.

Policy (`overt.security.egress`) is asked before each request, and here alone. A request is sent
again only where nobody can bill the first one: no connection could be made, or the status refuses
it. A request that was sent and then lost may have been answered and billed, so it is never sent
twice; the error says so. Redirects are errors, cookies are not kept, answers are not decompressed.
"""

import asyncio
import os
import random
import ssl
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import suppress
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpx2

from overt.errors import BadRequest, BadSetting, Busy, OvertError, ProviderFailed
from overt.providers.base import (
    HOPS,
    HOPS_HEADER,
    Destination,
    Failure,
    PassedResponse,
    PostRequest,
    ResponseBegun,
    ServerEvent,
)
from overt.providers.dialect import stated_wait
from overt.providers.http.circuit_breaker import Breaker
from overt.providers.http.errors import HttpTimeouts, finite, map_transport_error, never_sent
from overt.providers.http.redact import cleaned
from overt.providers.http.response_stream import OWN, BreakerTurn, SentTime, StreamedResponse
from overt.providers.http.sse import EventSplitter
from overt.security import urls
from overt.settings import Settings, seconds_of

MAX_ERROR = 64 << 10
"""Bytes that are read of the body of an error."""
PATIENCE = 60.0
"""Seconds: a provider that asks for a longer wait (Retry-After) is not waited for."""

_REFUSED = frozenset({408, 429, 500, 503, 529})  # 502 and 504: somebody may have worked on it
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MANY = 1000  # addresses whose breakers are remembered


class HttpClient:
    """Asks providers. One for each event loop; any number of requests at once.

    Args:
        settings: timeouts, retries, and what the policy goes by.
        check: the policy, told the URL before each request; raises Offline, NoEgress.
        notice: told one sentence for each retry.
        clock: seconds, for the circuit breakers.
        sleep, rng: how retries wait, and the number from 0 to 1 they wait by.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        check: Callable[[str], None] | None = None,
        notice: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self._settings, self._check = settings, check or self._policy
        self._notice, self._clock, self._sleep, self._rng = notice, clock, sleep, rng
        self._limits = HttpTimeouts(
            seconds_of(settings.connect_timeout),
            seconds_of(settings.first_timeout),
            seconds_of(settings.between_timeout),
        )
        self._retries = max(0, settings.retries)
        self._breakers: dict[str, Breaker] = {}
        self._clients: dict[tuple[bool, bool], httpx2.AsyncClient] = {}

    async def stream(
        self, to: Destination, post: PostRequest, failure: Failure
    ) -> AsyncGenerator[ResponseBegun | ServerEvent, None]:
        """`ResponseBegun` once the provider took the request, then what it says.

        An answer that is one JSON document, as of a server that does not stream, is one
        `ServerEvent` without a name. Closing the generator closes the connection.

        Raises:
            Offline, NoEgress: the policy; nothing was sent.
            Busy: it failed too often just now, or asks for a long wait.
            TimedOut, ProviderFailed: no answer, or half of one; `billed` says whether it may cost.
            OvertError: what `failure` makes of another status than 200, without the key.
        """
        async with await self._begin(to, post, failure) as answer:
            yield ResponseBegun(answer.request_id, answer.bytes_out)
            chunk = await answer.read()
            if answer.is_json or chunk.lstrip()[:1] in (b"{", b"["):
                yield ServerEvent("", await answer.whole(chunk))
                return
            answer.must_stream()
            splitter = EventSplitter()
            while chunk:
                answer.heard(events := answer.split(splitter, chunk))
                for event in events:
                    yield event
                chunk = await answer.read()
            answer.heard(events := splitter.end())
            for event in events:
                yield event
            answer.must_have_spoken()

    async def ask(self, to: Destination, post: PostRequest, failure: Failure) -> bytes:
        """A whole answer of at most `MAX_BODY_BYTES` bytes. Raises as `stream`.

        All of it must have come within `first_timeout`.
        """
        async with await self._begin(to, post, failure) as answer:
            return await answer.whole()

    async def forward(
        self, to: Destination, post: PostRequest
    ) -> AsyncGenerator[PassedResponse | bytes, None]:
        """The provider's answer, whatever its status: `PassedResponse`, then the body in pieces.

        Only a connection that could not be made is tried again: whoever asked sees each status, and
        tries again by itself. Raises as `stream`, and for no status but a redirect.
        """
        async with await self._begin(to, post, None) as answer:
            head = answer.handed_on()
            yield PassedResponse(answer.status, head, answer.request_id, answer.bytes_out)
            splitter = EventSplitter() if answer.is_stream else None
            grows = "streamGenerateContent" in post.path  # Gemini's stream, as one JSON list
            while chunk := await answer.read():
                if splitter:
                    answer.heard(answer.split(splitter, chunk))
                elif grows:
                    answer.moved()  # anything else has `first_timeout` for all of it, as in `ask`
                yield chunk
            answer.moved()

    async def close(self) -> None:
        """Close all connections."""
        clients, self._clients = list(self._clients.values()), {}
        for client in clients:
            await client.aclose()

    # ---- one request ---------------------------------------------------------------------------

    def _policy(self, url: str) -> None:
        from overt.security import egress

        egress.check(url, self._settings)

    async def _begin(
        self, to: Destination, post: PostRequest, failure: Failure | None
    ) -> StreamedResponse:
        """The answer once its head has come, after as many tries as are allowed and safe."""
        again: _Again | None = None
        tried = before = 0
        while True:
            request = _request(to, post)
            self._check(str(request.url))
            breaker = self._breaker(to.base)
            if wait := breaker.wait(self._clock()):
                raise (again.error if again else _breaker_open(to, wait)) from None
            try:
                return await self._once(to, request, breaker, failure, before)
            except _Again as retry:
                again = retry
                before += retry.bytes_out
            if tried and isinstance(again.error, Busy):
                again.error.asked_again = True
            if again.wait is not None and (again.wait > PATIENCE or tried >= self._retries):
                raise _later(again.error, again.wait)
            if tried >= self._retries:
                raise again.error
            delay = max(again.wait or 0.0, self._rng() * min(8.0, 0.5 * 2**tried))
            tried += 1
            self._notice(
                f"{again.reason}; asking again in {delay:.1f} s ({tried} of {self._retries})"
            )
            await self._sleep(delay)

    async def _once(
        self,
        to: Destination,
        request: httpx2.Request,
        breaker: Breaker,
        failure: Failure | None,
        before: int,
    ) -> StreamedResponse:
        """`before`: bytes that left with earlier tries.

        Raises _Again: it failed, and nothing of it can be billed.
        """
        settle, sent = BreakerTurn(breaker, breaker.begin(), self._clock), SentTime()
        try:
            response = await self._send(request, sent)
        except Exception as caught:  # noqa: BLE001 -- whatever it is becomes an error of ours
            error = map_transport_error(caught, to, self._limits, sent=sent.at is not None)
            if isinstance(error, ProviderFailed):
                settle.bad()
            settle.neither()
            if sent.at is None and never_sent(caught):
                raise _Again(error, f"{to.label} cannot be reached") from None
            raise error from None
        except BaseException:
            settle.neither()
            raise
        answer = StreamedResponse(response, to, self._limits, sent, settle, before, _size(request))
        if answer.status >= 500:
            settle.bad()
        moved = answer.status in _REDIRECTS
        if answer.status == 200 or (failure is None and not moved):
            return answer
        async with answer:
            if moved or failure is None:
                raise cleaned(_redirected(answer), to.secret)
            raise _refusal(answer, failure, await answer.some(MAX_ERROR))

    async def _send(self, request: httpx2.Request, sent: SentTime) -> httpx2.Response:
        """The head of the answer. Raises TimeoutError, and what httpx2 raises."""
        loop = asyncio.get_running_loop()
        connect = self._limits.connect
        # httpcore2 closes a socket in the middle of TLS for its own timeout, and leaks it for ours:
        # so each step has its own, and all of them (a proxy's tunnel too) have this one.
        limit = asyncio.timeout(finite(3 * connect))

        async def trace(name: str, info: Mapping[str, Any]) -> None:
            # A proxy is asked for a tunnel by a request of its own, which is not ours.
            if name != "http11.send_request_headers.started" or limit.expired():
                return
            if info["request"].method != b"CONNECT":
                sent.at = loop.time()
                limit.reschedule(finite(sent.at + self._limits.first))

        request.extensions |= {
            "trace": trace,
            "timeout": {"connect": finite(connect), "read": None, "write": None, "pool": None},
        }
        client = self._client(urls.read(str(request.url)))
        async with limit:
            return await client.send(request, stream=True)

    def _client(self, there: urls.Address) -> httpx2.AsyncClient:
        """What stays on this machine goes to no proxy: policy let it pass because it stays."""
        bare = there.loopback and there.scheme == "http"
        kind = (there.loopback, bare)
        if kind not in self._clients:
            self._clients[kind] = httpx2.AsyncClient(
                # Without TLS, the time that the system's certificates take to be read is saved.
                verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if bare else _trusted(),
                timeout=None,
                trust_env=not there.loopback,
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
                # Short: a connection that the other side drops as it is used again loses a request.
                limits=httpx2.Limits(
                    max_connections=None, max_keepalive_connections=64, keepalive_expiry=5.0
                ),
            )
        return self._clients[kind]

    def _breaker(self, base: str) -> Breaker:
        if base not in self._breakers:
            if len(self._breakers) >= _MANY:
                self._breakers.clear()
            self._breakers[base] = Breaker()
        return self._breakers[base]


class _Again(Exception):
    """A failure that cannot be billed.

    `wait` is what the provider asks for, in seconds. `bytes_out` left this machine with the try.
    """

    def __init__(
        self, error: OvertError, reason: str, wait: float | None = None, bytes_out: int = 0
    ) -> None:
        super().__init__(reason)
        self.error, self.reason, self.wait, self.bytes_out = error, reason, wait, bytes_out


# ---- what goes out --------------------------------------------------------------------------


def _request(to: Destination, post: PostRequest) -> httpx2.Request:
    """Raises BadRequest, BadSetting: it cannot be put into HTTP."""
    if not post.path.startswith("/"):  # "@elsewhere" behind a base would be another host
        raise BadRequest(f"{post.path[:80]!r} is not a path", "it begins with a slash")
    headers = {name.lower(): value for name, value in post.headers.items()}
    headers = {
        "content-type": "application/json",
        "user-agent": "overt",
        **{name: value for name, value in headers.items() if name not in OWN},
        **{name.lower(): value for name, value in to.headers.items()},
        "accept-encoding": "identity",
    }
    if urls.read(to.base).loopback:  # an alias may lead back here; others need not know of us
        headers[HOPS_HEADER] = str(HOPS.get() + 1)
    for name, value in headers.items():
        if not (value.isascii() and value.isprintable()) or not name.isascii():
            raise BadSetting(
                f"a header for {to.label} ({name[:40]}) holds what HTTP has no place for",
                to.add_key if to.secret and to.secret in value else None,
            )
    try:
        return httpx2.Request(post.method, to.base + post.path, headers=headers, content=post.body)
    except (httpx2.InvalidURL, UnicodeError):
        raise BadSetting(
            f"the address of {to.label} cannot be read", "write it like https://host:port/v1"
        ) from None


def _size(request: httpx2.Request) -> int:
    """Bytes of head and body as HTTP/1.1 writes them, without what TLS and a proxy add."""
    head = len(f"{request.method}  HTTP/1.1\r\n\r\n") + len(request.url.raw_path)
    lines = sum(len(name) + len(value) + 4 for name, value in request.headers.raw)
    return head + lines + len(request.content)


def _trusted() -> ssl.SSLContext:
    """The certificates the person names, or else those the system trusts."""
    if named := os.environ.get("SSL_CERT_FILE") or os.environ.get("REQUESTS_CA_BUNDLE"):
        try:
            return ssl.create_default_context(cafile=os.path.expanduser(named))  # noqa: PTH111
        except (OSError, ssl.SSLError) as error:
            raise BadSetting(
                f"the certificates in {named} cannot be read: {error}", "correct SSL_CERT_FILE"
            ) from None
    import truststore

    return truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


# ---- what another status than 200 means -----------------------------------------------------


def _refusal(answer: StreamedResponse, failure: Failure, body: bytes) -> OvertError | _Again:
    """What another status than 200 means; _Again where it may be tried again."""
    status, headers, to = answer.status, answer.headers, answer.to
    error = cleaned(failure(status, headers, body), to.secret)
    wait = retry_after(headers, time.time())
    if isinstance(error, Busy) and error.retry_after is None:
        error.retry_after = wait
    word = headers.get("x-should-retry", "").strip().lower()
    if word == "false" or not (status in _REFUSED or (status == 409 and word == "true")):
        return error
    if status == 429 and not isinstance(error, Busy):
        return error  # no credit is left: asking again brings none
    return _Again(error, f"{to.label} answered {status}", wait, answer.size)


def _redirected(answer: StreamedResponse) -> ProviderFailed:
    try:
        there = httpx2.URL(answer.headers.get("location", "")).host
    except (httpx2.InvalidURL, UnicodeError):
        there = ""
    return ProviderFailed(
        f"{answer.to.label} redirects to {there[:100] or 'another address of its own'}, "
        "and redirects are not followed",
        "name the address it points to as its base URL, if you trust it",
    )


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that a provider asks to wait, 0 or more; None where it does not say.

    `headers` have names in lower case; `now` is the time of day in seconds since 1970.
    """
    if (seconds := stated_wait(headers)) is not None:
        return max(0.0, seconds)
    with suppress(ValueError, OverflowError, TypeError):
        return max(0.0, parsedate_to_datetime(headers.get("retry-after", "")).timestamp() - now)
    return None


def _later(error: OvertError, wait: float) -> OvertError:
    """`error`, which says when to ask again."""
    if isinstance(error, Busy):
        error.retry_after = wait
        return error
    if wait <= PATIENCE:
        return error
    return Busy(error.message, f"ask again in {wait:.0f} s", wait)


def _breaker_open(to: Destination, wait: float) -> Busy:
    return Busy(
        f"{to.label} failed several times in a row and is left alone for {wait:.0f} s",
        "ask again then, or ask another model",
        wait,
    )
