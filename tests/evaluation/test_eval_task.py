"""Suites are read whole before anything is asked, and a mistake is told with its place."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overt.errors import FormatError, NotFound, OvertError
from overt.evaluation.suites import rows
from overt.evaluation.suites import suite as task
from overt.evaluation.suites.template import FieldTemplate

SUITE = """\
name: capitals
kind: exact
data: capitals.csv
prompt: "What is the capital of {country}?"
answer: "{capital}"
"""
DATA = 'country,capital\nFrance,Paris\n"Korea, South",Seoul\n'


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    (tmp_path / "capitals.csv").write_text(DATA)
    path = tmp_path / "capitals.yaml"
    path.write_text(SUITE)
    return path


def test_a_suite_is_its_questions(suite: Path) -> None:
    found = task.load(str(suite))
    assert [item.answer for item in found.items] == ["Paris", "Seoul"]
    assert [item.id for item in found.items] == ["capitals/1", "capitals/2"]
    request = found.request(found.items[1], "echo:x")
    assert request.messages[0].text == "What is the capital of Korea, South?"
    assert request.sampling.temperature == 0
    assert request.sampling.seed == 0


def test_the_digest_is_of_what_is_asked_and_not_of_where_it_lies(
    suite: Path, tmp_path: Path
) -> None:
    first = task.load(str(suite))
    (tmp_path / "other.csv").write_text(DATA)
    moved = task.load(str(suite), [tmp_path / "other.csv"])
    assert moved.digest == first.digest
    assert moved.data[0][1] == first.data[0][1]
    assert task.load(str(suite), max_tokens=5).digest != first.digest


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("kind: exact", "kind: exakt", "kinds are exact, numeric"),
        ("kind: exact", "kid: exact", "has no `kind:`"),
        ("answer:", "answers:", "unknown key 'answers'"),
        ('answer: "{capital}"\n', "", "has no `answer:`"),
        ("{country}", "{land}", "line 2 of"),
        ("{country}", "{land}", "needs the column 'land'"),
        ("{country}", "{country", "lone '{'"),
        ("{country}", "{country.__class__}", "needs the column 'country.__class__'"),
        ("data: capitals.csv", "data: ../../etc/passwd.csv", "outside its folder"),
        ("data: capitals.csv", "data: capitals.txt", "is not there"),
        ("name: capitals", "max_tokens: true", "a whole number is expected"),
        ("name: capitals", "max_tokens: 0", "goes from 1 to 1000000"),
        ("name: capitals", "name: [", "is not YAML"),
        ("name: capitals", "stop: [[a]]", "list of texts"),
        ("name: capitals", "shots: {count: 3}", "has no `file`"),
        ("name: capitals", "shots: {file: capitals.csv, count: 3}", "has 2 examples and 3"),
        ("name: capitals", "extract: '('", "is not a regular expression"),
        ("name: capitals", "match: near", "it is whole, line"),
        ("name: capitals", "normalise: [caps]", "it knows space, case"),
        ("name: capitals", "id: country\nshots: {n: 3}", "write `shots:"),
    ],
)
def test_a_mistake_is_told_with_its_place(suite: Path, old: str, new: str, said: str) -> None:
    from overt.evaluation.suites.runners import RunnerTools, make

    suite.write_text(SUITE.replace(old, new))
    with pytest.raises(OvertError) as caught:
        make(task.load(str(suite)), RunnerTools())
    assert said in str(caught.value)
    assert "capitals" in str(caught.value)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("country,capital\nFrance\n", "line 2 of"),
        ("country,capital\nFrance,Paris,Lyon\n", "has 3 columns and 2 are expected"),
        ("country,capital\n", "has no rows"),
        ("country,country\na,b\n", "twice the column 'country'"),
        ('country,capital\n"France,Paris\n', "is not CSV"),
        ("country,capital\nFrance,...\n", "nothing is left"),
    ],
)
def test_a_row_that_is_wrong_is_named(suite: Path, data: str, said: str) -> None:
    from overt.evaluation.suites.runners import RunnerTools, make

    (suite.parent / "capitals.csv").write_text(data)
    with pytest.raises(FormatError) as caught:
        make(task.load(str(suite)), RunnerTools())
    assert said in str(caught.value)


def test_ids_are_unique(suite: Path) -> None:
    suite.write_text(SUITE + "id: capital\n")
    (suite.parent / "capitals.csv").write_text("country,capital\na,b\nc,b\n")
    with pytest.raises(FormatError, match="has the id 'b' of line 2"):
        task.load(str(suite))


def test_the_example_is_a_suite(tmp_path: Path) -> None:
    made, data = task.create_template("mine", tmp_path)
    assert len(task.load(str(made)).items) == 5
    with pytest.raises(FormatError, match="is there already"):
        task.create_template("mine", tmp_path)
    with pytest.raises(FormatError, match="no name for a suite"):
        task.create_template("../mine", tmp_path)
    assert data.name == "mine.csv"


def test_a_sample_is_the_same_for_a_seed(tmp_path: Path) -> None:
    (tmp_path / "n.jsonl").write_text("".join(f'{{"n": {i}}}\n' for i in range(100)))
    path = tmp_path / "n.yaml"
    path.write_text('kind: numeric\ndata: n.jsonl\nprompt: "{n}?"\nanswer: "{n}"\n')
    found = task.load(str(path))
    one = [item.id for item in found.sample(10, 1).items]
    assert one == [item.id for item in found.sample(10, 1).items]
    assert one != [item.id for item in found.sample(10, 2).items]
    assert len(set(one)) == 10
    assert found.sample(1000, 1) is found


def test_choices_are_shuffled_by_the_seed_and_the_answer_follows(tmp_path: Path) -> None:
    lines = "".join(f"q{i},w{i},x{i},right{i},z{i},C\n" for i in range(40))
    (tmp_path / "c.csv").write_text("q,a,b,c,d,right\n" + lines)
    path = tmp_path / "c.yaml"
    path.write_text(
        'kind: choice\ndata: c.csv\nprompt: "{q}\\n{choices}"\nanswer: "{right}"\nshuffle: true\n'
        'choices: ["{a}", "{b}", "{c}", "{d}"]\n'
    )
    found = task.load(str(path))
    for item in found.items:
        assert item.choices[ord(item.answer) - 65].startswith("right")
        assert f"{item.answer}. right" in item.messages[0].text
    letters = "".join(item.answer for item in found.items)
    assert set(letters) == set("ABCD")
    assert letters == "".join(item.answer for item in task.load(str(path)).items)
    assert letters != "".join(item.answer for item in task.load(str(path), seed=1).items)
    assert found.digest != task.load(str(path), seed=1).digest


def test_examples_come_before_the_question(suite: Path) -> None:
    (suite.parent / "shots.csv").write_text("country,capital\nPeru,Lima\nKenya,Nairobi\n")
    suite.write_text(SUITE + "shots: {file: shots.csv, count: 1}\nsystem: Be brief.\n")
    item = task.load(str(suite)).items[0]
    assert [(one.role, one.text) for one in item.messages] == [
        ("system", "Be brief."),
        ("user", "What is the capital of Peru?"),
        ("assistant", "Lima"),
        ("user", "What is the capital of France?"),
    ]
    suite.write_text(SUITE + "shots: {file: shots.csv, count: 1}\nsystem: Be brief.\nraw: true\n")
    found = task.load(str(suite))
    assert found.request(found.items[0], "m").prompt == (
        "Be brief.\n\nWhat is the capital of Peru?Lima\n\nWhat is the capital of France?"
    )
    assert len(task.load(str(suite), shots=0).items[0].prompt) < 45


def test_built_in_suites_say_where_their_data_are_from() -> None:
    for name in task.BUILT_IN:
        with pytest.raises(NotFound, match=r"github\.com"):
            task.load(name)


def test_gzip_and_json_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"a": 1}\n\n{"a": [1, null]}\n'))
    found, _ = rows.read(tmp_path / "a.jsonl.gz")
    assert [row.text["a"] for row in found] == ["1", "[1, null]"]
    assert found[1].where.startswith("line 3 of")
    (tmp_path / "high_school_test.json").write_text('[{"a": "x", "b": null}]')
    found, _ = rows.read(tmp_path / "high_school_test.json")
    assert found[0].text == {"stem": "high_school", "topic": "high school", "a": "x", "b": ""}


@given(st.text(alphabet="{}ab_. \n", max_size=30))
def test_a_template_fills_or_refuses(text: str) -> None:
    try:
        template = FieldTemplate(text, "it")
    except FormatError:
        return
    filled = template.fill(dict.fromkeys(template.fields, "{x}"))
    assert len(filled) <= len(text) * 3
    if not template.fields:
        assert filled == text.replace("{{", "{").replace("}}", "}")


@given(
    st.binary(max_size=200),
    st.sampled_from(["a.csv", "a.jsonl", "a.json", "a.jsonl.gz", "a.txt"]),
)
def test_any_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, name: str
) -> None:
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(data)
    try:
        found, _ = rows.read(path)
    except FormatError:
        return
    assert found


@given(
    st.dictionaries(
        st.sampled_from(["name", "kind", "prompt", "answer", "shots", "choices", "stop", "seed"]),
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(),
            st.floats(allow_nan=False),
            st.text(),
            st.sampled_from(task.KINDS),
            st.lists(st.text(max_size=3), max_size=3),
            st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
        ),
    )
)  # fmt: skip
def test_any_suite_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, told: dict[str, object]
) -> None:
    folder = tmp_path_factory.getbasetemp()
    (folder / "d.csv").write_text("a,b\n1,2\n")
    path = folder / "s.yaml"
    path.write_text(json.dumps({"data": "d.csv", **told}))
    try:
        found = task.load(str(path))
    except OvertError:
        return
    assert len(found.items) == 1
