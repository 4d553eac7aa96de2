"""The live tests of `langchain-ollama`, and with them those of `langchain-tests`, on our server.

They ask for llama3.1, gpt-oss:20b and deepseek-r1:1.5b; here all three are SmolLM2 135M, which
answers, keeps schemas and streams, but calls no tools and does not think: the table lists what it
cannot do. The tests of thinking run once more with `echo:think` in its place.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import ollama
import pytest
import suites

import serving

VERSION = "1.1.0"
CHAT = "integration_tests/chat_models"
FILES = (
    f"{CHAT}/test_chat_models.py",
    f"{CHAT}/test_chat_models_standard.py",
    f"{CHAT}/test_chat_models_reasoning.py",
    "integration_tests/test_llms.py",
    "integration_tests/test_embeddings.py",
)
NAMES = ("llama3.1", "gpt-oss:20b", "deepseek-r1:1.5b")
# Whatever a test leaves open: short answers, the same each time, that do not go round in circles.
SHORT = {"temperature": 0, "seed": 1, "repeat_penalty": 1.3, "num_predict": 120}
ARGUMENTS = ("-p", "no:schemathesis", "--durations=5")

pytestmark = [pytest.mark.slow, pytest.mark.model]


@pytest.fixture(scope="module")
def stocked(model_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[serving.Served]:
    """A server of its own whose models have the names that the tests ask for."""
    home = serving.copy_home(model_home, tmp_path_factory.mktemp("langchain") / "home")
    with serving.serving(home) as served:
        client = ollama.Client(served.url, trust_env=False, timeout=120)
        client.create("short", from_="smollm2", parameters=SHORT)
        for name in NAMES:
            client.copy("short", name)
        client._client.close()
        yield served


@pytest.mark.client("langchain-ollama", "the package's own live tests")
def test_the_packages_own_tests(
    stocked: serving.Served, sdist: Callable[[str, str], Path], tmp_path: Path
) -> None:
    into = tmp_path / "suite"
    outcomes = suites.run(
        sdist("langchain-ollama", VERSION),
        FILES,
        into,
        models={},
        env={"OLLAMA_HOST": stocked.url},
        arguments=ARGUMENTS,
    )
    assert len(outcomes) > 60
    expected = suites.table(Path(__file__).with_name("langchain_deselected.tsv"))
    assert suites.differences(outcomes, expected, into) == []


@pytest.mark.client("langchain-ollama", "the package's own live tests: thinking")
def test_thinking_with_a_model_that_does(
    stocked: serving.Served, sdist: Callable[[str, str], Path], tmp_path: Path
) -> None:
    into = tmp_path / "suite"
    outcomes = suites.run(
        sdist("langchain-ollama", VERSION),
        FILES[2:4],
        into,
        models={"": {"deepseek-r1:1.5b": "echo:think"}},
        env={"OLLAMA_HOST": stocked.url, "OLLAMA_TEST_MODEL": "echo:x"},
        arguments=ARGUMENTS,
    )
    assert len(outcomes) > 15
    assert suites.differences(outcomes, {}, into) == []


@pytest.mark.client("langchain-tests", "EmbeddingsIntegrationTests with OllamaEmbeddings")
def test_embeddings_with_a_model_made_for_them(
    stocked: serving.Served, sdist: Callable[[str, str], Path], tmp_path: Path
) -> None:
    into = tmp_path / "suite"
    outcomes = suites.run(
        sdist("langchain-ollama", VERSION),
        FILES[4:],
        into,
        models={},
        env={"OLLAMA_HOST": stocked.url, "OLLAMA_TEST_MODEL": "minilm"},
        arguments=ARGUMENTS,
    )
    assert len(outcomes) == 5
    assert suites.differences(outcomes, {}, into) == []
