"""What a hub repository offers, what of it fits, and what a pull without a file takes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gguf_split import cut
from gguf_writer import write_llama
from overt.errors import BadRef, ModelNotFound, OutOfMemory
from overt.formats import gguf
from overt.models import memory as fit
from overt.models.pull import FetchProgress, find, pull
from overt.models.quant_selection import list_variants
from overt.models.store import Store
from overt.settings import Settings, load
from servers import Hub, Server, serving
from servers import gguf as random_gguf

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SIZES = {"Q8_0": "Q8_0", "F16": "F16", "F32": "F32", "Q4_0": "Q4_0"}


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Server, Server]]:
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    with serving() as server, serving() as storage:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server, storage


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """One small model in four quantizations."""
    folder = tmp_path_factory.mktemp("models")
    found = {}
    for kind in SIZES:
        path = folder / f"tiny-{kind}.gguf"
        # A vocabulary large enough that the tensor table lies well behind the beginning.
        write_llama(
            path, type=kind, embedding=256, heads=4, feed_forward=1024, layers=4, words=6000
        )
        found[path.name] = path.read_bytes()
    return found


def hub(hosts: tuple[Server, Server], files: dict[str, bytes], **more: Any) -> Hub:
    return Hub(*hosts, "org/tiny", files, frozenset(p for p in files if "gguf" in p), **more)


def memory(**more: Any) -> Settings:
    return load(flags=more)


def needed(models: dict[str, bytes], name: str, tmp_path: Path, context: int = 512) -> int:
    path = tmp_path / name
    path.write_bytes(models[name])
    return fit.need(gguf.read(path), context).total


def test_a_listing_has_size_bits_and_fit_of_each(
    hosts: tuple[Server, Server], models: dict[str, bytes], home: Path, tmp_path: Path
) -> None:
    hub(hosts, {**models, "README.md": b"c", "modeling.py": b"import os"})
    offer = list_variants("hf:org/tiny", memory(memory="8g"))
    assert str(offer.ref) == f"hf:org/tiny@{COMMIT}"
    assert [one.quantization for one in offer.models] == ["Q4_0", "Q8_0", "F16", "F32"]
    assert [one.size for one in offer.models] == [
        len(models[f"tiny-{one.quantization}.gguf"]) for one in offer.models
    ]
    first = offer.models[0]
    assert offer.best == first
    assert (first.exact, first.fits, first.need) == (
        True,
        True,
        needed(models, "tiny-Q4_0.gguf", tmp_path),
    )
    for one in offer.models:  # of the others only the tensor table was read
        path = tmp_path / one.name
        path.write_bytes(models[one.name])
        assert one.exact
        assert one.bits == gguf.read(path).bits_per_weight
        assert one.need == needed(models, one.name, tmp_path)
    assert offer.context == 512  # the model's own
    assert offer.code == ("modeling.py",)
    assert Store(home).names() == []


def test_only_the_beginning_of_one_file_and_the_tables_of_others_are_read(
    hosts: tuple[Server, Server], models: dict[str, bytes], home: Path
) -> None:
    hub(hosts, models)
    list_variants("hf:org/tiny", memory(memory="8g"))
    ranges = {seen.path: seen.range or "" for seen in hosts[1].seen}
    assert len(hosts[1].seen) == len(models)
    assert ranges.pop("/lfs/tiny-Q4_0.gguf") == "bytes=0-2097151"
    for asked in ranges.values():
        first, last = map(int, asked.removeprefix("bytes=").split("-"))
        assert last - first < 200_000
    hosts[1].seen.clear()
    pull("hf:org/tiny", memory(memory="8g"))
    assert {seen.path for seen in hosts[1].seen} == {"/lfs/tiny-Q4_0.gguf"}


def test_without_a_table_the_size_decides_and_the_need_is_about_right(
    hosts: tuple[Server, Server], models: dict[str, bytes], home: Path, tmp_path: Path
) -> None:
    hub(hosts, models)
    hosts[1].ranges = False  # so that nothing but beginnings can be read
    offer = list_variants("hf:org/tiny", memory(memory="8g"))
    assert [one.exact for one in offer.models] == [True, False, False, False]
    for one in offer.models:
        path = tmp_path / one.name
        path.write_bytes(models[one.name])
        assert one.bits == pytest.approx(gguf.read(path).bits_per_weight, rel=0.02)
        assert one.need == pytest.approx(needed(models, one.name, tmp_path), rel=0.1)


def test_a_file_of_another_model_or_a_damaged_table_is_only_estimated(
    hosts: tuple[Server, Server], models: dict[str, bytes], home: Path, tmp_path: Path
) -> None:
    write_llama(tmp_path / "other.gguf", embedding=128, layers=3)
    whole = models["tiny-Q8_0.gguf"]
    at = whole.index(b"blk.2.attn_q.weight")
    files = {
        "tiny-Q4_0.gguf": models["tiny-Q4_0.gguf"],
        "tiny-Q8_0.gguf": whole[: at + 30] + b"\xff" * 20 + whole[at + 50 :],
        "other-F32.gguf": (tmp_path / "other.gguf").read_bytes(),
        "short-F16.gguf": b"GGUF",
    }
    hub(hosts, files)
    offer = list_variants("hf:org/tiny", memory(memory="8g"))
    assert {one.name: one.exact for one in offer.models} == {
        "tiny-Q4_0.gguf": True,
        "tiny-Q8_0.gguf": False,
        "other-F32.gguf": False,
        "short-F16.gguf": False,
    }


def test_a_pull_takes_the_best_that_fits(
    hosts: tuple[Server, Server], models: dict[str, bytes], home: Path, tmp_path: Path
) -> None:
    hub(hosts, {name: body for name, body in models.items() if "Q4" not in name})
    steps: list[FetchProgress] = []
    room = needed(models, "tiny-F16.gguf", tmp_path)
    manifest = pull("hf:org/tiny", memory(memory=room), steps.append)
    assert manifest.ref == f"hf:org/tiny@{COMMIT}#tiny-Q8_0.gguf"
    assert any(s.what == "taking tiny-Q8_0.gguf of 3, the best that fits" for s in steps)


def test_what_does_not_fit_is_passed_over_for_less_good_that_does(
    hosts: tuple[Server, Server], models: dict[str, bytes], home: Path, tmp_path: Path
) -> None:
    # The order prefers the file called Q8_0; here it is the largest.
    files = {"tiny-Q8_0.gguf": models["tiny-F32.gguf"], "tiny-F16.gguf": models["tiny-Q8_0.gguf"]}
    hub(hosts, files)
    room = needed(models, "tiny-Q8_0.gguf", tmp_path) + (1 << 20)
    manifest = pull("hf:org/tiny", memory(memory=room))
    assert manifest.weights.path == "tiny-F16.gguf"
    offer = list_variants("hf:org/tiny", memory(memory=room))
    assert [(one.name, one.fits) for one in offer.models] == [
        ("tiny-Q8_0.gguf", False),
        ("tiny-F16.gguf", True),
    ]


def test_where_nothing_fits_the_least_is_named_with_its_need(
    hosts: tuple[Server, Server], models: dict[str, bytes], home: Path
) -> None:
    hub(hosts, models)
    with pytest.raises(OutOfMemory, match=r"none of the 4 models .* is free; .*#tiny-Q4_0.gguf"):
        pull("hf:org/tiny", memory(memory="10m"))
    assert not (home / "blobs").exists()
    assert pull("hf:org/tiny#Q4_0", memory(memory="10m")).weights.path == "tiny-Q4_0.gguf"


def test_the_choice_of_last_time_stays_while_the_commit_does(
    hosts: tuple[Server, Server], models: dict[str, bytes], home: Path
) -> None:
    site = hub(hosts, models)
    first = pull("hf:org/tiny", memory(memory="8g"))
    assert pull("hf:org/tiny", memory(memory="10m")) == first  # nothing else would fit today
    site.commit = "f" * 40
    with pytest.raises(OutOfMemory):
        pull("hf:org/tiny", memory(memory="10m"))


def test_a_pull_that_was_cut_off_goes_on_with_the_same_file(
    hosts: tuple[Server, Server], models: dict[str, bytes], home: Path
) -> None:
    hub(hosts, models)

    class Cut(Exception):
        pass

    def cut(step: FetchProgress) -> None:
        if step.what == "tiny-Q4_0.gguf" and step.done > 100_000:
            raise Cut

    with pytest.raises(Cut):
        pull("hf:org/tiny", memory(memory="8g"), cut)
    (part,) = (home / "partial").rglob("*.part")
    have = part.stat().st_size
    hosts[1].seen.clear()
    manifest = pull("hf:org/tiny", memory(memory="10m"))  # nothing would be chosen today
    assert manifest.weights.path == "tiny-Q4_0.gguf"
    assert [seen.range for seen in hosts[1].seen] == [f"bytes={have}-"]


def test_a_quantization_is_a_name_for_its_file(
    hosts: tuple[Server, Server], models: dict[str, bytes], home: Path
) -> None:
    hub(hosts, models)
    manifest = pull("hf:org/tiny#q8_0", memory())
    assert manifest.ref == f"hf:org/tiny@{COMMIT}#tiny-Q8_0.gguf"
    assert find("hf:org/tiny#q8_0", memory()).digest == manifest.digest
    with pytest.raises(ModelNotFound, match=r"no file Q5_K_M; it has F16, F32, Q4_0, Q8_0"):
        pull("hf:org/tiny#Q5_K_M", memory())


def test_a_split_model_is_one_choice_and_counts_all_its_files(
    hosts: tuple[Server, Server], models: dict[str, bytes], home: Path, tmp_path: Path
) -> None:
    (tmp_path / "whole.gguf").write_bytes(models["tiny-Q8_0.gguf"])
    parts = cut(tmp_path / "whole.gguf", tmp_path / "cut", 3, "tiny-Q8_0")
    files = {f"Q8_0/{path.name}": path.read_bytes() for path in parts}
    hub(hosts, {**files, "tiny-F32.gguf": models["tiny-F32.gguf"]})
    offer = list_variants("hf:org/tiny", memory(memory="8g"))
    split, whole = offer.models
    assert (split.files, split.size) == (3, sum(map(len, files.values())))
    assert (whole.files, whole.quantization) == (1, "F32")
    assert split.need == pytest.approx(needed(models, "tiny-Q8_0.gguf", tmp_path), rel=0.1)
    manifest = pull("hf:org/tiny#Q8_0", memory())
    assert manifest.ref == f"hf:org/tiny@{COMMIT}#Q8_0/tiny-Q8_0-00001-of-00003.gguf"
    assert [f.path for f in manifest.files if f.role == "weights"] == sorted(files)
    found = find("hf:org/tiny#Q8_0", memory())
    header = gguf.read(found.weights)
    assert len(header.parts) == 3
    assert header.parameters == gguf.read(tmp_path / "whole.gguf").parameters
    assert pull(f"hf:org/tiny#{sorted(files)[1]}", memory()) == manifest  # any file names the set


def test_what_cannot_be_read_is_unknown_and_the_order_decides(
    hosts: tuple[Server, Server], home: Path
) -> None:
    hub(hosts, {"a-Q4_K_M.gguf": random_gguf(1), "a-Q8_0.gguf": random_gguf(2)})
    offer = list_variants("hf:org/tiny", memory())
    assert [(one.need, one.fits, one.bits) for one in offer.models] == [(None, None, None)] * 2
    assert pull("hf:org/tiny", memory()).weights.path == "a-Q4_K_M.gguf"


def test_a_server_that_knows_no_ranges_is_read_as_far_as_needed(
    hosts: tuple[Server, Server], models: dict[str, bytes], home: Path
) -> None:
    hub(hosts, models)
    hosts[1].ranges = False
    assert list_variants("hf:org/tiny", memory(memory="8g")).models[0].exact


def test_a_file_that_lies_about_its_size_is_not_waited_for(
    hosts: tuple[Server, Server], models: dict[str, bytes], home: Path
) -> None:
    digest = "a" * 64
    rows = [
        {
            "rfilename": f"m-{kind}.gguf",
            "size": size,
            "lfs": {"size": size, "sha256": digest, "pointerSize": 134},
        }
        for kind, size in (("Q4_0", 1 << 60), ("Q8_0", 0))
    ]
    hub(hosts, {}, siblings=rows)
    offer = list_variants("hf:org/tiny", memory())
    assert [one.need for one in offer.models] == [None, None]


def test_only_a_hub_can_be_listed(home: Path) -> None:
    with pytest.raises(BadRef, match="is not a repository of a hub"):
        list_variants("smollm2", load())
