"""How long the question about a licence takes on the way to a model (openness/gate.py).

    python bench/licence.py

Prints milliseconds for small models in a home of their own: the first time a home is asked about a
model (its answer is then kept), cold (a process that has loaded Overt and nothing of the licences)
and warm (asked again in that process). The bar is 5 ms, but for the first time.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

ROUNDS = 7
FACTS = "commercial = true\nmau_at_version_release = 5000\nreceived_in_end_product = false\n"
TEXT = "The quick model may be used by everybody for everything, if this line stays. " * 80
CASES = {
    "open licence, no facts": ("apache-2.0", "", "", "warn"),
    "conditions, no facts": ("llama3.1", "", "", "warn"),
    "conditions, facts": ("llama3.2", FACTS, "", "warn"),
    "conditions, facts, enforced": ("llama3.2", FACTS, "", "enforce"),
    "a licence text, seen before": ("mit", FACTS, TEXT, "warn"),
}


def main() -> None:
    print(f"{'case':<32}{'first ms':>10}{'cold ms':>10}{'warm ms':>10}")
    for name, case in CASES.items():
        rounds = []
        with tempfile.TemporaryDirectory() as folder:
            for _ in range(ROUNDS + 1):
                done = subprocess.run(
                    [sys.executable, __file__, folder, *case],
                    capture_output=True, text=True, check=True,
                )  # fmt: skip
                rounds.append([float(one) for one in done.stdout.split()])
        cold, warm = (statistics.median(column) for column in zip(*rounds[1:], strict=True))
        print(f"{name:<32}{rounds[0][0]:>10.2f}{cold:>10.2f}{warm:>10.2f}")


def once(home: Path, licence: str, facts: str, text: str, policy: str) -> None:
    """One process: the time of the first question, and of the tenth."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
    from gguf_writer import Tensor, write
    from overt import exchange  # noqa: F401 - what a run has loaded by then
    from overt.formats import gguf
    from overt.openness import gate
    from overt.pull import find
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
        with suppress(gate.Refused):
            gate.consult(model, ref, settings, gate.RUNNING, header=header)
        taken.append((time.perf_counter() - begun) * 1000)
    print(taken[0], taken[-1])


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:
        once(Path(sys.argv[1]), *sys.argv[2:])
