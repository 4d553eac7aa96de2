"""Lists of training data against the data: digests, counts, samples."""

import json
import struct
from contextlib import suppress
from hashlib import sha256

import hypothesis.strategies as st
import pytest
from check_files_case import claim, found, only, results, subject, write
from hypothesis import given, settings

import tiny_models
from conftest import repeats
from overt.errors import FormatError
from overt.openness.subject import manifests, shards
from overt.openness.subject.subject import SubjectFile

CHECK = "data_manifest"
SHARDS = {"a.txt": b"the cat sat on the mat\n" * 9, "b.jsonl": b'{"text": "a dog ran"}\n' * 7}


def sha(data):
    return sha256(data).hexdigest()


ROWS = [{"path": name, "sha256": sha(data), "bytes": len(data)} for name, data in SHARDS.items()]
FORMS = {
    "SHA256SUMS": "".join(f"{sha(d)}  {n}\n" for n, d in SHARDS.items()),
    "sha256sums.txt": "".join(f"{sha(d)} *{n}\n" for n, d in SHARDS.items()),
    "manifest.json": json.dumps({"files": ROWS}),
    "manifest.jsonl": "".join(json.dumps(row) + "\n" for row in ROWS),
    "shards_manifest.json": json.dumps({r["path"]: r["sha256"] for r in ROWS}),
    "manifest.csv": "path,sha256,bytes\n"
    + "".join(f"{r['path']},{r['sha256']},{r['bytes']}\n" for r in ROWS),
    "manifest.tsv": "file\tsha256\n" + "".join(f"{r['path']}\t{r['sha256']}\n" for r in ROWS),
    "croissant.json": json.dumps({
        "@type": "sc:Dataset", "license": "https://spdx.org/licenses/CC-BY-4.0",
        "distribution": [
            {"@type": "cr:FileObject", "@id": "x", "name": "x", "contentUrl": row["path"],
             "sha256": row["sha256"]}
            for row in ROWS
        ]}),
}  # fmt: skip


def released(folder, files, **shards_):
    data = {f"data/{name}": d for name, d in {**SHARDS, **shards_}.items() if d is not None}
    return subject(
        tiny_models.release(folder, files={**data, **{f"data/{n}": t for n, t in files.items()}})
    )


@pytest.mark.parametrize("form", FORMS)
def test_each_form_of_list(form, tmp_path):
    one = only(CHECK, released(tmp_path, {form: FORMS[form]}), "training_data")
    assert (one.result, one.strength.word) == ("pass", "pinned")
    assert "2 of 2 listed files have the digests" in one.observed
    assert one.licence == ("CC-BY-4.0" if form == "croissant.json" else None)


@pytest.mark.parametrize("form", FORMS)
def test_a_changed_shard_is_named(form, tmp_path):
    taken = released(tmp_path, {form: FORMS[form]}, **{"a.txt": b"other words\n"})
    one = only(CHECK, taken, "training_data")
    assert one.result == "fail"
    assert f"data/a.txt has sha256 {sha(b'other words' + bytes([10]))}" in one.observed
    assert sha(SHARDS["a.txt"]) in one.expected


def test_a_shard_that_is_not_there(tmp_path):
    taken = released(tmp_path, {"SHA256SUMS": FORMS["SHA256SUMS"]}, **{"a.txt": None})
    one = only(CHECK, taken, "training_data")
    assert (one.result, one.absent) == ("fail", False)
    assert "1 of 2 files" in one.observed
    assert "data/a.txt" in one.observed
    taken.remote = True
    assert results(CHECK, taken, "training_data") == ["inconclusive"]


def test_a_list_alone_is_absent_data(tmp_path):
    taken = released(tmp_path, {"SHA256SUMS": FORMS["SHA256SUMS"]}, **dict.fromkeys(SHARDS))
    one = only(CHECK, taken, "training_data")
    assert (one.result, one.absent) == ("fail", True)


LIES = {
    "bytes": ({"path": "a.txt", "bytes": 5}, "207 bytes"),
    "rows": ({"path": "b.jsonl", "rows": 8}, "holds 7 lines"),
    "tokens above bytes": ({"path": "a.txt", "tokens": 90_000}, "has 207 bytes"),
    "ids": ({"path": "c.bin", "tokens": 9, "dtype": "uint16"}, "8 tokens of uint16"),
}


@pytest.mark.parametrize("name", LIES)
def test_stated_numbers_are_counted(name, tmp_path):
    row, told = LIES[name]
    data = {**SHARDS, "c.bin": struct.pack("<8H", *range(8))}
    text = json.dumps([{**row, "sha256": sha(data[row["path"]])}])
    one = only(CHECK, released(tmp_path, {"manifest.json": text}, **data), "training_data")
    assert one.result == "fail"
    assert told in one.observed


def test_true_numbers_pass(tmp_path):
    ids = struct.pack("<8H", *range(8))
    rows = [
        {
            "path": "a.txt",
            "rows": 9,
            "tokens": 60,
            "sha256": sha(SHARDS["a.txt"]),
        },
        {"path": "b.jsonl", "num_rows": 7, "sha256": sha(SHARDS["b.jsonl"])},
        {"path": "c.bin", "tokens": 8, "dtype": "uint16", "sha256": sha(ids)},
    ]
    taken = released(tmp_path, {"manifest.json": json.dumps(rows)}, **{"c.bin": ids})
    one = only(CHECK, taken, "training_data")
    assert one.result == "pass"
    assert one.strength.word == "consistent"  # the ids of c.bin are the model's own
    assert "in the vocabulary of 112" in one.observed


def test_tokens_that_the_model_does_not_have(tmp_path):
    ids = struct.pack("<4H", 1, 2, 500, 3)
    rows = [{"path": "c.bin", "tokens": 4, "dtype": "uint16", "sha256": sha(ids)}]
    taken = released(tmp_path, {"manifest.json": json.dumps(rows)}, **{"c.bin": ids})
    one = only(CHECK, taken, "training_data")
    assert one.result == "fail"
    assert "holds the token 500" in one.observed
    assert "from 0 to 111" in one.expected


def test_a_total_that_is_not_the_sum(tmp_path):
    rows = [{**row, "tokens": 50} for row in ROWS]
    for total, result in ((100, "pass"), (1_000_000, "fail")):
        text = json.dumps({"total_tokens": total, "files": rows})
        one = only(CHECK, released(tmp_path / str(total), {"manifest.json": text}), "training_data")
        assert one.result == result
    assert "100 tokens" in one.observed


@pytest.mark.parametrize(
    ("name", "data"), [("c.parquet", b"not one"), ("c.jsonl", b"no json\n"), ("c.txt.gz", b"plain")]
)
def test_a_file_that_is_not_what_it_is_called(name, data, tmp_path):
    text = f"{sha(data)}  {name}\n"
    one = only(CHECK, released(tmp_path, {"SHA256SUMS": text}, **{name: data}), "training_data")
    assert one.result == "fail"


def test_addresses_are_pinned_and_not_fetched(tmp_path):
    text = json.dumps([{"url": "https://example.org/a", "sha256": "0" * 64}, {"url": "s3://b/c"}])
    one = only(CHECK, released(tmp_path, {"manifest.json": text}), "training_data")
    assert one.result == "not_run"
    assert "2 addresses in data/manifest.json, 1 with a digest" in one.reason


def test_data_without_a_list_only_exists(tmp_path):
    one = only(CHECK, released(tmp_path, {}), "training_data")
    assert (one.result, one.strength.word) == ("pass", "exists")


def test_sums_at_the_top_are_of_what_they_list(tmp_path):
    folder = tiny_models.release(tmp_path)
    names = ("model.safetensors", "config.json")
    sums = "".join(f"{sha((folder / n).read_bytes())}  ./{n}\n" for n in names)
    write(folder, {"SHA256SUMS": sums})
    pieces = {e.component: e for e in found(CHECK, subject(folder))}
    assert pieces["weights"].result == "pass"
    assert pieces["weights"].strength.word == "pinned"  # a digest is not yet the weights' own bar
    assert pieces["training_data"].absent
    write(folder, {"SHA256SUMS": sums.replace(sums[:4], "0000", 1)})
    assert {e.component: e.result for e in found(CHECK, subject(folder))}["weights"] == "fail"


def test_a_list_that_leads_out_of_the_release(tmp_path):
    text = f"{'0' * 64}  ../../../etc/passwd\n"
    taken = released(tmp_path, {"SHA256SUMS": text})
    assert (
        manifests.read(taken, taken.file("data/SHA256SUMS")).place(manifests.ListedFile("../../x"))
        == ""
    )
    assert "fail" in results(CHECK, taken, "training_data")


def test_words_of_another_script_than_the_tokenizers(tmp_path):
    def words_only(content):
        content["model"]["vocab"] = {chr(97 + n): n for n in range(26)}
        content["model"]["merges"] = []
        return content

    text = "日本語の文章だけ\n".encode() * 9
    files = {"data/a.txt": text, "data/SHA256SUMS": f"{sha(text)}  a.txt\n"}
    one = only(
        CHECK,
        subject(tiny_models.release(tmp_path, tokenizer=words_only, files=files)),
        "training_data",
    )
    assert one.result == "fail"
    assert "have no token" in one.observed


def test_nothing_here_is_absent(tmp_path):
    one = only(CHECK, subject(tiny_models.release(tmp_path)))
    assert (one.result, one.absent) == ("fail", True)
    assert results(CHECK, subject(tmp_path, place=False)) == []
    assert (
        results(CHECK, subject(tmp_path, claim("training_data", "https://x.org"), place=False))
        == []
    )


@given(name=st.sampled_from(sorted(FORMS)), at=st.integers(0, 300), new=st.text(max_size=6))
@settings(max_examples=repeats(60, 150))
def test_no_list_raises(tmp_path_factory, name, at, new):
    folder = tmp_path_factory.mktemp("m")
    text = FORMS[name]
    changed = (text[:at] + new + text[at + len(new) :]).encode("utf-8", "ignore")
    write(folder, {f"data/{name}": changed, "data/a.txt": SHARDS["a.txt"]})
    assert found(CHECK, subject(folder))


@given(st.binary(max_size=200), st.sampled_from([".json", ".csv", ".tsv", ".jsonl", ".txt"]))
def test_no_bytes_raise_but_one_error(tmp_path_factory, data, suffix):
    folder = write(tmp_path_factory.mktemp("m"), {f"manifest{suffix}": data})
    taken = subject(folder)
    with suppress(FormatError):
        assert manifests.read(taken, taken.files[0]).entries


def test_no_entry_of_a_list_raises():
    deep = json.loads("[" * 900 + "]" * 900)
    rows = [
        {"path": deep},
        {"path": 3},
        {},
        5,
        {"path": "a", "sha256": deep, "tokens": -1, "license": deep},
    ]
    entries = list(manifests._entries(rows))
    assert entries == [manifests.ListedFile("a")]
    file = SubjectFile("a.txt", 3)
    assert list(shards.faults(file, entries[0])) == []
