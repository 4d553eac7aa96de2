"""Where packages come from, as pip and uv would find it, and lists nobody vouches for."""

import json
import os
import random
from contextlib import suppress
from pathlib import Path

import pytest

from overt.errors import Offline, SourceFailed
from overt.models.sources.index import Configuration, PackageIndex, configured, listed

PYPI = "https://pypi.org/simple/"


@pytest.fixture
def person(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "home").mkdir()
    return {
        "HOME": str(tmp_path / "home"),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "XDG_CONFIG_DIRS": str(tmp_path / "xdg"),
    }


def _configured(person: dict[str, str], tmp_path: Path, **variables: str) -> Configuration:
    return configured({**person, **variables}, str(tmp_path / "venv"))


def _urls(found: Configuration) -> list[str]:
    return [index.url for index in found.indexes]


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")


def test_files_are_read_from_the_general_to_the_particular(
    person: dict[str, str], tmp_path: Path
) -> None:
    _write(tmp_path / "xdg/pip/pip.conf", "[global]\nindex-url = https://a.example/simple\n")
    assert _urls(_configured(person, tmp_path))[0] == "https://a.example/simple/"
    _write(tmp_path / "home/.pip/pip.conf", "[global]\nindex_url = https://b.example/simple\n")
    assert _urls(_configured(person, tmp_path))[0] == "https://b.example/simple/"
    _write(
        tmp_path / "config/pip/pip.conf",
        "[global]\nindex-url = https://c.example/simple\ncert = /ca.pem\n"
        "extra-index-url =\n  https://d.example/simple\n  https://e.example/simple\n",
    )
    found = _configured(person, tmp_path)
    assert _urls(found) == [f"https://{x}.example/simple/" for x in "cde"]
    assert found.certificates == "/ca.pem"
    _write(tmp_path / "venv/pip.conf", "[install]\nindex-url = https://f.example/simple\n")
    assert _urls(_configured(person, tmp_path))[0] == "https://f.example/simple/"
    _write(tmp_path / "named.conf", "[global]\nindex-url = https://g.example/simple\n")
    named = {"PIP_CONFIG_FILE": str(tmp_path / "named.conf")}
    assert _urls(_configured(person, tmp_path, **named))[0] == "https://g.example/simple/"
    nothing = _configured(person, tmp_path, PIP_CONFIG_FILE=os.devnull)
    assert nothing == Configuration((PackageIndex(PYPI),), None)


@pytest.mark.parametrize(
    ("variables", "urls"),
    [
        ({}, [PYPI]),
        ({"UV_INDEX_URL": "https://u.example/s"}, ["https://u.example/s/"]),
        (
            {"UV_DEFAULT_INDEX": "main=https://v.example/s", "UV_INDEX_URL": "https://u.example"},
            ["https://v.example/s/"],
        ),
        (
            {"PIP_INDEX_URL": "https://p.example/s", "UV_INDEX_URL": "https://u.example/s"},
            ["https://p.example/s/"],
        ),
        (
            {"PIP_EXTRA_INDEX_URL": "https://x.example/s", "UV_INDEX": "n=https://n.example/s?a=b"},
            [PYPI, "https://x.example/s/", "https://n.example/s/"],
        ),
    ],
)
def test_variables(
    person: dict[str, str], tmp_path: Path, variables: dict[str, str], urls: list[str]
) -> None:
    assert _urls(_configured(person, tmp_path, PIP_CONFIG_FILE=os.devnull, **variables)) == urls


def test_credentials_leave_the_url_and_stay_out_of_sight(
    person: dict[str, str], tmp_path: Path
) -> None:
    url = "https://us%40er:p%3Aw@i.example:8443/simple"
    (index,) = _configured(person, tmp_path, PIP_INDEX_URL=url).indexes
    assert index.url == "https://i.example:8443/simple/"
    assert index.headers("https://i.example:8443/f") == {"Authorization": "Basic dXNAZXI6cDp3"}
    for other in ("https://i.example/f", "http://i.example:8443/f", "https://j.example:8443/f"):
        assert index.headers(other) == {}
    assert "Basic" not in repr(index)


def test_no_index_and_an_address_that_is_none(person: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(Offline):
        _configured(person, tmp_path, PIP_NO_INDEX="true")
    with pytest.raises(SourceFailed, match="no http or https address"):
        _configured(person, tmp_path, PIP_INDEX_URL="file:///srv/simple")


def test_a_broken_file_is_passed_over(person: dict[str, str], tmp_path: Path) -> None:
    _write(tmp_path / "config/pip/pip.conf", "index-url without a section")
    (tmp_path / "home/.netrc").write_text("machine")
    assert _urls(_configured(person, tmp_path, PIP_CONFIG_FILE="")) == [PYPI]


FILE = {
    "filename": "my_model-1.0-py3-none-any.whl",
    "url": "https://f.example/x.whl",
    "hashes": {"sha256": "A" * 64},
    "size": 5,
}
JSON_TYPE = "application/vnd.pypi.simple.v1+json"


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        ({}, ("a" * 64, 5, False)),
        ({"hashes": {"sha256": "short"}}, (None, 5, False)),
        ({"hashes": ["sha256"], "size": "5"}, (None, None, False)),
        ({"size": -1, "yanked": "because"}, ("a" * 64, None, True)),
        ({"url": "file:///etc/passwd"}, None),
        ({"filename": "other-1.0-py3-none-any.whl"}, None),
        ({"filename": "my_model-1.0.tar.gz"}, None),
    ],
)
def test_one_row_of_a_list(
    change: dict[str, object], fact: tuple[str | None, int | None, bool] | None
) -> None:
    body = json.dumps({"files": [FILE | change]}).encode()
    found = list(listed(PYPI, JSON_TYPE, body, "my-model", PackageIndex(PYPI)))
    assert [(w.sha256, w.size, w.yanked) for w in found] == ([fact] if fact else [])


def test_five_thousand_damaged_lists_end_in_a_sentence_or_a_list() -> None:
    html = (
        '<html><head><base href="/b/"></head><a href="../../f/my_model-1.0-py3-none-any.whl'
        f'#sha256={"a" * 64}" data-yanked="">x</a><a href="http://[::1">y</a></html>'
    ).encode()
    good = {JSON_TYPE: json.dumps({"files": [FILE, FILE]}).encode(), "text/html": html}
    chance = random.Random(11)
    found = 0
    for _ in range(2500):
        for media_type, body in good.items():
            damaged = bytearray(body)
            for _ in range(chance.choice((1, 2, 5))):
                damaged[chance.randrange(len(damaged))] = chance.randrange(256)
            with suppress(SourceFailed):  # anything else fails the test
                rows = list(
                    listed(PYPI, media_type, bytes(damaged), "my-model", PackageIndex(PYPI))
                )
                found += len(rows)
                assert all(row.url.startswith(("https://", "http://")) for row in rows)
    assert found > 1000
