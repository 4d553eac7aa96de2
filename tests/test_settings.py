"""Settings: file < environment < flag, and every wrong value named with what it should be."""

import contextlib
import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overt.errors import BadSetting
from overt.settings import Settings, bytes_of, load, seconds_of


def _write(home: Path, text: str) -> dict[str, str]:
    (home / "overt.toml").write_text(text, "utf-8")
    return {"OVERT_HOME": str(home)}


def test_without_anything_said_the_defaults_hold() -> None:
    settings = load({})
    assert settings == Settings(home=Path.home() / ".overt")


def test_the_process_environment_is_read_where_none_is_given(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OVERT_THREADS", "3")
    assert load() == Settings(home=home, threads=3)


def test_file_then_environment_then_flag(home: Path) -> None:
    environ = _write(home, 'threads = 1\ncontext = 1\nparallel = 1\nmodel = "file"\n')
    environ |= {"OVERT_CONTEXT": "2", "OVERT_PARALLEL": "2"}
    settings = load(environ, {"parallel": 3, "threads": None})
    assert settings == Settings(home=home, threads=1, context=2, parallel=3, model="file")


def test_an_empty_variable_says_nothing(home: Path) -> None:
    environ = _write(home, "threads = 4\n") | {"OVERT_THREADS": ""}
    assert load(environ).threads == 4


def test_home_is_told_by_variable_or_flag_and_is_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load({"OVERT_HOME": "here"}).home == tmp_path / "here"
    assert load({"OVERT_HOME": "here"}, {"home": "~/there"}).home == Path.home() / "there"
    (tmp_path / "flagged").mkdir()
    _write(tmp_path / "flagged", "threads = 5")
    assert load({"OVERT_HOME": "here"}, {"home": tmp_path / "flagged"}).threads == 5


# One line per setting: what it takes as text, and what it makes of it.
GOOD: dict[str, tuple[str, Any]] = {
    "home": ("/somewhere", Path("/somewhere")),
    "model": ("gemma3", "gemma3"),
    "egress": ("api.openai.com", "api.openai.com"),
    "connect_timeout": ("2s", "2s"),
    "first_timeout": ("30s", "30s"),
    "between_timeout": ("9s", "9s"),
    "retries": ("0", 0),
    "lm_eval": ("/opt/lm_eval", "/opt/lm_eval"),
    "context": ("4096", 4096),
    "parallel": ("8", 8),
    "keep_alive": ("1h", "1h"),
    "queue": ("9", 9),
    "models": ("2", 2),
    "threads": ("2", 2),
    "memory": ("8g", 8 << 30),
    "isolation": ("full", "full"),
    "licence": ("enforce", "enforce"),
    "engine": ("wheel", "wheel"),
    "bandwidth": ("5m", 5 << 20),
    "downloads": ("8", 8),
    "offline": ("yes", True),
    "debug": ("1", True),
}


def test_every_setting_is_tested_and_explained() -> None:
    assert set(GOOD) == {field.name for field in fields(Settings)}
    assert all(field.metadata["help"] for field in fields(Settings))


@pytest.mark.parametrize(("name", "text", "value"), [(k, *v) for k, v in GOOD.items()])
def test_every_setting_by_variable_and_flag(home: Path, name: str, text: str, value: Any) -> None:
    by_variable = load({"OVERT_HOME": str(home), f"OVERT_{name.upper()}": text})
    by_flag = load({"OVERT_HOME": str(home)}, {name: text})
    assert getattr(by_variable, name) == getattr(by_flag, name) == value
    assert type(getattr(by_variable, name)) is type(value)


@pytest.mark.parametrize(("name", "text", "value"), [(k, *v) for k, v in GOOD.items()])
def test_every_setting_by_file_but_the_home_the_file_is_in(
    home: Path, name: str, text: str, value: Any
) -> None:
    native = {int: str(value), bool: str(value).lower()}.get(type(value), f'"{text}"')
    environ = _write(home, f"{name} = {native}\n")
    if name == "home":
        with pytest.raises(BadSetting, match="unknown key 'home'"):
            load(environ)
    else:
        assert getattr(load(environ), name) == value


BAD_TEXT = {
    "context": ["many", "-1", "1.5", "4k", "1e3", "9" * 5000],
    "parallel": ["-1", "x"],
    "threads": ["all", "-2"],
    "memory": ["much", "-8g", "8x", "g", "nan", "inf", "8gg", "1e999"],
    "isolation": ["none", "FULL"],
    "licence": ["on", "WARN"],
    "engine": ["gpu"],
    "bandwidth": ["fast", "-1m"],
    "downloads": ["0", "-1", "65", "4k"],
    "keep_alive": ["soon", "5 parsecs", "1..5s", "5m1", "m"],
    "queue": ["0", "-1", "x"],
    "models": ["-1", "x"],
    "offline": ["perhaps", "2"],
    "debug": ["?"],
    "home": ["~nobody-of-this-name/models"],
}


@pytest.mark.parametrize(("name", "text"), [(k, v) for k, vs in BAD_TEXT.items() for v in vs])
def test_a_wrong_value_is_refused_by_the_name_of_its_setting(
    home: Path, name: str, text: str
) -> None:
    for environ, flags in (({f"OVERT_{name.upper()}": text}, {}), ({}, {name: text})):
        with pytest.raises(BadSetting) as caught:
            load({"OVERT_HOME": str(home)} | environ, flags)
        assert caught.value.message.startswith(f"{name} is ")
        assert caught.value.hint


@pytest.mark.parametrize(
    "line",
    ["context = true", "context = 1.7", "context = [1]", "threads = 1979-05-27", "memory = 1.5",
     "memory = true", "memory = []", "model = 5", "model = {a = 1}", "isolation = false",
     "engine = 1", "offline = []", "offline = 0.5", "debug = {}", "queue = 0", "context = -1"],
)  # fmt: skip
def test_a_value_of_another_kind_in_the_file_is_refused_by_name(home: Path, line: str) -> None:
    with pytest.raises(BadSetting) as caught:
        load(_write(home, line))
    assert caught.value.message.startswith(f"{line.split()[0]} is ")
    assert caught.value.hint


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"thread = 2", "unknown key 'thread'"),
        (b"[table]\nthreads = 2", "unknown key 'table'"),
        (b"threads = ", "cannot be read"),
        (b"model = '\xff'", "cannot be read"),
        (b"a = " + b"[" * 50_000, "cannot be read"),
    ],
)
def test_a_file_that_is_wrong_is_named(home: Path, content: bytes, says: str) -> None:
    (home / "overt.toml").write_bytes(content)
    with pytest.raises(BadSetting) as caught:
        load({"OVERT_HOME": str(home)})
    assert str(home / "overt.toml") in caught.value.message
    assert says in caught.value.message
    assert caught.value.hint


def test_a_home_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadSetting, match=r"file/overt\.toml cannot be read"):
        load({"OVERT_HOME": str(tmp_path / "file")})


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1000", 1000),
        (1000, 1000),
        ("500m", 500 << 20),
        ("500 MB", 500 << 20),
        ("8g", 8 << 30),
        ("8GiB", 8 << 30),
        (" 1.5k ", 1536),
        ("2T", 2 << 40),
        ("7b", 7),
    ],
)
def test_sizes(text: str | int, size: int) -> None:
    assert bytes_of(text) == size


@pytest.mark.parametrize("text", ["", "g", "8 giga", "eight", "1,5g", "0x10", "--1", "8g8g"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(BadSetting, match="is not a size"):
        bytes_of(text)


@given(st.integers(0, 1 << 50), st.sampled_from(["", "b", "B"]))
def test_bare_numbers_are_bytes_exactly(number: int, suffix: str) -> None:
    assert bytes_of(f"{number}{suffix}") == number


@given(st.text(max_size=20) | st.from_regex(r"[0-9.]{1,6} ?[kmgtKMGT]?(i?[bB])?", fullmatch=True))
def test_any_text_is_a_size_or_a_bad_setting(text: str) -> None:
    with contextlib.suppress(BadSetting):
        assert isinstance(bytes_of(text), int)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        load({}).threads = 2  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("300", 300),
        ("1.5", 1.5),
        ("30s", 30),
        ("5m", 300),
        (" 1H30m ", 5400),
        ("2d", 172800),
        ("250ms", 0.25),
        ("-1", math.inf),
        ("-5m", math.inf),
        ("forever", math.inf),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@given(st.text(max_size=12) | st.from_regex(r"-?[0-9.]{0,4}(ms|[smhdx])[0-9]{0,3}", fullmatch=True))
def test_any_text_is_a_duration_or_refused(text: str) -> None:
    with contextlib.suppress(BadSetting):  # and nothing else is raised
        assert seconds_of(text) >= 0
