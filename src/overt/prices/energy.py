"""How much energy a stretch of work took: measured where the machine can, else as declared.

The kernel counts the energy of processor packages (powercap, Intel RAPL and AMD's alike):
``/sys/class/powercap/intel-rapl:N/energy_uj``. Only root may read it on most machines. The
counters are those of whole packages: whatever else the machine did is in them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from overt.prices.file import load
from overt.settings import Settings

ROOT = Path("/sys/class/powercap")
_MAX_ZONES = 256


@dataclass(frozen=True, slots=True)
class Energy:
    """`joules` is None where nobody knows; `how` is shown beside the number."""

    joules: float | None
    how: Literal["measured", "declared", "unknown"]


class Meter:
    """Counts from when it is made.

    A counter runs over every few minutes to hours under load. One overrun is accounted for; what
    ran longer than that is counted too low.
    """

    def __init__(self, root: Path = ROOT) -> None:
        self._zones = _zones(root)
        self._before = {zone: _read(zone / "energy_uj") for zone in self._zones}

    def joules(self) -> float | None:
        """Joules since it was made; None where this machine does not tell, or stopped to."""
        if not self._zones:
            return None
        total = 0
        for zone, before in self._before.items():
            now, most = _read(zone / "energy_uj"), _read(zone / "max_energy_range_uj")
            if before is None or now is None or (now < before and not most):
                return None
            total += now - before if now >= before else now - before + (most or 0)
        return total / 1e6 if total >= 0 else None


def energy(seconds: float, settings: Settings, meter: Meter | None = None) -> Energy:
    """The energy of `seconds` of answering: the meter's, else the watts of prices.toml.

    Raises:
        BadSetting: prices.toml cannot be read as one.
    """
    joules = meter.joules() if meter else None
    if joules is not None:
        return Energy(joules, "measured")
    local = load(settings.home / "prices.toml").local
    if local is not None and local.price_per_kwh is not None and 0 <= seconds < float("inf"):
        return Energy(local.watts * seconds, "declared")
    return Energy(None, "unknown")


def _zones(root: Path) -> list[Path]:
    """Packages, and memory where it is counted beside them.

    Cores and graphics are inside their package, and ``psys`` holds everything once more; the
    ``mmio`` twin of a package is the same counter.
    """
    try:
        folders = sorted(root.iterdir())[:_MAX_ZONES]
    except OSError:
        return []
    zones = []
    for zone in folders:
        if "mmio" in zone.name:
            continue
        try:
            name = (zone / "name").read_text("ascii")[:64].strip()
        except (OSError, ValueError):
            continue
        if name.startswith("package") or name == "dram":
            zones.append(zone)
    return zones


def _read(path: Path) -> int | None:
    try:
        text = path.read_text("ascii")[:40].strip()
    except (OSError, ValueError):
        return None
    return int(text) if text.isdecimal() else None
