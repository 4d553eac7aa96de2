"""A source archive is found on the person's own indexes, in their order."""

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from overt.errors import NotFound, Offline, SourceFailed
from overt.models.sources.download import Network
from overt.models.sources.sdist import source_archive

SHA = "0" * 64


@contextmanager
def index(files: dict[str, str]) -> Iterator[str]:
    """An index on loopback that lists `files` (name to URL) under the package ``some-thing``."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path != "/simple/some-thing/" or not files:
                self.send_error(404)
                return
            rows = [{"filename": n, "url": u, "hashes": {}, "size": 7} for n, u in files.items()]
            body = json.dumps({"files": rows}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/vnd.pypi.simple.v1+json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/simple/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def look(*indexes: str, offline: bool = False):
    environ = {
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_INDEX_URL": indexes[0],
        "PIP_EXTRA_INDEX_URL": " ".join(indexes[1:]),
    }
    network = Network(offline, environ, pause=0.01)
    try:
        return source_archive("Some_Thing", "1.2", SHA, network)
    finally:
        network.close()


def test_the_archive_of_exactly_this_version_is_taken():
    files = {
        "some_thing-1.2-py3-none-any.whl": "a.whl",
        "some_thing-1.2.1.tar.gz": "later",
        "some-thing-1.2.zip": "zip",
        "some_other-1.2.tar.gz": "other",
        "nonsense": "x",
        "Some.Thing-1.2.tar.gz": "https://files.example/some.tar.gz",
    }
    with index(files) as url:
        found = look(url)
    assert (found.url, found.name, found.size, found.sha256) == (
        "https://files.example/some.tar.gz", "some-thing-1.2.tar.gz", 7, SHA,
    )  # fmt: skip


def test_the_second_index_is_asked_where_the_first_has_nothing():
    with index({}) as first, index({"some_thing-1.2.tar.gz": "s.tar.gz"}) as second:
        assert look(first, second).url.startswith(second)


def test_an_archive_nobody_has_is_not_found_and_the_indexes_are_named():
    with index({"some_thing-1.3.tar.gz": "s"}) as url, pytest.raises(NotFound) as caught:
        look(url)
    assert url in str(caught.value)
    assert "PIP_INDEX_URL" in str(caught.value)


def test_an_address_that_is_none_of_the_web_is_refused():
    files = {"some_thing-1.2.tar.gz": "file:///etc/passwd"}
    with index(files) as url, pytest.raises(SourceFailed, match="no web address"):
        look(url)


def test_offline_is_offline():
    with pytest.raises(Offline):
        look("http://127.0.0.1:9/simple/", offline=True)
