"""npm's aimock: somebody else's idea of OpenAI, Anthropic and Gemini, on loopback.

::

    with aimock(modules, [says("Hello."), calls("weather", city="Oslo")]) as there:
        there.base("anthropic")     # a base URL as engines take it
        there.chaos(drop=0.3)       # from now on; `there.chaos()` is none
        there.journal()             # every request it got

`modules` is the folder that holds ``node_modules`` (the fixture of test_npm_clients.py).
"""

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

_BASES = {"openai": "/v1", "http": "/v1", "anthropic": "", "gemini": ""}
_RATES = {"drop": "dropRate", "malformed": "malformedRate", "disconnect": "disconnectRate",
          "limit": "rateLimitRate", "latency": "latencyMs"}  # fmt: skip


@dataclass(frozen=True)
class Aimock:
    url: str

    def base(self, provider: str) -> str:
        """What a provider's base URL is here, as the variables of its own clients have it."""
        return self.url + _BASES[provider]

    def chaos(self, **rates: float) -> None:
        """Rates from 0 to 1 of `drop` (500), `malformed`, `disconnect` and `limit` (429); `latency`
        in milliseconds, whole. They replace those before."""
        body = json.dumps({_RATES[name]: rate for name, rate in rates.items()}).encode()
        self._ask("POST", "/__aimock/chaos", body)

    def journal(self) -> list[dict[str, Any]]:
        """Requests since the last `forget`: `path`, `body`, `headers` and `response`."""
        found: list[dict[str, Any]] = json.loads(self._ask("GET", "/__aimock/journal"))
        return found

    def forget(self) -> None:
        """Empty the journal."""
        self._ask("POST", "/__aimock/reset/journal", b"{}")

    def _ask(self, method: str, path: str, body: bytes | None = None) -> bytes:
        headers = {"Content-Type": "application/json"}
        with urlopen(Request(self.url + path, body, headers, method=method), timeout=10) as answer:
            return bytes(answer.read())


def says(text: str, to: str = "", **match: Any) -> dict[str, Any]:
    """A fixture: this answer, to a last message of the user that holds `to`, or to anything."""
    return {
        "match": {**({"userMessage": to} if to else {}), **match},
        "response": {"content": text},
    }


def calls(tool: str, to: str = "", **arguments: Any) -> dict[str, Any]:
    """A fixture: a call of `tool`, to a last message of the user that holds `to`."""
    return {
        "match": {"userMessage": to} if to else {},
        "response": {"toolCalls": [{"name": tool, "arguments": arguments}]},
    }


@contextmanager
def aimock(
    modules: Path, fixtures: Sequence[dict[str, Any]], *, chunk: int = 20, latency: int = 0
) -> Iterator[Aimock]:
    """A running aimock on a free port. The first fixture that matches is the answer.

    `chunk` is characters in a piece of a stream, `latency` milliseconds between two pieces.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "fixtures.json")
        path.write_text(json.dumps({"fixtures": list(fixtures)}))
        process = subprocess.Popen(
            ["node", modules / "node_modules/@copilotkit/aimock/dist/cli.js", "--port", "0",
             "--fixtures", path, "--chunk-size", str(chunk), "--latency", str(latency),
             "--journal-max", "10000"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ},
        )  # fmt: skip
        try:
            yield Aimock(_address(process))
        finally:
            process.terminate()
            assert process.stdout
            process.stdout.close()
            process.wait(10)


def _address(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    said = ""
    for line in process.stdout:
        said += line
        if found := re.search(r"listening on (http://\S+)", line):
            return found[1]
    raise AssertionError(f"aimock did not start: {said[-2000:]}")
