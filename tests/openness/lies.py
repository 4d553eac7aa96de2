"""Planted lies and honest releases, for `overt dossier`: what must be found, and what must not.

A lie is a small release in which one thing is not as it is said to be. Its `components` are where a
dossier must show a contradiction (any of several). `scripts/openness_accuracy.py` and
tests/openness/test_planted_lies.py use the same lists, and nothing of `overt` is used to make them.
They are in lies_weights.py, lies_licences.py, lies_release.py and honest.py, and, made by another
hand, in lies_more.py.
"""

import honest  # noqa: F401 - being imported fills the lists
import lies_licences  # noqa: F401
import lies_more  # noqa: F401
import lies_release  # noqa: F401
import lies_weights  # noqa: F401
from lies_base import CLEAN, LIES, Case, Planted, Text

__all__ = ["CLEAN", "LIES", "Case", "Planted", "Text"]
