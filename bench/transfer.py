"""Moving a model over loopback: `overt pull` beside `curl` of the same bytes and `sha256sum`.

    python bench/transfer.py                 five rounds with a file of 1 GiB: about five minutes
    python bench/transfer.py --rounds 3 --size 256m

One server, `overt serve --mirror`, gives the bytes to every side. Sides take turns; each is a whole
process from its start to its end, so Overt's start-up, its questions to the server, its second
reading (the check of the digest) and its fsync are all in its time. Peak memory is the kernel's
figure (ru_maxrss) for the process. README.md in this folder says what each row means.
"""

import argparse
import hashlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import machine
from table import caveat, ratios, shown, spread

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import gguf_writer  # noqa: E402
from mirrors import mirroring  # noqa: E402
from overt.models.store import File, Manifest, Store  # noqa: E402
from overt.ref import parse  # noqa: E402
from overt.settings import bytes_of  # noqa: E402

BLOCK = 1 << 20
PEER = "curl, then sha256sum"


@dataclass(frozen=True, slots=True)
class Ran:
    """A process that is over: `seconds` of wall time, `peak` bytes resident at most."""

    seconds: float
    peak: int


@dataclass(frozen=True, slots=True)
class Place:
    """What the sides share: the mirror, the model in it, and a folder for what they fetch."""

    url: str
    digest: str
    work: Path

    @property
    def port(self) -> str:
        return self.url.rpartition(":")[2]

    @property
    def file(self) -> str:
        return f"{self.url}/local/bench/resolve/main/bench.gguf"


def measured(command: Sequence[str], env: Mapping[str, str] | None = None) -> Ran:
    """Run one process to its end."""
    begun = time.perf_counter()
    process = subprocess.Popen(
        command,
        env={**os.environ, **(env or {})},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stderr.close()
    if process.returncode:
        sys.exit(f"bench: {' '.join(command)} ended with {process.returncode}: {said.decode()}")
    return Ran(time.perf_counter() - begun, usage.ru_maxrss * 1024)


def overt(home: Path, *arguments: str, env: Mapping[str, str] | None = None) -> Ran:
    command = [sys.executable, "-m", "overt", *arguments, "--quiet", "--home", str(home)]
    return measured(command, env)


def model(home: Path, size: int) -> str:
    """Put a model of `size` random bytes behind a proper header into the store; its digest."""
    home.mkdir(parents=True, exist_ok=True)
    path = home / "new"
    tensor = gguf_writer.Tensor("filler.weight", (size // 128, 32), "F32")
    about = {"general.architecture": "llama", "general.name": "bench"}
    draw = random.Random(1)
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for block in (gguf_writer.header(about, [tensor]), *_blocks(draw, tensor.size)):
            digest.update(block)
            file.write(block)
    name = f"sha256:{digest.hexdigest()}"
    manifest = Manifest(
        (File("weights", "bench.gguf", name, path.stat().st_size),), "pypi:bench==1"
    )
    Store(home).commit(manifest, {name: path}, [parse("bench")])
    return name


def _blocks(draw: random.Random, size: int) -> Iterator[bytes]:
    one = draw.randbytes(BLOCK)
    return (one[: min(BLOCK, size - start)] for start in range(0, size, BLOCK))


# ---- the sides: each fetches the model to a fresh place, checks it, and is timed ----------------


def curl(place: Place) -> Ran:
    target = place.work / "curl"
    got = measured(["curl", "--silent", "--show-error", "--fail", "-o", str(target), place.file])
    summed = measured(["sha256sum", str(target)])
    target.unlink()
    return Ran(got.seconds + summed.seconds, max(got.peak, summed.peak))


def curl_at_once(place: Place) -> Ran:
    target = place.work / "curl"
    script = f"curl --silent --fail {place.file} | tee {target} | sha256sum"
    ran = measured(["bash", "-o", "pipefail", "-c", script])
    target.unlink()
    return ran


def by_hub(place: Place) -> Ran:
    return _pulled(place, "hf:local/bench")


def by_registry(place: Place) -> Ran:
    return _pulled(place, f"oci:127.0.0.1:{place.port}/bench")


def _pulled(place: Place, ref: str) -> Ran:
    home = place.work / "home"
    home.mkdir()
    ran = overt(home, "pull", ref, env={"HF_ENDPOINT": place.url, "HF_HUB_DISABLE_TELEMETRY": "1"})
    found = Store(home).get(parse(ref)).weights.digest
    shutil.rmtree(home)
    if found != place.digest:
        sys.exit(f"bench: {ref} came as {found}")
    return ran


SIDES: dict[str, Callable[[Place], Ran]] = {
    PEER: curl,
    "curl, sha256sum at once": curl_at_once,
    "overt pull hf:": by_hub,
    "overt pull oci:": by_registry,
}


def carried(home: Path, work: Path) -> dict[str, Ran]:
    """Export the model to one archive, and import it into an empty store."""
    archive, other = work / "bench.overt", work / "other"
    other.mkdir()
    ran = {"overt export": overt(home, "export", "bench", str(archive))}
    ran["overt import"] = overt(other, "import", str(archive), "--yes")
    archive.unlink()
    shutil.rmtree(other)
    return ran


# ---- the result ----------------------------------------------------------------------------------


def report(times: dict[str, list[float]], peaks: dict[str, int], size: int) -> str:
    head = ["what", "MB/s", f"speed / {PEER}", "peak memory, MB", "rounds"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for name, seconds in times.items():
        speeds = [size / one / 1e6 for one in seconds]
        over = ratios(times[PEER], seconds) if name in SIDES and name != PEER else []
        cells = [
            name,
            shown(spread(speeds), digits=0),
            shown(spread(over), digits=2) if over else "-",
            f"{peaks[name] / 1e6:.0f}",
            str(len(seconds)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def run(size: int, rounds: int, work: Path) -> str:
    times: dict[str, list[float]] = {}
    peaks: dict[str, int] = {}
    busiest = 0.0
    home = work / "upstream"
    digest = model(home, size)

    def add(name: str, ran: Ran) -> None:
        times.setdefault(name, []).append(ran.seconds)
        peaks[name] = max(peaks.get(name, 0), ran.peak)

    with mirroring(home) as mirror:
        place = Place(mirror.url, digest, work)
        for number in range(rounds):
            busiest = max(busiest, machine.cores_busy())
            names = list(SIDES)
            for name in names if number % 2 == 0 else names[::-1]:
                add(name, SIDES[name](place))
                print(f"round {number + 1}: {name} done", file=sys.stderr, flush=True)
        served = mirror.peak_memory
    for _ in range(rounds):
        for name, ran in carried(home, work).items():
            add(name, ran)
    text = report(times, peaks, size)
    remark = caveat(rounds, quick=False, busiest=busiest)
    return (
        f"{machine.sentence(machine.about())}; one file of {size / (1 << 20):.0f} MiB; medians "
        f"(lowest-highest).\n{remark}\n\n{text}\n\n"
        f"The mirror that served all of this took {served / 1e6:.0f} MB at most."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", default="1g", help="bytes of the model, such as 256m")
    parser.add_argument("--work", type=Path, help="folder on the disk to measure on")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.work) as folder:
        print(run(bytes_of(given.size), given.rounds, Path(folder)))


if __name__ == "__main__":
    main()
