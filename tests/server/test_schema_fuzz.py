"""Requests that schemathesis makes of `/openapi.json`, sent to the real server: none breaks it."""

import json
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import schemathesis

from overt.server import assembly, openapi
from serving import Served, serving

SCHEMA = schemathesis.openapi.from_dict(openapi.document(assembly.PROTOCOLS, "1"))
VERBS = ("generateContent", "streamGenerateContent", "countTokens", "embedContent")


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server without models and without a network; `echo:` answers."""
    home = tmp_path_factory.mktemp("fuzzed")
    with serving(home, "--offline", "--log", "json") as served:
        yield served
        assert served.process.poll() is None
    written = served.log.read_text()
    assert "Traceback" not in written
    rows = [json.loads(line) for line in written.splitlines() if line.startswith("{")]
    answered = {(row["method"], row["path"]) for row in rows if row["status"] == 200}
    assert len(answered) > 25, "most of what was sent was refused, which tests nothing"


@pytest.mark.slow
@SCHEMA.parametrize()
@hypothesis.settings(
    max_examples=5, suppress_health_check=list(hypothesis.HealthCheck), database=None
)
def test_whatever_has_the_documented_form_is_answered(case: Any, fuzzed: Served) -> None:
    # Any other name of a model is answered 404, which tests nothing.
    for sent in (case.body, case.path_parameters):
        if isinstance(sent, dict) and "model" in sent:
            sent["model"] = "echo:x"
    if case.method == "POST" and case.path.endswith("/models/{id}"):
        case.path_parameters["id"] = f"echo:x:{VERBS[len(str(case.body)) % len(VERBS)]}"
    answer = case.call(base_url=fuzzed.url, timeout=20)
    assert answer.status_code < 500 or answer.status_code == 501, answer.text[:500]
    if answer.status_code >= 400 and case.method != "HEAD":
        assert answer.json(), "an error has its protocol's form"
