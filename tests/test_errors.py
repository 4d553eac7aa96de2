"""The error tree is the one drawn at the top of errors.py, and errors are one sentence."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import overt
from overt import errors
from overt.errors import ContextExceeded, IntegrityError, ModelNotFound, OvertError

SOURCE = Path(overt.__file__).parent


def _classes(base: type[OvertError] = OvertError) -> Iterator[type[OvertError]]:
    yield base
    for below in base.__subclasses__():
        if below.__module__ == "overt.errors":
            yield from _classes(below)


def _drawn() -> Iterator[tuple[str, str | None, int, int]]:
    """(name, parent, exit code, status) of each drawn line; a blank is inherited."""
    above: list[tuple[int, str, int, int]] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"[ │├└─]{4,}(?=[A-Z])", line)
        if not found:
            continue
        column = found.end()
        cells = re.match(r"(\w+)(?:\s+exit\s+wire|\s+(\d+)?\s*(\d{3})?\s)", line[column:] + " ")
        assert cells, line
        name, code, status = cells.groups()
        while above and above[-1][0] >= column:
            above.pop()
        _, parent, code_above, status_above = above[-1] if above else (0, None, 1, 500)
        row = (column, name, int(code or code_above), int(status or status_above))
        above.append(row)
        yield name, parent, row[2], row[3]


def test_the_drawn_tree_is_the_tree() -> None:
    real = {
        (
            one.__name__,
            None if one is OvertError else one.__mro__[1].__name__,
            one.exit_code,
            one.status,
        )
        for one in _classes()
    }
    assert set(_drawn()) == real
    assert len(list(_drawn())) == len(real) > 20


def test_errors_are_defined_in_one_place() -> None:
    elsewhere = {
        one.__name__
        for one in OvertError.__subclasses__()
        if one.__module__.startswith("overt.") and one.__module__ != "overt.errors"
    }
    assert elsewhere == set()


def test_codes_are_unique_and_stable() -> None:
    codes = [_make(one).code for one in _classes()]
    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", code) for code in codes)
    assert ModelNotFound("x").code == "model_not_found"


@pytest.mark.parametrize("file", ["lab/convert/gguf_adapter.py", "lab/quantize/estimate.py"])
def test_what_is_wrong_with_a_strangers_file_says_what_to_type_next(file: str) -> None:
    found = [node for node in ast.walk(ast.parse((SOURCE / file).read_text("utf-8")))
             if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)]  # fmt: skip
    assert [ast.unparse(one) for one in found if len(one.exc.args) < 2] == []
    assert found


def test_exit_codes_are_those_scripts_rely_on() -> None:
    assert {one.exit_code for one in _classes()} == {1, 2, 3, 4, 5, 130}


def _make(one: type[OvertError]) -> OvertError:
    return one(9000, 8192) if one is ContextExceeded else one("x is 1", "try 2")


def test_a_message_without_hint_stands_alone() -> None:
    error = IntegrityError("the file is 5 bytes and should be 6")
    assert str(error) == "the file is 5 bytes and should be 6"
    assert error.hint is None


def test_message_and_hint_make_one_sentence() -> None:
    error = ModelNotFound("no model is called 'x'", "type `overt list`")
    assert str(error) == "no model is called 'x'; type `overt list`"


def test_the_json_shape() -> None:
    assert json.loads(json.dumps(ModelNotFound("no model is called 'x'").as_json())) == {
        "error": {
            "code": "model_not_found",
            "message": "no model is called 'x'",
            "hint": None,
            "exit_code": 3,
        }
    }


@pytest.mark.parametrize(
    ("tokens", "context", "raised"), [(8193, 8192, 9216), (10_000, 8192, 11_264), (1, 1, 1024)]
)
def test_a_context_exceeded_names_both_numbers_and_one_that_holds(
    tokens: int, context: int, raised: int
) -> None:
    error = ContextExceeded(tokens, context)
    assert str(error) == (
        f"the prompt is {tokens} tokens and the context holds {context}; "
        f"shorten it, or raise the context: --context {raised}"
    )
    assert (error.tokens, error.context) == (tokens, context)
    assert raised >= tokens


# ---- every place in the code that raises one -----------------------------------------------

NAMES = {one.__name__ for one in _classes()}


def _texts() -> Iterator[tuple[str, int, str]]:
    """(place, position of the argument, its text with the values as {}) of every error made."""
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute)):
                continue
            name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
            if name not in NAMES:
                continue
            hints = [(1, word.value) for word in node.keywords if word.arg == "hint"]
            for position, argument in [*enumerate(node.args[:2]), *hints]:
                text = _literal(argument)
                if text is not None:
                    yield f"{path.relative_to(SOURCE)}:{argument.lineno}", position, text


def _literal(node: ast.expr) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(
            str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values
        )
    return None


def test_every_error_in_the_code_is_one_sentence() -> None:
    wrong = []
    for place, position, text in _texts():
        if not text.strip() or text != text.strip():
            wrong.append(f"{place}: empty, or with space at an end: {text!r}")
        if "\n" in text or text.rstrip().endswith((".", "!", ":", ";")):
            wrong.append(f"{place}: more than a line, or with a stop at the end: {text!r}")
        if re.search(r"[a-z)`]\. [A-Z]", text):
            wrong.append(f"{place}: two sentences: {text!r}")
        if position == 0 and re.search(r"\b(sorry|oops|please|invalid|illegal)\b", text, re.I):
            wrong.append(f"{place}: a word that says nothing: {text!r}")
        # `{answer}` is how suites of `overt eval` write a column: there it is meant as it stands.
        if re.search(r"(?<!\{)\{[a-z_]\w*[}.:!\[]", text) and "evaluation/suites" not in place:
            wrong.append(f"{place}: a value that was to be filled in: {text!r}")
    assert wrong == []
    assert sum(1 for _ in _texts()) > 20
