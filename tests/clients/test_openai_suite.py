"""The `openai` package's own tests of chat, completions, embeddings and models, on our server."""

from collections.abc import Callable
from pathlib import Path

import pytest
import suites

from serving import Served

VERSION = "3.57.0"
FILES = (
    "api_resources/chat/test_completions.py",
    "api_resources/chat/completions/test_messages.py",
    "api_resources/test_completions.py",
    "api_resources/test_embeddings.py",
    "api_resources/test_models.py",
    "api_resources/test_moderations.py",
)
MODELS = {
    "": {
        "gpt-6-astra": "echo:plain",
        "gpt-3.5-turbo-instruct": "echo:plain",
        "text-embedding-3-small": "minilm",
    },
    "api_resources/test_models.py": {"gpt-6-astra": "smollm2"},
}


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.client("openai", "the package's own tests: chat, completions, embeddings, models")
def test_the_clients_own_tests(
    server: Served, sdist: Callable[[str, str], Path], tmp_path: Path
) -> None:
    into = tmp_path / "suite"
    outcomes = suites.run(
        sdist("openai", VERSION),
        FILES,
        into,
        models=MODELS,
        env={"TEST_API_BASE_URL": f"{server.url}/v1"},
        # aiohttp is not installed: that client sends the same requests through another library.
        arguments=("-k", "not aiohttp"),
    )
    assert len(outcomes) > 100
    expected = suites.table(Path(__file__).with_name("openai_deselected.tsv"))
    assert suites.differences(outcomes, expected, into) == []
