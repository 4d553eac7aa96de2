"""The syntax of Go's text/template, as far as chat templates use it: text to a tree.

Read from the language's own documentation (pkg.go.dev/text/template). What is left out ends in a
sentence that names it: ``define``, ``template``, ``block``, complex numbers. Everything is bounded:
the length of the text, the number of nodes and how deep they lie in each other.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

from overt.errors import FormatError

MAX_CHARACTERS = 1 << 20
_MAX_TOKENS = 100_000
_MAX_DEPTH = 100

Value = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Operand:
    """A value: where it begins, and the fields asked of it.

    `root` is ``.`` (the dot), ``$`` or ``$name`` (a variable), ``literal``, ``function`` or
    ``pipe`` (in brackets); `of` is the literal's value, the function's name or the `Pipe`.
    """

    root: str
    fields: tuple[str, ...] = ()
    of: "Value | Pipe" = None


@dataclass(frozen=True, slots=True)
class Pipe:
    """Commands joined by ``|``, and the variables that take the result.

    `new` tells ``:=`` from ``=``.
    """

    commands: tuple[tuple[Operand, ...], ...]
    names: tuple[str, ...] = ()
    new: bool = False


@dataclass(frozen=True, slots=True)
class LiteralText:
    text: str


@dataclass(frozen=True, slots=True)
class Action:
    pipe: Pipe


@dataclass(frozen=True, slots=True)
class Branch:
    """``if``, ``range`` or ``with`` by `kind`."""

    kind: str
    pipe: Pipe
    body: tuple["Node", ...]
    otherwise: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Jump:
    """``break`` or ``continue`` by `kind`."""

    kind: str


Node = LiteralText | Action | Branch | Jump


def parse(text: str) -> tuple[Node, ...]:
    """The tree of a template.

    Raises:
        FormatError: not a template, one that is too large, or a construct that is left out.
    """
    if len(text) > MAX_CHARACTERS:
        raise FormatError(f"the template has {len(text)} characters")
    pieces = list(_pieces(text))
    parser = _Parser(pieces)
    nodes, end = parser.nodes(0, loop=False)
    if end:
        _fail(f"{{{{ {end[0]} }}}} without a beginning")
    return nodes


def _fail(what: str) -> NoReturn:
    raise FormatError(f"the template has {what[:120]}")


# ---- text and actions ----------------------------------------------------------------------

_OPEN = re.compile(r"\{\{(?:(-)[ \t\r\n])?")
_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_CLOSE = re.compile(r"(?:[ \t\r\n]+(-))?\}\}|[ \t\r\n]+\}\}")
_TOKEN = re.compile(
    r"""(?P<blank>[ \t\r\n]+)
    | (?P<string>"(?:[^"\\\n]|\\.)*" | `[^`]*`)
    | (?P<char>'(?:[^'\\\n]|\\.[^']{0,9})')
    | (?P<number>[+-]?(?:0[xX][0-9a-fA-F]+|[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?|\.[0-9]+))
    | (?P<variable>\$[A-Za-z0-9_]*)
    | (?P<field>\.[A-Za-z_][A-Za-z0-9_]*)
    | (?P<word>[A-Za-z_][A-Za-z0-9_]*)
    | (?P<mark>:=|[=|(),.])
    """,
    re.VERBOSE,
)
_SPACE = " \t\r\n"
Token = tuple[str, str]  # kind and text


def _pieces(text: str) -> Iterator[str | list[Token]]:
    """Text (a str) and the tokens of actions (a list), with the trimming done."""
    at, trim, count = 0, False, 0
    while True:
        match = _OPEN.search(text, at)
        before = text[at : match.start() if match else len(text)]
        if trim:
            before = before.lstrip(_SPACE)
        if match and match[1]:
            before = before.rstrip(_SPACE)
        if before:
            yield before
        if not match:
            return
        tokens, at, trim = _action(text, match.end())
        count += len(tokens) + 1
        if count > _MAX_TOKENS:
            _fail(f"more than {_MAX_TOKENS} words")
        if tokens:
            yield tokens


def _action(text: str, at: int) -> tuple[list[Token], int, bool]:
    """The tokens of one action, where the text goes on, and whether to trim it there."""
    if comment := _COMMENT.match(text, at):
        close = _CLOSE.match(text, comment.end())
        if not close:
            _fail("a comment that shares its braces")
        return [], close.end(), bool(close[1])
    tokens: list[Token] = []
    while True:
        if close := _CLOSE.match(text, at):
            return tokens, close.end(), bool(close[1])
        match = _TOKEN.match(text, at)
        if not match:
            _fail(
                f"{text[at : at + 20]!r} inside {{{{ }}}}" if at < len(text) else "no }} at its end"
            )
        at = match.end()
        tokens.append((match.lastgroup or "", match[0]))


# ---- the tree ------------------------------------------------------------------------------


class _Parser:
    def __init__(self, pieces: list[str | list[Token]]) -> None:
        self._pieces = pieces
        self._at = 0
        self._rest = _ActionTokens([])  # what follows the word that ended the last block

    def nodes(self, depth: int, *, loop: bool) -> tuple[tuple[Node, ...], list[str]]:
        """Nodes up to ``else``, ``end`` or the end of all, and the words that ended them.

        The action that ended them is consumed; after ``else`` its rest can be read by `_rest`.
        """
        if depth > _MAX_DEPTH:
            _fail(f"blocks more than {_MAX_DEPTH} deep")
        nodes: list[Node] = []
        while self._at < len(self._pieces):
            piece = self._pieces[self._at]
            self._at += 1
            if isinstance(piece, str):
                nodes.append(LiteralText(piece))
                continue
            tokens = _ActionTokens(piece)
            word = tokens.keyword()
            if word in ("end", "else"):
                self._rest = tokens
                return tuple(nodes), [word]
            if word in ("if", "range", "with"):
                nodes.append(self._branch(word, tokens, depth, loop=loop))
            elif word in ("break", "continue"):
                if not loop or not tokens.done:
                    _fail(f"{word} in a place where it cannot stand")
                nodes.append(Jump(word))
            elif word in ("define", "template", "block"):
                _fail(f"{{{{ {word} }}}}, which Overt does not translate")
            elif not tokens.done:
                nodes.append(Action(tokens.pipe()))
        return tuple(nodes), []

    def _branch(self, kind: str, tokens: "_ActionTokens", depth: int, *, loop: bool) -> Branch:
        pipe = tokens.pipe(most=2 if kind == "range" else 1)
        body, end = self.nodes(depth + 1, loop=loop or kind == "range")
        otherwise: tuple[Node, ...] = ()
        if end == ["else"]:
            rest = self._rest
            word = rest.keyword()
            if word in ("if", "with") and kind != "range":
                return Branch(kind, pipe, body, (self._branch(word, rest, depth + 1, loop=loop),))
            if not rest.done:
                _fail("words after {{ else }}")
            # Go's own `break` in the `else` of a range ends that part alone: nobody means this.
            otherwise, end = self.nodes(depth + 1, loop=loop and kind != "range")
        if end != ["end"] or not self._rest.done:
            _fail(f"{{{{ {kind} }}}} without its {{{{ end }}}}")
        return Branch(kind, pipe, body, otherwise)


class _ActionTokens:
    """The words of one action, read from left to right."""

    def __init__(self, tokens: list[Token]) -> None:
        self._tokens = tokens
        self._at = 0
        self._depth = 0
        self._blank()

    @property
    def done(self) -> bool:
        return self._at >= len(self._tokens)

    def keyword(self) -> str:
        """The first word where it is one of the language; then it is consumed."""
        words = (
            "if",
            "range",
            "with",
            "else",
            "end",
            "break",
            "continue",
            "define",
            "template",
            "block",
        )
        kind, text = self._next()
        if kind == "word" and text in words:
            self._step()
            return text
        return ""

    def pipe(self, most: int = 1) -> Pipe:
        """A whole action's pipeline, with at most `most` variables before ``:=`` or ``=``."""
        names, new = self._declared(most)
        pipe = Pipe(self._commands(""), names, new)
        if not self.done:
            _fail(f"{self._next()[1]!r} in a place where it cannot stand")
        return pipe

    def _declared(self, most: int) -> tuple[tuple[str, ...], bool]:
        start, names = self._at, []
        while self._next()[0] == "variable":
            names.append(self._step())
            mark = self._next()[1]
            if mark in (":=", "="):
                self._step()
                if len(names) > most:
                    _fail(f"{len(names)} variables at once")
                return tuple(names), mark == ":="
            if mark != ",":
                break
            self._step()
        self._at = start
        return (), False

    def _commands(self, closing: str) -> tuple[tuple[Operand, ...], ...]:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            _fail(f"brackets more than {_MAX_DEPTH} deep")
        commands: list[list[Operand]] = [[]]
        while not self.done and self._next()[1] != closing:
            if self._next() == ("mark", "|"):
                self._step()
                commands.append([])
                continue
            commands[-1].append(self._operand())
        if not all(commands):
            _fail("an empty command")
        self._depth -= 1
        return tuple(map(tuple, commands))

    def _operand(self) -> Operand:
        kind, text = self._next()
        self._step(blank=False)
        operand = Operand("literal", of=_literal(kind, text))
        if kind == "field":
            operand = Operand(".", (text[1:],))
        elif kind == "variable":
            operand = Operand(text)
        elif kind == "word" and text not in ("true", "false", "nil"):
            operand = Operand("function", of=text)
        elif text == "(":
            self._blank()
            operand = Operand("pipe", of=Pipe(self._commands(")")))
            if self._next()[1] != ")":
                _fail("a ( without its )")
            self._step(blank=False)
        elif text == ".":
            operand = Operand(".")
        elif kind == "mark":
            _fail(f"{text!r} in a place where it cannot stand")
        fields: list[str] = []
        while self._next()[0] == "field":
            fields.append(self._step(blank=False)[1:])
        self._blank()
        if fields and operand.root in ("literal", "function"):
            _fail(f"a field of {text[:40]!r}")
        return Operand(operand.root, (*operand.fields, *fields), operand.of)

    def _next(self) -> Token:
        return self._tokens[self._at] if self._at < len(self._tokens) else ("", "")

    def _step(self, *, blank: bool = True) -> str:
        text = self._next()[1]
        self._at += 1
        if blank:
            self._blank()
        return text

    def _blank(self) -> None:
        while self._next()[0] == "blank":
            self._at += 1


_ESCAPES = {
    "n": "\n",
    "t": "\t",
    "r": "\r",
    "a": "\a",
    "b": "\b",
    "f": "\f",
    "v": "\v",
    "\\": "\\",
    '"': '"',
    "'": "'",
}
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{3})|(.))")


def _literal(kind: str, text: str) -> Value:
    """The value of a literal token; None for anything else."""
    if kind == "string":
        return text[1:-1].replace("\r", "") if text[0] == "`" else _unescaped(text[1:-1])
    if kind == "char":
        return ord(_unescaped(text[1:-1])[:1] or "\0")
    if kind == "number":
        if len(text) > 40:
            _fail("a number of more than 40 digits")
        try:
            return int(text, 16 if "x" in text.lower() else 10)
        except ValueError:
            return float(text)
    return {"true": True, "false": False}.get(text) if kind == "word" else None


def _unescaped(text: str) -> str:
    def one(match: re.Match[str]) -> str:
        if match[5] is not None:
            if match[5] not in _ESCAPES:
                _fail(f"the escape {match[0]!r}")
            return _ESCAPES[match[5]]
        number = int(match[4], 8) if match[4] else int(match[1] or match[2] or match[3], 16)
        if (
            number > 0x10FFFF
            or 0xD800 <= number <= 0xDFFF
            or (number > 127 and not match[2] and not match[3])
        ):
            _fail(f"the escape {match[0]!r}")
        return chr(number)

    return _ESCAPE.sub(one, text)
