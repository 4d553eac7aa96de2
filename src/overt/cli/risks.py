"""What in a model could run: its chat templates, and the code of its repository. For `show`."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from overt.settings import Settings

if TYPE_CHECKING:
    from overt.formats.gguf import GgufHeader
    from overt.models.pull import LocalModel

_MAX_BYTES = 1 << 20
_SHOWN = 3


def templates(
    model: "LocalModel", header: "GgufHeader | None", settings: Settings
) -> dict[str, Any]:
    """Each chat template by name, with what a look and a trial run found (formats/template.py)."""
    from overt.formats.template import check
    from overt.models import defaults

    texts = dict(header.chat_templates) if header else {}
    texts |= _files(model, settings, (".jinja",), role="template")
    own = defaults.read(model).template  # in place of the file's, translated if it was Go's
    if own and own not in texts.values():
        texts["in force"] = own
    report = {}
    for name, text in list(texts.items())[:8]:
        about = check(text)
        report[name] = {"ok": about.ok, "escapes": list(about.escapes), "failed": about.failed}
    return report


def code(model: "LocalModel", settings: Settings) -> dict[str, Any]:
    """Code of the model's repository: named, never fetched, never run."""
    manifest = model.manifest
    mapped: dict[str, str] = {}
    for text in _files(model, settings, ("config.json",), role="config").values():
        try:
            config = json.loads(text)
        except (ValueError, RecursionError):
            continue
        own = config.get("auto_map") if isinstance(config, dict) else None
        if isinstance(own, dict):
            mapped |= {str(key): str(value)[:200] for key, value in list(own.items())[:32]}
    return {"files": manifest.origin.get("code") if manifest else None, "auto_map": mapped}


def about_templates(templates: Mapping[str, Mapping[str, Any]]) -> str | None:
    """For people: nothing where there is no template."""
    if not templates:
        return None
    parts = []
    for name, about in templates.items():
        mark = f"{name}: " if len(templates) > 1 else ""
        if about["escapes"]:
            tricks = "; ".join(about["escapes"][:_SHOWN])
            parts.append(f"{mark}TRIES TO LEAVE ITS SANDBOX: {tricks}")
        elif about["failed"]:
            parts.append(f"{mark}does not render here: {about['failed']}")
    return "\n".join(parts) or "renders in a sandbox, and tries nothing beyond it"


def about_code(report: Mapping[str, Any]) -> str | None:
    """For people: nothing where there is no code."""
    parts = []
    if report["files"]:
        parts.append(f"{report['files']}: never fetched and never run")
    if report["auto_map"]:
        names = ", ".join(report["auto_map"].values())
        parts.append(f"its configuration asks for {names}, which is never run")
    return "\n".join(parts) or None


def _files(
    model: "LocalModel", settings: Settings, ends: tuple[str, ...], role: str
) -> dict[str, str]:
    """Texts of the model's small stored files of a role, by path."""
    from overt.models.store import Store

    texts = {}
    store = Store(settings.home)
    for file in model.manifest.files if model.manifest else ():
        if file.role == role and file.path.endswith(ends) and file.size <= _MAX_BYTES:
            texts[file.path] = store.path(file).read_text("utf-8", "replace")
    return texts
