"""Chains: a model's own licence from text and tags, and the licences of what it was made from."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gguf_writer import Tensor, write
from overt.openness.permissions import chain
from overt.openness.permissions.may import LicenceLink
from overt.openness.subject import families, named_licences
from overt.openness.subject.record import Parent, Record
from overt.openness.subject.subject import Subject, SubjectFile
from overt.settings import Settings, load

Shared = Callable[[str], Path]


@pytest.fixture
def settings(home: Path) -> Settings:
    return load()


def folder(tmp_path: Path, record: Record | None = None, **texts: str) -> Subject:
    """A subject with these files; an underscore in a name stands for its dot."""
    files = []
    for name, text in sorted(texts.items()):
        path = tmp_path / name.replace("_", ".")
        path.write_text(text, "utf-8")
        files.append(SubjectFile(path.name, path.stat().st_size, path))
    return Subject(str(tmp_path), tuple(files), record or Record("it"), place=True)


def licences(links: tuple[LicenceLink, ...]) -> list[tuple[str, str | None]]:
    return [(one.relation, one.licence) for one in links]


def test_a_tag_alone_is_the_licence(tmp_path: Path, settings: Settings) -> None:
    found = chain.of(folder(tmp_path, Record("it", licence="apache-2.0")), settings)
    assert licences(found.links) == [("model", "Apache-2.0")]
    assert found.links[0].known
    assert found.remarks == ()


@pytest.mark.parametrize("word", [None, "other", "unknown", "house rules v3"])
def test_a_licence_that_nobody_knows_is_not_known(
    tmp_path: Path, settings: Settings, word: str | None
) -> None:
    found = chain.of(folder(tmp_path, Record("it", licence=word)), settings)
    assert [(one.licence, one.known) for one in found.links] == [(None, False)]
    assert found.remarks


def test_a_text_and_a_tag_that_agree_are_one_licence(
    tmp_path: Path, settings: Settings, shared_data: Shared
) -> None:
    text = shared_data("licences/llama-3.1-license-2024.txt").read_text("utf-8")
    found = chain.of(folder(tmp_path, Record("it", licence="llama3.1"), LICENSE=text), settings)
    assert licences(found.links) == [("model", "llama-3.1-license-2024")]
    assert not found.links[0].altered


def test_a_tag_without_a_version_agrees_with_the_text(
    tmp_path: Path, settings: Settings, shared_data: Shared
) -> None:
    text = shared_data("licences/gemma-tou-2025-03-24.txt").read_text("utf-8")
    found = chain.of(folder(tmp_path, Record("it", licence="gemma"), LICENSE=text), settings)
    assert licences(found.links) == [("model", "gemma-tou-2025-03-24")]


def test_where_text_and_tag_disagree_both_apply(
    tmp_path: Path, settings: Settings, shared_data: Shared
) -> None:
    text = shared_data("licences/CC-BY-NC-4.0.txt").read_text("utf-8")
    card = "---\nlicense: apache-2.0\n---\n# It\n"
    found = chain.of(folder(tmp_path, LICENSE=text, README_md=card), settings)
    assert {one.licence for one in found.links} == {"CC-BY-NC-4.0", "Apache-2.0"}
    assert any("both are applied" in one and "README.md" in one for one in found.remarks)


def test_an_altered_text_is_altered(
    tmp_path: Path, settings: Settings, shared_data: Shared
) -> None:
    text = shared_data("licences/Apache-2.0.txt").read_text("utf-8")
    rider = "Notwithstanding the above, the Work may not be used for any commercial purpose."
    found = chain.of(folder(tmp_path, LICENSE=f"{text}\n\n{rider}\n"), settings)
    assert found.links[0].altered
    assert any("commercial purpose" in one for one in found.links[0].riders)


def test_an_unknown_text_outweighs_a_tag(tmp_path: Path, settings: Settings) -> None:
    words = "You may look at these weights on Tuesdays, if you tell us what you saw. " * 8
    found = chain.of(folder(tmp_path, Record("it", licence="mit"), LICENSE=words), settings)
    assert any(not one.known for one in found.links)
    assert any("has to be read" in one for one in found.remarks)


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        ("MIT", "MIT"),
        ("llama3.1\n", "llama-3.1-license-2024"),
        ("", "Apache-2.0"),
        (" \n", "Apache-2.0"),
    ],
)
def test_a_file_with_a_name_alone_names_it_and_an_empty_one_says_nothing(
    tmp_path: Path, settings: Settings, text: str, licence: str
) -> None:
    record = Record("it", licence=None if text.strip() else "apache-2.0")
    found = chain.of(folder(tmp_path, record, LICENSE=text), settings)
    assert licences(found.links) == [("model", licence)]


def test_two_licences_in_one_file_both_apply(
    tmp_path: Path, settings: Settings, shared_data: Shared
) -> None:
    both = "\n\n".join(
        shared_data(f"licences/{name}.txt").read_text("utf-8")
        for name in ("Apache-2.0", "llama-3.1-license-2024")
    )
    found = chain.of(folder(tmp_path, LICENSE=both), settings)
    assert {"Apache-2.0", "llama-3.1-license-2024"} <= {one.licence for one in found.links}


def test_a_use_policy_beside_the_licence_is_part_of_it(
    tmp_path: Path, settings: Settings, shared_data: Shared
) -> None:
    found = chain.of(
        folder(
            tmp_path,
            Record("it", licence="llama3.2"),
            LICENSE=shared_data("licences/llama-3.2-license-2024.txt").read_text("utf-8"),
            USE_POLICY_md=shared_data("licences/llama-3.2-use-policy.txt").read_text("utf-8"),
        ),
        settings,
    )
    assert licences(found.links) == [("model", "llama-3.2-license-2024")]


def test_the_header_of_a_gguf_names_a_licence(tmp_path: Path, settings: Settings) -> None:
    path = tmp_path / "it.gguf"
    write(
        path,
        {"general.architecture": "llama", "general.license": "llama3.2"},
        [Tensor("token_embd.weight", (32, 4))],
    )
    subject = Subject(str(path), (SubjectFile("it.gguf", path.stat().st_size, path),), Record("it"))
    assert licences(chain.of(subject, settings).links) == [("model", "llama-3.2-license-2024")]


# ---- parents -------------------------------------------------------------------------------------


@pytest.fixture
def catalogue(monkeypatch: pytest.MonkeyPatch) -> dict[str, Record]:
    known: dict[str, Record] = {}
    monkeypatch.setattr(families, "find", lambda name: known.get(name))
    return known


def test_bases_of_bases_are_followed(
    tmp_path: Path, settings: Settings, catalogue: dict[str, Record]
) -> None:
    catalogue["meta/base"] = Record(
        "base", licence="llama3.1", parents=(Parent("a/teacher", "distilled"),)
    )
    catalogue["a/teacher"] = Record("teacher", licence="mit")
    record = Record("it", licence="apache-2.0", parents=(Parent("meta/base", "finetune"),))
    found = chain.of(folder(tmp_path, record), settings)
    assert licences(found.links) == [
        ("model", "Apache-2.0"), ("finetune", "llama-3.1-license-2024"), ("teacher", "MIT"),
    ]  # fmt: skip


def test_a_loop_of_bases_ends(
    tmp_path: Path, settings: Settings, catalogue: dict[str, Record]
) -> None:
    catalogue["a"] = Record("a", licence="mit", parents=(Parent("b"), Parent("it"), Parent("a")))
    catalogue["b"] = Record("b", licence="mit", parents=(Parent("a"),))
    found = chain.of(
        folder(tmp_path, Record("it", licence="mit", parents=(Parent("a"),))), settings
    )
    assert [one.name for one in found.links] == ["it", "a", "b"]


def test_a_long_line_of_bases_is_cut(
    tmp_path: Path, settings: Settings, catalogue: dict[str, Record]
) -> None:
    for number in range(200):
        catalogue[str(number)] = Record(
            str(number), licence="mit",
            parents=tuple(Parent(str(other)) for other in range(number + 1, number + 9)),
        )  # fmt: skip
    found = chain.of(
        folder(tmp_path, Record("it", licence="mit", parents=(Parent("0"),))), settings
    )
    assert len(found.links) <= 64


def test_an_unknown_base_is_not_known_and_a_data_set_says_so(
    tmp_path: Path, settings: Settings, catalogue: dict[str, Record]
) -> None:
    record = Record("it", licence="mit", parents=(Parent("x/y"), Parent("some/data", "dataset")))
    _, base, data = chain.of(folder(tmp_path, record), settings).links
    assert (base.relation, base.licence, base.known) == ("base", None, False)
    assert (data.relation, data.licence, data.known) == ("dataset", None, False)


def test_a_parent_whose_licence_two_name_differently_has_both(
    tmp_path: Path, settings: Settings, catalogue: dict[str, Record]
) -> None:
    catalogue["x/y"] = Record("y", licence="cc-by-nc-4.0")
    record = Record("it", licence="mit", parents=(Parent("x/y", "base", "apache-2.0"),))
    found = chain.of(folder(tmp_path, record), settings)
    assert licences(found.links)[1:] == [("base", "Apache-2.0"), ("base", "CC-BY-NC-4.0")]


# ---- words ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "ids"),
    [
        ("apache-2.0", {"Apache-2.0"}),
        ("MIT AND CC-BY-4.0", {"MIT", "CC-BY-4.0"}),
        ("cc-by-nc-4.0 OR MIT", {"MIT"}),
        ("no such words", set()),
        ("", set()),
    ],
)
def test_which_licences_words_name(words: str, ids: set[str]) -> None:
    assert set(named_licences.ids_of(words)) == ids


def test_facts_that_decide_a_deny_come_first() -> None:
    link = LicenceLink("it", "model", "llama-3.2-license-2024")
    order = chain.strictest(("mau_at_version_release", "domicile_eu"), [link])
    assert order[0] == "domicile_eu"


@given(st.text(max_size=120))
def test_any_words_name_licences_or_none(words: str) -> None:
    assert all(isinstance(one, str) for one in named_licences.ids_of(words))
    assert named_licences.says_nothing(words) in (True, False)
    assert named_licences.agree(words, "MIT", "MIT")


@given(st.text(st.sampled_from("MITAND OR()apache-2.0wth+"), max_size=60))
def test_any_expression_names_licences_or_none(words: str) -> None:
    assert all(isinstance(one, str) for one in named_licences.ids_of(words))
