"""What httpx2, TLS and the clock raise, as errors of this project: the one place for it.

Nothing of their text is told: it repeats headers, and the other side's bytes.
"""

import math
import os
import ssl
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx2

from overt.errors import BadSetting, OvertError, ProviderFailed, TimedOut
from overt.providers.base import Destination
from overt.security import urls

_LIMIT_ZERO_SECONDS = 60.0  # seconds, to begin with where the limit is 0
_PROXY_HINT = "correct HTTPS_PROXY, or unset it; NO_PROXY names servers to be asked without one"
_MAY = "and may bill the request all the same"


@dataclass(frozen=True, slots=True)
class HttpTimeouts:
    """Seconds; inf is none."""

    connect: float
    first: float
    between: float


def finite(seconds: float) -> float | None:
    """Seconds as asyncio takes them."""
    return seconds if math.isfinite(seconds) else None


def map_transport_error(
    caught: Exception,
    to: Destination,
    limits: HttpTimeouts,
    *,
    sent: bool,
    heard: bool = False,
    between: bool = False,
) -> OvertError:
    """The error that `caught` is.

    `sent`: a byte of the request was written. `heard`: the head of an answer has come. `between`:
    the limit in force was the one for silence within an answer.
    """
    if isinstance(caught, OvertError):
        return caught
    if isinstance(caught, TimeoutError | httpx2.TimeoutException):
        return _late(to, limits, sent, heard, between)
    if not sent:
        if tls := _tls(caught, to):
            return tls
        proxy = _proxy(to.base)
        if isinstance(caught, httpx2.ProxyError | ImportError):
            through = proxy or "the proxy of the environment"
            return ProviderFailed(f"{to.label} cannot be reached through {through}", _PROXY_HINT)
        if isinstance(caught, httpx2.UnsupportedProtocol | httpx2.LocalProtocolError | ValueError):
            return BadSetting(
                f"the request to {to.label} cannot be put into HTTP",
                "look at its address and its key: overt settings",
            )
        if proxy:
            return ProviderFailed(
                f"{to.label} cannot be reached through {proxy}: {_cause(caught)}", _PROXY_HINT
            )
        return ProviderFailed(
            f"{to.label} cannot be reached: {_cause(caught)}",
            f"check the network, and the address {_host(to.base)}",
        )
    if heard:
        what = f"{to.label} broke off its answer, {_MAY}"
    elif isinstance(caught, httpx2.RemoteProtocolError) and "disconnected" not in str(caught):
        what = f"{to.label} answered with something that is not HTTP, {_MAY}"
    else:
        what = f"{to.label} closed the connection without an answer, {_MAY}"
    return ProviderFailed(what, "ask again if it may be sent twice", billed=True)


def _late(
    to: Destination, limits: HttpTimeouts, sent: bool, heard: bool, between: bool
) -> TimedOut:
    if not sent:
        proxy = _proxy(to.base)
        what = "could not be reached" + (f" through {proxy}" if proxy else "")
        seconds, name = limits.connect, "connect"
    elif between:
        what, seconds, name = "said nothing more", limits.between, "between"
    else:
        what = "did not go on with its answer" if heard else "did not begin to answer"
        seconds, name = limits.first, "first"
    twice = 2 * seconds or _LIMIT_ZERO_SECONDS
    raised = f"{twice / 60:g}m" if twice >= 60 and twice % 60 == 0 else f"{twice:.10g}s"
    return TimedOut(
        f"{to.label} {what} within {seconds:g} s" + (f", {_MAY}" if sent else ""),
        f"raise it: OVERT_{name.upper()}_TIMEOUT={raised}",
        billed=sent,
    )


def never_sent(caught: Exception) -> bool:
    """Whether another try may well make the connection that this one could not."""
    if isinstance(caught, httpx2.NetworkError):
        return not any(isinstance(error, ssl.SSLError) for error in _chain(caught))
    return isinstance(caught, TimeoutError | httpx2.TimeoutException)


def _chain(error: BaseException) -> list[BaseException]:
    """It and what caused it. An error of several is its first."""
    chain: list[BaseException] = []
    here: BaseException | None = error
    while here is not None and len(chain) < 12:
        chain.append(here)
        inner = here.exceptions[0] if isinstance(here, BaseExceptionGroup) else None
        here = inner or here.__cause__ or here.__context__
    return chain


def _tls(error: BaseException, to: Destination) -> ProviderFailed | None:
    """Why TLS could not be agreed on; None where that is not the trouble."""
    for error_ in _chain(error):
        if isinstance(error_, ssl.SSLCertVerificationError):
            why = (
                _word(error_, "verify_message")
                or _word(error_, "reason")
                or "it cannot be verified"
            )
            return ProviderFailed(
                f"the certificate of {to.label} is not trusted: {why}",
                "name the file of its certificate authority in SSL_CERT_FILE",
            )
        if isinstance(error_, ssl.SSLError):
            why = _word(error_, "reason").replace("_", " ").lower() or "no reason given"
            return ProviderFailed(
                f"TLS with {to.label} failed: {why}",
                f"see that {_host(to.base)} speaks https, or write http://",
            )
    return None


def _word(error: ssl.SSLError, name: str) -> str:
    """An attribute that only errors of OpenSSL's own have."""
    return str(getattr(error, name, None) or "").rstrip(".")


def _cause(error: BaseException) -> str:
    """The system's own words for the deepest cause."""
    for error_ in reversed(_chain(error)):
        if not (isinstance(error_, OSError) and error_.strerror):
            continue
        # asyncio puts a tuple of its own into the words: "Connect call failed ('127.0.0.1', 9)".
        own = isinstance(error_, ConnectionError) and error_.errno is not None
        return (os.strerror(error_.errno or 0) if own else error_.strerror).lower()
    return "the connection failed"


def _proxy(base: str) -> str:
    """The proxy that the environment has for a server, without its password; "" for none."""
    with suppress(OvertError, ValueError):
        there = urls.read(base)
        if there.loopback or proxy_bypass(there.shown):
            return ""
        every = getproxies()
        url = every.get(there.scheme) or every.get("all") or ""
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.hostname:
            port = f":{parts.port}" if parts.port else ""
            return f"the proxy {parts.hostname[:80]}{port}"
    return ""


def _host(url: str) -> str:
    try:
        return urls.read(url).shown
    except OvertError:
        return "it was given"
