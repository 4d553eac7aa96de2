"""LM Studio: ``models/<publisher>/<repository>/<file>``, as on the hub, but without the revision.

Its home is ``~/.lmstudio``, formerly ``~/.cache/lm-studio``, or what ``~/.lmstudio-home-pointer``
says; ``settings.json`` there may name another folder for the models (``downloadsFolder``).
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from overt.models.sources.local_caches import folder
from overt.models.sources.local_caches.base import ForeignModel, UnusableModel, read_json, read_text


def places(environ: Mapping[str, str]) -> list[Path]:
    """Where it may keep models."""
    person = Path(environ.get("HOME") or "~").expanduser()
    homes = [person / ".lmstudio", person / ".cache/lm-studio"]
    if pointed := read_text(person / ".lmstudio-home-pointer").strip():
        homes.insert(0, Path(pointed.splitlines()[0].strip()))
    folders = []
    for home in homes:
        try:
            named = read_json(home / "settings.json")["downloadsFolder"]
            folders.append(Path(str(named)))
        except (OSError, ValueError, KeyError, TypeError):
            pass
        folders.append(home / "models")
    return folders


def look(place: Path) -> Iterator[ForeignModel | UnusableModel]:
    """Each GGUF file or safetensors folder; its revision on the hub is not known."""
    yield from folder.models(place, {"source": "lmstudio"})
