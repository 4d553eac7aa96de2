"""Plots as PNG: the same numbers give the same bytes on the same machine."""

from pathlib import Path
from typing import Any

from overt.errors import Failure, lacking


def figure(height: float) -> Any:
    """A figure of matplotlib, 8 inches wide, that asks for no display.

    Raises:
        Unsupported: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise lacking("a plot", "matplotlib") from None
    made = Figure(figsize=(8, height), dpi=120, layout="constrained")
    FigureCanvasAgg(made)
    return made


def save(made: Any, path: Path) -> None:
    """Write a figure.

    Raises:
        Failure: the file cannot be written.
    """
    try:
        made.savefig(path, format="png", metadata={"Software": None})
    except OSError as error:
        raise Failure(
            f"{path} cannot be written: {error.strerror}", "give --plot another file"
        ) from None
