"""Licence texts against names: what agrees, what is altered, and terms that were dropped."""

import pytest
from check_files_case import card, claim, found, only, results, subject, write

import tiny_models

CHECK = "licence_text"


@pytest.fixture
def text(shared_data):
    return lambda key: shared_data(f"licences/{key}.txt").read_text("utf-8")


def released(folder, licence, tag="apache-2.0", **about):
    return tiny_models.release(folder, licence=licence, card={"license": tag, **about})


def test_a_text_that_is_what_is_claimed(tmp_path, text):
    one = only(CHECK, subject(released(tmp_path, text("Apache-2.0"))))
    assert (one.result, one.strength.word, one.licence) == ("pass", "pinned", "Apache-2.0")
    assert [name for name, _ in one.inputs] == ["LICENSE"]


@pytest.mark.parametrize(
    ("key", "tag"),
    [
        ("MIT", "mit"), ("llama-3.1-license-2024", "llama3.1"), ("gemma-tou-2024-04-01", "gemma"),
        ("gemma-tou-2025-03-24", "gemma"), ("CC-BY-NC-4.0", "cc-by-nc-4.0"),
        ("llama-2-license-2023", "llama2"), ("bigscience-rail-1.0", "bigscience-bloom-rail-1.0"),
    ],
)  # fmt: skip
def test_the_tags_of_the_hub(key, tag, tmp_path, text):
    assert results(CHECK, subject(released(tmp_path, text(key), tag)), "weights") == ["pass"]


def test_another_text(tmp_path, text):
    one = only(CHECK, subject(released(tmp_path, text("CC-BY-NC-4.0"))))
    assert one.result == "fail"
    assert one.observed == "LICENSE is the text of CC-BY-NC-4.0"
    assert one.expected.startswith("Apache-2.0, as README.md says")


def test_another_version_is_another_licence(tmp_path, text):
    one = only(CHECK, subject(released(tmp_path, text("llama-3-license-2024"), "llama3.1")))
    assert one.result == "fail"


def test_a_rider_is_quoted(tmp_path, text):
    rider = "You may not use the Software for any commercial purpose without our consent."
    one = only(CHECK, subject(released(tmp_path, text("MIT") + f"\n{rider}\n", "mit")))
    assert one.result == "fail"
    assert rider in one.observed
    assert one.licence is None


def test_an_edited_number_is_told(tmp_path, text):
    original = text("llama-2-license-2023")
    edited = original.replace("700 million", "7 million")
    assert edited != original
    one = only(CHECK, subject(released(tmp_path, edited, "llama2")))
    assert one.result == "fail"
    assert "altered" in one.observed
    assert "7" in one.observed


def test_a_foreign_text_under_a_known_name(tmp_path):
    words = "all of this text belongs to nobody and says what it likes about otters and rain. " * 30
    one = only(CHECK, subject(released(tmp_path, words)))
    assert one.result == "fail"
    assert "not the text of Apache-2.0" in one.observed
    short = only(CHECK, subject(released(tmp_path / "b", "See our website.\n")))
    assert short.result == "inconclusive"


def test_a_name_without_a_text_settles_nothing(tmp_path):
    one = only(CHECK, subject(released(tmp_path, "")))
    assert one.result == "inconclusive"
    assert "'apache-2.0'" in one.reason
    assert results(CHECK, subject(tmp_path, place=False)) == []


def test_two_licences_side_by_side(tmp_path, text):
    """A release under either of two licences is under the one that is named too."""
    folder = released(tmp_path, "", "mit")
    write(folder, {"LICENSE-APACHE": text("Apache-2.0"), "LICENSE-MIT": text("MIT")})
    assert results(CHECK, subject(folder)) == ["pass"]


def test_a_licence_of_the_code_is_not_of_the_weights(tmp_path, text):
    files = {"LICENSE-CODE": text("MIT"), "LICENSE-MODEL": text("deepseek-la-1.0"),
             "train.py": "train = 1\n"}  # fmt: skip
    folder = tiny_models.release(tmp_path, files=files,
                                 card={"license": "other", "license_name": "deepseek"})  # fmt: skip
    pieces = {e.component: e for e in found(CHECK, subject(folder))}
    assert pieces["training_code"].licence == "MIT"
    assert pieces["training_code"].strength.word == "exists"  # says nothing of the code itself
    assert pieces["weights"].licence == "deepseek-la-1.0"


def test_a_folder_has_its_own_licence(tmp_path, text):
    files = {"data/LICENSE": text("CC-BY-NC-4.0"), "data/a.txt": "a\n"}
    folder = tiny_models.release(tmp_path, licence=text("Apache-2.0"), files=files)
    one = subject(folder, claim("training_data", "data", "CC-BY-4.0"))
    data = only(CHECK, one, "training_data")
    assert (data.result, data.observed) == ("fail", "data/LICENSE is the text of CC-BY-NC-4.0")
    assert results(CHECK, one, "weights") == ["pass"]
    free = only(CHECK, subject(folder), "training_data")
    assert (free.result, free.licence) == ("pass", "CC-BY-NC-4.0")


def test_card_and_header_name_two(tmp_path):
    tiny_models.gguf(tmp_path / "a.gguf", metadata={"general.license": "mit"})
    write(tmp_path, {"README.md": card("# A\n", license="apache-2.0")})
    pieces = [e for e in found(CHECK, subject(tmp_path)) if e.result == "fail"]
    assert [(e.observed, e.expected) for e in pieces] == [
        ("the header of a.gguf names MIT", "Apache-2.0, as README.md says")
    ]
    tiny_models.gguf(tmp_path / "a.gguf")
    assert "fail" not in results(CHECK, subject(tmp_path))


def test_a_link_to_a_file_that_is_not_there(tmp_path):
    folder = tiny_models.release(tmp_path, card={"license": "other", "license_link": "LICENSE"})
    one = next(e for e in found(CHECK, subject(folder)) if e.result == "fail")
    assert one.component == "model_card"  # the weights are no other for it
    assert "LICENSE, where its licence should be" in one.observed
    assert "fail" not in results(CHECK, subject(folder, place=False))
    elsewhere = tiny_models.release(tmp_path, card={"license_link": "https://example.org/LICENSE"})
    assert "fail" not in results(CHECK, subject(elsewhere))


def test_free_terms_over_a_restricted_base(tmp_path, text):
    about = {"base_model": "meta-llama/Llama-3.1-8B"}
    folder = released(tmp_path / "a", text("MIT"), "mit", **about)
    one = next(e for e in found(CHECK, subject(folder)) if e.result == "fail")
    assert "drops the terms of its base meta-llama/Llama-3.1-8B" in one.observed
    assert "llama-3.1-license-2024" in one.expected
    kept = released(tmp_path / "b", text("llama-3.1-license-2024"), "llama3.1", **about)
    assert "fail" not in results(CHECK, subject(kept))
    free = released(tmp_path / "c", text("MIT"), "mit", base_model="mistralai/Mistral-7B-v0.1")
    assert "fail" not in results(CHECK, subject(free))
    data = released(tmp_path / "d", text("MIT"), "mit", datasets=["meta-llama/Llama-3.1-8B"])
    assert "fail" not in results(CHECK, subject(data))


def test_a_known_model_under_other_terms(tmp_path):
    for name, result in (("Llama 3.1 8B", True), ("Mistral 7B v0.1", False), ("My Llama 3", False)):
        about = {"general.name": name, "general.license": "mit"}
        folder = tmp_path / name
        folder.mkdir()
        tiny_models.gguf(folder / "a.gguf", metadata=about)
        pieces = [e for e in found(CHECK, subject(folder, place=False)) if e.result == "fail"]
        assert bool(pieces) == result, name
    folder = tmp_path / "own"
    folder.mkdir()
    about = {"general.name": "Llama 3.1 8B", "general.license": "llama3.1"}
    tiny_models.gguf(folder / "a.gguf", metadata=about)
    assert "fail" not in results(CHECK, subject(folder, place=False))


def test_a_base_beside_it(tmp_path, text):
    one = subject(released(tmp_path / "a", text("MIT"), "mit"))
    one.base = subject(released(tmp_path / "b", text("CC-BY-NC-4.0"), "cc-by-nc-4.0"))
    assert "drops the terms" in next(e for e in found(CHECK, one) if e.result == "fail").observed


def test_a_use_policy_alone_is_no_licence(tmp_path, text):
    folder = tiny_models.release(tmp_path, card={"license": "llama3.2"},
                                 files={"USE_POLICY.md": text("llama-3.2-use-policy")})  # fmt: skip
    assert "fail" not in results(CHECK, subject(folder))
    write(folder, {"LICENSE.txt": text("llama-3.2-license-2024")})
    assert results(CHECK, subject(folder)) == ["pass"]
