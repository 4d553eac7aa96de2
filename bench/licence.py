"""How long the question about a licence takes on the way to a model (openness/permissions/gate.py).

    python bench/licence.py

Prints milliseconds for small models, medians and the least and most in brackets: the first time a
home is asked about a model (its answer is then kept; `overt pull` asks ahead, so that this is what
a file on the disk pays), cold (a process that has loaded Overt and nothing of the licences) and
warm (asked again in that process). Every round has a home of its own, and the cases take turns.
The bar is 5 ms. `--texts FOLDER` names the folder `licences` of the project's test data, for one
case more: a licence text as it is published.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

ROUNDS = 11
FACTS = "commercial = true\nmau_at_version_release = 5000\nreceived_in_end_product = false\n"
TEXT = "The quick model may be used by everybody for everything, if this line stays. " * 80
CASES = {
    "open licence, no facts": ("apache-2.0", "", "", "warn"),
    "conditions, no facts": ("llama3.1", "", "", "warn"),
    "conditions, facts": ("llama3.2", FACTS, "", "warn"),
    "conditions, facts, enforced": ("llama3.2", FACTS, "", "enforce"),
    "a text of somebody's own": ("mit", FACTS, TEXT, "warn"),
}


def main(texts: str) -> None:
    from machine import cores_busy

    cases = dict(CASES)
    if texts:
        text = Path(texts, "llama-3.2-license-2024.txt").read_text("utf-8")
        cases["a published text"] = ("llama3.2", FACTS, text, "warn")
    taken: dict[str, list[list[float]]] = {name: [] for name in cases}
    before = cores_busy()
    for number in range(ROUNDS + 1):
        for name, case in cases.items():
            with tempfile.TemporaryDirectory() as folder:
                (first, _), (cold, warm) = (_asked(folder, case) for _ in range(2))
            if number:  # the first round fills the file cache and writes .pyc files
                taken[name].append([first, cold, warm])
    print(f"{ROUNDS} rounds; other processes kept {before:.2f} cores busy before them")
    print(f"{'case':<30}{'first ms':>20}{'cold ms':>20}{'warm ms':>20}")
    for name, rounds in taken.items():
        print(
            f"{name:<30}"
            + "".join(f"{_spread(column):>20}" for column in zip(*rounds, strict=True))
        )


def _asked(folder: str, case: tuple[str, ...]) -> list[float]:
    command = [sys.executable, __file__, folder, *case]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [float(one) for one in done.stdout.split()]


def _spread(times: Sequence[float]) -> str:
    return f"{statistics.median(times):.2f} [{min(times):.2f}-{max(times):.2f}]"


def once(home: Path, licence: str, facts: str, text: str, policy: str) -> None:
    """One process: the time of the first question, and of the tenth."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
    from gguf_writer import Tensor, write
    from overt.errors import Refused
    from overt.formats import gguf
    from overt.gateway import exchange  # noqa: F401 - what a run has loaded by then
    from overt.models.pull import find
    from overt.openness.permissions import gate
    from overt.settings import load

    folder = home / "model"
    folder.mkdir(exist_ok=True)
    told = {"general.architecture": "llama", "general.license": licence}
    write(folder / "it.gguf", told, [Tensor("token_embd.weight", (32, 4))])
    if text and not (folder / "LICENSE").exists():
        (folder / "LICENSE").write_text(text, "utf-8")
    if facts:
        (home / "use.toml").write_text(facts, "utf-8")
    settings = load({"OVERT_HOME": str(home), "OVERT_LICENCE": policy})
    ref = str(folder)
    model = find(ref, settings)
    header = gguf.read(model.weights)
    taken = []
    for _ in range(10):
        begun = time.perf_counter()
        with suppress(Refused):
            gate.consult(model, ref, settings, gate.RUNNING, header=header)
        taken.append((time.perf_counter() - begun) * 1000)
    print(taken[0], taken[-1])


if __name__ == "__main__":
    if len(sys.argv) == 1 or sys.argv[1] == "--texts":
        main("".join(sys.argv[2:]))
    else:
        once(Path(sys.argv[1]), *sys.argv[2:])
