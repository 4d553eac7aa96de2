"""How far a quantization moves where the same numbers are computed by other kernels.

    python scripts/quantize_drift.py

Two machines cannot be had here; two layouts of the weights under the importance matrix can.
llama.cpp stores Q4_0 once more in an order of its own for the kernels of this CPU, or does not
(``use_extra_bufts``), and sums in another order then. What comes of it for the matrix and for the
files made with it is what `lab/quantize/agreement.py` has its bounds from. Needs SmolLM2 in
`.cache/test-home` (`make test` gets it). It takes some minutes.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from shown import linked

from overt.lab.quantize import agreement, host, parameters, texts, types
from overt.models import pull
from overt.runtime.llamacpp import llama_h
from overt.settings import Settings

HERE = Path(__file__).resolve().parent.parent
TYPES = ("q8_0", "q4_0", "q4_k_m", "q3_k_m", "q2_k")
WINDOWS, WINDOW = 4, 512


def main() -> None:
    if len(sys.argv) > 1:
        collect(*sys.argv[1:])
        return
    home = HERE / ".cache" / "quantize-home"
    linked(HERE / ".cache" / "test-home", home)
    settings = Settings(home=home, offline=True)
    source = pull.find("smollm2", settings).weights.resolve()
    with TemporaryDirectory() as folder:
        os.chdir(folder)
        quantize(source, "q4_0", None, "repacked.gguf")
        windows = texts.windows(texts.CALIBRATE, source, WINDOW, WINDOWS, settings)
        Path("windows.json").write_text(json.dumps(windows))
        for layout in ("own", "file"):  # the collector opens the library once a process
            subprocess.run([sys.executable, __file__, layout, f"{layout}.gguf"], check=True)
        told("imatrix.gguf", "own.gguf", "file.gguf")
        for name in TYPES:
            for layout in ("own", "file"):
                quantize(source, name, f"{layout}.gguf", f"{name}-{layout}.gguf")
            told(f"{name}.gguf", f"{name}-own.gguf", f"{name}-file.gguf")


def collect(layout: str, target: str) -> None:
    """An importance matrix of the windows, with the weights in that layout."""
    loaded = llama_h.loaded

    def opened(lib: Any, path: str, **_: Any) -> Any:
        return loaded(lib, path, use_extra_bufts=layout == "own")

    llama_h.loaded = opened
    worker = host.QuantizeHost()
    worker.load({"weights": "repacked.gguf", "window": WINDOW, "threads": 1, "collect": True})
    asked = {"windows": json.loads(Path("windows.json").read_text()), "about": "drift"}
    worker.handle("collect", json.dumps(asked).encode(), lambda _: False)
    Path(host.IMATRIX).rename(target)


def quantize(source: Path, name: str, matrix: str | None, target: str) -> None:
    worker = host.QuantizeHost()
    worker.load({})
    asked = {
        "source": str(source),
        "number": types.find(name).number,
        "total": 1,
        "threads": 1,
        "imatrix": matrix,
        **types.numbers(parameters(types.find(name))),
    }
    worker.handle("quantize", json.dumps(asked).encode(), lambda _: False)
    Path(host.MODEL).rename(target)


def told(name: str, recorded: str, here: str) -> None:
    for one in agreement.of_files({name: (Path(recorded), Path(here))}, computed=True):
        print(f"{name}: {one.what}: {one.largest:.4f} of {one.allowed:g} allowed", flush=True)


if __name__ == "__main__":
    main()
