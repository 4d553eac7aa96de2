"""Damaged and hostile files end in findings or an OvertError, whatever is wrong with them."""

import contextlib
import json
import random
import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from weights_cases import findings, subject

import tiny_models as tiny
from overt.errors import OvertError

CHECKS = ("shapes", "parameters", "tensors_complete", "tokenizer_fits", "quantization",
          "requantized", "lineage")  # fmt: skip
ODD = [None, True, -1, 0, 1, 2**31, 2**63, 2**200, 0.5, "", "x" * 500, [], [1, 2], {}, {"a": []},
       "\ud800"]  # fmt: skip
fast = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def every(one):
    for check in CHECKS:
        with contextlib.suppress(OvertError):
            for found in findings(check, one):
                assert found.result in ("pass", "fail", "inconclusive", "not_run")
                assert found.result == "pass" or found.observed or found.reason


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    sizes = {"width": 16, "inner": 16, "layers": 1, "vocabulary": 112, "heads": 2, "kv_heads": 1}
    base = tiny.release(folder / "base", "mixtral", experts=2, **sizes)
    file = tiny.gguf(folder / "m-Q8_0.gguf", "mixtral", "F16", experts=2, **sizes)
    return folder, base, file


@fast
@given(data=st.data())
def test_numbers_of_config_json(made, data):
    folder, base, file = made
    architecture = data.draw(st.sampled_from(tiny.ARCHITECTURES))
    config = tiny.config_of(architecture)
    for key in data.draw(st.lists(st.sampled_from(sorted(config)), min_size=1, max_size=3)):
        config[key] = data.draw(st.sampled_from(ODD))
    target = folder / "changed"
    target.mkdir(exist_ok=True)
    (target / "model.safetensors").write_bytes((base / "model.safetensors").read_bytes())
    text = json.dumps(config).encode("utf-8", "surrogatepass")
    (target / "config.json").write_bytes(text)
    one = subject(target, base=subject(base), relation="finetune")
    every(one)
    every(subject(file, base=one, relation="quantized"))


@fast
@given(data=st.data())
def test_parts_of_tokenizer_json(made, data):
    folder, base, _ = made
    content = tiny.tokenizer_json()
    place = data.draw(st.sampled_from([content, content["model"], content["added_tokens"][0]]))
    for key in data.draw(st.lists(st.sampled_from(sorted(place)), min_size=1, max_size=2)):
        place[key] = data.draw(st.sampled_from(ODD))
    target = folder / "words"
    target.mkdir(exist_ok=True)
    for name in ("config.json", "model.safetensors"):
        (target / name).write_bytes((base / name).read_bytes())
    special = {"eos_token": data.draw(st.sampled_from(ODD)), "added_tokens_decoder": place}
    for name, value in (("tokenizer.json", content), ("tokenizer_config.json", special)):
        (target / name).write_bytes(json.dumps(value).encode("utf-8", "surrogatepass"))
    every(subject(target))


@fast
@given(seed=st.integers(0, 2**32), count=st.integers(1, 8), cut=st.booleans())
def test_bytes_of_a_gguf_file(made, seed, count, cut):
    folder, base, file = made
    draw = random.Random(seed)
    data = bytearray(file.read_bytes())
    for _ in range(count):
        data[draw.randrange(min(len(data), 9000))] = draw.choice((0, 1, 255, draw.randrange(256)))
    if cut:
        del data[draw.randrange(len(data)) :]
    target = folder / "changed-Q8_0.gguf"
    target.write_bytes(data)
    every(subject(target, base=subject(base), relation="quantized"))
    every(subject(file, base=subject(target), relation="finetune"))


@fast
@given(data=st.data())
def test_the_header_of_a_safetensors_file(made, data):
    folder, base, _ = made
    raw = (base / "model.safetensors").read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + length])
    name = data.draw(st.sampled_from(sorted(header)))
    change = data.draw(st.sampled_from(["drop", "rename", "flatten", "odd", "dtype"]))
    entry = header.pop(name)
    if change == "rename":
        header[data.draw(st.sampled_from(sorted(header))) + ".2"] = entry
    elif change == "flatten" and "shape" in entry:
        size = 1
        for extent in entry["shape"]:
            size *= extent
        header[name] = {**entry, "shape": data.draw(st.sampled_from([[size], [1, size, 1], []]))}
    elif change == "dtype":
        header[name] = {**entry, "dtype": data.draw(st.sampled_from(["I16", "F8_E4M3", "U8"]))}
    elif change == "odd":
        header[name] = data.draw(st.sampled_from(ODD))
    text = json.dumps(header).encode()
    target = folder / "cut"
    target.mkdir(exist_ok=True)
    (target / "config.json").write_bytes((base / "config.json").read_bytes())
    (target / "model.safetensors").write_bytes(
        struct.pack("<Q", len(text)) + text + raw[8 + length :]
    )
    every(subject(target, base=subject(base), relation="finetune"))


@fast
@given(data=st.data())
def test_values_of_a_gguf_header(made, data):
    folder, base, _ = made
    about = tiny._metadata("mixtral", "Q8_0", tiny.sizes_of("mixtral"))
    odd = [0, 1, 2**31, 0.5, "x", "7B", "999999x9B", [1], [0, 0], [True], "Q4_K_M", ["a", "b"]]
    keys = data.draw(st.lists(st.sampled_from(sorted(about)), min_size=1, max_size=3))
    changes = {key: data.draw(st.sampled_from(odd)) for key in keys}
    target = tiny.gguf(folder / "values.gguf", "mixtral", "Q8_0", metadata=changes)
    every(subject(target, base=subject(base), relation="quantized"))
