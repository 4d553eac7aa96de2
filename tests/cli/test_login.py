"""`overt login`: the key goes in unseen, and never comes out."""

import io
import json
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import OvertCli
from overt.cli.app import run
from overt.security.credentials import save
from overt.settings import Settings
from servers import Answer, Seen, Server, serving

KEY = "sk-good-0123456789abcdefWXYZ"
NO_RING = {"OVERT_KEYRING": "off"}
Typing = Callable[[bytes], None]


@pytest.fixture
def typing(monkeypatch: pytest.MonkeyPatch) -> Typing:
    """Puts bytes on stdin, for the verb in this process."""
    monkeypatch.setenv("OVERT_KEYRING", "off")
    return lambda data: monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_a_key_from_stdin_is_kept_and_listed_without_being_shown(
    home: Path, overt_cli: OvertCli
) -> None:
    assert "overt login openai" in overt_cli("login", env=NO_RING).stdout
    ran = overt_cli("login", "openai", stdin=f"{KEY}\n", env=NO_RING)
    file = home / "logins.json"
    assert (ran.code, ran.stdout) == (0, f"the key of openai is kept: {file}\n")
    assert "no keyring" in ran.stderr
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert json.loads(file.read_bytes())["keys"] == {"openai": KEY}
    said = overt_cli("login", "http://127.0.0.1:9/", "--to", "file", "--json", stdin="k2")
    assert json.loads(said.stdout) == {"name": "http://127.0.0.1:9/v1", "place": str(file)}
    assert said.stderr == ""
    env = {**NO_RING, "ANTHROPIC_API_KEY": "short"}
    listed = overt_cli("login", env=env)
    assert [line.split() for line in listed.stdout.splitlines()[1:]] == [
        ["openai", str(file), "…WXYZ"],
        ["anthropic", "ANTHROPIC_API_KEY", "-"],
        ["http://127.0.0.1:9/v1", str(file), "-"],
    ]
    machine = json.loads(overt_cli("login", "--json", env=env).stdout)["logins"]
    assert machine[0] == {"name": "openai", "place": str(file), "end": "WXYZ"}
    assert overt_cli("login", "-q", env=env).stdout.split()[:2] == ["openai", "anthropic"]
    for one in (ran, said, listed):
        assert KEY not in one.stdout + one.stderr


def test_a_key_is_forgotten(home: Path, overt_cli: OvertCli) -> None:
    overt_cli("login", "gemini", stdin=KEY, env=NO_RING)
    env = {**NO_RING, "GEMINI_API_KEY": "from-elsewhere"}
    ran = overt_cli("login", "gemini", "--remove", env=env)
    assert ran.stdout == f"the key of gemini is gone from {home / 'logins.json'}\n"
    assert "unset GEMINI_API_KEY" in ran.stderr
    assert KEY not in (home / "logins.json").read_text()
    again = overt_cli("login", "gemini", "--remove", "--json", env=NO_RING)
    assert (again.code, json.loads(again.stdout)["error"]["code"]) == (3, "not_found")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([KEY], "does not belong on a command line"),
        (["openai", "any-text"], "type `overt login openai` alone"),
        (["openai", KEY], "does not belong on a command line"),
        (["AIza" + "x" * 35], "does not belong on a command line"),
        (["mistral"], "write openai, anthropic, gemini, or a server's URL"),
        (["https://user:hunter2@host.example/v1"], "holds a user name or password"),
        (["--remove"], "overt login openai"),
        (["openai", "--remove", "--check"], "give one"),
        (["openai", f"--key={KEY}"], "no such option"),
    ],
)
def test_what_is_refused_without_being_repeated(
    home: Path, typing: Typing, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    typing(b"")
    assert run(["login", *arguments]) == 2
    said = "".join(capsys.readouterr())
    assert says in said
    assert KEY not in said
    assert "hunter2" not in said
    assert not (home / "logins.json").exists()


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        (b"", "no key in what was typed; overt login openai"),
        (b"a b", "a blank or control character"),
        (b"sk-\xff\xfe", "not ASCII"),
        (b"sk-" + b"x" * 100_000, "longer than 8192"),
    ],
)
def test_what_is_no_key(
    home: Path, typing: Typing, capsys: pytest.CaptureFixture[str], typed: bytes, says: str
) -> None:
    typing(typed)
    assert run(["login", "openai"]) == 2
    assert says in capsys.readouterr().err
    assert not (home / "logins.json").exists()


def test_a_machine_without_a_keyring(home: Path, overt_cli: OvertCli) -> None:
    env = {"PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring", "OPENAI_API_KEY": "x"}
    ran = overt_cli("login", "openai", "--to", "keyring", stdin=KEY, env=env)
    assert (ran.code, "overt login openai --to file" in ran.stderr) == (1, True), ran.stderr
    ran = overt_cli("login", "openai", stdin=KEY, env=env)
    assert ran.code == 0
    assert "OPENAI_API_KEY is set in this environment, and comes before" in ran.stderr
    assert overt_cli("login", "openai", "--remove", env=env).code == 0


@pytest.mark.skipif(sys.platform == "win32", reason="a terminal is driven by pty")
def test_the_prompt_does_not_show_the_key(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from test_terminal import Session

    monkeypatch.setenv("OVERT_KEYRING", "off")
    session = Session("login", "openai")
    try:
        before = session.wait_for(r"key of openai \(it is not shown\): ")
        session.type(f"{KEY}\n")
        after = session.wait_for("is kept: ")
        assert KEY not in before + after
        assert session.leave() == 0
    finally:
        session.close()
    assert KEY in (home / "logins.json").read_text()


# ---- --check -------------------------------------------------------------------------------


def _provider(seen: Seen) -> Answer | None:
    """Lists for a good key what each provider lists for one."""
    keys = (
        seen.authorization or "",
        seen.headers.get("x-api-key"),
        seen.headers.get("x-goog-api-key"),
    )
    names = {"/v1/models": b'{"data": [{"id": "a"}, {"id": "b"}]}',
             "/v1beta/models": b'{"models": [{"name": "models/a"}]}',
             "/open/models": b'{"data": []}', "/odd/models": b"[" * 100_000}  # fmt: skip
    if seen.path not in names:
        return None
    if seen.path == "/open/models" or KEY in keys or f"Bearer {KEY}" in keys:
        return Answer(200, names[seen.path], {"Content-Type": "application/json"})
    body = json.dumps(
        {"error": {"message": f"no such key: {keys}", "type": "authentication_error"}}
    )
    return Answer(401, body.encode(), {"Content-Type": "application/json"})


@pytest.fixture
def provider() -> Iterator[Server]:
    with serving(Server(routes=[_provider])) as server:
        yield server


def test_check_asks_each_provider_for_its_models(provider: Server, overt_cli: OvertCli) -> None:
    env = {
        **NO_RING, "OPENAI_BASE_URL": f"{provider.url}/v1", "ANTHROPIC_BASE_URL": provider.url,
        "GOOGLE_GEMINI_BASE_URL": provider.url, "OPENAI_API_KEY": KEY, "ANTHROPIC_AUTH_TOKEN": KEY,
        "GEMINI_API_KEY": KEY,
    }  # fmt: skip
    ran = overt_cli("login", "openai", "--check", env=env)
    assert ran.stdout == "the key of openai (OPENAI_API_KEY) works; models: 2\n", ran.stderr
    said = json.loads(overt_cli("login", "anthropic", "--check", "--json", env=env).stdout)
    assert said == {
        "name": "anthropic", "place": "ANTHROPIC_AUTH_TOKEN", "works": True, "models": 2,
    }  # fmt: skip
    assert overt_cli("login", "gemini", "--check", env=env).stdout.endswith("models: 1\n")
    assert [(seen.path, seen.authorization) for seen in provider.seen] == [
        ("/v1/models", f"Bearer {KEY}"), ("/v1/models", f"Bearer {KEY}"), ("/v1beta/models", None),
    ]  # fmt: skip
    assert provider.seen[1].headers["anthropic-version"] == "2023-06-01"
    wrong = "sk-wrong-0123456789abcdefg"
    ran = overt_cli("login", "openai", "--check", env={**env, "OPENAI_API_KEY": wrong})
    assert (ran.code, "overt login openai" in ran.stderr) == (5, True), ran.stderr
    assert wrong not in ran.stderr + ran.stdout


def test_check_of_any_other_server(home: Path, provider: Server, overt_cli: OvertCli) -> None:
    for path in ("v1", "open", "odd", "none"):
        save(f"{provider.url}/{path}", KEY, Settings(home=home), "file")

    def check(path: str, *more: str) -> tuple[int, str]:
        ran = overt_cli("login", f"{provider.url}/{path}", "--check", *more, env=NO_RING)
        assert KEY not in ran.stdout + ran.stderr
        return ran.code, ran.stdout + ran.stderr

    code, said = check("v1")
    assert (code, "works; models: 2" in said) == (0, True), said
    said = check("open")[1]
    assert "lists its 0 models to anybody: the key was not judged" in said
    assert json.loads(check("open", "--json")[1])["works"] is None
    code, said = check("odd")
    assert (code, "is no list of models" in said) == (1, True), said
    code, said = check("none")
    assert (code != 0, "404" in said) == (True, True), said


def test_check_sends_nothing_that_it_may_not(provider: Server, overt_cli: OvertCli) -> None:
    ran = overt_cli("login", "openai", "--check", env=NO_RING)
    assert (ran.code, "overt login openai" in ran.stderr) == (5, True)
    ran = overt_cli("login", "openai", "--check", "--offline", env={"OPENAI_API_KEY": KEY})
    assert (ran.code, "nothing was sent to api.openai.com" in ran.stderr) == (1, True), ran.stderr
    env = {"OPENAI_API_KEY": KEY, "OVERT_EGRESS": "none"}
    ran = overt_cli("login", "openai", "--check", env=env)
    assert (ran.code, "OVERT_EGRESS=api.openai.com" in ran.stderr) == (5, True), ran.stderr
    env = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": "http://10.0.0.5:8000/v1"}
    ran = overt_cli("login", "openai", "--check", env=env)
    assert (ran.code, "without encryption" in ran.stderr) == (5, True), ran.stderr
    assert provider.seen == []
