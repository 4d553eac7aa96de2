"""`overt serve --install`: files that the machine's own managers take; never somebody else's."""

import json
import os
import plistlib
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import OvertCli
from overt.errors import BadSetting, NotFound, OvertError, Refused, Unsupported
from overt.server import units
from overt.server.api_keys import ApiKeys


def sections(text: str) -> dict[str, list[tuple[str, str]]]:
    """A unit file as systemd reads it: sections of names and values."""
    found: dict[str, list[tuple[str, str]]] = {}
    rows: list[tuple[str, str]] = []
    for line in text.split("\n"):
        if line.startswith("["):
            rows = found.setdefault(line.strip("[]"), [])
        elif line and not line.startswith("#"):
            name, _, value = line.partition("=")
            rows.append((name, value))
    return found


def words(value: str, *, in_command: bool = False) -> list[str]:
    """The words of a value, by systemd.syntax(7): quotes, backslashes, then % and $."""
    found = []
    for quoted in re.findall(r'"((?:[^"\\]|\\.)*)"', value):
        word = re.sub(r"\\(.)", r"\1", quoted)
        assert not re.search(r"(?<!%)(%%)*%(?!%)", word), "a bare % would be a specifier"
        word = word.replace("%%", "%")
        found.append(word.replace("$$", "$") if in_command else word)
    return found


ODD = ["--name", 'a"b\\c', "--origin", "https://x/%h $HOME ünï;&|'", "--preload", ""]


def test_the_unit_starts_exactly_what_was_asked_for() -> None:
    made = units.unit(ODD, {"OVERT_HOME": '/a b/%n"$x\\', "X": "1"}, "linux")
    parts = sections(made.text)
    service = dict(parts["Service"])
    assert words(service["ExecStart"], in_command=True) == [
        sys.executable, "-m", "overt", "serve", *ODD,
    ]  # fmt: skip
    variables = [words(value)[0] for name, value in parts["Service"] if name == "Environment"]
    assert variables == ['OVERT_HOME=/a b/%n"$x\\', "X=1"]
    assert int(service["TimeoutStopSec"]) > 30, "a drain takes up to 30 s"
    assert service["KillMode"] == "mixed", "workers are needed until their answers have ended"
    assert service["Restart"] == "on-failure"
    assert dict(parts["Install"]) == {"WantedBy": "default.target"}
    assert made.path == Path(os.environ["XDG_CONFIG_HOME"]) / "systemd/user/overt.service"
    assert "systemctl --user enable --now overt" in made.start


@given(st.lists(st.text(st.characters(exclude_categories=["C"]), max_size=30), max_size=4))
def test_every_word_comes_back_as_it_was(given_words: list[str]) -> None:
    made = units.unit(given_words, {}, "linux")
    assert words(dict(sections(made.text)["Service"])["ExecStart"], in_command=True)[4:] == (
        given_words
    )
    agent = units.unit(given_words, {}, "darwin")
    assert plistlib.loads(agent.text.encode())["ProgramArguments"][4:] == given_words


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not here")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    made = units.unit(["--port", "0"], {"OVERT_HOME": str(tmp_path)}, "linux")
    file = tmp_path / "overt.service"
    file.write_text(made.text)
    ran = subprocess.run(
        ["systemd-analyze", "--user", "verify", str(file)], capture_output=True, text=True
    )
    assert (ran.returncode, ran.stderr) == (0, "")


def test_launchd_gets_a_property_list() -> None:
    made = units.unit(["--port", "11434"], {"OVERT_HOME": "/h"}, "darwin")
    about = plistlib.loads(made.text.encode())
    assert about["ProgramArguments"] == [
        sys.executable, "-m", "overt", "serve", "--port", "11434",
    ]  # fmt: skip
    assert about["EnvironmentVariables"] == {"OVERT_HOME": "/h"}
    assert about["RunAtLoad"] is True
    assert about["KeepAlive"] == {"SuccessfulExit": False}
    assert made.path.parts[-3:] == ("Library", "LaunchAgents", "org.overt.serve.plist")
    assert made.path.stem == about["Label"]


def test_what_no_unit_can_hold_is_refused() -> None:
    for word in ("a\nExecStartPre=rm", "\x00", "\x7f"):
        with pytest.raises(BadSetting):
            units.unit([word], {}, "linux")
        with pytest.raises(BadSetting):
            units.unit([], {"X": word}, "darwin")
    with pytest.raises(Unsupported):
        units.unit([], {}, "win32")


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_the_file_of_somebody_else_is_left_alone(platform: str) -> None:
    made = units.unit([], {}, platform)
    assert units.install(made)
    assert not units.install(made), "it is there already"
    other = units.unit(["--port", "1"], {}, platform)
    assert units.install(other), "our own is replaced"
    assert made.path.read_text() == other.text
    for foreign in (
        "", "[Unit]\n", other.text.replace("1", "2", 1), other.text.replace("RunAtLoad", "x"),
        "x" + other.text, other.text.replace(other.text[-20:-15], "00000"), b"\xff\xfe",
    ):  # fmt: skip
        data = foreign if isinstance(foreign, bytes) else foreign.encode()
        if data == other.text.encode():
            continue
        made.path.write_bytes(data)
        for act in (lambda: units.install(made), lambda: units.uninstall(made.path)):
            with pytest.raises(Refused, match="was changed since"):
                act()
        assert made.path.read_bytes() == data
    made.path.unlink()
    with pytest.raises(NotFound):
        units.uninstall(made.path)
    units.install(made)
    units.uninstall(made.path)
    assert list(made.path.parent.iterdir()) == []


def test_a_folder_in_the_way_is_one_sentence() -> None:
    made = units.unit([], {}, "linux")
    made.path.mkdir(parents=True)
    with pytest.raises(OvertError):
        units.install(made)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for the systemd unit")
def test_the_verb_installs_what_was_typed_and_takes_it_back(
    home: Path, overt_cli: OvertCli, tmp_path: Path
) -> None:
    path = Path(os.environ["XDG_CONFIG_HOME"]) / "systemd/user/overt.service"
    ran = overt_cli("serve", "--install", "--port", "11434", "--origin", "app://x", "--quiet")
    assert (ran.code, ran.stdout, ran.stderr) == (0, f"{path}\n", "")
    service = sections(path.read_text())["Service"]
    assert words(dict(service)["ExecStart"], in_command=True)[4:] == [
        "--port", "11434", "--origin", "app://x",
    ]  # fmt: skip
    assert ("Environment", f'"OVERT_HOME={home}"') in service
    assert path.stat().st_mode & 0o777 == 0o600
    again = overt_cli("serve", "--install", "--port", "11434", "--origin", "app://x")
    assert again.stdout.startswith(f"unchanged: {path}\nnow type:\n  systemctl --user ")
    said = json.loads(
        overt_cli("serve", "--install", "--json", "--require-key", "--certificate").stdout
    )
    assert said["error"]["code"] == "usage_error"
    open_to_all = overt_cli("serve", "--install", "--host", "0.0.0.0")
    assert open_to_all.code == 2
    assert "`overt keys add`" in open_to_all.stderr
    ApiKeys(home).add()
    assert overt_cli("serve", "--install", "--host", "0.0.0.0", "--context", "2048").code == 0
    command = words(dict(sections(path.read_text())["Service"])["ExecStart"], in_command=True)
    assert shlex.join(command[4:]) == "--host 0.0.0.0 --context 2048"
    mirror = ("serve", "--install", "--mirror", "--host", "0.0.0.0")
    assert overt_cli(*mirror).code == 2, "a mirror needs a token there"
    assert overt_cli(*mirror, env={"OVERT_MIRROR_TOKEN": "t" * 20}).code == 0
    assert '"OVERT_MIRROR_TOKEN=' + "t" * 20 in path.read_text()
    gone = overt_cli("serve", "--uninstall")
    assert (gone.code, path.exists()) == (0, False)
    assert "systemctl --user disable --now overt" in gone.stdout
    assert overt_cli("serve", "--uninstall").code == 3
    assert overt_cli("serve", "--install", "--uninstall").code == 2
