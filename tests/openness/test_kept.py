"""A dossier is shown again only while nothing that decides it has changed."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from gguf_writer import Tensor, write
from overt.cli import app
from overt.errors import BadRef
from overt.openness import assemble, cache, program
from overt.settings import Settings, load

DAY = date(2026, 11, 25)


def gguf(path: Path, licence: str = "apache-2.0", **more: Any) -> Path:
    told = {"general.architecture": "llama", "general.name": "it", "general.license": licence}
    write(path, {**told, **more}, [Tensor("token_embd.weight", (32, 4))])
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return gguf(tmp_path / "it.gguf")


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The refs of the dossiers that were really made, and not shown again."""
    refs: list[str] = []
    real = assemble.assemble

    def counting(subject: Any, *rest: Any, **more: Any) -> Any:
        refs.append(subject.ref)
        return real(subject, *rest, **more)

    monkeypatch.setattr(assemble, "assemble", counting)
    return refs


@pytest.fixture
def printed(home: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What `overt dossier` prints, in this process."""

    def shown(*words: str) -> str:
        capsys.readouterr()
        assert app.run(["dossier", *words]) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    return shown


@pytest.fixture
def show(printed: Callable[..., str], file: Path) -> Callable[..., dict[str, Any]]:
    def shown(*flags: str, ref: str = str(file)) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(printed(ref, "--json", *flags))
        return found

    return shown


# ---- it is shown again ---------------------------------------------------------------------------


def test_the_second_time_it_is_not_made(
    printed: Callable[..., str], file: Path, made: list[str]
) -> None:
    for form in (["--json"], [], ["--evidence"], ["--quiet"]):
        first = printed(str(file), "--fresh", *form)
        made.clear()
        assert printed(str(file), *form) == first
        assert made == []


def test_fresh_looks_again_and_other_forms_are_made(
    show: Callable[..., dict[str, Any]], printed: Callable[..., str], file: Path, made: list[str]
) -> None:
    assert show() == show("--fresh")
    assert len(made) == 2
    assert printed(str(file), "--html")
    assert len(made) == 3


def test_the_second_time_only_little_is_loaded(file: Path, home: Path) -> None:
    program = (
        "import sys; from overt.cli import app; app.run(['dossier', sys.argv[1], '--quiet']);"
        "print(*sorted(one for one in sys.modules if one.startswith('overt.')))"
    )
    loaded = []
    for _ in range(2):
        command = [sys.executable, "-c", program, str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        loaded.append(set(done.stdout.splitlines()[-1].split()))
    heavy = {
        "overt.formats.gguf",
        "overt.openness.verdicts.rules",
        "overt.models.store",
        "overt.chat",
    }
    assert loaded[0] & heavy == heavy - {"overt.chat"}
    assert loaded[1] & heavy == set()


# ---- what decides it -----------------------------------------------------------------------------


def _licence(file: Path, home: Path) -> None:
    gguf(file, "llama3.1")


def _touched(file: Path, home: Path) -> None:
    os.utime(file, ns=(1, 1))


def _same_bytes_anew(file: Path, home: Path) -> None:
    data, times = file.read_bytes(), file.stat()
    file.unlink()
    file.write_bytes(data)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def _other_bytes_same_time_and_size(file: Path, home: Path) -> None:
    times = file.stat()
    data = file.read_bytes()
    file.write_bytes(data.replace(b"apache-2.0", b"cc-by-nc-4"))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def _evidence(file: Path, home: Path) -> None:
    (log,) = (home / "dossiers").glob("*.jsonl")
    log.write_bytes(log.read_bytes() + b"\n")


def _no_evidence(file: Path, home: Path) -> None:
    for log in (home / "dossiers").glob("*.jsonl"):
        log.unlink()


def _another_dossier(file: Path, home: Path) -> None:
    (last,) = (home / "dossiers").glob("*.last.json")
    last.write_bytes(last.read_bytes() + b"\n")


def _a_name_in_the_store(file: Path, home: Path) -> None:
    (home / "names").mkdir(exist_ok=True)
    (home / "names" / "one.json").write_text("{}")


def _a_manifest(file: Path, home: Path) -> None:
    (home / "manifests").mkdir(exist_ok=True)
    (home / "manifests" / "one.json").write_text("{}")


def _a_damaged_note(file: Path, home: Path) -> None:
    (note,) = (home / "dossiers").glob("*.kept.json")
    note.write_bytes(note.read_bytes()[:-9])


@pytest.mark.parametrize(
    "change",
    [
        _licence, _touched, _same_bytes_anew, _other_bytes_same_time_and_size, _evidence,
        _no_evidence, _another_dossier, _a_name_in_the_store, _a_manifest, _a_damaged_note,
    ],
)  # fmt: skip
def test_any_change_has_it_made_again(
    change: Callable[[Path, Path], None],
    show: Callable[..., dict[str, Any]],
    file: Path,
    home: Path,
    made: list[str],
) -> None:
    show()
    show()
    assert len(made) == 1
    change(file, home)
    after = show()
    assert len(made) == 2
    assert after == show("--fresh")


def test_another_day_has_it_made_again(
    show: Callable[..., dict[str, Any]], made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for seconds in ("0", "86400"):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", seconds)
        show()
    assert len(made) == 2


def test_another_program_has_it_made_again(
    show: Callable[..., dict[str, Any]], made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    show()
    monkeypatch.setattr(program, "stamp", lambda _: "another")
    show()
    assert len(made) == 2


def test_another_setting_or_ref_has_it_made_again(
    show: Callable[..., dict[str, Any]],
    file: Path,
    made: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    show()
    show("--offline")
    monkeypatch.chdir(file.parent)
    assert show(ref="./it.gguf")["subject"]["ref"] == "./it.gguf"
    assert len(made) == 3


def test_with_a_base_it_is_always_made(
    show: Callable[..., dict[str, Any]], file: Path, made: list[str], tmp_path: Path
) -> None:
    base = gguf(tmp_path / "base.gguf")
    for _ in range(2):
        assert show("--base", str(base))["subject"]["base"] == str(base)
    assert show()["subject"]["base"] == ""
    assert len(made) == 3


@pytest.mark.parametrize("name", ["", "record.yaml", "m-00001-of-00002.gguf", "absent.gguf"])
def test_only_a_single_file_is_kept(name: str, tmp_path: Path, home: Path) -> None:
    if name and name != "absent.gguf":
        gguf(tmp_path / name)
    assert cache.moment(str(tmp_path / name), load(), DAY) is None
    assert cache.moment("smollm2", load(), DAY) is None


def test_what_is_no_ref_is_refused(home: Path) -> None:
    with pytest.raises(BadRef):
        cache.moment("\0", load(), DAY)


def test_every_setting_counts(file: Path, home: Path) -> None:
    settings: Settings = load()
    moments = {cache.moment(str(file), one, DAY) for one in (settings, load({}, {"queue": 7}))}
    assert len(moments) == 2


def test_a_stamp_tells_files_apart(tmp_path: Path) -> None:
    (tmp_path / "a" / "__pycache__").mkdir(parents=True)
    seen = set()
    for name, text in (("one", "1"), ("one", "12"), ("a/two", "1")):
        (tmp_path / name).write_text(text)
        seen.add(program.stamp(program.folders(tmp_path)))
        (tmp_path / "a" / "__pycache__" / "x.pyc").write_text(name)
        seen.add(program.stamp(program.folders(tmp_path)))
    assert 3 <= len(seen) <= 6
