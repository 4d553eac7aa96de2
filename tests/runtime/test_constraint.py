"""Schemas and grammars: what is refused before llama.cpp sees it, and patterns written anew."""

import contextlib
import json
import re
import time
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from overt.chat import Tool
from overt.errors import BadRequest
from overt.runtime.llamacpp.grammar import constraint, gbnf, pattern

PLAIN = {
    "type": "object",
    "properties": {
        "pattern": {"type": "string", "maxLength": 2000},  # names, not keywords
        "enum": {"enum": ["a", 1, None, {"maxItems": "any"}]},
        "maxLength": {"type": ["integer", "null"], "minimum": -(2**62), "maximum": 10},
        "items": {"type": "array", "items": {"$ref": "#/$defs/code"}, "maxItems": 20},
    },
    "required": ["pattern"],
    "additionalProperties": False,
    "$defs": {"code": {"type": "string", "pattern": "^[a-c]{2}$"}},
}


def nested(depth: int) -> dict:
    schema: dict = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


def union(*widths: int) -> dict:
    if not widths:
        return {"type": "null"}
    return {"anyOf": [union(*widths[1:]) for _ in range(widths[0])]}


def properties(count: int, required: int = 0) -> dict:
    names = [f"p{n}" for n in range(count)]
    return {"properties": {name: {"type": "null"} for name in names}, "required": names[:required]}


def test_an_ordinary_schema_stays_as_it_is_but_for_its_patterns():
    found = constraint.schema(PLAIN)
    assert found["$defs"]["code"].pop("pattern") == "^(?:(?:[\\x61-\\x63]){2})$"
    expected = json.loads(json.dumps(PLAIN))
    del expected["$defs"]["code"]["pattern"]
    assert found == expected
    assert PLAIN["$defs"]["code"]["pattern"] == "^[a-c]{2}$"


BEYOND = [
    ({"description": "x" * (256 << 10)}, r"is 26\d{4} bytes long, 262144"),
    ({"enum": [[0] * 10_000]}, "over 10000 parts"),
    ({"default": [0] * 10_000}, "over 10000 parts"),
    (nested(65), "over 64 deep"),
    ({"const": json.loads("[" * 65 + "]" * 65)}, "over 64 deep"),
    ({"enum": [str(n) for n in range(401)]}, "401 alternatives in one place, 400"),
    ({"oneOf": [{"type": "null"}] * 401}, "401 alternatives"),
    (union(21, 20), "420 alternatives"),
    (union(10, 10, 5), "500 alternatives"),
    ({"items": [union(300), union(300), union(300), union(300)]}, "over 1000 alternatives"),
    (properties(448), "448 optional properties .* 447 is the most"),
    ({"items": [properties(300), properties(300), properties(300)]}, "300 optional properties"),
    ({"type": "string", "maxLength": 2001}, "maxLength 2001, 2000 is the most"),
    ({"type": "array", "minItems": 10**9}, "minItems 1000000000, 2000"),
    ({"type": "array", "minItems": 10**400}, "minItems of over 64 bits"),
    ({"prefixItems": [{"type": "string", "minLength": 2000}] * 26}, "over 50000 items and letters"),
    ({"type": "array", "maxItems": -1}, "maxItems -1; give a number from 0"),
    ({"type": "array", "maxItems": 1.5}, "maxItems 1.5"),
    ({"type": "array", "maxItems": "9"}, "maxItems '9'"),
    ({"type": "integer", "maximum": 1e30}, r"maximum 1e\+30; give less than 64 bits"),
    ({"type": "integer", "minimum": -(2**63)}, "minimum of over 64 bits"),
    ({"type": "integer", "exclusiveMinimum": True}, "exclusiveMinimum True"),
    ({"pattern": 3}, "a pattern that is no text"),
    ({"anyOf": [{"items": {"pattern": "^(((("}}]}, "not closed"),
]


@pytest.mark.parametrize(("schema", "words"), BEYOND, ids=[words for _, words in BEYOND])
def test_beyond_a_bound(schema: dict, words: str):
    with pytest.raises(BadRequest, match=words) as refused:
        constraint.schema(schema)
    assert refused.value.message.startswith("the JSON schema ")
    assert refused.value.hint
    if "not closed" not in words:  # four tools may not have more than four schemas
        with pytest.raises(BadRequest):
            constraint.parameters([Tool("look", "", schema)] * 4)


@pytest.mark.parametrize(
    "schema",
    [
        {"description": "x" * 262_000},
        nested(62),
        {"enum": [str(n) for n in range(400)]},
        union(20, 20),
        properties(447),
        properties(2000, required=2000),
        {"type": "array", "maxItems": 2000, "minItems": 1.0},
        {"type": "integer", "minimum": 1 - 2**63, "maximum": 2**63 - 1},
        {},
    ],
)
def test_at_a_bound(schema: dict):
    assert constraint.schema(schema) == schema


def test_a_pattern_of_a_tool_that_has_no_equal_is_left_out():
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(?=a)"}}}
    (found,) = constraint.parameters([Tool("look", "", schema)])
    assert found["properties"]["a"] == {"type": "string"}
    assert len(constraint.parameters([Tool("look", "", properties(447))] * 4)) == 4
    with pytest.raises(BadRequest, match="the schema of the tool look has over 4000 alternatives"):
        constraint.parameters([Tool("look", "", union(400))] * 11)
    with pytest.raises(BadRequest, match="401 tools"):
        constraint.parameters([Tool("look")] * 401)
    with pytest.raises(BadRequest, match="the schema of the tool look has 401 alternatives"):
        constraint.parameters([Tool("look", "", union(401))])


KEYS = st.text() | st.sampled_from(
    [
        *("type", "enum", "const", "anyOf", "oneOf", "allOf", "properties", "required", "items"),
        *("pattern", "minItems", "maxLength", "minimum", "exclusiveMaximum", "$defs", "$ref"),
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner),
)


@given(st.dictionaries(KEYS, JSON))
def test_whatever_the_schema_it_is_taken_or_refused(schema: dict):
    try:
        found = constraint.schema(schema)
    except BadRequest:
        return
    assert found.keys() == schema.keys()


# ---- patterns ------------------------------------------------------------------------------

REFUSED = [
    ("^((((", "an opening bracket that is not closed"),
    ("^(" * 20_000, "is 40000 characters long, 1000 is the most"),
    ("(" * 66 + ")" * 66, "groups more than 64 deep"),
    ("^a)$", r"'\)' out of place at 3"),
    ("^(?=a)b$", "looks ahead"),
    ("^(?P<x>a)$", "names a group"),
    (r"^(a)\1$", r"has \\1, which has no equal"),
    (r"^\bab$", r"has \\b"),
    (r"^\p{L}$", r"has \\p"),
    (r"^\u12$", r"has \\u"),
    ("^a\\", r"has \\, which"),
    ("^a^b$", "'\\^' in the middle"),
    ("^*$", "nothing before it"),
    ("^a++$", "without giving back"),
    ("^a**$", "repeats a repetition"),
    ("^a{x}$", "curly brackets without numbers"),
    ("^a{3,2}$", "from 3 to 2"),
    ("^[a", "not closed"),
    ("^[z-a]$", "from 'z' to 'a'"),
    ("^[]$", "not closed|no letter"),
    ('^["]$', "no letter of a JSON text"),
    ("^a{2001}$", "2001 times in all, 2000"),
    ("^((((a{0,100}){0,100}){0,100}){0,100})$", "10000 times in all, 2000"),
    ("^(a{0,100}){2}$", "what may be empty 200 times in all, 10"),
    ("^(a?){11}$", "what may be empty 11 times"),
    ("^" + "[a-z ]*" * 11 + "$", "11 ways at once, 10 is the most"),
    ("^\x01$", "the control character 1"),
]


@pytest.mark.parametrize(("given_", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_a_pattern_that_cannot_be_enforced(given_: str, words: str):
    with pytest.raises(pattern.BadPattern, match=words):
        pattern.rewritten(given_)
    with pytest.raises(BadRequest, match="pattern that cannot be enforced"):
        constraint.schema({"type": "string", "pattern": given_})


@pytest.mark.parametrize(
    ("given_", "yes", "no"),
    [
        (r"^\d{3}$", ["123"], ["12", "1234", "12a"]),
        (r"^\w+$", ["a_9"], ["", "a-b"]),
        (r"^\S+\s\D$", ["ab c"], ["abc", "ab 1"]),
        (r"^\W$", ["-"], ["a"]),
        (r"^a\-b\/c$", ["a-b/c"], ["ab/c"]),
        (r"^[\w.+-]+@[\w-]+\.[a-z]{2,}$", ["me.x@site.org"], ["me@site", "@a.bc"]),
        ("^(?:ab|cd){2}$", ["abcd", "cdcd"], ["ab", "abc"]),
        ("^a|b$", ["a", "b"], ["c"]),
        ("b+?", ["abc", "b"], ["ac"]),
        ("^a", ["ab"], ["ba"]),
        ("^[^a-z]+$", ["A1 é"], ["a"]),
        (r"^[\]\-^]$", ["]", "-", "^"], ["\\", "a"]),
        ("^é{2}\\u00e9$", ["ééé"], ["éé"]),
        (r"^\x41\t$", ["A\t"], ["A"]),
        (r'^"\\$', ['"\\'], ["\\"]),
        ("^$", [""], ["a"]),
        (r"^(\d{1,3}\.){3}\d{1,3}$", ["10.0.0.1"], ["10.0.0"]),
        ("^(a?){10}$", ["aaa", ""], ["b"]),
    ],
)
def test_what_is_written_means_the_same(given_: str, yes: list[str], no: list[str]):
    written = pattern.rewritten(given_)
    for text in yes:
        assert re.search(given_, text), text
        assert re.fullmatch(written, json.dumps(text, ensure_ascii=False)[1:-1]), text
    for text in no:
        assert not re.fullmatch(written, json.dumps(text, ensure_ascii=False)[1:-1]), text


@given(st.text('^$ab\\dw.[]()|*+?{}012,-"é', max_size=12), st.text('ab012-"\\ é', max_size=5))
@example("^a{0,1}?$", "a")
def test_no_pattern_lets_more_through_than_it_says(given_: str, text: str):
    try:
        written = pattern.rewritten(given_)
    except pattern.BadPattern:
        return
    escaped = json.dumps(text, ensure_ascii=False)[1:-1]
    if re.fullmatch(written, escaped):
        assert re.search(given_, text), (written, text)


# ---- grammars ------------------------------------------------------------------------------

JSON_GRAMMAR = r"""
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::= "{" ws ( string ":" ws value ("," ws string ":" ws value)* )? "}" ws
array  ::= "[" ws ( value ("," ws value){0,100} )? "]" ws  # a list
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9]{1,15})? ws
ws     ::= | " " | "\n" [ \t]{0,20}
"""


def doubling(depth: int) -> str:
    names = ["a" * n for n in range(1, depth + 2)]
    rules = [f"{one} ::= {two} {two} | {two}" for one, two in pairwise(names)]
    return "\n".join(["root ::= a", *rules, f'{names[-1]} ::= "x"?'])


@pytest.mark.parametrize(
    "grammar",
    [
        JSON_GRAMMAR,
        "root ::= " + " | ".join(f'"x{n}"' for n in range(1999)),
        "root ::= " + "(" * 64 + '"a"' + ")" * 64,
        'root ::= "a"{2000}',
        'root ::= ("a"?){0,10}',
        'root ::= (("a"|"a"|"a")*)*',
        "root ::= " + " ".join(f'("{n}" ":")?' for n in range(200)),
        'root ::= "[" root? "]"',
        "not a grammar % at all",
        "",
    ],
)
def test_a_grammar_within_bounds(grammar: str):
    assert constraint.grammar(grammar) is grammar


@pytest.mark.parametrize(
    ("grammar", "words"),
    [
        ('root ::= "' + "a" * 65_536 + '"', "bytes, 65536 is the most"),
        ("root ::= " + "(" * 50_000, "brackets more than 64 deep"),
        ("root ::= " + "|".join(f'"{n}"' for n in range(2001)), "more than 2000 rules and alt"),
        ("\n".join(f"r{n} ::= r{n + 1}" for n in range(200)), "more than 128 deep"),
        ('root ::= "x"{1000000000}', "repeats 1000000000 times"),
        ('root ::= ("x" "y"{1,100}){1,100}', "repeats 10000 times"),
        ('root ::= b{100}\nb ::= "a" "b"{100}', "repeats 10000 times"),
        ('root ::= ("a"?){11}', "may be empty 11 times"),
        ('root ::= "x" ("y" ("a"{0,10}){0,10})*', "may be empty 100 times"),
        ('root ::= b{0,20}\nb ::= c{0,20}\nc ::= "a"', "may be empty 400 times"),
        ('root ::= "a"{0,20}{0,20}', "may be empty 400 times"),
        ("root ::= " + '"a"? ' * 11, "11 ways at once, 10"),
        (doubling(8), "ways at once, 10"),
        ("root ::= " + " ".join(f'"{n}"?' for n in range(1900)), "too many alternatives"),
        ("[" * 60_000, r"has a \[ that is not closed"),
        ("{" * 60_000, "not closed"),
        ("<" * 60_000, "not closed"),
    ],
    ids=lambda value: value if len(value) < 60 else value[:20],
)
def test_a_grammar_beyond_a_bound(grammar: str, words: str):
    began = time.process_time()
    with pytest.raises(BadRequest, match=words):
        constraint.grammar(grammar)
    assert time.process_time() - began < 2


@given(st.text('rab ::=()|*+?{}0,9"[]\\-#\n<>!.', max_size=60))
def test_whatever_the_grammar_it_is_taken_or_refused(text: str):
    with contextlib.suppress(gbnf.BadGrammar):
        gbnf.check(f"root ::= {text}")
