"""Ollama's Modelfile: every rule of its grammar, and the way back."""

import random
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from overt.errors import FormatError
from overt.formats.modelfile import (
    DEPRECATED,
    MAX_BYTES,
    PARAMETERS,
    ROLES,
    WORDS,
    Modelfile,
    ModelfileCommand,
    read,
    write,
)

EXAMPLE = '''# a model of my own
FROM ./weights.gguf
from ./projector.gguf
  System """You are "Ada".

Answer shortly."""
PARAMETER temperature 0.7
parameter stop "<|end|>"
PARAMETER stop   User:
PARAMETER use_mmap false
TEMPLATE "{{ .Prompt }}
"
MESSAGE user Hello there
MESSAGE assistant """Hi!"""
LICENSE MIT
ADAPTER ./lora.gguf
DRAFT ./small.gguf
RENDERER qwen3
PARSER qwen3
REQUIRES v0.14.0-rc1
'''


def one(text: str) -> ModelfileCommand:
    """The command after a FROM."""
    return read(f"FROM x\n{text}".encode()).commands[1]


def test_a_whole_file() -> None:
    found = read(EXAMPLE.encode())
    assert found.commands == (
        ModelfileCommand("from", "./weights.gguf"),
        ModelfileCommand("from", "./projector.gguf"),
        ModelfileCommand("system", 'You are "Ada".\n\nAnswer shortly.'),
        ModelfileCommand("parameter", "0.7", "temperature"),
        ModelfileCommand("parameter", "<|end|>", "stop"),
        ModelfileCommand("parameter", "User:", "stop"),
        ModelfileCommand("parameter", "false", "use_mmap"),
        ModelfileCommand("template", "{{ .Prompt }}\n"),
        ModelfileCommand("message", "Hello there", "user"),
        ModelfileCommand("message", "Hi!", "assistant"),
        ModelfileCommand("license", "MIT"),
        ModelfileCommand("adapter", "./lora.gguf"),
        ModelfileCommand("draft", "./small.gguf"),
        ModelfileCommand("renderer", "qwen3"),
        ModelfileCommand("parser", "qwen3"),
        ModelfileCommand("requires", "v0.14.0-rc1"),
    )
    assert found.values("from") == ("./weights.gguf", "./projector.gguf")
    assert found.last("license") == "MIT"
    assert found.parameters() == (
        {"temperature": 0.7, "stop": ["<|end|>", "User:"], "use_mmap": False},
        (),
    )
    assert read(write(found).encode()) == found


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("SYSTEM two  words  ", "two  words"),
        ("SYSTEM # no comment", "# no comment"),
        ('SYSTEM say "hi" to all', 'say "hi" to all'),
        ("SYSTEM 'single'", "'single'"),
        ('SYSTEM ""', ""),
        ("SYSTEM ", ""),
        ('SYSTEM "  kept  "', "  kept  "),
        ('SYSTEM "a" and "b"', 'a" and "b'),
        ('SYSTEM "one\ntwo"', "one\ntwo"),
        ('SYSTEM """\na\n"""', "\na\n"),
        ('SYSTEM """"quoted""""', '"quoted"'),
        ('SYSTEM """a"b""c"""', 'a"b""c'),
        ('SYSTEM "back\\nslash"', "back\\nslash"),
        ("SYSTEM a\r\nLICENSE b", "a"),
        ("SYSTEM\ta\ttab", "a\ttab"),
        ('SYSTEM """x""" \t', "x"),
        ('SYSTEM "# not a comment\n# nor this"', "# not a comment\n# nor this"),
    ],
)
def test_values(text: str, value: str) -> None:
    assert one(text).value == value


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("code", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_encodings_and_line_ends(code: str, end: str) -> None:
    mark = {"utf-16-le": b"\xff\xfe", "utf-16-be": b"\xfe\xff"}.get(code, b"")
    text = f"FROM é{end}# c{end}{end}SYSTEM 日本{end}"
    assert read(mark + text.encode(code)).commands == (
        ModelfileCommand("from", "é"),
        ModelfileCommand("system", "日本"),
    )


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("FOO bar", 1, "'FOO bar' is no command"),
        ("FROM x\n\nFROMAGE y", 3, "no command"),
        ("FROM x\nSYSTEM: y", 2, "no command"),
        ('FROM x\nSYSTEM "open\nand\nopen', 2, 'opens with " has no end'),
        ('FROM x\nSYSTEM """open"', 2, 'opens with """ has no end'),
        ("FROM x\nPARAMETER", 2, "not followed by the name"),
        ("FROM x\nPARAMETER temp 1", 2, "there is no parameter 'temp'"),
        ("FROM x\nPARAMETER top_k 1.5", 2, "top_k is '1.5'; it should be a whole number"),
        ("FROM x\nPARAMETER temperature hot", 2, "it should be a number"),
        ("FROM x\nPARAMETER temperature nan", 2, "it should be a number"),
        ("FROM x\nPARAMETER temperature 1e99", 2, "it should be a number"),
        ("FROM x\nPARAMETER seed 99999999999999999999", 2, "it should be a whole number"),
        ("FROM x\nPARAMETER use_mmap maybe", 2, "true or false"),
        ("FROM x\nMESSAGE tool y", 2, "the role 'tool'"),
        ("FROM x\nMESSAGE", 2, "not followed by a role"),
        ("FROM x\nREQUIRES soon", 2, "is no version"),
        ("FROM ", 1, "FROM names nothing"),
        ('FROM x\nADAPTER ""', 2, "ADAPTER names nothing"),
    ],
)
def test_mistakes_name_their_line(text: str, line: int, said: str) -> None:
    with pytest.raises(FormatError) as caught:
        read(text.encode(), "my file")
    assert f"line {line} of my file" in caught.value.message
    assert said in str(caught.value)
    assert caught.value.hint
    assert "\n" not in str(caught.value)


def test_a_file_needs_a_from() -> None:
    with pytest.raises(FormatError, match="no FROM line; begin it with FROM"):
        read(b"SYSTEM hi")
    with pytest.raises(FormatError, match=r"is not UTF-8 text \(byte 5\)"):
        read(b"FROM \xff")


def test_every_parameter_has_a_kind_and_old_ones_are_left_out() -> None:
    good = {int: "3", float: "0.5", bool: "true", str: "x"}
    lines = [f"PARAMETER {name} {good[kind]}" for name, kind in PARAMETERS.items()]
    lines += [f"PARAMETER {name} anything at all" for name in DEPRECATED]
    found, dropped = read("\n".join(["FROM x", *lines]).encode()).parameters()
    assert set(found) == set(PARAMETERS)
    assert dropped == DEPRECATED
    assert found["stop"] == ["x"]
    assert all(isinstance(found[name], kind) for name, kind in PARAMETERS.items() if name != "stop")


def test_the_last_of_a_parameter_counts() -> None:
    found = read(b"FROM x\nPARAMETER top_k 1\nPARAMETER top_k 2").parameters()[0]
    assert found == {"top_k": 2}


# ---- there and back ------------------------------------------------------------------------

_values = st.text(
    st.one_of(
        st.sampled_from(list('"""\n \t\r#{}\\ab\'')),
        st.characters(exclude_categories=["Cs"]),
    ),
    max_size=40,
)
_names = st.from_regex(r"[A-Za-z0-9./:_-]{1,20}", fullmatch=True)


@st.composite
def commands(draw: st.DrawFn) -> ModelfileCommand:
    word = draw(st.sampled_from(WORDS))
    if word in ("from", "adapter", "draft"):
        return ModelfileCommand(word, draw(_names))
    if word == "requires":
        return ModelfileCommand(word, draw(st.sampled_from(["1", "v0.1", "0.14.0", "1.2.3-a.1+b"])))
    if word == "message":
        return ModelfileCommand(word, draw(_values), draw(st.sampled_from(ROLES)))
    if word == "parameter":
        return ModelfileCommand(word, draw(_values), "stop")
    return ModelfileCommand(word, draw(_values))


@given(st.lists(commands(), max_size=8))
@example([ModelfileCommand("system", '"')])
@example([ModelfileCommand("system", '"""')])
@example([ModelfileCommand("system", 'a"\nb')])
@example([ModelfileCommand("system", '""\n""')])
@example([ModelfileCommand("system", "")])
@example([ModelfileCommand("system", " a ")])
@example([ModelfileCommand("template", "\r\n")])
def test_what_is_written_reads_back(found: list[ModelfileCommand]) -> None:
    made = Modelfile((ModelfileCommand("from", "x"), *found))
    # Three quotes at the end of a line inside is the one thing no quoting can carry.
    if any('"""' in command.value for command in found):
        try:
            text = write(made)
        except FormatError:
            return
    else:
        text = write(made)
    assert read(text.encode()) == made


def test_what_no_quoting_can_carry_is_said() -> None:
    made = Modelfile((ModelfileCommand("from", "x"), ModelfileCommand("system", 'a """\nb "\nc')))
    with pytest.raises(FormatError, match="SYSTEM has a line that ends with quotes"):
        write(made)


# ---- hostile -------------------------------------------------------------------------------


def test_mutated_files_are_read_or_refused_with_a_sentence() -> None:
    data = EXAMPLE.encode()
    pick, said = random.Random(5), []
    for _ in range(3000):
        changed = bytearray(data)
        for _ in range(pick.randint(1, 6)):
            place = pick.randrange(len(changed))
            match pick.randrange(3):
                case 0:
                    changed[place] = pick.choice([pick.randrange(256), 34, 10, 32, 35])
                case 1:
                    del changed[place : place + pick.randint(1, 30)]
                case 2:
                    changed[place:place] = changed[place : place + pick.randint(1, 30)]
        try:
            read(bytes(changed)).parameters()
        except FormatError as error:
            said.append(str(error))
    assert 300 < len(said) < 3000
    assert not any("\n" in text or len(text) > 400 for text in said)


@pytest.mark.parametrize(
    "data",
    [
        b'FROM x\nSYSTEM """' + b'"\n' * 1_000_000,
        b'FROM x\nSYSTEM "' + b"x\n" * 2_000_000,
        b'FROM x\nSYSTEM """' + b'""\n' * 1_000_000,
        b"\n" * 4_000_000 + b"FROM x",
        b"FROM x\n" + b" " * 8_000_000 + b"SYSTEM a",
        b"FROM x\nPARAMETER seed " + b"9" * 4_000_000,
    ],
    ids=["quotes", "open", "double", "empty", "blanks", "digits"],
)
def test_large_files_take_little_time(data: bytes) -> None:
    begun = time.process_time()
    said = ""
    try:
        read(data)
    except FormatError as error:
        said = str(error)
    assert len(said) < 400
    assert time.process_time() - begun < 5


def test_limits() -> None:
    with pytest.raises(FormatError, match="keep it under"):
        read(b"FROM x\n" + b"#" * MAX_BYTES)
    with pytest.raises(FormatError, match="more than 10000 commands"):
        read(b"FROM x\n" * 10_001)
