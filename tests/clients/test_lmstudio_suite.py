"""The `lmstudio` SDK's own live tests, on our server: small models under the names they want."""

from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import lmstudio as lms
import pytest
import suites

import bert_writer
import serving
from overt.models.sources.base import Role
from overt.models.store import File, Manifest, Store
from overt.ref import parse

VERSION = "1.5.0"
TESTS = 147  # functions; 199 tests with their parameters
FILES = (
    *(f"{kind}/test_{name}_{kind}.py"
      for kind in ("async", "sync")
      for name in ("embedding", "images", "inference", "llm", "model_catalog", "model_handles",
                   "repository", "sdk_bypass")),
    "test_convenience_api.py", "test_inference.py", "test_logging.py", "test_session_errors.py",
    "test_sessions.py", "test_timeouts.py",
)  # fmt: skip
WRITERS = {  # each a copy of smollm2 of its own: name and where it is said to come from
    "llama-3.2-1b-instruct": "hf:hugging-quants/llama-3.2-1b-instruct",
    "mobilevlm_v2-1.7b": "hf:ZiangWu/MobileVLM_V2-1.7B-GGUF",
    "qwen2.5-7b-instruct-1m": "hf:lmstudio-community/Qwen2.5-7B-Instruct-1M-GGUF",
    "smollm2-135m-instruct": "hf:bartowski/SmolLM2-135M-Instruct-GGUF",
}
EMBEDDER = "text-embedding-nomic-embed-text-v1.5"
PORTS = """
import os
from lmstudio.json_api import ClientBase
ClientBase._DEFAULT_API_PORTS = (int(os.environ["LMSTUDIO_TEST_PORT"]),)
"""
SUBTESTS = "from pytest import Subtests as SubTests\n"  # pytest 9 has what that package was


def stock(home: Path) -> None:
    """Give the models of `home` the names that the tests ask for.

    They draw the likeliest token where a test does not say, so that every run is the same.
    """
    store = Store(home)
    whole = store.get(parse("smollm2"))
    for name, ref in WRITERS.items():
        path = home / "parameters.json"
        path.write_text('{"temperature": 0}')
        file = _file("parameters", path)
        manifest = replace(whole, ref=ref, files=(*whole.files, file))
        store.commit(manifest, {file.digest: path}, [parse(name)])
    path = home / "embedder.gguf"
    bert_writer.write(path, layers=1, width=768, heads=12, context=2048)
    file = _file("weights", path)
    manifest = Manifest((file,), "hf:nomic-ai/nomic-embed-text-v1.5")
    store.commit(manifest, {file.digest: path}, [parse(EMBEDDER)])


def _file(role: Role, path: Path) -> File:
    digest = "sha256:" + sha256(path.read_bytes()).hexdigest()
    return File(role, path.name, digest, path.stat().st_size)


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.client("lmstudio", "the package's own live tests")
def test_the_sdks_own_tests(
    model_home: Path, sdist: Callable[[str, str], Path], tmp_path: Path
) -> None:
    home = serving.copy_home(model_home, tmp_path / "home")
    stock(home)
    beside = tmp_path / "beside"
    beside.mkdir()
    (beside / "lmstudio_ports.py").write_text(PORTS)
    (beside / "pytest_subtests.py").write_text(SUBTESTS)
    into = tmp_path / "suite"
    with serving.serving(home) as served:
        with lms.Client(served.address) as client:
            for name in list(WRITERS)[:3]:
                client.llm.load_new_instance(name, ttl=None)
            client.embedding.load_new_instance(EMBEDDER, ttl=None)
        expected = suites.table(Path(__file__).with_name("lmstudio_deselected.tsv"))
        outcomes = suites.run(
            sdist("lmstudio", VERSION),
            FILES,
            into,
            models={},
            env={"PYTHONPATH": str(beside), "LMSTUDIO_TEST_PORT": str(served.port)},
            arguments=(
                "-m",
                "lmstudio",
                "-p",
                "lmstudio_ports",
                "-p",
                "no:schemathesis",
                "--timeout=60",
                # Left out and not tried: a small model writes on for minutes in some of them.
                *(f"--deselect={_address(id)}" for id in expected),
            ),
        )
    assert len(outcomes) + len(expected) == TESTS
    assert suites.differences(outcomes, {}, into) == []


def _address(id: str) -> str:
    """``tests.sync.test_x::test_y`` as pytest names it."""
    module, _, name = id.partition("::")
    return f"{module.replace('.', '/')}.py::{name}"
