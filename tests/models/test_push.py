"""Pushing to the real registry: what goes up, what does not go up again, and broken lines."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from overt.errors import BadRef, IntegrityError, NeedsAccess, SourceFailed
from overt.models.pull import pull
from overt.models.sources import oci_push as pushing
from overt.models.sources.base import FetchedFile, FetchProgress
from overt.models.sources.download import Network
from overt.models.sources.oci_push import push
from overt.models.store import Store
from overt.ref import parse
from overt.settings import Settings, load
from registries import (
    Asked,
    Real,
    Told,
    cutting,
    digest,
    docker_registry,
    publish_ollama,
    scripted,
)
from servers import gguf

WEIGHTS = gguf(1, 5_000_000)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as found:
        yield found


@pytest.fixture
def settings(home: Path) -> Settings:
    return load()


@pytest.fixture
def line() -> Iterator[Network]:
    found = Network(pause=0.001)
    yield found
    found.close()


@pytest.fixture
def pieces(tmp_path: Path) -> list[FetchedFile]:
    """One model of two files."""
    made = []
    for role, path, body in (("weights", "a.gguf", WEIGHTS), ("licence", "LICENSE", b"Text")):
        file = tmp_path / path
        file.write_bytes(body)
        made.append(FetchedFile(role, path, file, digest(body)[7:], len(body)))  # type: ignore[arg-type]
    return made


def _ignore(_: FetchProgress) -> None:
    pass


def test_what_is_pushed_is_pulled_byte_for_byte_with_every_role(
    registry: Real, settings: Settings, overt_cli: Any, tmp_path: Path
) -> None:
    parts = [
        ("model", gguf(2, 300_000)),
        ("template", b"{{ .Prompt }}"),
        ("system", b"Be kind."),
        ("params", b'{"stop":["x"]}'),
        ("messages", b"[]"),
        ("license", b"MIT License"),
        ("adapter", gguf(3)),
        ("projector", gguf(4)),
        ("draft", gguf(5)),
    ]
    publish_ollama(registry, "library/source", "latest", parts)
    source = pull(f"ollama:{registry.host}/library/source", settings)
    target = f"oci:{registry.host}/team/copy:v1"
    ran = overt_cli("push", f"ollama:{registry.host}/library/source", target, "--json")
    assert ran.code == 0, ran.stderr
    said = json.loads(ran.stdout)
    assert said["ref"] == f"oci:{registry.host}/team/copy@{said['digest']}"
    assert said["sent"] > 300_000
    other = str(tmp_path / "other")
    ran = overt_cli("pull", target, "--json", env={"OVERT_HOME": other})
    assert ran.code == 0, ran.stderr
    copied = json.loads(ran.stdout)
    assert [(f["role"], f["path"], f["digest"]) for f in copied["files"]] == [
        (f.role, f.path, f.digest) for f in source.files
    ]
    assert copied["ref"] == said["ref"]
    assert copied["licence"] == "MIT"
    assert copied["origin"]["from"] == source.ref
    assert Store(Path(other)).verify() == []


def test_the_artefact_is_a_modelpack(
    registry: Real, pieces: list[FetchedFile], line: Network, tmp_path: Path
) -> None:
    facts = {"name": "a", "licence": "MIT", "created": "2026-01-02T03:04:05Z", "parameters": "1M"}
    pushed = push(
        parse(f"oci:{registry.host}/team/pack:v1"),
        pieces,
        facts,
        line,
        tmp_path / "notes",
        _ignore,
    )
    answer = httpx2.get(
        f"{registry.url}/v2/team/pack/manifests/v1",
        headers={"Accept": "application/vnd.oci.image.manifest.v1+json"},
        trust_env=False,
    )
    assert digest(answer.content) == pushed.digest == answer.headers["docker-content-digest"]
    manifest = answer.json()
    assert manifest["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert manifest["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    assert manifest["config"]["mediaType"] == "application/vnd.cncf.model.config.v1+json"
    assert [found["mediaType"] for found in manifest["layers"]] == [
        "application/vnd.cncf.model.weight.v1.raw",
        "application/vnd.cncf.model.doc.v1.raw",
    ]
    assert [found["annotations"]["org.cncf.model.filepath"] for found in manifest["layers"]] == [
        "a.gguf",
        "LICENSE",
    ]
    config = json.loads(registry.blob(manifest["config"]["digest"]))
    assert config == {
        "descriptor": {"name": "a", "createdAt": "2026-01-02T03:04:05Z", "licenses": ["MIT"]},
        "config": {"format": "gguf", "paramSize": "1M"},
        "modelfs": {"type": "layers", "diffIds": [found["digest"] for found in manifest["layers"]]},
    }
    assert registry.blob(manifest["layers"][0]["digest"]) == WEIGHTS


def test_what_is_there_is_not_sent_again(
    registry: Real, pieces: list[FetchedFile], line: Network, tmp_path: Path
) -> None:
    ref = parse(f"oci:{registry.host}/team/again:v1")
    first = push(ref, pieces, {}, line, tmp_path / "notes", _ignore)
    assert (first.blobs, first.present) == (3, 0)
    assert first.sent > len(WEIGHTS)
    second = push(ref, pieces, {}, line, tmp_path / "notes", _ignore)
    assert (second.digest, second.sent, second.present) == (first.digest, 0, 3)
    third = push(
        parse(f"oci:{registry.host}/team/again:v2"),
        pieces,
        {"name": "x"},
        line,
        tmp_path / "notes",
        _ignore,
    )
    assert third.digest != first.digest
    assert third.present == 2
    assert not (tmp_path / "notes").exists()  # nothing here was large enough for one


def test_large_blobs_go_up_in_pieces(
    registry: Real,
    pieces: list[FetchedFile],
    line: Network,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pushing, "PIECE", 1 << 20)
    steps: list[FetchProgress] = []
    ref = parse(f"oci:{registry.host}/team/pieces:v1")
    push(ref, pieces, {}, line, tmp_path / "notes", steps.append)
    assert registry.log.count('"PATCH /v2/team/pieces/') == 5
    assert registry.blob(digest(WEIGHTS)) == WEIGHTS
    done = [step.done for step in steps if step.what == "a.gguf"]
    assert done == sorted(done)
    assert done[-1] == len(WEIGHTS)


def test_a_line_that_breaks_is_mended(
    registry: Real,
    pieces: list[FetchedFile],
    line: Network,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pushing, "PIECE", 1 << 20)
    port = int(registry.host.rpartition(":")[2])
    with cutting(port, [2_500_000, 700_000, 1_300_000]) as bad:
        ref = parse(f"oci:127.0.0.1:{bad}/team/broken:v1")
        pushed = push(ref, pieces, {}, line, tmp_path / "notes", _ignore)
    assert pushed.present == 0
    assert registry.blob(digest(WEIGHTS)) == WEIGHTS
    line.close()
    assert registry.log.count('"PUT /v2/team/broken/manifests/v1') == 1


def test_a_push_that_ended_between_two_pieces_goes_on_there(
    registry: Real,
    pieces: list[FetchedFile],
    line: Network,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Inside a piece the registry of the distribution project (2.8) forgets the whole upload."""
    monkeypatch.setattr(pushing, "PIECE", 1 << 20)
    ref = parse(f"oci:{registry.host}/team/stopped:v1")
    send, sent = pushing._send_piece, []

    def twice(*arguments: Any) -> Any:
        if len(sent) == 2:
            raise KeyboardInterrupt
        sent.append(1)
        return send(*arguments)

    monkeypatch.setattr(pushing, "_send_piece", twice)
    with pytest.raises(KeyboardInterrupt):
        push(ref, pieces, {}, line, tmp_path / "notes", _ignore)
    monkeypatch.setattr(pushing, "_send_piece", send)
    push(ref, pieces, {}, line, tmp_path / "notes", _ignore)
    assert registry.log.count('"PATCH /v2/team/stopped/') == 5
    assert registry.blob(digest(WEIGHTS)) == WEIGHTS


class Keeping:
    """A registry that takes uploads as the specification has them, and keeps half a piece too.

    `slow` is bytes a second; `forget` drops every upload that has begun.
    """

    def __init__(self) -> None:
        self.uploads: dict[str, bytearray] = {}
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, bytes] = {}
        self.ranges: list[str] = []
        self.pause = 0.0

    def __call__(self, asked: Asked) -> Told:
        name = asked.path.rpartition("/")[2]
        if "/manifests/" in asked.path:
            return self._manifest(asked, name)
        if "/uploads/" not in asked.path:
            body = self.blobs.get(name)
            return Told(404) if body is None else Told(200, body)
        if asked.method == "POST":
            name = str(len(self.uploads) + 1)
            self.uploads[name] = bytearray()
            return Told(202, headers={"Location": f"/v2/team/kept/blobs/uploads/{name}?state=0"})
        if name not in self.uploads:
            return Told(404)
        upload = self.uploads[name]
        here = {"Location": f"{asked.path}?state={len(upload)}"}
        if asked.method == "PATCH":
            first = int(asked.headers["content-range"].partition("-")[0])
            self.ranges.append(asked.headers["content-range"])
            if first != len(upload):
                return Told(416, headers=here)
            time.sleep(self.pause)
            upload += asked.body
        if asked.method == "PUT":
            upload += asked.body
            wanted = asked.query["digest"][0]
            if digest(bytes(upload)) != wanted:
                error = {"errors": [{"code": "DIGEST_INVALID", "message": "no"}]}
                return Told(400, json.dumps(error).encode())
            self.blobs[wanted] = bytes(upload)
            return Told(201, headers={"Location": "/"})
        here = {"Location": f"{asked.path}?state={len(upload)}", "Range": f"0-{len(upload) - 1}"}
        return Told(204 if asked.method == "GET" else 202, headers=here)

    def _manifest(self, asked: Asked, name: str) -> Told:
        if asked.method == "PUT":
            self.manifests[name] = asked.body
            return Told(201, headers={"Location": "/"})
        kind = "application/vnd.oci.image.manifest.v1+json"
        body = self.manifests.get(name)
        return Told(404) if body is None else Told(200, body, {"Content-Type": kind})


def test_a_killed_push_goes_on_where_the_registry_says(
    settings: Settings, tmp_path: Path, overt_cli: Any
) -> None:
    keeping = Keeping()
    keeping.pause = 0.15
    file = tmp_path / "model.gguf"
    file.write_bytes(WEIGHTS)
    with scripted(keeping) as registry:
        program = (
            "import sys; from overt.models.sources import oci_push; oci_push.PIECE = 500_000; "
            "from overt.__main__ import main; sys.exit(main())"
        )
        target = f"oci:{registry.host}/team/kept:v1"
        command = [sys.executable, "-c", program, "push", str(file), target]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            for _ in range(600):
                if len(keeping.ranges) >= 4:
                    break
                time.sleep(0.02)
            else:
                pytest.fail("nothing came")
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        (note,) = (settings.home / "uploads").iterdir()
        assert note.stat().st_mode & 0o777 == 0o600
        time.sleep(0.3)  # the registry may still be taking a piece in
        before, keeping.pause = len(keeping.ranges), 0.0
        done = subprocess.run(command, capture_output=True, env=dict(os.environ), timeout=60)
        assert done.returncode == 0, done.stderr
    first = int(keeping.ranges[before].partition("-")[0])
    assert first >= 3 * 500_000
    assert keeping.blobs[digest(WEIGHTS)] == WEIGHTS
    assert len(keeping.uploads) == 2  # the weights once, the configuration once
    assert not note.exists()


def test_a_registry_that_forgot_gets_it_from_the_start(
    pieces: list[FetchedFile], line: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pushing, "PIECE", 1 << 20)
    keeping = Keeping()
    lost: list[str] = []

    def answer(asked: Asked) -> Told:
        if asked.method == "PATCH" and len(keeping.ranges) == 3 and not lost:
            lost.append("once")
            keeping.uploads.clear()
        return keeping(asked)

    with scripted(answer) as registry:
        ref = parse(f"oci:{registry.host}/team/kept:v1")
        push(ref, pieces, {}, line, tmp_path / "notes", _ignore)
    assert lost
    assert keeping.blobs[digest(WEIGHTS)] == WEIGHTS


def test_a_registry_that_takes_no_pieces_gets_the_blob_whole(
    pieces: list[FetchedFile], line: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pushing, "PIECE", 1 << 20)
    keeping = Keeping()

    def answer(asked: Asked) -> Told:
        return Told(416) if asked.method == "PATCH" else keeping(asked)

    with scripted(answer) as registry:
        ref = parse(f"oci:{registry.host}/team/kept:v1")
        push(ref, pieces, {}, line, tmp_path / "notes", _ignore)
    assert keeping.blobs[digest(WEIGHTS)] == WEIGHTS
    assert list((tmp_path / "notes").iterdir()) == []


def test_a_file_that_is_not_its_digest_is_not_taken(
    registry: Real, pieces: list[FetchedFile], line: Network, tmp_path: Path
) -> None:
    pieces[0].file.write_bytes(WEIGHTS[:-1] + b"!")
    with pytest.raises(IntegrityError, match=r"received other bytes for a\.gguf"):
        push(
            parse(f"oci:{registry.host}/team/wrong:v1"),
            pieces,
            {},
            line,
            tmp_path / "n",
            _ignore,
        )


def test_uploads_go_to_the_registry_itself_and_nowhere_else(
    pieces: list[FetchedFile], line: Network, tmp_path: Path
) -> None:
    with scripted(lambda _: Told(202)) as elsewhere:

        def answer(asked: Asked) -> Told:
            if asked.method == "POST":
                return Told(202, headers={"Location": f"{elsewhere.url}/upload?state=1"})
            return Told(404)

        with (
            scripted(answer) as registry,
            pytest.raises(SourceFailed, match="which is another host; nothing was sent there"),
        ):
            push(parse(f"oci:{registry.host}/team/x:v1"), pieces, {}, line, tmp_path, _ignore)
    assert elsewhere.seen == []


def test_a_blob_that_is_kept_elsewhere_is_there(
    pieces: list[FetchedFile], line: Network, tmp_path: Path
) -> None:
    keeping = Keeping()

    def answer(asked: Asked) -> Told:
        if asked.method == "HEAD":
            return Told(307, headers={"Location": "http://127.0.0.1:1/signed-for-get-only"})
        return keeping(asked)

    with scripted(answer) as registry:
        pushed = push(
            parse(f"oci:{registry.host}/team/kept:v1"), pieces, {}, line, tmp_path, _ignore
        )
    assert (pushed.present, pushed.sent) == (3, 0)


def test_a_registry_that_refuses_is_quoted(
    pieces: list[FetchedFile], line: Network, tmp_path: Path
) -> None:
    error = {"errors": [{"code": "DENIED", "message": "quota\x1b[31m of team is used up"}]}

    def answer(asked: Asked) -> Told:
        return Told(404) if asked.method == "HEAD" else Told(status, json.dumps(error).encode())

    with scripted(answer) as registry:
        ref = parse(f"oci:{registry.host}/team/x:v1")
        status = 413
        with pytest.raises(SourceFailed, match="answers 413; it says: DENIED quota"):
            push(ref, pieces, {}, line, tmp_path, _ignore)
        status = 403
        with pytest.raises(NeedsAccess, match="does not let you push to team/x"):
            push(ref, pieces, {}, line, tmp_path, _ignore)
        status = 307
        with pytest.raises(SourceFailed, match="answers 307"):
            push(ref, pieces, {}, line, tmp_path, _ignore)


@pytest.mark.parametrize(
    "target", ["smollm2", "hf:a/b", f"oci:127.0.0.1:1/x@sha256:{'0' * 64}", "ollama:x"]
)
def test_only_a_tag_of_an_oci_registry_is_a_target(
    target: str, pieces: list[FetchedFile], line: Network, tmp_path: Path
) -> None:
    with pytest.raises(BadRef, match="write oci:host/name:tag"):
        push(parse(target), pieces, {}, line, tmp_path, _ignore)


def test_the_command_line_refuses_what_is_not_here(overt_cli: Any) -> None:
    ran = overt_cli("push", "smollm2", "oci:127.0.0.1:1/x:1")
    assert ran.code == 3, ran.stderr
    ran = overt_cli("push", "--offline", __file__.replace(".py", ".none"), "oci:127.0.0.1:1/x:1")
    assert ran.code == 3


@pytest.mark.model
def test_a_real_model_goes_up_and_comes_back(
    registry: Real, smollm2_gguf: Path, overt_cli: Any, tmp_path: Path
) -> None:
    target = f"oci:{registry.host}/team/smollm2:q4"
    ran = overt_cli("push", smollm2_gguf, target, "--json")
    assert ran.code == 0, ran.stderr
    ran = overt_cli("pull", target, "--json")
    assert ran.code == 0, ran.stderr
    (file,) = json.loads(ran.stdout)["files"]
    assert file["digest"] == f"sha256:{smollm2_gguf.resolve().name}"
    ran = overt_cli("run", target, "Say hello.", "--max-tokens", "4", "--temperature", "0")
    assert ran.code == 0, ran.stderr
    assert ran.stdout.strip()
