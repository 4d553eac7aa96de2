"""`overt serve` started in a shell whose variables send clients to it."""

import pytest

from overt.cli.serve import leave_itself_out


@pytest.mark.parametrize(
    ("url", "base", "out"),
    [
        ("http://127.0.0.1:11435", "http://127.0.0.1:11435/v1", True),
        ("http://127.0.0.1:11435", "http://localhost:11435/v1", True),
        ("http://0.0.0.0:11435", "http://127.0.0.1:11435/v1", True),
        ("https://ai.example.org:443", "https://ai.example.org/v1", True),
        ("http://127.0.0.1:11435", "http://127.0.0.1:8000/v1", False),
        ("http://127.0.0.1:11435", "https://gateway.example.org:11435/v1", False),
        ("http://127.0.0.1:11435", "not an address", False),
        ("http://127.0.0.1:11435", "", False),
    ],
)
def test_it_never_takes_itself_for_a_provider(url: str, base: str, out: bool) -> None:
    environ = {"OPENAI_BASE_URL": base, "ANTHROPIC_BASE_URL": "http://127.0.0.1:9"}
    said = list(leave_itself_out(url, environ))
    assert ("OPENAI_BASE_URL" not in environ) is out
    assert environ["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:9"
    if out:
        assert said == [
            "OPENAI_BASE_URL is this server's own address, so it is left out here: "
            "openai:… is asked at https://api.openai.com/v1"
        ]
    else:
        assert said == []
