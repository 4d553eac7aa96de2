"""Which type is the fastest that is good enough, found without trying all; and the plot of it.

`search` makes use of two facts. The divergence falls as the bits rise, near enough that the border
between good enough and not can be found by halving, and a look beyond it: where rows do not fill
blocks, or the source was quantized before, a type with fewer bits can be the better one (SmolLM2's
q4_k_m is better than its q5_k_m). And a model that writes one token at a time reads all its weights
for each, so that of two types the one with fewer bytes is mostly the faster. What breaks the second
rule are types that have kernels of their own on a CPU (`QUICK`); those above the border are timed
too. What was tried and what was passed over, and why, is told.

The default limit, a mean divergence of 0.05 nats, is one in words a person can check: the expected
log-probability that the new model gives to text the source writes is lower by exactly KL(source ||
model) a token, so at 0.05 its perplexity on such text is at most exp(0.05) = 1.05 times as high.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isfinite, log10
from typing import Any, Final

from overt.errors import DoesNotFit, EngineFailed, Failure, FormatError, OvertError, WorkerDied
from overt.lab.quantize.types import TYPES, QuantType

MAX_KLD: Final = 0.05
"""The default limit of the mean KL divergence, in nats a token."""
LADDER: Final = ("q8_0", "q6_k", "q5_k_m", "q5_0", "q4_k_m", "iq4_nl", "q4_0", "q3_k_m", "q2_k")
"""The types `auto` looks among, from most to fewest bits."""
LOWER: Final = ("iq3_xxs", "iq2_m", "iq2_xxs")
"""Further down, with an importance matrix."""
QUICK: Final = ("q4_0", "q8_0")
"""Types with kernels of their own on most CPUs."""
_PATIENCE: Final = 2
_TIMED: Final = 3  # steps of the ladder that are timed, from the border up

Row = Mapping[str, Any]


@dataclass(slots=True)
class FrontierChoice:
    """What `search` found.

    Attributes:
        type: the fastest that is good enough.
        limit: of the divergence.
        rows: what was measured, by type.
        reasons: for each type of the ladder what came of it, in words.
        memory: bytes it may take, where that is known.
    """

    type: QuantType
    limit: float
    rows: dict[str, Row] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    memory: int = 0


class _RejectedType(Exception):
    """A type that cannot be chosen, whatever its divergence: others stand as if it were not."""


class _Bench:
    """Judges each type once, and notes what came of it."""

    def __init__(self, judge: Callable[[QuantType], Row], limit: float, memory: float) -> None:
        self._judge, self.limit, self._memory = judge, limit, memory
        self.rows: dict[str, Row] = {}
        self.failed: dict[str, str] = {}
        self.reasons: dict[str, str] = {}

    def good(self, type: QuantType) -> bool:
        """Whether a type is under the limit.

        Raises:
            _Out: it cannot be made or computed, or takes more memory than it may.
            WorkerDied: the process was ended that computed with it.
        """
        row = self._row(type)
        need = row.get("memory_need", 0)
        if need > self._memory:
            self.reasons[type.name] = (
                f"it needs {int(need) >> 20} MiB of memory and may take {int(self._memory) >> 20}"
            )
            raise _RejectedType(type.name)
        high = float(row["kld_mean_interval"][1])
        passes = high <= self.limit
        self.reasons[type.name] = f"its divergence is up to {high:.4f}, " + (
            "under the limit" if passes else f"over the limit of {self.limit:g}"
        )
        return passes

    def _row(self, type: QuantType) -> Row:
        if type.name not in self.rows:
            try:
                self.rows[type.name] = self._judge(type)
            except WorkerDied:
                raise
            except (EngineFailed, FormatError) as error:
                self.failed[type.name] = error.message
                self.reasons[type.name] = f"it cannot be made or computed: {error.message}"
                raise _RejectedType(type.name) from None
        return self.rows[type.name]


def search(
    fits: Callable[[QuantType], str],
    judge: Callable[[QuantType], Row],
    race: Callable[[Sequence[QuantType]], Mapping[str, Row]],
    limit: float,
    *,
    importance: bool,
    memory: float = inf,
) -> FrontierChoice:
    """The fastest type under the limit.

    Args:
        fits: "" where a type fits the memory, as far as can be told before it is made, else why it
            does not.
        judge: makes a type and holds it against the source; a row with `kld_mean_interval`, and
            with `memory_need` in bytes. What it raises of a type ends the search only where a
            worker was killed.
        race: times types in turns; rows with `decode_tps` and `decode_tps_spread`.
        limit: of the upper end of the mean divergence's interval.
        importance: there is an importance matrix.
        memory: bytes that `memory_need` may be at most.

    Raises:
        DoesNotFit: no type fits the memory.
        Failure: no type is under the limit.
    """
    bench = _Bench(judge, limit, memory)
    ladder = _fitting(fits, bench.reasons, importance=importance)
    finalists: list[QuantType] = []
    while not finalists:
        try:
            finalists = _finalists(ladder, bench)
        except _RejectedType as failure:
            ladder = [type for type in ladder if type.name != str(failure)]
            if not ladder:
                raise _no_type_fits(bench) from None
    rows, reasons = bench.rows, bench.reasons
    for name, row in race(finalists).items():
        rows[name] = {**rows[name], **row}
    chosen = _fastest(finalists, rows)
    for type in finalists:
        speed_text = f"{float(rows[type.name]['decode_tps']):.1f} tokens a second"
        reasons[type.name] += f"; {speed_text}" + (", the fastest" if type is chosen else "")
    ordered: dict[str, str] = {name: reasons[name] for name in (*LADDER, *LOWER) if name in reasons}
    return FrontierChoice(chosen, limit, rows, ordered)


def _finalists(ladder: Sequence[QuantType], bench: _Bench) -> list[QuantType]:
    """The types that are to be timed: those that are good at the border, and the quick ones."""
    good = bench.good
    border = _further(ladder, good, _border(ladder, good))
    if border < 0:
        raise _none_good(ladder, bench)
    near = range(max(0, border - _TIMED + 1), border + 1)
    finalists = [
        type
        for at, type in enumerate(ladder[: border + 1])
        if (at in near or type.name in QUICK) and good(type)
    ]
    _passed_over(ladder, border, bench)
    return finalists


def _none_good(ladder: Sequence[QuantType], bench: _Bench) -> Failure:
    rows = [bench.rows[type.name] for type in ladder if type.name in bench.rows]
    best = min(rows, key=lambda row: float(row["kld_mean_interval"][1]))
    return Failure(
        f"no type that fits is under the limit of {bench.limit:g}: the best is {best['type']} "
        f"with up to {float(best['kld_mean_interval'][1]):.4f}",
        "raise it with --max-kld, or --memory",
    )


def _no_type_fits(bench: _Bench) -> OvertError:
    if bench.rows or not bench.failed:
        return _nothing_fits()
    name, why = next(iter(bench.failed.items()))
    return Failure(f"no type could be measured: {name}: {why}", "name one type: -q q8_0")


def _nothing_fits() -> DoesNotFit:
    return DoesNotFit("no type fits the memory", "give more: --memory SIZE, or a smaller model")


def _fitting(
    fits: Callable[[QuantType], str], reasons: dict[str, str], *, importance: bool
) -> list[QuantType]:
    """The types of the ladder that fit the memory; of the others the reason is noted."""
    ladder = []
    for name in (*LADDER, *(LOWER if importance else ())):
        why = fits(TYPES[name])
        if why:
            reasons[name] = why
        else:
            ladder.append(TYPES[name])
    if not ladder:
        raise _nothing_fits()
    return ladder


def _passed_over(ladder: Sequence[QuantType], border: int, bench: _Bench) -> None:
    """Say of each type that was not tried why."""
    below = ladder[border + 1 :]
    over = " and ".join([type.name for type in below if type.name in bench.rows][:_PATIENCE])
    for type in below:
        bench.reasons.setdefault(type.name, f"not tried: fewer bits than {over}, over the limit")
    good = ladder[border].name
    for type in ladder[:border]:
        bench.reasons.setdefault(
            type.name, f"not tried: more bytes than {good}, which is good enough"
        )


def _border(ladder: Sequence[QuantType], good: Callable[[QuantType], bool]) -> int:
    """The last step of the ladder that is good, by halving; -1 where none is."""
    low, high = -1, len(ladder)
    while high - low > 1:
        middle = (low + high) // 2
        if good(ladder[middle]):
            low = middle
        else:
            high = middle
    return low


def _further(ladder: Sequence[QuantType], good: Callable[[QuantType], bool], border: int) -> int:
    """The border, where need be moved on: a label's place on the ladder is not always its rank.

    A type is looked at beyond the border until `_PATIENCE` in a row are not good enough.
    """
    missed = 0
    for at in range(border + 1, len(ladder)):
        if good(ladder[at]):
            border, missed = at, 0
        else:
            missed += 1
            if missed == _PATIENCE:
                break
    return border


def _fastest(finalists: Sequence[QuantType], rows: Mapping[str, Row]) -> QuantType:
    """The highest median; of those within its spread the smallest file."""
    best = max(finalists, key=lambda type: float(rows[type.name]["decode_tps"]))
    least = float(rows[best.name]["decode_tps_spread"][0])
    as_fast = [type for type in finalists if float(rows[type.name]["decode_tps"]) >= least]
    return min(as_fast, key=lambda type: (int(rows[type.name]["bytes"]), type.name))


def on_frontier(rows: Sequence[Row]) -> set[str]:
    """The types that no other beats in both size and divergence."""
    frontier, least = set(), float("inf")
    for row in sorted(rows, key=lambda row: (int(row["bytes"]), float(row["kld_mean"]))):
        if float(row["kld_mean"]) < least:
            least = float(row["kld_mean"])
            frontier.add(str(row["type"]))
    return frontier


def plot(rows: Sequence[Row], width: int = 72, height: int = 16) -> str:
    """Size against divergence for a terminal, the divergence by its logarithm.

    A type on the frontier is a filled mark, with its name where there is room.
    """
    points = [
        (int(row["bytes"]) / 2**20, float(row["kld_mean"]), str(row["type"]))
        for row in rows
        if float(row["kld_mean"]) > 0 and isfinite(float(row["kld_mean"]))
    ]
    if len(points) < 2:
        return ""
    best = on_frontier(rows)
    xs, ys = [x for x, _, _ in points], [log10(y) for _, y, _ in points]
    left, right, bottom, top = min(xs), max(xs), min(ys), max(ys)
    across, up = right - left or 1.0, top - bottom or 1.0
    grid = [[" "] * width for _ in range(height)]
    ordered = sorted(points, key=lambda point: (point[2] not in best, point[0], point[2]))
    for x, y, name in ordered:
        column = round((x - left) / across * (width - 1))
        line = grid[height - 1 - round((log10(y) - bottom) / up * (height - 1))]
        if line[column] == " ":
            line[column] = "●" if name in best else "○"
        _write(line, column, name)
    lines = [
        f"{10 ** (top - up * at / (height - 1)):8.4f} ┤" + "".join(line).rstrip()
        if at % 5 == 0 or at == height - 1
        else " " * 9 + "│" + "".join(line).rstrip()
        for at, line in enumerate(grid)
    ]
    axis = f"{left:.0f} MiB".ljust(width - 10) + f"{right:.0f} MiB".rjust(10)
    head = "mean KL divergence to the source (nats a token, logarithmic) against file size"
    return "\n".join([head, *lines, " " * 9 + "└" + "─" * width, " " * 10 + axis])


def _write(line: list[str], column: int, name: str) -> None:
    """The name beside its mark, right or left of it, where nothing stands."""
    size = len(name) + 1
    for start, text in ((column + 1, f" {name}"), (column - size, f"{name} ")):
        room = line[max(start, 0) : start + size]
        if start >= 0 and len(room) == size and not "".join(room).strip():
            line[start : start + size] = list(text)
            return
