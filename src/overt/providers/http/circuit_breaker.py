"""A circuit breaker: who failed several times in a row is left alone for a while.

Pure: whoever asks says what time it is, in seconds of any clock that never goes back. One thread.
"""

from dataclasses import dataclass


@dataclass(slots=True)
class AdmittedRequest:
    """One request that was let through. Settled once: later words about it are not heard."""

    era: int
    probe: bool
    settled: bool = False


class Breaker:
    """Closed (all may ask), open (nobody may), half-open (one probe may) for one address.

    It opens after `failures` in a row, for `pause` seconds, twice as long after each probe that
    fails, and `longest` at most. A success closes it.
    """

    def __init__(self, failures: int = 5, pause: float = 10.0, longest: float = 120.0) -> None:
        self._failures, self._first, self._longest = failures, pause, longest
        self._row = 0
        self._pause = 0.0  # 0 is closed
        self._until = 0.0
        self._era = 0  # goes up when it opens or closes: what began before then says nothing
        self._probing = False

    def wait(self, now: float) -> float:
        """Seconds until asking makes sense; 0 where a request may begin now."""
        if not self._pause:
            return 0.0
        if now < self._until:
            return self._until - now
        return 1.0 if self._probing else 0.0

    def begin(self) -> AdmittedRequest:
        """A request begins, which `wait` allowed. Settle it by `good`, `bad` or `neither`."""
        self._probing = bool(self._pause)
        return AdmittedRequest(self._era, self._probing)

    def good(self, turn: AdmittedRequest) -> None:
        """It answered."""
        if self._settle(turn):
            self._era += self._pause > 0
            self._row, self._pause = 0, 0.0

    def bad(self, turn: AdmittedRequest, now: float) -> None:
        """It failed in a way that is not the request's fault."""
        if not self._settle(turn):
            return
        self._row += 1
        if turn.probe or self._row >= self._failures:
            self._pause = min(self._pause * 2 or self._first, self._longest)
            self._until = now + self._pause
            self._era += 1

    def neither(self, turn: AdmittedRequest) -> None:
        """It says nothing of whether the address works: cancelled, or refused."""
        self._settle(turn)

    def _settle(self, turn: AdmittedRequest) -> bool:
        """Whether `turn` still counts."""
        if turn.settled:
            return False
        turn.settled = True
        if turn.probe and turn.era == self._era:
            self._probing = False
        return turn.era == self._era
