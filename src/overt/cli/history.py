"""`overt history`: how a model was made, back to where its bytes came from."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from overt.cli.options import verb
from overt.cli.output import Output, plain
from overt.errors import UsageError
from overt.settings import Settings

if TYPE_CHECKING:
    from overt.provenance.history import HistoryNode

_MAX_VALUE = 60  # characters of a value that are shown
_MAX_DEPTH = 3
_SIGNED = {
    "verified": "receipt signed, verified",
    "not ours": "receipt signed by a key that is not known here",
    "broken": "its receipt is BROKEN",
    "none": "no receipt",
}


@click.command("history", short_help="how a model was made, back to its origin")
@click.argument("ref")
@click.option("--recipe", "as_recipe", is_flag=True, help="Print its recipe, to share.")
@click.option("--receipt", "as_receipt", is_flag=True, help="Print its signed receipt.")
@verb
def command(out: Output, settings: Settings, ref: str, as_recipe: bool, as_receipt: bool) -> int:
    """Draw the steps that made REF, back to the bytes that somebody published.

    \b
      overt history mine
      overt history mine --recipe > mine.json     anybody can carry it out: overt replay mine.json
      overt history mine --receipt > mine.receipt.json

    Of each step: its parameters, when, what it read, the licence, and whether its receipt is signed
    by a key of yours.
    """
    from overt.provenance import history

    if as_recipe and as_receipt:
        raise UsageError("--recipe and --receipt are one at a time", "leave one out")
    if as_recipe:
        out.line(history.recipe(ref, settings).encode().decode())
        return 0
    if as_receipt:
        out.line(history.receipt(ref, settings).decode().rstrip("\n"))
        return 0
    top = history.history(ref, settings)
    out.result(
        {"model": ref, "history": top.as_json()},
        lambda: "\n".join(tree_lines(top)),
        lambda: "\n".join(digests(top)),
    )
    return 0


def tree_lines(node: "HistoryNode", first: str = "", rest: str = "") -> list[str]:
    """The lines of a tree; `first` stands before its own line, `rest` before all others."""
    lines = [first + _title(node)]
    inside = rest + ("│  " if node.inputs else "   ")
    lines += [inside + line for line in _facts(node)]
    for number, child in enumerate(node.inputs, 1):
        last = number == len(node.inputs)
        lines.append(rest + "│")
        lines += tree_lines(
            child, rest + ("└─ " if last else "├─ "), rest + ("   " if last else "│  ")
        )
    return lines


def digests(node: "HistoryNode") -> list[str]:
    """Every digest of the line, the newest first, each once."""
    found_digests = [node.digest] if node.digest else []
    for child in node.inputs:
        found_digests += digests(child)
    return list(dict.fromkeys(found_digests))


def _title(node: "HistoryNode") -> str:
    role = f"{node.role}: " if node.role else ""
    if node.kind == "step":
        return _one_line(f"{role}what came of it is not known")
    name = node.name[:200] or "no name"
    gone = "" if node.here else ", not on this disk"
    kind = "" if node.kind == "model" else f", {node.kind}"
    return _one_line(f"{role}{name}  {node.digest[:19]}{kind}{gone}")


def _facts(node: "HistoryNode") -> list[str]:
    if node.recipe is None:
        source = node.origin.get("source", "")
        came = [f"from {source}: {node.origin['ref']}"] if source else []
        when = [f"published {node.date}"] if node.date else []
        licence = [f"licence {node.licence or 'not stated'}"] if node.kind == "model" else []
        return [_one_line(", ".join(part)) for part in (came, [*when, *licence]) if part]
    recipe = node.recipe
    head = f"{recipe.step} (version {recipe.version})" + (f", {node.date}" if node.date else "")
    lines = [head]
    lines += [f"{name} {shown}" for name, shown in _parameters(recipe.parameters)]
    if recipe.environment:
        lines.append("with " + ", ".join(f"{k} {v}" for k, v in sorted(recipe.environment.items())))
    if node.kind == "step":
        return [_one_line(line) for line in lines]
    lines.append(f"licence {node.licence or 'not stated'}; {_SIGNED[node.signature]}")
    return [_one_line(line) for line in lines]


def _one_line(text: str) -> str:
    """Names and versions come from others: none may draw a branch of its own."""
    return plain(" ".join(text.splitlines()))


def _flat(parameters: Any, before: str, depth: int) -> Iterator[tuple[str, Any]]:
    """Parameters within parameters have a line of their own: ``training.rate``."""
    for name, value in sorted(parameters.items()):
        if isinstance(value, dict) and value and depth < _MAX_DEPTH:
            yield from _flat(value, f"{before}{name}.", depth + 1)
        else:
            yield before + name, value


def _parameters(parameters: Any) -> list[tuple[str, str]]:
    pairs = []
    for name, value in _flat(parameters, "", 0):
        text = json.dumps(value, ensure_ascii=False)
        if len(text) > _MAX_VALUE:
            text = f"{text[:_MAX_VALUE]}…"
        pairs.append((name, text))
    width = max((len(name) for name, _ in pairs), default=0)
    return [(name.ljust(width), text) for name, text in pairs]
