"""Keys of providers: found in order, kept for their owner alone, shown nowhere."""

import json
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from keyring import backend, errors, get_keyring, set_keyring
from keyring.backends import fail, null

from overt.errors import BadRef, BadSetting, Busy, Failure, NoEgress, NotFound, OvertError, Refused
from overt.security import credentials
from overt.security.credentials import clean, find, forget, list_keys, name_of, save, variables
from overt.settings import Settings

KEY = "sk-test-0123456789abcdefWXYZ"


class Ring(backend.KeyringBackend):
    """A keyring that works, or fails as it is told to."""

    priority = 1  # type: ignore[assignment]

    def __init__(self) -> None:
        self.held: dict[tuple[str, str], str] = {}
        self.fails: BaseException | None = None
        self.waits: threading.Event | None = None
        self.asked = 0

    def _work(self) -> None:
        self.asked += 1
        if self.waits:
            self.waits.wait(20)
        if self.fails:
            raise self.fails

    def get_password(self, service: str, username: str) -> str | None:
        self._work()
        return self.held.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self._work()
        self.held[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        self._work()
        if self.held.pop((service, username), None) is None:
            raise errors.PasswordDeleteError("not there")


@pytest.fixture(autouse=True)
def _asked_again(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A keyring that fails, and none that an earlier test gave up."""
    monkeypatch.setattr(credentials, "_silent", threading.Event())
    monkeypatch.delenv("OVERT_KEYRING", raising=False)
    before = get_keyring()
    set_keyring(fail.Keyring())
    yield
    set_keyring(before)


@pytest.fixture
def ring() -> Ring:
    made = Ring()
    set_keyring(made)
    return made


@pytest.fixture
def settings(home: Path) -> Settings:
    return Settings(home=home)


# ---- finding -------------------------------------------------------------------------------


def test_nothing_is_no_error(settings: Settings) -> None:
    assert find("openai", settings, {}) == credentials.ProviderLogin(
        "", "https://api.openai.com/v1", ""
    )
    assert find("anthropic", settings, {}).base == "https://api.anthropic.com"
    assert find("gemini", settings, {}).base == "https://generativelanguage.googleapis.com"
    there = find("http://127.0.0.1:8000", settings, {})
    assert (there.secret, there.base, there.place) == ("", "http://127.0.0.1:8000/v1", "")
    assert list_keys(settings, {}) == []
    assert not (settings.home / "logins.json").exists()
    assert [credentials.official(name) for name in ("openai", "http://x/v1")] == [
        "https://api.openai.com/v1", "",
    ]  # fmt: skip


def test_environment_before_file_before_keyring(settings: Settings, ring: Ring) -> None:
    ring.held["overt", "openai"] = "k-ring"
    assert find("openai", settings, {}) == credentials.ProviderLogin(
        "k-ring", "https://api.openai.com/v1", "keyring"
    )
    save("openai", " k-file\n", settings, "file")
    found = find("openai", settings, {"OPENAI_API_KEY": ""})
    assert (found.secret, found.place) == ("k-file", str(settings.home / "logins.json"))
    found = find("openai", settings, {"OPENAI_API_KEY": " k-env \n"})
    assert (found.secret, found.place) == ("k-env", "OPENAI_API_KEY")


def test_each_provider_has_its_variables_in_order(settings: Settings) -> None:
    both = {"ANTHROPIC_API_KEY": "one", "ANTHROPIC_AUTH_TOKEN": "two"}
    assert (find("anthropic", settings, both).secret, find("anthropic", settings, both).bearer) == (
        "one", False,
    )  # fmt: skip
    both["ANTHROPIC_API_KEY"] = " "
    assert (find("anthropic", settings, both).secret, find("anthropic", settings, both).bearer) == (
        "two", True,
    )  # fmt: skip
    assert find("gemini", settings, {"GOOGLE_API_KEY": "g", "GEMINI_API_KEY": "m"}).secret == "m"
    assert find("gemini", settings, {"GOOGLE_API_KEY": "g"}).secret == "g"


@pytest.mark.parametrize(
    ("url", "variable"),
    [
        ("https://openrouter.ai/api/v1", "OVERT_KEY_OPENROUTER_AI"),
        ("https://openrouter.ai:443/api/v1", "OVERT_KEY_OPENROUTER_AI"),
        ("http://127.0.0.1:8000/v1", "OVERT_KEY_127_0_0_1_8000"),
        ("http://my-box.lan:8000", "OVERT_KEY_MY_BOX_LAN_8000"),
        ("http://[::1]:8000/v1", "OVERT_KEY___1_8000"),
    ],
)
def test_any_server_has_a_variable(settings: Settings, url: str, variable: str) -> None:
    assert variables(url) == (variable,)
    assert find(url, settings, {variable: "k"}).secret == "k"
    assert find(url, settings, {variable + "0": "k"}).secret == ""


def test_a_server_is_looked_up_by_origin_and_path(settings: Settings) -> None:
    save("HTTPS://OpenRouter.AI:443/api/v1/#some/model", "k", settings, "file")
    assert find("https://openrouter.ai/api/v1", settings, {}).secret == "k"
    assert find("https://openrouter.ai./api/v1//", settings, {}).secret == "k"
    for other in ("https://openrouter.ai/api", "https://openrouter.ai:8443/api/v1",
                  "http://openrouter.ai/api/v1", "https://a.openrouter.ai/api/v1"):  # fmt: skip
        assert find(other, settings, {}).secret == ""
    assert name_of("http://127.0.0.1:8000") == name_of("http://127.0.0.1:8000/v1/")


@given(
    st.sampled_from(["http", "HTTPS"]),
    st.sampled_from(["h.example", "H.example.", "127.0.0.1", "[::FFFF:10.0.0.5]", "[fd00:0::1]"]),
    st.sampled_from(["", ":80", ":443", ":8000"]),
    st.sampled_from(["", "/", "/v1", "/v1//", "/api/v1/", "/a@b"]),
    st.sampled_from(["", "#m", "#a/b:c"]),
)
def test_a_url_has_one_name(scheme: str, host: str, port: str, path: str, model: str) -> None:
    name = name_of(f"{scheme}://{host}{port}{path}{model}")
    assert name_of(name) == name
    assert "#" not in name
    assert not name.endswith("/")
    assert variables(name)[0].startswith("OVERT_KEY_")


@pytest.mark.parametrize("name", ["", "OpenAI", "mistral", KEY, "ftp://x", "http://", "http://a@b/v1",
                                  "http://h/v1?key=x", "http://0x7f.1/v1"])  # fmt: skip
def test_what_is_no_name(settings: Settings, name: str) -> None:
    for call in (lambda: find(name, settings, {}), lambda: save(name, "k", settings),
                 lambda: forget(name, settings)):  # fmt: skip
        with pytest.raises(BadRef) as caught:
            call()
        assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "variable", "given", "base"),
    [
        ("openai", "OPENAI_BASE_URL", "https://eu.api.example/v1/", "https://eu.api.example/v1"),
        ("anthropic", "ANTHROPIC_BASE_URL", "http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("gemini", "GOOGLE_GEMINI_BASE_URL", " HTTPS://G.example ", "https://g.example"),
        ("openai", "OPENAI_BASE_URL", " ", "https://api.openai.com/v1"),
    ],
)
def test_a_base_url_of_the_environment(
    settings: Settings, name: str, variable: str, given: str, base: str
) -> None:
    assert find(name, settings, {variable: given}).base == base


@pytest.mark.parametrize("given", ["api.openai.com/v1", "ftp://x/v1", "https://me:hunter2@x/v1",
                                   "https://x/v1?k=hunter2", "https://x y/"])  # fmt: skip
def test_a_base_url_that_cannot_be_one(settings: Settings, given: str) -> None:
    with pytest.raises(BadSetting, match=r"^OPENAI_BASE_URL: .*write it like https://") as caught:
        find("openai", settings, {"OPENAI_BASE_URL": given})
    assert "hunter2" not in str(caught.value)


# ---- no key goes unencrypted over a network ------------------------------------------------


def test_a_key_does_not_leave_unencrypted(settings: Settings) -> None:
    environ = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": "http://10.0.0.5:8000/v1"}
    with pytest.raises(NoEgress, match=r"overt login http://10\.0\.0\.5:8000/v1$") as caught:
        find("openai", settings, environ)
    assert KEY not in str(caught.value)
    assert find("openai", settings, {"OPENAI_BASE_URL": environ["OPENAI_BASE_URL"]}).secret == ""
    for here in ("http://127.0.0.1:8000/v1", "http://localhost/v1", "https://10.0.0.5/v1"):
        assert find("openai", settings, {**environ, "OPENAI_BASE_URL": here}).secret == KEY
    save("http://10.0.0.5:8000/v1", "k-there", settings, "file")
    assert find("openai", settings, environ).secret == "k-there"  # and not the provider's own


def test_a_key_kept_for_an_unencrypted_server_goes_there(settings: Settings) -> None:
    plain = "http://box.example/v1"
    assert find("http://box.example:81", settings, {"OVERT_KEY_BOX_EXAMPLE_81": "k"}).secret == "k"
    with pytest.raises(NoEgress, match="without encryption"):  # it may be meant for https
        find(plain, settings, {"OVERT_KEY_BOX_EXAMPLE": "k"})
    assert find("https://box.example/v1", settings, {"OVERT_KEY_BOX_EXAMPLE": "k"}).secret == "k"
    save(plain, "k2", settings, "file")
    assert find(plain, settings, {}).secret == "k2"


# ---- what a key looks like -----------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    ["sk-a b", "sk-a\nX-Evil: 1", "sk-\x00", "sk-é", "sk-\u200b", "a\x7f", '"sk-a"', "'sk-a'",
     "x" * 8193],
)  # fmt: skip
def test_what_no_key_looks_like(settings: Settings, bad: str) -> None:
    for call in (
        lambda: find("openai", settings, {"OPENAI_API_KEY": bad}),
        lambda: save("openai", bad, settings),
        lambda: list_keys(settings, {"OPENAI_API_KEY": bad}),
    ):
        with pytest.raises(BadSetting, match="the key in ") as caught:
            call()
        assert bad not in str(caught.value)


@given(st.text(max_size=80))
def test_any_text_is_a_key_or_one_error(text: str) -> None:
    try:
        found = clean(text, "it")
    except BadSetting as error:
        assert text.strip() not in error.message or len(text.strip()) < 3  # noqa: PT017
        return
    assert found == text.strip()
    found.encode("ascii")
    assert not any(c.isspace() or not c.isprintable() for c in found)


def test_a_login_does_not_show_its_key(settings: Settings) -> None:
    found = find("openai", settings, {"OPENAI_API_KEY": KEY})
    assert KEY not in f"{found} {found!r} {(found,)}"
    assert KEY not in repr(credentials._StoredKeys({"openai": KEY}))


# ---- the file ------------------------------------------------------------------------------


def test_the_file_is_for_its_owner_alone(settings: Settings) -> None:
    before = os.umask(0)
    try:
        assert save("openai", KEY, settings) == str(settings.home / "logins.json")
    finally:
        os.umask(before)
    for path in settings.home.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert {path.name for path in settings.home.iterdir()} == {"logins.json", "logins.lock"}
    (settings.home / "logins.json").chmod(0o640)
    with pytest.raises(Refused, match=r"mode 0640\); chmod 600 /.*logins\.json$"):
        find("openai", settings, {})
    with pytest.raises(Refused):
        save("gemini", "k", settings)
    assert find("openai", settings, {"OPENAI_API_KEY": "k"}).secret == "k"  # needs no file


@pytest.mark.parametrize(
    "text",
    ["", "null", "[]", "{}", '{"keys": {}}', '{"keys": [], "keyring": []}', "{" * 100_000,
     '{"keys": {"openai": 1}, "keyring": []}', '{"keys": {"openai": ""}, "keyring": []}',
     '{"keys": {"nobody": "k"}, "keyring": []}', '{"keys": {}, "keyring": [[]]}',
     '{"keys": {"openai": "a b"}, "keyring": []}', '{"keys": {}, "keyring": ["x"]}',
     '{"keys": {}, "keyring": {}}', "[" * 100_000, '{"keys": {"openai": "\\ud800"}, "keyring": []}',
     " " * (2 << 20)],
)  # fmt: skip
def test_a_broken_file_is_one_error(settings: Settings, text: str) -> None:
    path = settings.home / "logins.json"
    path.write_text(text)
    path.chmod(0o600)
    for call in (lambda: find("openai", settings, {}), lambda: save("gemini", "k", settings),
                 lambda: list_keys(settings, {}), lambda: forget("openai", settings)):  # fmt: skip
        with pytest.raises(Failure, match=r"logins\.json is not a file of keys"):
            call()
    assert path.read_text() == text


@given(st.data())
def test_a_mutated_file_is_keys_or_none(data: st.DataObject) -> None:
    whole = json.dumps({"keys": {"openai": "k1", "http://x:1/v1": "k2"}, "keyring": ["gemini"]})
    at = data.draw(st.integers(0, len(whole)))
    cut = data.draw(st.integers(0, 4))
    put = data.draw(st.text(max_size=4))
    mutated = (whole[:at] + put + whole[at + cut :]).encode("utf-8", "surrogatepass")
    kept = credentials._parsed(mutated)
    if kept is not None:
        assert all(name == name_of(name) for name in [*kept.keys, *kept.keyring])
        assert all(secret and clean(secret, "it") == secret for secret in kept.keys.values())


def test_what_lies_there_instead_of_a_file(settings: Settings) -> None:
    path = settings.home / "logins.json"
    os.mkfifo(path, 0o600)
    with pytest.raises(Failure, match="is not a file"):
        find("openai", settings, {})
    path.unlink()
    path.mkdir()
    with pytest.raises(Failure):
        find("openai", settings, {})


def test_two_who_save_at_once_lose_nothing(settings: Settings) -> None:
    names = [f"http://127.0.0.1:{port}/v1" for port in range(8000, 8012)]
    threads = [threading.Thread(target=save, args=(n, "k", settings, "file")) for n in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [find(name, settings, {}).secret for name in names] == ["k"] * len(names)


def test_a_lock_that_is_not_let_go(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    import filelock

    def held(*_: object, **__: object) -> None:
        raise filelock.Timeout("logins.lock")

    monkeypatch.setattr(filelock.FileLock, "acquire", held)
    with pytest.raises(Busy):
        save("openai", "k", settings)


# ---- the keyring ---------------------------------------------------------------------------


def test_the_keyring_keeps_a_key_and_the_file_its_name(settings: Settings, ring: Ring) -> None:
    save("openai", "old", settings, "file")
    assert save("openai", KEY, settings) == "keyring"
    assert save("http://h:1/v1", "k", settings) == "keyring"
    assert KEY not in (settings.home / "logins.json").read_text()
    assert find("openai", settings, {}).secret == KEY
    assert find("http://h:1/v1", settings, {}).secret == "k"
    assert list_keys(settings, {}) == [
        ("openai", "keyring", "WXYZ"),
        ("http://h:1/v1", "keyring", ""),
    ]
    save("openai", "new", settings, "file")
    assert ("overt", "openai") not in ring.held  # one key has one place
    assert forget("http://h:1/v1", settings) == ("keyring",)
    assert ring.held == {}
    with pytest.raises(NotFound, match="overt login"):
        forget("http://h:1/v1", settings)


def test_a_server_that_was_never_kept_costs_no_keyring(settings: Settings, ring: Ring) -> None:
    find("http://127.0.0.1:8000/v1", settings, {})
    assert ring.asked == 0
    find("openai", settings, {"OVERT_KEYRING": "off"})
    assert ring.asked == 0
    save("openai", "k", settings, environ={"OVERT_KEYRING": "off"})
    assert ring.held == {}


@pytest.mark.parametrize(
    "error",
    [errors.NoKeyringError("none"), errors.KeyringLocked("locked"), errors.InitError("no bus"),
     errors.PasswordSetError("full"), OSError("gone"), SystemExit(3), KeyError(1)],
)  # fmt: skip
def test_a_keyring_that_fails_is_no_key(
    settings: Settings, ring: Ring, error: BaseException
) -> None:
    ring.fails = error
    assert find("openai", settings, {}).secret == ""
    assert list_keys(settings, {}) == []
    with pytest.raises(Failure, match=r"no keyring .*; overt login openai --to file$"):
        save("openai", "k", settings, "keyring")
    assert save("openai", "k", settings) == str(settings.home / "logins.json")
    assert forget("openai", settings) == (str(settings.home / "logins.json"),)


@pytest.mark.parametrize("nothing", [fail.Keyring, null.Keyring])
def test_a_machine_without_a_keyring(
    settings: Settings, nothing: type[backend.KeyringBackend]
) -> None:
    set_keyring(nothing())
    assert find("openai", settings, {}).secret == ""
    with pytest.raises(Failure, match="--to file"):
        save("openai", "k", settings, "keyring")
    assert save("openai", "k", settings).endswith("logins.json")


def test_a_keyring_that_takes_a_key_and_keeps_nothing(settings: Settings, ring: Ring) -> None:
    ring.set_password = lambda *_: None  # type: ignore[method-assign]
    assert save("openai", "k", settings).endswith("logins.json")


def test_a_keyring_that_waits_for_a_person_is_asked_once(
    settings: Settings, ring: Ring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credentials, "_READ_SECONDS", 0.05)
    ring.waits = threading.Event()
    try:
        assert [find("openai", settings, {}).secret for _ in range(20)] == [""] * 20
        assert ring.asked == 1
    finally:
        ring.waits.set()
        for thread in threading.enumerate():
            if thread.name == "keyring":
                thread.join()


def test_a_key_that_the_keyring_keeps_stays_listed(settings: Settings, ring: Ring) -> None:
    save("openai", "k", settings)
    ring.fails = errors.KeyringLocked("locked")
    with pytest.raises(Failure, match="unlock it"):
        forget("openai", settings)
    ring.fails = None
    assert list_keys(settings, {}) == [("openai", "keyring", "")]
    assert forget("openai", settings) == ("keyring",)


# ---- listing -------------------------------------------------------------------------------


def test_known_lists_every_place_and_no_key(settings: Settings) -> None:
    save("anthropic", "k" * 16 + "tail", settings, "file")
    save("https://h.example/v1", "k" * 19, settings, "file")
    environ = {
        "ANTHROPIC_API_KEY": KEY, "OVERT_KEY_H_EXAMPLE": "short", "OVERT_KEY_OTHER_8000": KEY,
        "OPENAI_API_KEY": " ", "PATH": "/bin", "OVERT_KEYRING": "off",
    }  # fmt: skip
    file = str(settings.home / "logins.json")
    rows = list_keys(settings, environ)
    assert rows == [
        ("anthropic", "ANTHROPIC_API_KEY", "WXYZ"),
        ("anthropic", file, "tail"),
        ("https://h.example/v1", "OVERT_KEY_H_EXAMPLE", ""),
        ("https://h.example/v1", file, ""),
        ("OVERT_KEY_OTHER_8000", "OVERT_KEY_OTHER_8000", "WXYZ"),
    ]
    assert KEY not in str(rows)


def test_more_keys_than_anybody_has(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "_MAX_LOGINS", 2)
    save("openai", "a", settings)
    save("gemini", "b", settings)
    with pytest.raises(Failure, match="2 keys already"):
        save("anthropic", "c", settings)
    save("openai", "d", settings)
    with pytest.raises(OvertError, match="no key in what was typed"):
        save("openai", "  ", settings)
