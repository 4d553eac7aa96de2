"""GPT4All: GGUF files in one folder that its settings may name; the Python package has its own."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from overt.models.sources.local_caches import folder
from overt.models.sources.local_caches.base import ForeignModel, UnusableModel, read_text


def places(environ: Mapping[str, str]) -> list[Path]:
    """Where it may keep models."""
    person = Path(environ.get("HOME") or "~").expanduser()
    config = Path(environ.get("XDG_CONFIG_HOME") or person / ".config")
    data = Path(environ.get("XDG_DATA_HOME") or person / ".local/share")
    folders = []
    settings = read_text(config / "nomic.ai/GPT4All.ini")
    if named := re.search(r"^modelPath=(.+)$", settings, re.MULTILINE):
        folders.append(Path(named[1].strip().strip('"')))
    return [
        *folders,
        data / "nomic.ai/GPT4All",
        person / "Library/Application Support/nomic.ai/GPT4All",
        person / ".cache/gpt4all",
    ]


def look(place: Path) -> Iterator[ForeignModel | UnusableModel]:
    """Each GGUF file; a download that was cut off is said to be one."""
    for model in folder.models(place, {"source": "gpt4all"}):
        cut = Path(model.shown).name.startswith("incomplete-")
        yield UnusableModel(model.shown, "its download was cut off") if cut else model
