"""A small random llama with the words and the template of SmolLM2, for tests of fine-tuning."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from overt.formats import gguf as gguf_file
from overt.formats.modelfile import read as modelfile
from overt.models.modelfile_build import create
from overt.settings import Settings


def model(
    base: Path,
    target: Path,
    *,
    width: int = 64,
    layers: int = 2,
    seed: int = 0,
    template: bool = True,
) -> Path:
    """Write it: 2 layers of 4 heads, everything but the sizes and the weights as in `base`."""
    import gguf

    header, reader = gguf_file.read(base), gguf.GGUFReader(str(base))
    writer = gguf.GGUFWriter(str(target), "llama")
    heads, pairs, inner = 4, 2, 2 * width
    sizes = {
        "llama.block_count": layers, "llama.embedding_length": width,
        "llama.feed_forward_length": inner, "llama.attention.head_count": heads,
        "llama.attention.head_count_kv": pairs, "llama.rope.dimension_count": width // heads,
        "llama.attention.key_length": width // heads,
        "llama.attention.value_length": width // heads, "general.file_type": 0,
    }  # fmt: skip
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        if name == "tokenizer.chat_template" and not template:
            continue
        value = sizes.get(name, field.contents())
        if field.types[0] == gguf.GGUFValueType.ARRAY:
            writer.add_array(name, value)
        else:
            writer.add_key_value(name, value, field.types[0])
    words = next(one.shape[1] for one in header.tensors if one.name == "token_embd.weight")
    draw = np.random.default_rng(seed)

    def add(name: str, *shape: int) -> None:
        writer.add_tensor(name, (draw.standard_normal(shape) * 0.05).astype(np.float32))

    def norm(name: str) -> None:
        writer.add_tensor(name, np.ones(width, np.float32))

    add("token_embd.weight", words, width)
    for layer in range(layers):
        block = f"blk.{layer}."
        norm(f"{block}attn_norm.weight")
        norm(f"{block}ffn_norm.weight")
        add(f"{block}attn_q.weight", width, width)
        add(f"{block}attn_k.weight", width * pairs // heads, width)
        add(f"{block}attn_v.weight", width * pairs // heads, width)
        add(f"{block}attn_output.weight", width, width)
        add(f"{block}ffn_gate.weight", inner, width)
        add(f"{block}ffn_up.weight", inner, width)
        add(f"{block}ffn_down.weight", width, inner)
    norm("output_norm.weight")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def stored(file: Path, settings: Settings, name: str = "tiny") -> Any:
    """Make a model of the store of a file."""
    return create(name, modelfile(f"FROM {file}".encode()), file.parent, settings).manifest


@cache
def once(base: Path, folder: Path) -> Path:
    """The same file for all tests that only read it; `folder` is the run's own."""
    return model(base, folder / "tiny.gguf")
