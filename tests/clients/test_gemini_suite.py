"""The `google-genai` package's own tests of models and chats, on our server.

The package brings its tests along. They are meant for Google's server (``--mode=api``) or its
recordings; only the names of models are changed. What needs Google's cloud (``use_vertex``) skips
itself.
"""

from fnmatch import fnmatch
from importlib import metadata, util
from pathlib import Path
from shutil import copytree, ignore_patterns

import pytest
import suites

from serving import Served

VERSION = "3.6.1"
GOOGLE = "https://generativelanguage.googleapis.com/"
CLOUD = "https://us-central1-aiplatform.googleapis.com/"
FILES = (
    "models/test_generate_content.py",
    "models/test_generate_content_part.py",
    "models/test_generate_content_thought.py",
    "models/test_generate_content_tools.py",
    "models/test_generate_content_config_zero_value.py",
    "models/test_generate_content_http_options.py",
    "models/test_generate_content_from_apikey.py",
    "models/test_function_call_streaming.py",
    "models/test_count_tokens.py",
    "models/test_embed_content.py",
    "models/test_get.py",
    "models/test_list.py",
    "chats/test_get_history.py",
    "chats/test_send_message.py",
    "chats/test_validate_response.py",
)
NAMES = {
    "gemini-2.5-flash": "echo:plain",
    "gemini-2.5-pro": "echo:plain",
    "models/gemini-2.5-flash": "models/echo:plain",
    "gemini-2.0-flash-exp": "echo:plain",
    "gemini-2.0-flash-001": "echo:plain",
    "gemini-3-pro-preview": "echo:plain",
    "gemini-3.1-pro-preview": "echo:plain",
    "gemini-3.5-flash": "echo:plain",
    "gemini-3.8-flash": "echo:plain",
    "gemini-embedding-001": "minilm",
    "gemini-embedding-2": "minilm",
    "text-embedding-005": "minilm",
}


INSTEAD = {
    "models/test_get.py": "smollm2",  # `echo:` answers, and is no model of the store
    "models/test_generate_content_thought.py": "echo:think",
}
# Of what the tests read, the package brings nothing: the beginnings of such files do here.
DATA = {
    "google.png": b"\x89PNG\r\n\x1a\n",
    "google.jpg": b"\xff\xd8\xff",
    "google_homepage.png": b"\x89PNG\r\n\x1a\n",
    "bridge1.png": b"\x89PNG\r\n\x1a\n",
    "story.pdf": b"%PDF-1.7",
    "story.txt": b"Once upon a time.",
    "animal.mp4": b"\0\0\0\x18ftypmp42",
    "pixel.m4a": b"\0\0\0\x18ftypM4A ",
    "voice_sample.wav": b"RIFF",
}


def copied(into: Path, url: str) -> Path:
    """The package with its tests, the models renamed, and Google's address too.

    The tests build their client themselves and leave out the setting that would change it.
    """
    assert metadata.version("google-genai") == VERSION
    spec = util.find_spec("google.genai")
    assert spec is not None
    assert spec.origin is not None
    package = into / "google/genai"
    copytree(Path(spec.origin).parent, package, ignore=ignore_patterns("__pycache__"))
    for path, address in (
        (package / "_api_client.py", GOOGLE),
        (package / "tests/models/constants.py", GOOGLE),
        (package / "tests/models/constants.py", CLOUD),
    ):
        text = path.read_text("utf-8")
        assert address in text
        path.write_text(text.replace(address, f"{url}/"), "utf-8")
    for name, content in DATA.items():
        path = package / "tests/data" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    for name in FILES:
        path = package / "tests" / name
        text = path.read_text("utf-8")
        for old, new in NAMES.items():
            new = new.replace("echo:plain", INSTEAD.get(name, "echo:plain"))
            text = text.replace(f"'{old}'", f"'{new}'").replace(f'"{old}"', f'"{new}"')
        # The package `mcp` is not installed; only the tests that use it are to fail.
        path.write_text(text.replace("    raise e\n", "    pass\n"), "utf-8")
    return package


def ran(server: Served, into: Path) -> dict[str, str]:
    """The outcome of each test against Google's Gemini API, by its name."""
    package = copied(into, server.url)
    env = {
        "PYTHONPATH": str(into),
        "GOOGLE_GENAI_REPLAYS_DIRECTORY": str(into / "replays"),
        "GOOGLE_GENAI_RUN_GEMINI_ONLY_IN_API_MODE": "1",
        "GOOGLE_API_KEY": "any",
    }
    paths = [str(package / "tests" / name) for name in FILES]
    found: dict[str, str] = {}
    for case in suites.cases(into, paths, env, ("--mode=api",), loop="function"):
        tags = {child.tag for child in case}
        if "skipped" in tags:
            continue
        module = case.get("classname", "").partition("tests.")[2]
        name = f"{module}::{case.get('name', '').partition('[')[0]}"
        outcome = "failed" if tags & {"failure", "error"} else "passed"
        found[name] = outcome if found.get(name, outcome) == outcome else "failed"
    return found


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.client("google-genai", "the package's own tests: models, chats")
def test_the_clients_own_tests(server: Served, tmp_path: Path) -> None:
    into = tmp_path / "suite"
    into.mkdir()
    outcomes = ran(server, into)
    expected = suites.table(Path(__file__).with_name("gemini_deselected.tsv"))
    passing = [name for name, outcome in outcomes.items() if outcome == "passed"]
    assert len(passing) > 100
    assert not [p for p in expected if not any(fnmatch(name, p) for name in outcomes)]
    assert suites.differences(outcomes, expected, into) == []
