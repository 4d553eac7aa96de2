"""`overt serve --mirror` as a process of its own, for tests and benches."""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Mirror:
    """A running mirror: its URL, what it said at the start, and its process.

    `forced`: a second signal ends it in the midst of a transfer, whose socket nobody then closes.
    """

    url: str
    said: dict[str, object]
    process: "subprocess.Popen[str]"
    forced: bool = False

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def peak_memory(self) -> int:
        """Bytes resident at most (VmHWM)."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmHWM")

    def open_files(self) -> list[str]:
        folder = Path(f"/proc/{self.process.pid}/fd")
        return [str(one.readlink()) for one in folder.iterdir() if one.is_symlink()]


@contextmanager
def mirroring(
    home: Path, *arguments: str, env: Mapping[str, str] | None = None
) -> Iterator[Mirror]:
    """A mirror of the store in `home` on a free port; ended by SIGTERM, which it must obey."""
    command = [sys.executable, "-W", "always::ResourceWarning", "-m", "overt", "serve", "--mirror"]
    command += ["--port", "0", "--json", "--home", str(home), *arguments]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(env or {})},
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            ready, _, _ = select.select([process.stdout], [], [], 30)
            line = process.stdout.readline() if ready else ""
            if not line:
                process.kill()
                raise AssertionError(f"the mirror did not start: {process.stderr.read()}")
            said = json.loads(line)
            mirror = Mirror(said["url"], said, process)
            yield mirror
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=30)
            assert process.returncode in (0, -signal.SIGKILL), errors
            assert "Traceback" not in errors, errors
            assert mirror.forced or "ResourceWarning" not in errors, errors
        finally:
            if process.poll() is None:
                process.kill()
