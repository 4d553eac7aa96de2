"""Patience with a network: trying again, and not taking more than one may."""

import ssl
import threading
import time
from errno import EDQUOT, ENOSPC

from overt.errors import OutOfDisk, OvertError, SourceFailed, Stopped


class RateLimit:
    """What all threads together may take: each pays for its bytes by waiting, in turn."""

    def __init__(self, bandwidth: int, stopped: threading.Event) -> None:
        self._bandwidth = bandwidth
        self._stopped = stopped
        self._lock = threading.Lock()
        self._due = 0.0  # when all that was taken so far is paid for

    def go_on(self) -> None:
        """Raises Stopped once `Network.stop` was called."""
        if self._stopped.is_set():
            raise Stopped("the download was stopped", "pull again: it goes on where it was")

    def take(self, count: int) -> None:
        if self._bandwidth:
            with self._lock:
                now = time.monotonic()
                self._due = max(self._due, now) + count / self._bandwidth
                wait = self._due - now
            self._stopped.wait(wait)
        self.go_on()


class Again(Exception):
    """Worth another try: `args[0]` says what happened."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


class Attempt:
    """One try: swallows failures worth repeating, turns the last one into SourceFailed."""

    def __init__(self, place: str, last: bool) -> None:
        self.place = place
        self.last = last
        self.moved = False
        self.wait = 0.0

    def progressed(self) -> None:
        self.moved = True

    def __enter__(self) -> "Attempt":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if error is None or isinstance(error, OvertError):
            return False
        import httpx2

        if isinstance(error, OSError) and error.errno in (ENOSPC, EDQUOT):
            raise OutOfDisk("the disk is full", "free some space, or move OVERT_HOME") from None
        if isinstance(error, httpx2.InvalidURL | httpx2.UnsupportedProtocol):
            raise SourceFailed(f"{self.place} is no address that can be asked: {error}") from None
        if not isinstance(error, Again | httpx2.HTTPError):
            return False
        if why := _untrusted(error):
            raise SourceFailed(
                f"the certificate of {self.place} is not trusted: {why}",
                "name the file of its certificate authority in SSL_CERT_FILE",
            ) from None
        if self.last and not self.moved:
            reason = str(error) or type(error).__name__
            raise SourceFailed(
                f"{self.place} cannot be read: {reason}", "check the network, then try again"
            ) from None
        self.wait = getattr(error, "wait", 0.0)
        return True


def _untrusted(error: BaseException) -> str:
    """Why TLS does not trust the other side; empty where that is not the trouble."""
    here: BaseException | None = error
    for _ in range(8):
        if here is None:
            break
        if isinstance(here, ssl.SSLCertVerificationError):
            return here.verify_message or here.reason or "it cannot be verified"
        here = here.__cause__ or here.__context__
    return ""
