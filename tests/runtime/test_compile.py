"""Making a native build: only from what was pinned, and every failure in one sentence."""

import gzip
import hashlib
import http.server
import io
import json
import os
import random
import tarfile
import threading
import time
from pathlib import Path

import pytest

from overt.errors import EngineFailed, FormatError, IntegrityError, OvertError
from overt.runtime.native_build import build, compile
from overt.settings import load

# ---- what a build needs


def test_without_a_compiler_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(EngineFailed, match=r"no C\+\+ compiler.*apt install g\+\+"):
        compile.check_machine()


def test_without_python_headers_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("CC", "cc")
    monkeypatch.setenv("CXX", "c++")
    monkeypatch.setattr(compile.sysconfig, "get_path", lambda _: str(tmp_path))
    with pytest.raises(EngineFailed, match=r"Python\.h.*python3-dev"):
        compile.check_machine()


def test_build_tools_are_pinned_by_hash():
    text = Path(compile.__file__).with_name("build_tools.txt").read_text("utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith(("#", " "))]
    assert {line.partition("==")[0] for line in lines} == {"cmake", "cython", "ninja", "setuptools"}
    for block in text.split("==")[1:]:
        assert "--hash=sha256:" in block


# ---- the archive


def archive(path: Path, members: dict[str, bytes], links: dict[str, str] | None = None) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            member.mode = 0o755 if name.endswith(".sh") else 0o600
            tar.addfile(member, io.BytesIO(data))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            tar.addfile(member)
    return path


def test_an_archive_is_unpacked_without_its_top_folder_and_without_links(tmp_path):
    made = archive(
        tmp_path / "a.tar.gz",
        {"x-1/setup.py": b"1", "x-1/deep/er/run.sh": b"2", "stray": b"3"},
        {"x-1/link": "/etc/passwd"},
    )
    compile.unpack(made, tmp_path / "out")
    found = sorted(p.relative_to(tmp_path / "out").as_posix() for p in tmp_path.rglob("out/**/*"))
    assert found == ["deep", "deep/er", "deep/er/run.sh", "setup.py"]
    assert os.access(tmp_path / "out/deep/er/run.sh", os.X_OK)
    assert not os.access(tmp_path / "out/setup.py", os.X_OK) or os.geteuid() == 0


@pytest.mark.parametrize("name", ["../up", "x-1/../../up", "/up", "x-1/..", "C:/up", "x-1\\..\\up"])
def test_a_member_that_leaves_the_folder_is_refused(tmp_path, name):
    made = archive(tmp_path / "a.tar.gz", {name: b"1"})
    with pytest.raises(OvertError):
        compile.unpack(made, tmp_path / "in" / "out")
    assert not list(tmp_path.rglob("up"))


def test_an_archive_that_grows_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(compile, "_UNPACKED", 1000)
    made = archive(tmp_path / "a.tar.gz", {"x/a": b"1" * 600, "x/b": b"2" * 600})
    with pytest.raises(FormatError, match="more than 1000 bytes"):
        compile.unpack(made, tmp_path / "out")


def test_a_damaged_archive_is_refused_in_one_sentence_or_unpacked(tmp_path):
    data = archive(
        tmp_path / "a.tar.gz", {f"x/{n}": b"%d" % n * 50 for n in range(20)}
    ).read_bytes()
    plain, chance = gzip.decompress(data), random.Random(3)
    told: list[str] = []
    for number in range(200):
        damaged = bytearray(plain if number % 2 else data)
        for _ in range(chance.randint(1, 8)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        damaged = damaged[: chance.randrange(len(damaged) // 2, len(damaged) + 1)]
        path = tmp_path / "b.tar.gz"
        path.write_bytes(gzip.compress(damaged, 1) if number % 2 else damaged)
        out = tmp_path / f"out{number}"
        try:
            compile.unpack(path, out)
        except OvertError as error:
            told.append(str(error))
    assert told
    assert not [text for text in told if "\n" in text]
    outside = {p.name for p in tmp_path.iterdir() if not p.name.startswith("out")}
    assert outside <= {"a.tar.gz", "b.tar.gz", "person", "overt"}


class Index(http.server.BaseHTTPRequestHandler):
    """A package index with one source archive and one wheel."""

    data = b""
    listing = "json"

    def do_GET(self) -> None:
        name = f"xllamacpp-{build.VERSION}.tar.gz"
        if self.path == "/simple/xllamacpp/":
            files = [
                f"xllamacpp-{build.VERSION}-cp310-abi3-linux_x86_64.whl",
                "other-1.tar.gz",
                name,
            ]
            if self.listing == "json":
                rows = [{"filename": f, "url": f"../../files/{f}", "hashes": {}} for f in files]
                kind, body = "application/vnd.pypi.simple.v1+json", json.dumps({"files": rows})
            else:
                links = "".join(f'<a href="../../files/{f}">{f}</a>' for f in files)
                kind, body = "text/html", f"<html><body>{links}</body></html>"
            self.answer(kind, body.encode())
        elif self.path == f"/files/{name}":
            self.answer("application/gzip", self.data)
        else:
            self.send_error(404)

    def answer(self, kind: str, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def index(tmp_path, monkeypatch):
    path = archive(tmp_path / "sdist.tar.gz", {f"xllamacpp-{build.VERSION}/setup.py": b"print(1)"})
    Index.data, Index.listing = path.read_bytes(), "json"
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Index)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
    yield Index
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("listing", ["json", "html"])
def test_sources_come_from_the_configured_index_and_are_kept(index, home, monkeypatch, listing):
    index.listing = listing
    monkeypatch.setattr(compile, "ARCHIVE_SHA256", hashlib.sha256(index.data).hexdigest())
    parts: list[float] = []
    folder = compile.unpacked_sources(home, load(flags={"home": home}), parts.append)
    assert (folder / "setup.py").read_bytes() == b"print(1)"
    assert parts
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    assert compile.unpacked_sources(home, load(flags={"home": home}), parts.append) == folder


def test_an_archive_other_than_the_pinned_one_is_never_unpacked(index, home):
    with pytest.raises(IntegrityError):
        compile.unpacked_sources(home, load(flags={"home": home}), lambda _: None)
    assert not (home / "source").exists()


# ---- running and telling


def run_shell(script: str, tmp_path: Path) -> list[str]:
    log = tmp_path / "build.log"
    lines = compile.run_logged(["sh", "-c", script], tmp_path, dict(os.environ), log, "compiling x")
    return list(lines)


def test_output_is_logged_and_passed_on(tmp_path):
    assert run_shell("echo one; echo two >&2", tmp_path) == ["one\n", "two\n"]
    assert (tmp_path / "build.log").read_text().splitlines()[1:] == ["one", "two"]


def test_a_failure_quotes_the_error_and_names_the_log(tmp_path):
    script = "echo 'x.cpp:3: error: no such thing'; for i in 1 2 3 4 5; do echo noise; done; exit 2"
    with pytest.raises(EngineFailed) as caught:
        run_shell(script, tmp_path)
    assert "x.cpp:3: error: no such thing" in str(caught.value)
    assert str(tmp_path / "build.log") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_stopping_ends_everything_the_command_started(tmp_path):
    script = "sleep 60 & echo $!; wait"
    log = tmp_path / "build.log"
    lines = compile.run_logged(["sh", "-c", script], tmp_path, dict(os.environ), log, "x")
    pid = int(next(lines))
    lines.close()
    end = time.monotonic() + 5
    while _runs(pid) and time.monotonic() < end:
        time.sleep(0.02)
    assert not _runs(pid)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_builds_run_at_low_priority(tmp_path):
    out = run_shell("sleep 0.2; nice", tmp_path)
    assert int(out[0]) >= 10


@pytest.mark.parametrize(
    ("line", "count"),
    [
        ("[12/211] Building CXX object a.o\n", (12, 211)),
        ("[0/0] Re-running CMake\n", (0, 1)),
        ("-- [12/211]\n", None),
        ("gcc -c a.c\n", None),
    ],
)
def test_ninja_says_how_far_it_is(line, count):
    assert compile.ninja_count(line) == count


def test_last_lines_prefers_errors():
    said = [
        "fatal error: a.h: No such file\n",
        "\n",
        "compilation terminated.\n",
        "ninja: stopped\n",
    ]
    assert compile.last_lines(said) == "fatal error: a.h: No such file"
    assert compile.last_lines(["one\n", "two\n"]) == "one | two"
    assert compile.last_lines([]) == "it gave no reason"


def test_progress_only_grows_and_guesses_the_time_left(monkeypatch):
    now = iter(range(0, 1000, 10))
    monkeypatch.setattr(compile.time, "monotonic", lambda: float(next(now)))
    told: list[compile.BuildProgress] = []
    meter = compile._Meter(told.append)
    phase = meter.phase("compiling", 0.0, 0.5)
    for part in (0.0, 0.2, 0.4, 2.0):
        phase(part)
    assert [one.fraction for one in told] == pytest.approx([0.0, 0.1, 0.2, 0.5])
    assert told[0].seconds_left is None
    assert told[1].seconds_left == pytest.approx(90.0)  # a tenth took ten seconds
    assert told[3].what == "compiling"


def test_a_build_sees_no_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    keys = ("OPENAI_API_KEY", "ANTHROPIC_AUTH_TOKEN", "HF_TOKEN", "OVERT_KEY_10_0_0_5")
    for name in (*keys, "PYTHONPATH"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("CFLAGS", "-O2")
    seen = compile.environment(tmp_path)
    assert seen["CFLAGS"] == "-O2"
    assert "secret" not in seen.values()
