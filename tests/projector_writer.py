"""A tiny random vision projector (SigLIP encoder, Gemma 3 projection) for any text model.

No package carries a real one, and the weights do not matter to what is tested: that an image
travels from the command line into the model and changes what it says.
"""

from pathlib import Path

import gguf
import numpy as np

IMAGE, PATCH, WIDTH, HEADS, FEED = 64, 8, 32, 2, 64


def write(path: Path, text_embedding: int, seed: int = 0) -> None:
    """Write an mmproj GGUF whose output is `text_embedding` wide."""
    random = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_type("mmproj")
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", "gemma3")
    writer.add_bool("clip.use_gelu", True)
    for name, value in {
        "image_size": IMAGE,
        "patch_size": PATCH,
        "embedding_length": WIDTH,
        "feed_forward_length": FEED,
        "block_count": 1,
        "projection_dim": text_embedding,
        "attention.head_count": HEADS,
    }.items():
        writer.add_uint32(f"clip.vision.{name}", value)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-6)
    writer.add_array("clip.vision.image_mean", [0.5, 0.5, 0.5])
    writer.add_array("clip.vision.image_std", [0.5, 0.5, 0.5])

    def tensor(name: str, *shape: int, scale: float = 0.2) -> None:
        writer.add_tensor(name, (random.standard_normal(shape) * scale).astype(np.float32))

    tensor("v.patch_embd.weight", WIDTH, 3, PATCH, PATCH)
    tensor("v.patch_embd.bias", WIDTH)
    tensor("v.position_embd.weight", (IMAGE // PATCH) ** 2, WIDTH)
    for layer in ("attn_q", "attn_k", "attn_v", "attn_out"):
        tensor(f"v.blk.0.{layer}.weight", WIDTH, WIDTH)
        tensor(f"v.blk.0.{layer}.bias", WIDTH)
    tensor("v.blk.0.ffn_up.weight", FEED, WIDTH)
    tensor("v.blk.0.ffn_up.bias", FEED)
    tensor("v.blk.0.ffn_down.weight", WIDTH, FEED)
    tensor("v.blk.0.ffn_down.bias", WIDTH)
    for norm in ("v.blk.0.ln1", "v.blk.0.ln2", "v.post_ln"):
        tensor(f"{norm}.weight", WIDTH, scale=1.0)
        tensor(f"{norm}.bias", WIDTH)
    tensor("mm.input_projection.weight", WIDTH, text_embedding)
    tensor("mm.soft_emb_norm.weight", WIDTH, scale=1.0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def png(red: int, green: int, blue: int, size: int = 64) -> bytes:
    """A PNG of one colour (RFC 2083), written by hand so that no image library is needed."""
    import struct
    import zlib

    def block(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    rows = (b"\0" + bytes((red, green, blue)) * size) * size
    head = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + block(b"IHDR", head)
        + block(b"IDAT", zlib.compress(rows))
        + block(b"IEND", b"")
    )
