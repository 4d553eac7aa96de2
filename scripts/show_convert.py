"""Write docs/convert.md: logits of converted models beside those of transformers.

    python scripts/show_convert.py [--check]

Tiny random models of every architecture (tests/oracle_models.py), and the real SmolLM2 and Gemma 3
of the store (`OVERT_HOME`). One thread, so that the numbers are the same on the same machine.
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "convert.md"
sys.path.insert(0, str(ROOT / "tests"))

import numpy as np  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

import llamacpp_logits  # noqa: E402
import oracle_models  # noqa: E402
from overt.formats import gguf  # noqa: E402
from overt.lab.convert import export, step  # noqa: E402
from overt.models import pull  # noqa: E402
from overt.nets import load  # noqa: E402
from overt.provenance.steps import StepInput  # noqa: E402
from overt.settings import load as load_settings  # noqa: E402

REAL = ("smollm2", "gemma3")
TEXT = (
    "The history of the bicycle begins in the early nineteenth century, when a German baron built "
    "a wooden machine with two wheels and no pedals, and rode it through Mannheim."
)

HEAD = """# Converting: what was measured

`overt convert REF NAME` makes a GGUF model of safetensors weights, `overt convert REF NAME --to
safetensors` a release of a GGUF model. This page is written by `scripts/show_convert.py`; the same
comparisons are tests (`tests/nets/test_architectures.py` and
`tests/lab/test_convert_architectures.py`).

Everything is compared by logits: of every position, over the whole vocabulary, the largest
|difference| to transformers in 32 bits. llama.cpp keeps keys and values in 32 bits here, and
runs on one thread.

"""

TINY = """## Every architecture, tiny random models

48 tokens; windows are of 8 tokens, positions scaled from 16 or 64. *ours* is the network that
Overt trains with, of the release; *ours, GGUF* is the same of the converted file; *engine* is
llama.cpp on the converted file.

| model | largest logit | ours | ours, GGUF | engine, f32 | engine, f16 | engine, q8_0 |
|---|---|---|---|---|---|---|
"""

AFTER_TINY = """
llama.cpp computes Gemma's GELU by a table of 16-bit floats, which is most of the difference in
those rows: with the same rounding in our network it falls to 0.0001 to 0.001. With f16 and q8_0
weights llama.cpp rounds what they are multiplied with, too.

Compared once with llama.cpp's own converter (of b11434, f32): all tensors of these 18 models are
the same bits. Its files differ in keys that say a default, and where the engine would compute
something else from them: it writes yarn's `attention_factor` under a key that these architectures
do not read, and an OLMo 2 whose output is its embedding without the output matrix that the engine
wants.

What the engine cannot compute is refused with the reason: other betas of yarn, scaled positions
beside Gemma 3's windows unless linear, biases of Llama's projections, Gemma 2 without caps. A
Mistral or Qwen whose layers see a window, which the engine leaves out, is given the window as its
context. Memory does not grow with the model: a Llama of 417 MiB and one of 1,249 MiB (bf16) were
converted with the same peak of 142 MiB to f16, 135 MiB to q8_0.

Of a Gemma 3 that sees images the language model alone is converted, and a note says how many
tensors were left out. The file says where it comes from as the hub or the index names it
(`general.name`, `basename`, `license`, `source.repo_url`), and the bases that its card names
(`general.base_model`); the name that a person gives it is not in it.

"""

REAL_HEAD = """## Real models, there and back

The quantized GGUF file is written as safetensors (32 bits), loaded by transformers, and converted
to an f32 GGUF file again. One sentence, 36 tokens of SmolLM2 and 34 of Gemma.

| model | stored as | equal tensors | largest logit | ours | engine, f32 | engine, quantized | KL |
|---|---|---|---|---|---|---|---|
"""

AFTER_REAL = """
*Ours* is the network that Overt trains with, of the quantized file. *Equal tensors* are those whose
numbers are the same bits after the round trip. The columns *engine, quantized* and *KL* (mean
Kullback-Leibler divergence of the next token from transformers', in nats) show no error of
converting: llama.cpp multiplies quantized weights with activations rounded to 8 bits, and the f32
file holds the same weights without that.
"""


def main() -> int:
    page = "".join(lines())
    if "--check" in sys.argv:
        return 0 if PAGE.read_text("utf-8") == page else 1
    PAGE.write_text(page, "utf-8")
    return 0


def lines() -> Iterator[str]:
    yield HEAD + TINY
    with tempfile.TemporaryDirectory() as place:
        for number, name in enumerate(oracle_models.CASES):
            yield row(*tiny(name, Path(place) / str(number)))
    yield AFTER_TINY + REAL_HEAD
    for name in REAL:
        with tempfile.TemporaryDirectory() as place:
            yield row(*real(name, Path(place)))
    yield AFTER_REAL


def row(*cells: object) -> str:
    shown = (cell if isinstance(cell, str) else f"{cell:.2g}" for cell in cells)
    return f"| {' | '.join(shown)} |\n"


def tiny(name: str, place: Path) -> Iterator[object]:
    model = oracle_models.build(name, place)
    wanted, ids = model.logits, oracle_models.IDS
    yield name
    yield float(np.abs(wanted).max())
    yield apart(oracle_models.logits(load.from_safetensors(model.files, model.config)), wanted)
    files = [converted(place, kind) for kind in ("f32", "f16", "q8_0")]
    yield apart(oracle_models.logits(load.from_gguf(files[0])), wanted)
    for file in files:
        yield apart(llamacpp_logits.logits(file, ids), wanted)


def real(name: str, place: Path) -> Iterator[object]:
    settings = load_settings({**os.environ, "OVERT_OFFLINE": "1"})
    original = pull.find(name, settings).weights
    export.write(original, place, "f32", lambda _: None)
    again = converted(place, "f32")
    yield name
    yield ", ".join(sorted({tensor.type for tensor in gguf.read(original).tensors}))
    pairs = zip(load.state(original), load.state(again), strict=True)
    same = [one == other and np.array_equal(a, b) for (one, a), (other, b) in pairs]
    yield f"{sum(same)} of {len(same)}"
    ids = Tokenizer.from_file(str(place / "tokenizer.json")).encode(TEXT).ids
    wanted = oracle_models.computed(place, ids)
    yield float(np.abs(wanted).max())
    yield apart(oracle_models.logits(load.from_gguf(original), ids), wanted)
    yield apart(llamacpp_logits.logits(again, ids), wanted)
    found = llamacpp_logits.logits(original, ids)
    yield apart(found, wanted)
    yield divergence(found, wanted)
    print(name, len(ids), "tokens", file=sys.stderr)


def converted(folder: Path, type: Any) -> Path:
    files = {path.name: path for path in sorted(folder.iterdir()) if path.suffix != ".gguf"}
    target = folder / f"{type}.gguf"
    given = StepInput(folder / "model.safetensors", None, files)
    step.write(step.parts(given), target, type, lambda _: None)
    return target


def apart(found: Any, wanted: Any) -> float:
    return float(np.abs(found - wanted).max())


def divergence(found: Any, wanted: Any) -> float:
    """Mean over the positions of KL(wanted || found)."""
    one, other = (np.asarray(part, np.float64) for part in (wanted, found))
    one, other = (part - np.logaddexp.reduce(part, -1)[:, None] for part in (one, other))
    return float((np.exp(one) * (one - other)).sum(-1).mean())


if __name__ == "__main__":
    raise SystemExit(main())
