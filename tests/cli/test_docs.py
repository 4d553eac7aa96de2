"""docs/cli.md says what the code does."""

import subprocess
import sys

from conftest import ROOT


def test_the_reference_is_the_codes_own() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/docs.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_reference_describes_every_verb_and_setting() -> None:
    from dataclasses import fields

    from overt.cli import VERBS
    from overt.settings import Settings

    text = (ROOT / "docs/cli.md").read_text("utf-8")
    assert all(f"### `overt {name}`" in text for name in VERBS)
    assert all(f"`OVERT_{field.name.upper()}`" in text for field in fields(Settings))
