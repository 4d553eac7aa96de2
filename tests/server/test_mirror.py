"""The mirror, as a process, read by the hub's own client, by `overt pull`, and by odd clients."""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from conftest import OvertCli
from mirrors import Mirror, mirroring
from overt.errors import IntegrityError, ModelNotFound, NeedsAccess
from overt.models.pull import pull
from overt.models.store import File, Manifest, Store
from overt.ref import parse
from overt.settings import Settings, load
from registries import certificate
from servers import Hub, gguf, serving

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "a-token-of-some-length"
WEIGHTS = gguf(1, 3_000_000)
ODD = "sub dir/ünï+c&d%20e.txt"
FILES = {
    "tiny-Q4_K_M.gguf": WEIGHTS,
    "tiny-Q8_0.gguf": gguf(2, 100_000),
    "LICENSE": b"text of a licence\n",
    "README.md": b"# card\n",
}


def put(
    home: Path, name: str, files: dict[str, bytes], ref: str = "pypi:tiny==1", **about: Any
) -> Manifest:
    """Store a model as a pull would have."""
    home.mkdir(parents=True, exist_ok=True)
    rows, moved = [], {}
    for path, body in files.items():
        digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
        role = "weights" if path.endswith(".gguf") else "other"
        rows.append(File(role, path, digest, len(body)))
        moved[digest] = home / f"new-{len(moved)}"
        moved[digest].write_bytes(body)
    return Store(home).commit(Manifest(tuple(rows), ref, **about), moved, [parse(name)])


@pytest.fixture
def settings(home: Path) -> Settings:
    return load()


@pytest.fixture
def upstream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home whose models were pulled from a hub: what the mirror has to offer."""
    home = tmp_path / "upstream"
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    with serving() as server, serving() as storage:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        lfs = frozenset(name for name in FILES if name.endswith(".gguf"))
        Hub(server, storage, "org/tiny", FILES, lfs)
        for quantization in ("Q8_0", "Q4_K_M"):
            pull(f"hf:org/tiny#tiny-{quantization}.gguf", load(flags={"home": home}))
    put(home, "mine", {"m.gguf": gguf(3), ODD: b"odd"})
    put(home, "mine:q8", {"m.gguf": gguf(4)})
    monkeypatch.delenv("HF_ENDPOINT")
    return home


@pytest.fixture
def mirror(upstream: Path) -> Iterator[Mirror]:
    with mirroring(upstream) as found:
        yield found


def at(mirror: Mirror, path: str, **headers: str) -> httpx2.Response:
    return httpx2.get(mirror.url + path, headers=headers, trust_env=False)


# ---- overt -------------------------------------------------------------------------------------


def test_overt_pulls_from_a_mirror_exactly_what_the_hub_had(
    mirror: Mirror, upstream: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", mirror.url)
    for name in ("hf:org/tiny#tiny-Q8_0.gguf", f"hf:org/tiny@{COMMIT}#tiny-Q4_K_M.gguf"):
        came = pull(name, settings)
        assert came == Store(upstream).get(parse(name)), "origin, licence, date and files alike"
        store = Store(settings.home)
        assert {f.path: store.path(f).read_bytes() for f in came.files} == {
            f.path: FILES[f.path] for f in came.files
        }
    assert store.verify() == []


def test_a_mirror_of_a_mirror_has_the_same(
    mirror: Mirror, tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", mirror.url)
    first = pull("hf:org/tiny#tiny-Q4_K_M.gguf", load(flags={"home": tmp_path / "second"}))
    with mirroring(tmp_path / "second") as second:
        monkeypatch.setenv("HF_ENDPOINT", second.url)
        assert pull("hf:org/tiny#tiny-Q4_K_M.gguf", settings) == first


def test_a_model_of_another_origin_is_found_under_local(
    mirror: Mirror, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", mirror.url)
    store = Store(settings.home)
    assert store.path(pull("hf:local/mine", settings).weights).read_bytes() == gguf(3)
    assert store.path(pull("hf:local/mine@q8", settings).weights).read_bytes() == gguf(4)
    with pytest.raises(ModelNotFound, match="has no revision q9"):
        pull("hf:local/mine@q9", settings)
    with pytest.raises(ModelNotFound, match="no public repository local/yours"):
        pull("hf:local/yours", settings)


def test_any_date_of_an_origin_can_be_read(
    mirror: Mirror, upstream: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", mirror.url)
    for number, (date, read) in enumerate(
        {
            "2025-02-07": "2025-02-07T00:00:00Z",
            "2025-02-07T01:02:03.456+02:00": "2025-02-06T23:02:03Z",
            "20250207T010203Z": "2025-02-07T01:02:03Z",
            "last spring": "",
        }.items()
    ):
        put(upstream, f"dated-{number}", {"m.gguf": gguf(20 + number)}, created=date)
        assert pull(f"hf:local/dated-{number}", settings).created == read


def test_a_name_that_moves_is_seen_at_once(mirror: Mirror, upstream: Path) -> None:
    def commit() -> str:
        return str(at(mirror, "/api/models/local/mine").json()["sha"])

    before = commit()
    moved = put(upstream, "mine", {"m.gguf": gguf(5)})
    assert commit() == moved.digest.removeprefix("sha256:")[:40] != before
    Store(upstream).remove(parse("mine"))
    assert at(mirror, "/api/models/local/mine").json()["sha"] != moved.digest[7:47]
    Store(upstream).remove(parse("mine:q8"))
    assert at(mirror, "/api/models/local/mine").status_code == 404


# ---- the hub's own client ------------------------------------------------------------------------

CLIENT = """
import json, sys
from pathlib import Path
from huggingface_hub import HfApi, hf_hub_download, list_repo_tree, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError,
)

def kind(call, *arguments, **options):
    try:
        call(*arguments, **options)
    except Exception as error:
        return type(error).__name__
    return "nothing"

folder = Path(snapshot_download("org/tiny"))
odd = hf_hub_download("local/mine", sys.argv[1], revision="main")
second = hf_hub_download("local/mine", "m.gguf", revision="q8", local_dir="second")
info = HfApi().model_info("org/tiny", files_metadata=True)
tree = list_repo_tree("local/mine", recursive=True)
print(json.dumps({
    "commit": folder.name,
    "files": {str(p.relative_to(folder)): str(p) for p in folder.rglob("*") if p.is_file()},
    "odd": odd,
    "second": second,
    "sha": info.sha,
    "licence": info.card_data.license,
    "lfs": {s.rfilename: s.lfs.sha256 for s in info.siblings},
    "tree": sorted(one.path for one in tree),
    "top": sorted(one.path for one in list_repo_tree("local/mine")),
    "below": sorted(one.path for one in list_repo_tree("local/mine", "sub dir")),
    "models": sorted(one.id for one in HfApi().list_models()),
    "mine": sorted(one.id for one in HfApi().list_models(author="local", search="MIN", limit=5)),
    "branches": {b.name: b.target_commit for b in HfApi().list_repo_refs("local/mine").branches},
    "errors": [
        kind(hf_hub_download, "org/tiny", "none.gguf"),
        kind(hf_hub_download, "org/tiny", "LICENSE", revision="v9"),
        kind(hf_hub_download, "org/none", "LICENSE"),
        kind(HfApi().model_info, "org/none"),
        kind(list, list_repo_tree("org/tiny", "none")),
    ],
}))
"""


def test_the_hub_s_own_client_reads_a_mirror(mirror: Mirror, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, ODD],
        env={**os.environ, "HF_ENDPOINT": mirror.url, "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout)
    assert (got["commit"], got["sha"], got["licence"]) == (COMMIT, COMMIT, "apache-2.0")
    assert {path: Path(file).read_bytes() for path, file in got["files"].items()} == FILES
    assert Path(got["odd"]).read_bytes() == b"odd"
    assert (tmp_path / got["second"]).read_bytes() == gguf(4)
    assert got["lfs"] == {path: hashlib.sha256(body).hexdigest() for path, body in FILES.items()}
    assert got["tree"] == sorted(["m.gguf", "sub dir", ODD])
    assert (got["top"], got["below"]) == (["m.gguf", "sub dir"], [ODD])
    assert (got["models"], got["mine"]) == (["local/mine", "org/tiny"], ["local/mine"])
    assert set(got["branches"]) == {"main", "q8"}
    assert got["errors"] == [
        "RemoteEntryNotFoundError", "RevisionNotFoundError", "RepositoryNotFoundError",
        "RepositoryNotFoundError", "RemoteEntryNotFoundError",
    ]  # fmt: skip


# ---- ranges --------------------------------------------------------------------------------------

FILE = f"/org/tiny/resolve/{COMMIT}/tiny-Q4_K_M.gguf"
SIZE = len(WEIGHTS)


RANGES = (
    ("bytes=0-", 206, 0, SIZE),
    ("bytes=5-9", 206, 5, 10),
    ("bytes=2999990-", 206, 2_999_990, SIZE),
    ("bytes=5-99999999", 206, 5, SIZE),
    ("bytes=-7", 206, SIZE - 7, SIZE),
    ("bytes=-99999999", 206, 0, SIZE),
    (f"bytes={SIZE}-", 416, 0, 0),
    ("bytes=-0", 416, 0, 0),
    ("bytes=9-5", 200, 0, SIZE),  # no range (RFC 9110, 14.1.1), so the header is ignored
    ("bytes=0-1,5-6", 200, 0, SIZE),
    ("lines=0-1", 200, 0, SIZE),
    ("bytes=-", 200, 0, SIZE),
    ("bytes=" + "9" * 40 + "-", 200, 0, SIZE),
)


def test_ranges(mirror: Mirror) -> None:
    for asked, status, first, last in RANGES:
        answer = at(mirror, FILE, Range=asked)
        assert (asked, answer.status_code) == (asked, status)
        assert answer.content == WEIGHTS[first:last], asked
        expected = {
            200: None,
            206: f"bytes {first}-{last - 1}/{SIZE}",
            416: f"bytes */{SIZE}",
        }
        assert answer.headers.get("content-range") == expected[status], asked


def test_a_range_of_a_file_that_changed_is_the_whole_file(mirror: Mirror) -> None:
    etag = at(mirror, FILE).headers["etag"]
    assert etag == f'"{hashlib.sha256(WEIGHTS).hexdigest()}"'
    assert at(mirror, FILE, **{"Range": "bytes=1-", "If-Range": etag}).status_code == 206
    assert at(mirror, FILE, **{"Range": "bytes=1-", "If-Range": '"other"'}).status_code == 200


def test_head_says_what_get_does_and_sends_nothing(mirror: Mirror) -> None:
    got, head = at(mirror, FILE), httpx2.head(mirror.url + FILE, trust_env=False)
    assert head.content == b""
    assert {**got.headers, "date": ""} == {**head.headers, "date": ""}
    assert head.headers["content-length"] == head.headers["x-linked-size"] == str(SIZE)
    assert head.headers["x-repo-commit"] == COMMIT
    assert httpx2.post(mirror.url + FILE, content=b"x", trust_env=False).status_code == 405


# ---- who may ask ---------------------------------------------------------------------------------


HOSTS = (
    ("127.0.0.1:{port}", 200),
    ("localhost", 200),
    ("LOCALHOST:{port}", 200),
    ("[::1]:{port}", 200),
    ("mirror.team:{port}", 200),
    ("rebound.example:{port}", 421),
    ("127.0.0.1.rebound.example", 421),
    ("localhost.rebound.example", 421),
    ("192.0.2.7", 421),
    ("", 421),
    ("127.0.0.1:{port}/@x", 421),
    ("[::1", 421),
)


def test_it_answers_to_its_own_names_alone(upstream: Path) -> None:
    with mirroring(upstream, "--name", "Mirror.Team") as mirror:
        for host, status in HOSTS:
            answer = at(mirror, "/api/models", Host=host.format(port=mirror.port))
            assert (host, answer.status_code) == (host, status)
            assert (status == 200) == ("local/mine" in answer.text), host


def test_two_hosts_in_one_request_are_refused(mirror: Mirror) -> None:
    with socket.create_connection(("127.0.0.1", mirror.port), timeout=10) as peer:
        peer.sendall(b"GET /api/models HTTP/1.1\r\nHost: localhost\r\nHost: x\r\n\r\n")
        assert peer.recv(100).startswith((b"HTTP/1.1 400", b"HTTP/1.1 421"))


def test_beyond_this_machine_a_token_is_needed(upstream: Path, overt_cli: OvertCli) -> None:
    for host in ("0.0.0.0", "::"):
        bare = overt_cli("serve", "--mirror", "--home", upstream, "--host", host)
        assert bare.code == 2
        assert "can be reached by other machines and no token is set; add --token " in bare.stderr
    short = overt_cli("serve", "--mirror", "--home", upstream, "--token", "short")
    assert short.stderr.startswith("overt: the token has 5 characters; use 16 or more")
    with mirroring(upstream, "--host", "0.0.0.0", "--token", TOKEN) as mirror:
        url = f"http://127.0.0.1:{mirror.port}/api/models"
        assert httpx2.get(url, trust_env=False).status_code == 401
        headers = {"Authorization": f"Bearer {TOKEN}"}
        assert httpx2.get(url, headers=headers, trust_env=False).status_code == 200


def test_the_token_has_one_spelling_and_without_it_nothing_can_be_told(upstream: Path) -> None:
    basic = b64encode(f"anybody:{TOKEN}".encode()).decode()
    with mirroring(upstream, env={"OVERT_MIRROR_TOKEN": TOKEN}) as mirror:
        for good in (f"Bearer {TOKEN}", f"bearer {TOKEN}", f"Basic {basic}"):
            assert at(mirror, FILE, Authorization=good).status_code == 200
        wrong: list[dict[str, str]] = [
            {}, {"Authorization": f"Bearer {TOKEN[:-1]}"}, {"Authorization": TOKEN},
            {"Authorization": "Basic !"}, {"Authorization": f"Bearer {TOKEN} {TOKEN}"},
            {"Authorization": ""}, {"x-api-key": TOKEN}, {"Cookie": f"token={TOKEN}"},
        ]  # fmt: skip
        for headers in wrong:
            answers = [
                at(mirror, path, **headers)
                for path in (FILE, "/org/none/resolve/main/x", "/../../etc/passwd", "/api/models")
            ]
            assert {answer.status_code for answer in answers} == {401}
            assert len({answer.content for answer in answers}) == 1, "there or not: the same"
        assert at(mirror, f"{FILE}?token={TOKEN}").status_code == 401


def test_overt_sends_the_token_and_says_where_it_is_missing(
    upstream: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mirroring(upstream, "--token", TOKEN) as mirror:
        monkeypatch.setenv("HF_ENDPOINT", mirror.url)
        with pytest.raises(NeedsAccess, match="no token is set"):
            pull("hf:org/tiny#tiny-Q8_0.gguf", settings)
        monkeypatch.setenv("HF_TOKEN", TOKEN[::-1])
        with pytest.raises(NeedsAccess, match="the token does not give access"):
            pull("hf:org/tiny#tiny-Q8_0.gguf", settings)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        assert pull("hf:org/tiny#tiny-Q8_0.gguf", settings).weights.size == 100_008


def test_tls_for_both_protocols_and_a_pair_that_does_not_belong_together(
    upstream: Path,
    settings: Settings,
    tmp_path: Path,
    overt_cli: OvertCli,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = certificate(tmp_path / "one", "DNS:localhost,IP:127.0.0.1")
    other = certificate(tmp_path / "other", "DNS:localhost")
    pair = ("--certificate", str(one.certificate), "--key", str(one.key))
    with mirroring(upstream, "--token", TOKEN, *pair) as mirror:
        assert mirror.url.startswith("https://")
        monkeypatch.setenv("HF_ENDPOINT", mirror.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        bare = overt_cli("pull", "hf:org/tiny#tiny-Q8_0.gguf")
        assert bare.code == 1
        assert "certificate" in bare.stderr
        trusted = {"SSL_CERT_FILE": str(one.certificate)}
        assert overt_cli("pull", "hf:org/tiny#tiny-Q8_0.gguf", env=trusted).code == 0
        docker = tmp_path / "docker"
        docker.mkdir()
        auth = b64encode(f"overt:{TOKEN}".encode()).decode()
        auths = {f"127.0.0.1:{mirror.port}": {"auth": auth}}
        (docker / "config.json").write_text(json.dumps({"auths": auths}))
        trusted["DOCKER_CONFIG"] = str(docker)
        ran = overt_cli("pull", f"oci:127.0.0.1:{mirror.port}/mine", env=trusted)
        assert ran.code == 0, ran.stderr
    assert Store(settings.home).verify() == []
    wrong = overt_cli("serve", "--mirror", "--certificate", one.certificate, "--key", other.key)
    assert wrong.code == 2
    assert "cannot be used for TLS" in wrong.stderr


# ---- long files, clients that go, and the end ----------------------------------------------------


@pytest.fixture
def large(tmp_path: Path) -> tuple[Path, int]:
    """A home with a model of 1 GiB that takes no room: a sparse file."""
    home, size = tmp_path / "large", 1 << 30
    home.mkdir()
    body = home / "body"
    with body.open("wb") as file:
        file.truncate(size)
    digest = "sha256:" + "5" * 64
    manifest = Manifest((File("weights", "big.gguf", digest, size),), "pypi:big==1")
    Store(home).commit(manifest, {digest: body}, [parse("big")])
    return home, size


BIG = "/local/big/resolve/main/big.gguf"


def test_memory_does_not_grow_with_the_file_or_the_readers(large: tuple[Path, int]) -> None:
    home, size = large
    with mirroring(home) as mirror:
        at(mirror, "/api/models/local/big")
        before = mirror.peak_memory
        with httpx2.stream("GET", mirror.url + BIG, trust_env=False) as answer:
            assert sum(map(len, answer.iter_raw(1 << 20))) == size
        assert mirror.peak_memory - before < 32 << 20
        peers = []
        for _ in range(20):  # who ask, and then do not read
            peer = socket.create_connection(("127.0.0.1", mirror.port), timeout=10)
            peer.sendall(f"GET {BIG} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            peers.append(peer)
        for peer in peers:
            assert peer.recv(12) == b"HTTP/1.1 200"
        assert mirror.peak_memory < 200 << 20
        for peer in peers:
            peer.close()
        deadline = time.monotonic() + 20
        while any("/blobs/" in one for one in mirror.open_files()):
            assert time.monotonic() < deadline, "a reader that went leaves no open file"
            time.sleep(0.05)


def test_sigterm_lets_a_running_transfer_end(upstream: Path) -> None:
    with mirroring(upstream) as mirror:
        with httpx2.stream("GET", mirror.url + FILE, trust_env=False) as answer:
            pieces = answer.iter_raw(1 << 16)
            body = next(pieces)
            mirror.process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            body += b"".join(pieces)
        assert body == WEIGHTS
        assert mirror.process.wait(timeout=10) == 0
        with pytest.raises(httpx2.ConnectError):
            at(mirror, "/api/models")


def test_a_second_signal_ends_it_at_once(large: tuple[Path, int]) -> None:
    with (
        mirroring(large[0]) as mirror,
        socket.create_connection(("127.0.0.1", mirror.port), timeout=10) as peer,
    ):
        peer.sendall(f"GET {BIG} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        peer.recv(100)
        mirror.process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        assert mirror.process.poll() is None, "one transfer is still running"
        mirror.process.send_signal(signal.SIGINT)
        assert mirror.process.wait(timeout=10) == 0
        mirror.forced = True


def test_a_model_that_is_removed_while_it_is_sent_arrives_whole(upstream: Path) -> None:
    with mirroring(upstream) as mirror:
        with httpx2.stream("GET", mirror.url + FILE, trust_env=False) as answer:
            pieces = answer.iter_raw(1 << 16)
            body = next(pieces)
            Store(upstream).remove(parse("hf:org/tiny#tiny-Q4_K_M.gguf"))
            assert body + b"".join(pieces) == WEIGHTS
        assert at(mirror, FILE).status_code == 404


# ---- what goes wrong -----------------------------------------------------------------------------


def test_a_damaged_file_is_an_error_and_says_nothing_of_this_machine(
    mirror: Mirror, upstream: Path
) -> None:
    store = Store(upstream)
    blob = store.path(store.get(parse("mine")).weights)
    blob.chmod(0o644)
    blob.write_bytes(b"GGUF")
    answer = at(mirror, "/local/mine/resolve/main/m.gguf")
    assert answer.status_code == 500
    assert "is 4 bytes where" in answer.json()["error"]
    assert str(upstream) not in answer.text


def test_the_same_length_and_other_bytes_are_found_by_the_client(
    mirror: Mirror, upstream: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", mirror.url)
    store = Store(upstream)
    blob = store.path(store.get(parse("mine")).weights)
    blob.chmod(0o644)
    blob.write_bytes(gguf(9))
    with pytest.raises(IntegrityError, match="sha256"):
        pull("hf:local/mine", settings)
    assert Store(settings.home).names() == []


ABSENT = (
    "/", "/api", "/api/models/x", "/api/models/org/tiny/revision", "/org/tiny",
    "/org/tiny/resolve/main", "/org/tiny/resolve/main/", "/org/tiny/resolve/main/../LICENSE",
    "/org/tiny/resolve/main/%2e%2e/LICENSE", "/org/tiny/resolve/main//LICENSE",
    "/org/tiny/resolve/main/LICENSE/", "/org%2Ftiny/resolve/main/LICENSE",
    "/api/models/org/tiny/tree/main/none", "/local/mine/resolve/main/%00", "/%ff%fe/x/y",
    "/org/tiny/resolve/main/" + "x" * 5000, "//etc/passwd", "/..%2f..%2fetc%2fpasswd",
)  # fmt: skip


def test_what_is_not_there_is_404_and_never_a_path(mirror: Mirror) -> None:
    for path in ABSENT:
        with socket.create_connection(("127.0.0.1", mirror.port), timeout=10) as peer:
            head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            peer.sendall(head.encode("latin-1"))
            answer = b"".join(iter(lambda: peer.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 404 "), (path, answer[:100])
        assert b"text of a licence" not in answer


def test_the_verb_says_what_it_serves_and_why_it_cannot(
    upstream: Path, overt_cli: OvertCli, mirror: Mirror
) -> None:
    assert mirror.said["models"] == ["local/mine", "org/tiny"]
    assert mirror.said["token"] is False
    assert mirror.url.startswith("http://127.0.0.1:")
    taken = overt_cli("serve", "--mirror", "--port", str(mirror.port), "--home", upstream)
    assert taken.code == 1
    assert "Address already in use; choose another with --port" in taken.stderr
    odd = overt_cli("serve", "--mirror", "--require-key")
    assert (odd.code, odd.stderr) == (
        2, "overt: --require-key means nothing to a mirror; leave it out, or --mirror\n",
    )  # fmt: skip
    assert overt_cli("serve", "--mirror", "--host", "no..name").code == 2
    assert overt_cli("serve", "--mirror", "--name", "http://x").code == 2
    assert overt_cli("serve", "--mirror", "--certificate", "x.pem").code == 2


def test_each_request_is_one_line_that_cannot_drive_the_terminal(upstream: Path) -> None:
    command = [sys.executable, "-m", "overt", "serve", "--mirror", "--port", "0"]
    with subprocess.Popen(
        [*command, "--home", str(upstream)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        url = said.split(" at ")[1].split()[0]
        assert said.startswith("2 models at http://127.0.0.1:")
        httpx2.get(f"{url}/org/tiny/resolve/main/LICENSE", trust_env=False)
        httpx2.get(f"{url}/%1b]0;x%07", trust_env=False)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=20)
    lines = errors.splitlines()
    assert lines[0].startswith("GET /org/tiny/resolve/main/LICENSE 200 18 B in ")
    assert lines[1].startswith(r"GET /\x1b]0;x\x07 404 ")
    assert lines[2:] == ["stopped"]
