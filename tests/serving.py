"""The real server in a process of its own, and other people's test suites to send against it."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest
from filelock import FileLock
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Served:
    """A running `overt serve`."""

    url: str
    home: Path
    process: subprocess.Popen[str]
    log: Path

    @property
    def address(self) -> str:
        """``host:port``."""
        return urlsplit(self.url).netloc

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def metric(self, name: str, **labels: str) -> float | None:
        """What ``/metrics`` says of `name`, over all that has these labels; None for nothing."""
        with urlopen(f"{self.url}/metrics") as answer:
            families = text_string_to_metric_families(answer.read().decode())
        found = [
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        return sum(found) if found else None


@contextmanager
def serving(
    home: Path, *arguments: str, env: Mapping[str, str] | None = None, patience: float = 30
) -> Iterator[Served]:
    """`overt serve` over `home` on a free port, ended by SIGTERM, which it must obey."""
    log = home / "serve.log"
    command = [
        sys.executable,
        "-X",
        "faulthandler",
        "-m",
        "overt",
        "serve",
        "--json",
        "--port",
        "0",
    ]
    environ = {
        **os.environ, "OVERT_HOME": str(home), "PYTHONUNBUFFERED": "1", **(env or {}),
    }  # fmt: skip
    with log.open("w") as errors:
        process = subprocess.Popen(
            [*command, *arguments], stdout=subprocess.PIPE, stderr=errors, text=True, env=environ
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            process.wait(patience)
            raise AssertionError(f"overt serve did not start: {log.read_text()[-3000:]}")
        yield Served(json.loads(line)["url"], home, process, log)
    finally:
        process.terminate()
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            pytest.fail(f"overt serve did not end within {patience} s: {log.read_text()[-3000:]}")
        finally:
            process.stdout.close()


def copy_home(source: Path, target: Path) -> Path:
    """A home with the models of `source` that may be written to: files are linked, not copied."""

    def link(old: str, new: str) -> None:
        try:
            os.link(old, new)
        except OSError:
            shutil.copy2(old, new)

    leave_out = shutil.ignore_patterns("run", "*.db*", "keys.json", "*.lock", "*.log")
    shutil.copytree(source, target, copy_function=link, ignore=leave_out)
    return target


def unpacked_sdist(name: str, version: str, environ: Mapping[str, str]) -> Path:
    """The folder of a source distribution, kept in .cache; its tests are other people's code."""
    kept = ROOT / ".cache/sdists"
    folder = kept / f"{name.replace('-', '_')}-{version}"
    kept.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if folder.is_dir():
            return folder
        subprocess.run(
            [
                sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
                "--no-binary", name, "-d", str(kept), f"{name}=={version}",
            ],
            check=True, env=dict(environ), timeout=300,
        )  # fmt: skip
        wanted = re.compile(rf"{re.sub('[-_]', '[-_]', name)}-{re.escape(version)}\.tar\.gz")
        archive = next(path for path in kept.iterdir() if wanted.fullmatch(path.name))
        with tempfile.TemporaryDirectory(dir=kept) as place:
            with tarfile.open(archive) as tar:
                tar.extractall(place, filter="data")
            (Path(place) / archive.name.removesuffix(".tar.gz")).rename(folder)
    return folder
