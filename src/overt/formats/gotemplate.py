"""Ollama's chat templates (Go) as Jinja, which llama.cpp's server renders.

The Jinja first puts the messages into the shape that Ollama gives its templates (gochat.py), then
follows the tree of gosyntax.py node by node:

- text becomes a string literal, so that no rule of Jinja about blanks and line ends touches it;
- ``break`` and ``continue`` become conditions around what they skip;
- a Go variable becomes an attribute of one namespace, since Jinja forgets what a loop sets;
- the dot is known at every place, with its kind, so that ``.Content`` is looked up where Go would;
- a template that never names ``.Messages`` is run once a turn, as Ollama does, and cut after
  ``.Response`` in the last.

A function, field or construct outside that is named in a FormatError. Known differences: the keys
of a JSON object keep the order they came in (Go sorts them), ``len`` and ``slice`` of a text count
characters (Go counts bytes), and a struct prints as JSON.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from overt.errors import FormatError
from overt.formats.gochat import (
    COLLATE,
    END,
    FIELDS,
    LAST,
    START,
    THINK,
    THINK_LEVEL,
    TOOLS,
    TURNS,
)
from overt.formats.gosyntax import Action, Branch, Jump, LiteralText, Node, Operand, Pipe, parse

_MAX_OUTPUT = 4 << 20
_MAX_EXPRESSION = 100_000  # characters of one expression


def to_jinja(text: str) -> str:
    """The Jinja chat template that renders what Ollama would render from the Go template `text`.

    Raises:
        FormatError: not a Go template, or one with a construct that is not understood; the
            message names it.
    """
    nodes = parse(text)
    named = _names(nodes)
    if not {"messages", "response"} & named:
        nodes = (*nodes, Action(Pipe(((Operand(".", ("Response",)),),))))
    parts = [START]
    if "tools" in named:
        parts.append(TOOLS)
    if {"think", "isthinkset"} & named:
        parts.append(THINK)
    if "thinklevel" in named:
        parts.append(THINK_LEVEL)
    parts.append(COLLATE)
    if "messages" in named:
        parts.append(_TemplateWriter().block(nodes, _ROOT))
    else:
        parts += (TURNS, _TemplateWriter().block(nodes, _ROOT), LAST)
        parts += (_TemplateWriter().block(_cut(nodes)[0], _ROOT), END)
    jinja = "".join(parts)
    if len(jinja) > _MAX_OUTPUT:
        raise FormatError(f"the template would grow to {len(jinja)} characters of Jinja")
    return jinja


def _names(nodes: Sequence[Node]) -> set[str]:
    """Every field and variable named anywhere, in lower case."""
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, Action | Branch):
            names |= _names_of(node.pipe)
        if isinstance(node, Branch):
            names |= _names(node.body) | _names(node.otherwise)
    return names


def _names_of(pipe: Pipe) -> set[str]:
    names: set[str] = set()
    for command in pipe.commands:
        for operand in command:
            names |= {name.lower() for name in operand.fields}
            if isinstance(operand.of, Pipe):
                names |= _names_of(operand.of)
    return names


def _jumps(node: Node) -> bool:
    """Whether ``break`` or ``continue`` in it may leave a turn of the loop around it."""
    if isinstance(node, Branch):
        return node.kind != "range" and any(map(_jumps, (*node.body, *node.otherwise)))
    return isinstance(node, Jump)


def _cut(nodes: Sequence[Node], cut: bool = False) -> tuple[tuple[Node, ...], bool]:
    """The nodes up to the first action that prints ``.Response``; what comes later is dropped."""
    remaining: list[Node] = []
    for node in nodes:
        if cut:
            break
        if isinstance(node, Branch):
            body, cut = _cut(node.body)
            otherwise, cut = _cut(node.otherwise, cut)
            node = replace(node, body=body, otherwise=otherwise)
        elif isinstance(node, Action):
            cut = "response" in _names_of(node.pipe)
        remaining.append(node)
    return tuple(remaining), cut


# ---- the tree as Jinja ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Expr:
    """Jinja code in brackets where it needs them, and the kind of its value.

    Kinds: str, int, bool, any, the names of `FIELDS`, and ``list K`` or ``map K`` of them.
    """

    code: str
    kind: str

    @property
    def inner(self) -> str:
        """The kind of an element."""
        return self.kind.partition(" ")[2] or "any"


_ROOT = _Expr("ns", "root")


class _TemplateWriter:
    """Writes one tree. Variables are renamed so that none hides another."""

    def __init__(self) -> None:
        self._count = 0
        self._scopes: list[dict[str, _Expr]] = [{"$": _ROOT}]
        self._loops: list[str] = []  # the flags of the loops around

    def block(self, nodes: Sequence[Node], dot: _Expr) -> str:
        """Nodes in a scope of their own."""
        self._scopes.append({})
        parts: list[str] = []
        open_conditions = 0
        for place, node in enumerate(nodes):
            parts.append(self._node(node, dot))
            if _jumps(node) and place + 1 < len(nodes):
                parts.append(f"{{%- if not {self._loops[-1]}j -%}}")
                open_conditions += 1
        parts.append("{%- endif -%}" * open_conditions)
        self._scopes.pop()
        return "".join(parts)

    def _node(self, node: Node, dot: _Expr) -> str:
        match node:
            case LiteralText(text):
                return f"{{{{- {_quoted(text)} -}}}}"
            case Jump(kind):
                loop = self._loops[-1]
                end = f"{{%- set {loop}b = true -%}}" if kind == "break" else ""
                return f"{{%- set {loop}j = true -%}}{end}"
            case Action(pipe):
                value = self._pipe(pipe, dot)
                if pipe.names:
                    return self._assign(pipe.names[0], value, new=pipe.new)
                return f"{{{{- {_printed(value)} -}}}}"
            case Branch():
                return self._branch(node, dot)

    def _branch(self, node: Branch, dot: _Expr) -> str:
        """``if``, ``with`` and ``range``; what they declare is known inside alone."""
        self._scopes.append({})
        value = self._pipe(node.pipe, dot)
        if node.kind == "range":
            code = self._range(node, value, dot)
        else:
            head = ""
            if node.pipe.names:
                head = self._assign(node.pipe.names[0], value, new=node.pipe.new)
                value = self._variable(node.pipe.names[0])
            inner = dot
            if node.kind == "with":
                inner = _Expr(self._fresh(), value.kind)
                head += f"{{%- set {inner.code} = {value.code} -%}}"
                value = inner
            code = f"{head}{{%- if {value.code} -%}}{self.block(node.body, inner)}"
            if node.otherwise:
                code += f"{{%- else -%}}{self.block(node.otherwise, dot)}"
            code += "{%- endif -%}"
        self._scopes.pop()
        return code

    def _range(self, node: Branch, value: _Expr, dot: _Expr) -> str:
        shape = value.kind.partition(" ")[0]
        if shape not in ("list", "map"):
            raise _not_understood(f"a range over {value.kind}")
        self._count += 1
        item = _Expr(f"d{self._count}", value.inner)
        key = _Expr(f"k{self._count}", "str") if shape == "map" else _Expr("loop.index0", "int")
        names = node.pipe.names
        targets = dict(zip(names[-1:], [item], strict=False))
        if len(names) == 2:
            targets[names[0]] = key
        head = f"{{%- for {item.code} in ({value.code} or []) -%}}"
        if shape == "map":
            # Arguments may still be text where a server did not parse them.
            source = f"({value.code} if {value.code} is mapping else {{}})"
            head = f"{{%- for {key.code}, {item.code} in {source}|dictsort(true) -%}}"
        for name, target in targets.items():
            head += self._assign(name, target, new=node.pipe.new)
        # llama.cpp's Jinja forgets what a turn of a loop printed before `continue` or `break`, so
        # both are flags: one that skips the rest of this turn, one that skips later turns.
        loop = self._fresh()
        self._loops.append(loop)
        body = self.block(node.body, item)
        self._loops.pop()
        if any(map(_jumps, node.body)):
            head = f"{{%- set {loop}b = false -%}}{head}{{%- if not {loop}b -%}}"
            head += f"{{%- set {loop}j = false -%}}"
            body += "{%- endif -%}"
        code = head + body
        if node.otherwise:
            code += f"{{%- else -%}}{self.block(node.otherwise, dot)}"
        return f"{code}{{%- endfor -%}}"

    # ---- variables

    def _fresh(self) -> str:
        self._count += 1
        return f"ns.v{self._count}"

    def _assign(self, name: str, value: _Expr, *, new: bool) -> str:
        if new:
            target = _Expr(self._fresh(), value.kind)
            self._scopes[-1][name] = target
        else:
            target = self._variable(name)
            if target.kind != value.kind:
                for scope in self._scopes:
                    if scope.get(name) is target:
                        scope[name] = replace(target, kind="any")
        return f"{{%- set {target.code} = {value.code} -%}}"

    def _variable(self, name: str) -> _Expr:
        for scope in reversed(self._scopes):
            if name in scope:
                return scope[name]
        raise FormatError(f"the template has the variable {name[:40]}, which it never sets")

    # ---- values

    def _pipe(self, pipe: Pipe, dot: _Expr) -> _Expr:
        value: _Expr | None = None
        for command in pipe.commands:
            value = self._command(command, dot, value)
        if value is None:
            raise FormatError("the template has an empty action")
        return value

    def _command(self, command: Sequence[Operand], dot: _Expr, piped: _Expr | None) -> _Expr:
        first, rest = command[0], command[1:]
        if first.root == "function":
            arguments = [self._operand(operand, dot) for operand in rest]
            return _call(str(first.of), arguments + ([piped] if piped else []))
        if rest or piped:
            raise _not_understood("a value with arguments, as if it were a function")
        return self._operand(first, dot)

    def _operand(self, operand: Operand, dot: _Expr) -> _Expr:
        of = operand.of
        if operand.root == "literal":
            return _literal(of)
        if operand.root == "function":
            return _call(str(of), [])
        if isinstance(of, Pipe):
            if of.names:
                raise _not_understood("a variable set inside brackets")
            value = self._pipe(of, dot)
        else:
            value = dot if operand.root == "." else self._variable(operand.root)
        for name in operand.fields:
            value = _field(value, name)
        return value


def _field(value: _Expr, name: str) -> _Expr:
    known = FIELDS.get(value.kind, {})
    if name not in known:
        raise _not_understood(f"the field .{name[:40]} of {value.kind}")
    key, kind = known[name]
    if value.kind == "root":
        return _Expr(f"ns.{key}", kind)
    return _Expr(f'{value.code}["{key}"]', kind)


def _literal(value: object) -> _Expr:
    match value:
        case bool():
            return _Expr("true" if value else "false", "bool")
        case int():
            return _Expr(str(value), "int")
        case str():
            return _Expr(_quoted(value), "str")
        case None:
            return _Expr("none", "any")
        case _:
            raise _not_understood(f"the number {value}")


# ---- functions -----------------------------------------------------------------------------


def _call(name: str, arguments: list[_Expr]) -> _Expr:
    """A function of Go's or Ollama's."""
    function = _FUNCTIONS.get(name)
    if function is None:
        raise _not_understood(f"the function {name[:40]}")
    least, most, write = function
    if not least <= len(arguments) <= most:
        raise FormatError(f"the template calls {name} with {len(arguments)} values")
    value = write(arguments)
    if (
        len(value.code) > _MAX_EXPRESSION
    ):  # some values are written twice, and those inside them again
        raise _not_understood("an expression that nests too deep")
    return value


def _joined(word: str) -> "_Function":
    def write(arguments: list[_Expr]) -> _Expr:
        kinds = {value.kind for value in arguments}
        code = f" {word} ".join(value.code for value in arguments)
        return _Expr(f"({code})", kinds.pop() if len(kinds) == 1 else "any")

    return write


def _compared(sign: str) -> "_Function":
    return lambda arguments: _Expr(f"({arguments[0].code} {sign} {arguments[1].code})", "bool")


def _equal(arguments: list[_Expr]) -> _Expr:
    """The first is one of the others."""
    pairs = (f"{arguments[0].code} == {other.code}" for other in arguments[1:])
    return _Expr(f"({' or '.join(pairs)})", "bool")


def _slice(arguments: list[_Expr]) -> _Expr:
    low, high = (*(value.code for value in arguments[1:]), "", "")[:2]
    return _Expr(f"{arguments[0].code}[{low}:{high}]", arguments[0].kind)


def _index(arguments: list[_Expr]) -> _Expr:
    value = arguments[0]
    for key in arguments[1:]:
        if value.kind.partition(" ")[0] not in ("list", "map"):
            raise _not_understood(f"an index of {value.kind}")
        value = _Expr(f"{value.code}[{key.code}]", value.inner)
    return value


def _print(arguments: list[_Expr], *, line: bool = False) -> _Expr:
    """Go sets a blank between two values of which neither is a text; println between all."""
    parts: list[str] = []
    for place, value in enumerate(arguments):
        if place and (line or "str" not in (value.kind, arguments[place - 1].kind)):
            parts.append('" "')
        parts.append(_printed(value))
    if line:
        parts.append('"\\n"')
    return _Expr(f"({' ~ '.join(parts)})" if parts else '""', "str")


def _printf(arguments: list[_Expr]) -> _Expr:
    form = arguments[0].code
    if not form.startswith('"'):
        raise _not_understood("a printf whose form is no plain text")
    values = iter(arguments[1:])
    parts: list[str] = []
    pieces = form[1:-1].split("%")
    parts.append(f'"{pieces[0]}"')
    rest = iter(pieces[1:])
    for piece in rest:
        if not piece:  # %%: a per cent sign, and what follows it
            parts.append(f'"%{next(rest, "")}"')
            continue
        value = next(values, None)
        if piece[0] not in "svd" or value is None:
            raise _not_understood(f"%{piece[0]} in a printf")
        parts.append(_printed(value))
        parts.append(f'"{piece[1:]}"')
    if next(values, None):
        raise _not_understood("a printf with more values than its form takes")
    return _Expr(
        f"({' ~ '.join(part for part in parts if part != chr(34) * 2) or chr(34) * 2})", "str"
    )


_Function = Callable[[list[_Expr]], _Expr]
_ANY = 1000
_FUNCTIONS: dict[str, tuple[int, int, _Function]] = {
    "and": (1, _ANY, _joined("and")),
    "or": (1, _ANY, _joined("or")),
    "not": (1, 1, lambda arguments: _Expr(f"(not {arguments[0].code})", "bool")),
    "eq": (2, _ANY, _equal),
    "ne": (2, 2, _compared("!=")),
    "lt": (2, 2, _compared("<")),
    "le": (2, 2, _compared("<=")),
    "gt": (2, 2, _compared(">")),
    "ge": (2, 2, _compared(">=")),
    "len": (1, 1, lambda arguments: _Expr(f"({arguments[0].code}|length)", "int")),
    "index": (1, _ANY, _index),
    "slice": (1, 3, _slice),
    "json": (1, 1, lambda arguments: _Expr(_json(arguments[0].code), "str")),
    "print": (0, _ANY, _print),
    "println": (0, _ANY, lambda arguments: _print(arguments, line=True)),
    "printf": (1, _ANY, _printf),
    "currentDate": (0, _ANY, lambda _: _Expr('strftime_now("%Y-%m-%d")', "str")),
}
"""By name: fewest and most values, and the writer."""


def _printed(value: _Expr) -> str:
    """Code whose text is what Go prints of the value."""
    shape = value.kind.partition(" ")[0]
    code = value.code
    if shape == "root":
        raise _not_understood("the whole of what it is given, printed")
    if shape in ("str", "int"):
        return code
    if shape == "bool":
        return f'("true" if {code} else "false")'
    if shape == "list" and value.inner != "tool":
        return f'("[" ~ ({code}|join(" ")) ~ "]")'
    if shape == "types":  # one name, or several
        return f'({code} if {code} is string else "[" ~ (({code} or [])|join(" ")) ~ "]")'
    if shape in ("any", "map"):  # arguments may be JSON text already
        return f"({code} if {code} is string else {_json(code)})"
    return _json(code)


def _json(code: str) -> str:
    """As Go writes JSON: no blanks, and the three characters of HTML as escapes."""
    escapes = "".join(f'|replace("{c}", "\\\\u{ord(c):04x}")' for c in "&<>")
    return f'({code}|tojson(separators=(",", ":")){escapes})'


def _quoted(text: str) -> str:
    """A Jinja string literal."""
    for character, escape in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\r", "\\r")):
        text = text.replace(character, escape)
    return f'"{text}"'


def _not_understood(what: str) -> FormatError:
    return FormatError(f"the template has {what}, which Overt does not translate")
