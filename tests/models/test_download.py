"""The downloader against a peer that breaks off, lies, forgets ranges and changes its files."""

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from overt.errors import IntegrityError, NeedsAccess, NotFound, OutOfDisk, SourceFailed
from overt.models.sources.base import FetchProgress
from overt.models.sources.download import Download, Network, shown
from overt.models.sources.staging import Staging
from servers import Answer, Seen, Server, serving

BODY = hashlib.shake_256(b"body").digest(3_000_000)
SHA256 = hashlib.sha256(BODY).hexdigest()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as found:
        found.files["/f"] = BODY
        yield found


@pytest.fixture
def steps() -> list[FetchProgress]:
    return []


@pytest.fixture
def desk(tmp_path: Path, steps: list[FetchProgress]) -> Iterator[Staging]:
    network = Network(environ={}, pause=0.001)
    folder = tmp_path / "desk"
    folder.mkdir()
    yield Staging(folder, network, steps.append)
    network.close()


@pytest.fixture
def file(server: Server) -> Download:
    return Download(f"{server.url}/f", "f", len(BODY), SHA256)


def test_a_whole_file_with_progress(
    desk: Staging, file: Download, steps: list[FetchProgress]
) -> None:
    fetched = desk.fetch(file)
    assert (fetched.file.read_bytes(), fetched.sha256, fetched.size) == (BODY, SHA256, len(BODY))
    downloading = [step for step in steps if step.what == "f"]
    assert [step.done for step in downloading] == sorted(step.done for step in downloading)
    assert downloading[-1] == FetchProgress("f", len(BODY), len(BODY))
    assert sorted(p.name for p in desk.folder.iterdir()) == ["f"]


def test_a_broken_connection_is_resumed_where_it_broke(
    server: Server, desk: Staging, file: Download
) -> None:
    server.cut = [1_000_000, 500_000]
    assert desk.fetch(file).file.read_bytes() == BODY
    ranges = [seen.range for seen in server.seen]
    assert ranges == [None, "bytes=1000000-", "bytes=1500000-"]
    assert server.seen[1].headers["if-range"].startswith('"')


def test_what_a_killed_pull_left_is_resumed(server: Server, desk: Staging, file: Download) -> None:
    (desk.folder / "f.part").write_bytes(BODY[:2_000_000])
    assert desk.fetch(file).file.read_bytes() == BODY
    assert [seen.range for seen in server.seen] == ["bytes=2000000-"]


def test_a_complete_part_needs_no_request(server: Server, desk: Staging, file: Download) -> None:
    (desk.folder / "f.part").write_bytes(BODY)
    assert desk.fetch(file).file.read_bytes() == BODY
    (desk.folder / "f.part").unlink(missing_ok=True)
    assert desk.fetch(file).file.read_bytes() == BODY
    assert server.seen == []


def test_a_server_without_ranges_makes_it_start_over(
    server: Server, desk: Staging, file: Download
) -> None:
    server.ranges = False
    server.cut = [1_000_000]
    assert desk.fetch(file).file.read_bytes() == BODY
    assert len(server.seen) == 2


def test_a_file_that_changed_is_never_mixed(server: Server, desk: Staging) -> None:
    """Nothing is stated of it but a validator: If-Range makes the server send it whole."""
    download = Download(f"{server.url}/f", "f")
    server.cut = [1_000_000]
    new = BODY[::-1]

    def change(seen: Seen) -> Answer | None:
        if seen.range:
            server.files["/f"] = new
        return None

    server.routes.append(change)
    assert desk.fetch(download).file.read_bytes() == new


def test_without_digest_or_validator_it_starts_over(server: Server, desk: Staging) -> None:
    server.etag = False
    server.cut = [1_000_000]
    assert desk.fetch(Download(f"{server.url}/f", "f")).file.read_bytes() == BODY
    assert [seen.range for seen in server.seen] == [None, None]


def test_a_stale_part_is_thrown_away_once(server: Server, desk: Staging, file: Download) -> None:
    (desk.folder / "f.part").write_bytes(b"\0" * 2_000_000)
    assert desk.fetch(file).file.read_bytes() == BODY
    assert [seen.range for seen in server.seen] == ["bytes=2000000-", None]


def test_a_part_longer_than_the_file_starts_over(
    server: Server, desk: Staging, file: Download
) -> None:
    (desk.folder / "f.part").write_bytes(BODY + b"more")
    assert desk.fetch(file).file.read_bytes() == BODY
    unknown = Download(f"{server.url}/f", "g", sha256=SHA256)
    (desk.folder / "g.part").write_bytes(BODY + b"more")
    assert desk.fetch(unknown).file.read_bytes() == BODY


def test_a_wrong_finished_file_is_fetched_again(
    server: Server, desk: Staging, file: Download
) -> None:
    (desk.folder / "f").write_bytes(b"\0" * len(BODY))
    assert desk.fetch(file).file.read_bytes() == BODY


def test_a_stored_file_is_linked_not_fetched(
    server: Server, desk: Staging, file: Download, tmp_path: Path
) -> None:
    blob = tmp_path / "blob"
    blob.write_bytes(BODY)
    desk = Staging(desk.folder, desk.network, desk.report, {SHA256: blob}.get)
    fetched = desk.fetch(file)
    assert fetched.file.samefile(blob)
    assert server.seen == []
    fetched.file.unlink()
    blob.write_bytes(b"damaged" + BODY[7:])
    assert desk.fetch(file).file.read_bytes() == BODY
    assert blob.read_bytes()[:7] == b"damaged"  # the store's own file is not touched


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sha256": "0" * 64}, "where 000000000000 is stated"),
        ({"size": 5}, "3000000 bytes where 5 are stated"),
        ({"git_sha1": "1" * 40}, "where 111111111111 is stated"),
    ],
)
def test_other_bytes_than_stated_are_refused(
    desk: Staging, file: Download, change: dict[str, object], message: str
) -> None:
    with pytest.raises(IntegrityError, match=message):
        desk.fetch(replace(file, **change))  # type: ignore[arg-type]
    assert not (desk.folder / "f").exists()


def test_a_server_that_sends_more_than_it_said_is_stopped(server: Server, desk: Staging) -> None:
    server.length = False
    with pytest.raises(IntegrityError, match="sends more than its 1000 bytes"):
        desk.fetch(Download(f"{server.url}/f", "f", 1000, SHA256))
    assert (desk.folder / "f.part").stat().st_size <= 1000


def test_busy_servers_are_asked_again_and_refusals_are_not(
    server: Server, desk: Staging, file: Download
) -> None:
    server.fail = [503, 429, 500]
    assert desk.fetch(file).size == len(BODY)
    for status, error in ((401, NeedsAccess), (403, NeedsAccess), (404, NotFound)):
        server.fail, server.seen = [status], []
        with pytest.raises(error):
            desk.fetch(replace(file, name=f"x{status}"))
        assert len(server.seen) == 1


def test_it_gives_up_after_five_tries_without_progress(
    server: Server, desk: Staging, file: Download
) -> None:
    server.fail = [503] * 20
    with pytest.raises(SourceFailed, match="cannot be read: it answered 503; check the network"):
        desk.fetch(file)
    assert len(server.seen) == 5


def test_many_small_steps_are_progress(server: Server, desk: Staging, file: Download) -> None:
    server.cut = [250_000] * 11
    assert desk.fetch(file).file.read_bytes() == BODY
    assert len(server.seen) == 12


def test_credentials_do_not_follow_a_redirect_to_another_host(
    server: Server, desk: Staging, file: Download
) -> None:
    with serving() as front:
        front.routes.append(
            lambda seen: (
                Answer(302, headers={"Location": f"{server.url}/f?signature=x"})
                if seen.path == "/far"
                else Answer(307, headers={"Location": "/far"})
                if seen.path == "/near"
                else None
            )
        )
        headers = {"Authorization": "Bearer secret"}
        desk.fetch(replace(file, url=f"{front.url}/near", headers=headers))
        assert [seen.authorization for seen in front.seen] == ["Bearer secret"] * 2
        assert [seen.authorization for seen in server.seen] == [None]


def test_redirects_are_bounded_and_lead_to_http_only(server: Server, desk: Staging) -> None:
    server.routes.append(
        lambda seen: (
            Answer(302, headers={"Location": "file:///etc/passwd"})
            if seen.path == "/file"
            else Answer(302, headers={"Location": "/loop"})
            if seen.path == "/loop"
            else None
        )
    )
    with pytest.raises(SourceFailed, match="redirects more than 5 times"):
        desk.fetch(Download(f"{server.url}/loop", "f"))
    with pytest.raises(SourceFailed, match="which is not safe"):
        desk.fetch(Download(f"{server.url}/file", "f"))


def test_a_full_disk_is_seen_before_the_first_byte(
    server: Server, desk: Staging, file: Download, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = shutil.disk_usage(desk.folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: real._replace(free=65 << 20))
    with pytest.raises(OutOfDisk, match=r"3 MiB are needed and 65 MiB are free.*OVERT_HOME"):
        desk.fetch(file)
    assert server.seen == []


def test_a_full_disk_is_seen_where_only_the_answer_says_the_size(
    server: Server, desk: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = shutil.disk_usage(desk.folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: real._replace(free=65 << 20))
    with pytest.raises(OutOfDisk):
        desk.fetch(Download(f"{server.url}/f", "f"))


def test_nobody_there_is_one_sentence(desk: Staging, file: Download, server: Server) -> None:
    with serving() as gone:
        url = gone.url
    with pytest.raises(SourceFailed, match=f"{url}/f cannot be read: .*; check the network"):
        desk.fetch(replace(file, url=f"{url}/f"))


def test_certificates_that_cannot_be_read_say_which(tmp_path: Path) -> None:
    network = Network(environ={"SSL_CERT_FILE": str(tmp_path / "none.pem")})
    with pytest.raises(SourceFailed, match=r"none\.pem cannot be read"):
        network.page("https://127.0.0.1:9/", {})


def test_shown_hides_credentials_and_signatures() -> None:
    assert shown("https://me:pw@host:8/a/b?token=1#x") == "https://host:8/a/b"
