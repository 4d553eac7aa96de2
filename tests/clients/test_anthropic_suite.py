"""The `anthropic` package's own tests of messages, batches and models, on our server.

They ask for a batch named ``message_batch_id``: one is made that runs for as long as they do. What
deletes it is left out, for it deletes one batch many times, and what reads its results, which a
mock answers and no server; test_anthropic_client.py does both.
"""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import suites
from anthropic import Anthropic

import serving

VERSION = "2.13.0"
FILES = (
    "api_resources/test_messages.py",
    "api_resources/messages/test_batches.py",
    "api_resources/test_models.py",
    "api_resources/beta/test_messages.py",
    "api_resources/beta/messages/test_batches.py",
    "api_resources/beta/test_models.py",
)

# Its conftest imports two packages for tests that replay recordings, of which these files have
# none.
STANDING_IN = {
    "inline_snapshot.py": "",
    "http_snapshot/__init__.py": (
        "class SnapshotSerializerOptions: ...\n\n"
        "def pytest_addoption(parser):\n"
        "    parser.addoption('--http-record', action='store_true')\n"
    ),
    "http_snapshot/httpx.py": (
        "class HttpxSyncSnapshotClient: ...\n\nclass HttpxAsyncSnapshotClient: ...\n"
    ),
}


@pytest.fixture
def busy(model_home: Path) -> Iterator[tuple[serving.Served, str]]:
    """A server of its own, and the id of a batch that it works on."""
    with tempfile.TemporaryDirectory(prefix="busy-", dir=serving.ROOT / ".cache") as folder:
        home = serving.copy_home(model_home, Path(folder) / "home")
        with (
            serving.serving(home) as server,
            Anthropic(base_url=server.url, api_key="none", max_retries=0) as client,
        ):
            batch = client.messages.batches.create(
                requests=[
                    {
                        "custom_id": "long",
                        "params": {
                            "model": "echo:slow",
                            "max_tokens": 100_000,
                            "messages": [{"role": "user", "content": "w " * 50_000}],
                        },
                    }
                ]
            )
            yield server, batch.id


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.client("anthropic", "the package's own tests: messages, batches, models")
def test_the_clients_own_tests(
    busy: tuple[serving.Served, str], sdist: Callable[[str, str], Path], tmp_path: Path
) -> None:
    server, batch = busy
    for name, text in STANDING_IN.items():
        path = tmp_path / "standing_in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    named = {
        "claude-opus-5-5": "echo:plain",
        "model_id": "smollm2",
        "message_batch_id": batch,
    }
    batches = {**named, "after_id": batch, "before_id": batch}
    models = {**named, "after_id": "smollm2", "before_id": "smollm2"}
    into = tmp_path / "suite"
    outcomes = suites.run(
        sdist("anthropic", VERSION),
        FILES,
        into,
        models={
            "": named,
            "api_resources/messages/test_batches.py": batches,
            "api_resources/beta/messages/test_batches.py": batches,
            "api_resources/test_models.py": models,
            "api_resources/beta/test_models.py": models,
        },
        env={"TEST_API_BASE_URL": server.url, "PYTHONPATH": str(tmp_path / "standing_in")},
        # aiohttp is not installed: that client sends the same requests through another library.
        arguments=(
            "-p", "http_snapshot", "-p", "tests._alias_httpx",
            "-k", "not aiohttp and not delete and not results",
        ),
    )  # fmt: skip
    assert len(outcomes) > 120
    expected = suites.table(Path(__file__).with_name("anthropic_deselected.tsv"))
    assert suites.differences(outcomes, expected, into) == []
