"""Pickles are known by their content, whatever their name; data is not taken for one."""

import bz2
import gzip
import io
import json
import lzma
import pickle
import random
import struct
import tarfile
import time
import tracemalloc
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

import gguf_writer
from overt.formats.pickle import PICKLED_SUFFIXES, looks_pickled

STATE = OrderedDict((f"layer.{n}.weight", [float(n)] * 50) for n in range(20))
LARGE = OrderedDict((f"layer.{n}.weight", list(range(2000))) for n in range(50))


class Call:
    """What an attack looks like: a callable and its arguments."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("loaded",)


def torch_zip(member: str = "archive/data.pkl", *, first: str = "") -> bytes:
    """As torch.save writes since 1.6: stored members, the pickle among them."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        if first:
            archive.writestr(first, bytes(64))
        archive.writestr(member, pickle.dumps(STATE, 2))
        archive.writestr("archive/data/0", bytes(100_000))
        archive.writestr("archive/version", "3\n")
    return out.getvalue()


def torch_stream() -> bytes:
    """As torch.save wrote before 1.6: a magic number, a version, an order, then the state."""
    parts = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, STATE)
    return b"".join(pickle.dumps(part, 2) for part in parts) + bytes(1000)


def tar(*members: str, format: int = tarfile.USTAR_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as archive:
        for name in members:
            about = tarfile.TarInfo(name)
            about.size = 700
            archive.addfile(about, io.BytesIO(bytes(700)))
    return out.getvalue()


def array(values: object) -> bytes:
    out = io.BytesIO()
    np.save(out, np.asarray(values), allow_pickle=True)
    return out.getvalue()


PICKLED: dict[str, bytes] = {
    **{f"protocol {n}": pickle.dumps(STATE, n) for n in range(6)},
    **{f"protocol {n}, longer than what is read": pickle.dumps(LARGE, n) for n in range(6)},
    **{f"a call, protocol {n}": pickle.dumps(Call(), n) for n in range(6)},
    "a torch zip": torch_zip(),
    "a torch zip, the pickle last": torch_zip(first="archive/byteorder"),
    "a torch zip of another name": torch_zip("model/DATA.PKL"),
    "an old torch stream": torch_stream(),
    "an old torch tar": tar("sys_info", "pickle", "tensors", "storages"),
    "a tar with a checkpoint": tar("readme.txt", "weights/model.ckpt"),
    "a tar without the ustar mark": tar("pickle").replace(b"ustar", b"\0\0\0\0\0"),
    "gzip": gzip.compress(pickle.dumps(STATE)),
    "zlib": zlib.compress(pickle.dumps(LARGE)),
    "bzip2": bz2.compress(pickle.dumps(STATE)),
    "xz": lzma.compress(pickle.dumps(STATE)),
    "an array of objects": array(np.array([{"a": 1}, None], dtype=object)),
    "a zip cut short": torch_zip()[:-200],
}
# The tar's checksum must hold without its mark: give back what the five characters counted for.
_unmarked = bytearray(PICKLED["a tar without the ustar mark"])
_unmarked[148:156] = b"%06o\0 " % (sum(_unmarked[:148]) + 256 + sum(_unmarked[156:512]))
PICKLED["a tar without the ustar mark"] = bytes(_unmarked)


def safetensors(length: int) -> bytes:
    head = json.dumps({"__metadata__": {"pad": ""}}).encode()
    return struct.pack("<Q", length) + head.ljust(length) if length < 1 << 20 else b""


DATA: dict[str, bytes] = {
    "empty": b"",
    "one byte": b"\x80",
    "a text": b"# A model\n\nIt answers questions.\n" * 4000,
    "a text that begins like an opcode": b"character models are small.\n" * 4000,
    "another": b"I think so.\n\nN.B. this is text.\n",
    "a full stop": b".",
    "json": json.dumps({"architectures": ["LlamaForCausalLM"], "n": [1] * 9999}).encode(),
    "a list in json": json.dumps([1, 2, 3]).encode(),
    "zeros": bytes(100_000),
    "safetensors, header length 0x280": safetensors(0x280),
    "safetensors, header length 0x480": safetensors(0x480),
    "safetensors, header length 0x42880": safetensors(0x42880),
    "numbers": array([[1.0, 2.0], [3.0, 4.0]]),
    "a zip of texts": torch_zip("readme.txt"),
    "a tar of texts": tar("readme.txt", "LICENSE"),
    "a compressed text": gzip.compress(b"a compressed text, quite long\n" * 5000),
    "floats": struct.pack("<20000f", *(0.01 * n for n in range(20000))),
}


@pytest.mark.parametrize("case", PICKLED)
def test_is_pickled(case: str, tmp_path: Path):
    path = tmp_path / "model.safetensors"  # a name decides nothing
    path.write_bytes(PICKLED[case])
    assert looks_pickled(path)


@pytest.mark.parametrize("case", DATA)
def test_is_not_pickled(case: str, tmp_path: Path):
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(DATA[case])
    assert not looks_pickled(path)


def test_a_gguf_is_not_pickled(tmp_path: Path):
    gguf_writer.write_llama(tmp_path / "m.gguf")
    assert not looks_pickled(tmp_path / "m.gguf")


@pytest.mark.model
def test_real_weights_are_not_pickled(smollm2_gguf: Path, gemma3_gguf: Path):
    assert not looks_pickled(smollm2_gguf)
    assert not looks_pickled(gemma3_gguf)


def test_random_bytes_are_not_pickled(tmp_path: Path):
    path = tmp_path / "noise"
    pick = random.Random(1)
    wrong = 0
    for _ in range(500):
        path.write_bytes(pick.randbytes(70_000))
        wrong += looks_pickled(path)
    assert wrong == 0


def test_the_usual_names_are_listed():
    assert {".bin", ".pt", ".pth", ".ckpt", ".pkl"} <= set(PICKLED_SUFFIXES)
    assert not {".gguf", ".safetensors", ".json"} & set(PICKLED_SUFFIXES)


def test_a_file_that_is_not_there(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        looks_pickled(tmp_path / "absent.bin")


def test_mutated_files_cost_neither_time_nor_memory(tmp_path: Path):
    path = tmp_path / "mutated"
    seeds = [data for data in (*PICKLED.values(), *DATA.values()) if data]
    tracemalloc.start()
    try:
        for number in range(1500):
            pick = random.Random(number)
            data = bytearray(pick.choice(seeds))
            for _ in range(pick.choice((1, 3, 20))):
                at = pick.randrange(len(data))
                data[at : at + pick.choice((1, 4, 8))] = pick.choice(
                    (b"\xff" * 8, bytes(4), pick.randbytes(1), pick.randbytes(8))
                )
            path.write_bytes(data)
            start = time.process_time()
            assert looks_pickled(path) in (True, False)
            assert time.process_time() - start < 3
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def test_a_bomb_is_not_inflated(tmp_path: Path):
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(bytes(200 << 20), 9))
    tracemalloc.start()
    try:
        assert not looks_pickled(path)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_a_zip_directory_that_claims_gigabytes_is_not_read(tmp_path: Path):
    path = tmp_path / "sparse.zip"
    size = 6 << 30
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 1, 1, 0xF0000000, 4, 0)
    with path.open("wb") as file:
        file.write(b"PK\x03\x04")
        file.seek(size)
        file.write(end)
    tracemalloc.start()
    try:
        assert looks_pickled(path)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
