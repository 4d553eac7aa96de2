"""Which files are the model: rules over names."""

import pytest

from overt.errors import FormatError, ModelNotFound, UnsafeFile
from overt.models.sources.file_selection import choose, quantization_of, rank, refused, variants


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("SmolLM2-135M-Instruct-Q4_K_M.gguf", "Q4_K_M"),
        ("model.IQ4_XS.gguf", "IQ4_XS"),
        ("gemma-3-270m-it-q4_0.gguf", "Q4_0"),
        ("Q8_0/big-00001-of-00004.gguf", "Q8_0"),
        ("big-UD-Q4_K_XL-00001-of-00003.gguf", "UD-Q4_K_XL"),
        ("phi-F16.GGUF", "F16"),
        ("gpt-oss-20b-mxfp4.gguf", "MXFP4"),
        ("Qwen3-8B.gguf", ""),
        ("q8-frobnicator/plain.gguf", "Q8"),
        ("", ""),
    ],
)
def test_the_quantization_is_read_from_the_name(path: str, kind: str) -> None:
    assert quantization_of(path) == kind


def test_a_split_model_is_one_variant_if_it_is_complete() -> None:
    paths = ["m-Q4_0-00002-of-00002.gguf", "m-Q4_0-00001-of-00002.gguf", "m-Q8_0.gguf"]
    assert [(v.parts, v.quantization) for v in sorted(variants(paths), key=rank)] == [
        (("m-Q4_0-00001-of-00002.gguf", "m-Q4_0-00002-of-00002.gguf"), "Q4_0"),
        (("m-Q8_0.gguf",), "Q8_0"),
    ]
    assert [v.name for v in variants(paths[1:])] == ["m-Q8_0.gguf"]


def test_all_files_of_a_split_model_are_taken_in_order() -> None:
    paths = [f"m-{number:05}-of-00012.gguf" for number in range(12, 0, -1)] + ["LICENSE"]
    chosen = choose(paths, None, "here")
    assert chosen.weights == tuple(f"m-{number:05}-of-00012.gguf" for number in range(1, 13))
    assert [role for role, _ in chosen.files] == ["weights"] * 12 + ["licence"]


@pytest.mark.parametrize("file", [None, "m-00001-of-00003.gguf", "m-00003-of-00003.gguf"])
def test_a_split_model_that_lacks_files_is_refused_with_numbers(file: str | None) -> None:
    paths = ["m-00001-of-00003.gguf", "m-00003-of-00003.gguf"]
    with pytest.raises(FormatError, match="one of 3 files of a split GGUF, and 2 are there"):
        choose(paths, file, "here")


def test_a_quantization_that_two_models_have_must_be_told_by_file() -> None:
    with pytest.raises(ModelNotFound, match=r"2 files of Q4_0; name one: #a-Q4_0.gguf or #b-Q4_0"):
        choose(["a-Q4_0.gguf", "b-Q4_0.gguf"], "q4_0", "here")


def test_a_refusal_names_what_would_run() -> None:
    with pytest.raises(UnsafeFile, match="can run code when"):
        raise refused("here", "m.pt")
    with pytest.raises(UnsafeFile, match=r"would run os\.system, a\.b when"):
        raise refused("here", "m.pt", ("os.system", "a.b"))
    with pytest.raises(UnsafeFile, match=r"f5 and 3 more when"):
        raise refused("here", "m.pt", [f"f{n}" for n in range(9)])
