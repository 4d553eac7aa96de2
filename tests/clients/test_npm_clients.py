"""npm's clients, unmodified, against the real server and the real small model."""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from serving import ROOT, Served

HERE = Path(__file__).resolve().parent / "npm"
PACKAGES = {
    "openai": "openai",
    "anthropic": "@anthropic-ai/sdk",
    "ollama": "ollama",
    "gemini": "@google/genai",
}
FEATURES = {
    "openai": (
        "chat: whole", "chat: stream", "chat: JSON schema", "responses: stream", "embeddings",
        "models", "errors",
    ),
    "anthropic": (
        "messages: whole", "messages: stream", "messages: tools", "count tokens", "models",
        "errors",
    ),
    "ollama": ("chat", "chat: stream", "generate", "embed", "list, show, ps", "errors"),
    "gemini": (
        "generate", "generate: stream", "count tokens", "embed", "models", "errors",
    ),
}  # fmt: skip

pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(not shutil.which("npm"), reason="npm is not installed"),
]


@pytest.fixture
def modules(pip_environment: dict[str, str]) -> Path:
    """The packages that package-lock.json pins, installed once."""
    folder = ROOT / ".cache/npm"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        lock = (HERE / "package-lock.json").read_bytes()
        kept = folder / "installed.json"
        if not kept.is_file() or kept.read_bytes() != lock:
            for name in ("package.json", "package-lock.json"):
                shutil.copy(HERE / name, folder)
            done = subprocess.run(
                ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
                cwd=folder, capture_output=True, text=True, timeout=240,
                env=_npm_environment(pip_environment),
            )  # fmt: skip
            assert done.returncode == 0, done.stderr[-2000:]
            kept.write_bytes(lock)
        shutil.copy(HERE / "smoke.mjs", folder)
    return folder


def _npm_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """With the person's own npm registry, which the isolated HOME of a test hides."""
    from conftest import _ORIGINAL

    mine = {name: value for name, value in _ORIGINAL.items() if name.lower().startswith("npm_")}
    before = Path(_ORIGINAL.get("HOME", "/")) / ".npmrc"
    if before.is_file():
        mine.setdefault("NPM_CONFIG_USERCONFIG", str(before))
    return {**environ, **mine}


@cache
def _outcomes(client: str, url: str, modules: Path) -> dict[str, Any]:
    done = subprocess.run(
        ["node", "smoke.mjs", client, url, "smollm2"],
        cwd=modules, capture_output=True, text=True, timeout=200, env={**os.environ},
    )  # fmt: skip
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert rows, done.stderr[-2000:]
    return {row["feature"]: row["error"] for row in rows}


@pytest.mark.parametrize(
    ("client", "feature"),
    [
        pytest.param(client, feature, marks=pytest.mark.client(f"npm {PACKAGES[client]}", feature))
        for client, features in FEATURES.items()
        for feature in features
    ],
)
def test_npm_client(server: Served, modules: Path, client: str, feature: str) -> None:
    assert _outcomes(client, server.url, modules)[feature] is None
