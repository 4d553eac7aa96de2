"""A random LoRA adapter for a llama model, as llama.cpp's convert_lora_to_gguf.py would write it.

Random weights do no good, and that is the point: an answer that differs proves it was used.
"""

from pathlib import Path

import gguf
import numpy as np

RANK = 4


def write(
    path: Path,
    layers: int,
    width: int,
    *,
    scale: float = 1.0,
    kind: str = "llama",
    waits_for: tuple[int, ...] = (),
) -> None:
    """Write an adapter of the query projections of `layers` layers, `width` wide; one that
    `waits_for` tokens (aLoRA) acts behind them alone.
    """
    random = np.random.default_rng(1)
    writer = gguf.GGUFWriter(path, kind)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(RANK))
    if waits_for:
        writer.add_array("adapter.alora.invocation_tokens", list(waits_for))
    for layer in range(layers):
        for end, shape in (("lora_a", (RANK, width)), ("lora_b", (width, RANK))):
            values = random.standard_normal(shape) * scale
            writer.add_tensor(f"blk.{layer}.attn_q.weight.{end}", values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
