"""scripts/bootstrap.py: where it looks for an index, and that only the locked pip is run."""

import base64
import hashlib
import http.server
import importlib.util
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
WHEEL = "pip-26.3-py3-none-any.whl"
BYTES = b"the wheel"
LOCK = f"pip==26.3 --hash=sha256:{hashlib.sha256(BYTES).hexdigest()} --hash=sha256:{'0' * 64}\n"


@pytest.fixture
def bootstrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("bootstrap", ROOT / "scripts/bootstrap.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "pip.txt").write_text(LOCK)
    monkeypatch.setattr(module, "PIP_LOCK", tmp_path / "pip.txt")
    return module


class Index:
    """A package index on loopback: `pages` by path, and the requests it saw."""

    def __init__(self) -> None:
        self.pages: dict[str, bytes] = {}
        self.seen: list[tuple[str, str | None]] = []
        index = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                index.seen.append((self.path, self.headers.get("Authorization")))
                body = index.pages.get(self.path)
                self.send_response(200 if body is not None else 404)
                self.send_header("Content-Length", str(len(body or b"")))
                self.end_headers()
                self.wfile.write(body or b"")

            def log_message(self, *arguments: object) -> None: ...

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def index() -> Iterator[Index]:
    index = Index()
    yield index
    index.close()


HTML = f'<!DOCTYPE html><a href="../../files/{WHEEL}#sha256=ab">{WHEEL}</a><a>no link</a>'.encode()
JSON = json.dumps({"files": [{"filename": WHEEL, "url": f"/files/{WHEEL}"}]}).encode()


@pytest.mark.parametrize("page", [HTML, JSON], ids=["html", "json"])
def test_the_locked_wheel_comes_from_the_persons_index(
    bootstrap: ModuleType,
    index: Index,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    page: bytes,
) -> None:
    index.pages = {"/simple/pip/": page, f"/files/{WHEEL}": BYTES}
    monkeypatch.setenv("PIP_INDEX_URL", f"{index.url}/simple")
    path = bootstrap.fetch_pip(tmp_path)
    assert (path.name, path.read_bytes()) == (WHEEL, BYTES)


def test_other_bytes_are_not_run_and_the_next_index_is_asked(
    bootstrap: ModuleType, index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = HTML.replace(b"../../files", b"../../bad")
    index.pages = {"/a/pip/": bad, "/b/pip/": HTML, f"/bad/{WHEEL}": b"x", f"/files/{WHEEL}": BYTES}
    monkeypatch.setenv("PIP_INDEX_URL", f"{index.url}/a/")
    with pytest.raises(bootstrap.Trouble, match="has not the sha256"):
        bootstrap.fetch_pip(tmp_path)
    assert not (tmp_path / WHEEL).exists()
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", f"{index.url}/b")
    assert bootstrap.fetch_pip(tmp_path).read_bytes() == BYTES


def test_a_login_is_sent_to_its_index_and_shown_to_nobody(
    bootstrap: ModuleType, index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = index.url.replace("://", "://me:s%40crt@")
    monkeypatch.setenv("PIP_INDEX_URL", f"{address}/simple")
    with pytest.raises(bootstrap.Trouble) as caught:
        bootstrap.fetch_pip(tmp_path)
    assert "404" in str(caught.value)
    assert "crt" not in str(caught.value)
    elsewhere = index.url.replace("127.0.0.1", "localhost")
    for host, expected in ((index.url, True), (elsewhere, False)):
        page = f'<a href="{host}/files/{WHEEL}">'.encode()
        index.pages = {"/simple/pip/": page, f"/files/{WHEEL}": BYTES}
        index.seen.clear()
        bootstrap.fetch_pip(tmp_path)
        login = f"Basic {base64.b64encode(b'me:s@crt').decode()}"
        assert index.seen == [
            ("/simple/pip/", login),
            (f"/files/{WHEEL}", login if expected else None),
        ]


def test_an_index_that_is_not_there_is_named_with_what_to_do(
    bootstrap: ModuleType, index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.pages = {"/pip/": b"<html>"}
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", index.url)
    with pytest.raises(bootstrap.Trouble) as caught:
        bootstrap.fetch_pip(tmp_path)
    said = str(caught.value)
    assert "refused" in said
    assert f"does not list {WHEEL}" in said
    assert "PIP_INDEX_URL" in said
    assert "python3-venv" in said


def test_pip_settings_are_read_in_pips_order(bootstrap: ModuleType, tmp_path: Path) -> None:
    def write(path: str, text: str) -> None:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    write("xdg/pip/pip.conf", "[global]\nindex-url = https://one\ncert = /one\ntimeout = 1\n")
    write("own/pip/pip.conf", "[global]\ncert = /two\n[install]\nindex_url = https://two\n")
    write("special.conf", "[global]\ncert = /three\n")
    environ = {
        "XDG_CONFIG_DIRS": str(tmp_path / "xdg"),
        "XDG_CONFIG_HOME": str(tmp_path / "own"),
        "PIP_CONFIG_FILE": str(tmp_path / "special.conf"),
        "PIP_TRUSTED_HOST": "a b",
        "PIP_PROXY": "",
    }
    found = bootstrap.pip_settings(environ)
    assert {key: found.get(key) for key in ("index-url", "cert", "timeout", "proxy")} == {
        "index-url": "https://two",
        "cert": "/three",
        "timeout": "1",
        "proxy": None,
    }
    assert found["trusted-host"] == "a b"
    assert "index-url" not in bootstrap.pip_settings({**environ, "PIP_CONFIG_FILE": "/dev/null"})


def test_the_locks_of_this_repository_name_one_pip(bootstrap: ModuleType) -> None:
    name, digests = bootstrap.locked_pip((ROOT / "requirements/pip.txt").read_text())
    assert name.startswith("pip-2")
    assert len(digests) == 2  # the wheel and the source


def test_what_it_does_not_know_is_refused(
    bootstrap: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bootstrap.main(["everything"]) == 2
    assert "usage" in capsys.readouterr().err
