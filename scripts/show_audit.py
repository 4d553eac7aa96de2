"""An audit before and after quantization: SmolLM2 against a small quantization of itself.

    python scripts/show_audit.py DATA [AFTER [BEFORE]]

DATA is a folder with the data sets of docs/audit.md. AFTER is a model of the store (default
`smollm2-q2_k`, as `overt quantize smollm2 -q q2_k` makes it), BEFORE the one it is compared with
(default `smollm2`). Writes audit.html here and prints the tables. 100 items of each probe: about
ten minutes on two cores; a stopped run goes on. No figure of it is a verdict on either model.
"""

import subprocess
import sys

PROBES = ("bbq", "crows_pairs", "winobias", "xstest", "robustness")


def main(arguments: list[str]) -> int:
    """Run the audit; its exit code."""
    if not 1 <= len(arguments) <= 3:
        print(__doc__, file=sys.stderr)
        return 2
    defaults = ["", "smollm2-q2_k", "smollm2"]
    data, after, before = [*arguments, *defaults[len(arguments) :]]
    command = [
        sys.executable, "-m", "overt", "audit", "model", after, "--against", before,
        "--data", data, "--limit", "100", "--max-tokens", "64", "--html", "audit.html",
    ]  # fmt: skip
    for name in PROBES:
        command += ["--probe", name]
    return subprocess.run(command).returncode


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
