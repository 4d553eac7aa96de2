"""How long a table of many types will still take, reckoned from the parts done in this run."""

from dataclasses import dataclass

from overt.lab.quantize.measure import DECODED, PROMPT

_SLOWER = 4  # a token that is written takes about as long as so many that are read


@dataclass(slots=True)
class PaceEstimate:
    """Counts what is done. The first types tell how long one takes; the first runs of the clock
    how long a run does, which before that is judged by its tokens.

    Attributes:
        types: to be made and measured.
        runs: of the clock, of all types together and the source.
        tokens: that are read to measure a type.
    """

    types: int
    runs: int
    tokens: int
    done: int = 0
    timed: int = 0
    _of_types: float = 0.0
    _of_runs: float = 0.0
    _types_seen: int = 0
    _runs_seen: int = 0

    def type_done(self, seconds: float | None) -> None:
        """One more type; `seconds` is None where it was done by an earlier run."""
        self.done += 1
        if seconds is not None:
            self._of_types, self._types_seen = self._of_types + seconds, self._types_seen + 1

    def run_done(self, seconds: float | None) -> None:
        """One more run of the clock, as `type_done`."""
        self.timed += 1
        if seconds is not None:
            self._of_runs, self._runs_seen = self._of_runs + seconds, self._runs_seen + 1

    @property
    def left(self) -> float | None:
        """Seconds that are left, about; None where nothing was done yet to tell by."""
        per_type = self._of_types / self._types_seen if self._types_seen else None
        if self._runs_seen:
            run = self._of_runs / self._runs_seen
        elif per_type is not None:
            run = per_type * min(1.0, (PROMPT + _SLOWER * DECODED) / max(1, self.tokens))
        else:
            return None
        if per_type is None and self.done < self.types:
            return None
        return (per_type or 0.0) * (self.types - self.done) + run * (self.runs - self.timed)
