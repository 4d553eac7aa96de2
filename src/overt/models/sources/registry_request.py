"""One request of any method, answered whole: what a registry's protocol needs beside downloads.

`send` goes through the same `Network` (TLS, proxies, retries) and the same rule for redirects as
everything else, but leaves the status to its caller.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urljoin

from overt.errors import SourceFailed
from overt.models.sources.download import AGAIN, REDIRECTS, Network, allowed, shown
from overt.models.sources.retry import Again

if TYPE_CHECKING:
    import httpx2

Content = bytes | Callable[[], Iterator[bytes]] | None

_BYTES = 4 << 20  # what registries and their clients should be able to bear in a manifest
_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class RegistryReply:
    """A whole answer, whatever its status.

    Attributes:
        url: where it was found after redirects.
        headers: by lower-case name.
        certified: the host names in the server's verified certificate; () without TLS.
    """

    url: str
    status: int
    headers: Mapping[str, str]
    body: bytes
    certified: tuple[str, ...] = ()


def send(
    network: Network,
    method: str,
    url: str,
    headers: Mapping[str, str],
    content: Content = None,
    *,
    redirects: bool = False,
    once: bool = False,
) -> RegistryReply:
    """Send one request; the answer may have 4 MiB and take two minutes.

    Args:
        content: what to send; a function is called again for every try.
        redirects: follow them, with credentials for the first host alone.
        once: do not try again; the caller knows how to go on.

    Raises:
        Offline: switched off, by the setting.
        SourceFailed: no answer, or too long a one.
    """
    network.require(shown(url))
    for attempt in network.attempts(url):
        attempt.last = attempt.last or once
        with attempt:
            here, sent = url, {**headers, "Accept-Encoding": "identity"}
            for _ in range(REDIRECTS + 1 if redirects else 1):
                body = content() if callable(content) else content
                reply = _answered(network.client(), method, here, sent, body)
                if not redirects or reply.status not in (301, 302, 303, 307, 308):
                    return reply
                there = urljoin(here, reply.headers.get("location", ""))
                sent = allowed(here, there, sent)
                here = there
            raise SourceFailed(f"{shown(url)} redirects more than {REDIRECTS} times")
    raise AssertionError("unreachable")


def _answered(
    client: "httpx2.Client",
    method: str,
    url: str,
    headers: Mapping[str, str],
    content: bytes | Iterator[bytes] | None,
) -> RegistryReply:
    answer = client.send(
        client.build_request(method, url, headers=headers, content=content), stream=True
    )
    try:
        if answer.status_code in AGAIN:
            after = answer.headers.get("retry-after", "")
            wait = float(after) if after.isdigit() else 0.0
            raise Again(f"it answered {answer.status_code}", wait)
        certified = _certified(answer)  # now: the connection may be gone after the last byte
        body, deadline = bytearray(), time.monotonic() + _SECONDS
        for block in answer.iter_raw():  # raw: nothing that came packed can grow here
            body += block
            if len(body) > _BYTES or time.monotonic() > deadline:
                raise SourceFailed(
                    f"{shown(url)} answers with more than {_BYTES >> 20} MiB, or for more than "
                    f"{_SECONDS:.0f} s"
                )
        named = {name.lower(): value for name, value in answer.headers.items()}
        return RegistryReply(str(answer.url), answer.status_code, named, bytes(body), certified)
    finally:
        answer.close()


def _certified(answer: "httpx2.Response") -> tuple[str, ...]:
    """The host names of the certificate the server showed (RFC 5280, subjectAltName)."""
    stream = answer.extensions.get("network_stream")
    tls = stream.get_extra_info("ssl_object") if stream else None
    facts = (tls.getpeercert() or {}) if tls else {}
    named = facts.get("subjectAltName", ())
    return tuple(name for kind, name in named if kind in ("DNS", "IP Address"))
