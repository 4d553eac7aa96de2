"""`overt alias`: a name of a person's own for a model, or for a route to several."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from overt.cli.options import decode, read_bytes, verb
from overt.cli.output import Output, pairs, table
from overt.errors import BadRef, BadRequest, ModelNotFound, UsageError
from overt.settings import Settings

if TYPE_CHECKING:
    from overt.evaluation.conformal import LearntThreshold, Row
    from overt.evaluation.router import RouterOutcome
    from overt.gateway.aliases import Alias, Target

_MAX_ROUTE = 64 << 10
_MAX_ROWS = 1 << 30  # bytes of a file of rows, or of a receipt


@click.group("alias", short_help="a name of yours for a model, or a route to several")
def command() -> None:
    """Names of yours for models, taken by run, chat, compare, eval, show and clients of the server.

    \b
      overt alias set writer smollm2
      overt run writer "Hello"
      overt alias set writer openai:gpt-5      the same name, another model
      overt alias undo writer                  back to smollm2

    A running server takes a change up at the next request; those under way end as they began.
    A name may stand for a route: rules, then models asked in turn until an answer is good
    (docs/routes.md).
    """


@command.command("set", short_help="let a name stand for a model or a route")
@click.argument("name", metavar="NAME")
@click.argument("ref", default="", metavar="[REF]")
@click.option("--route", metavar="FILE", help="A route, as YAML, TOML or JSON.")
@verb
def set_(out: Output, settings: Settings, *, name: str, ref: str, route: str | None) -> None:
    """Let NAME stand for the model REF, or for the route in a file.

    REF is any form of `overt help refs`, another alias too. A route asks several models in turn
    until an answer is good; docs/routes.md shows what goes into its file.
    """
    from overt.gateway import routing
    from overt.gateway.aliases import checked_name

    if bool(ref) == bool(route):
        raise UsageError(
            "give either a REF or --route FILE", "such as: overt alias set writer smollm2"
        )
    checked_name(name)
    target = _complete_route(ref) if ref else _route(Path(route or ""))
    for text in _doubts(name, target, settings):
        out.warn(text)
    alias = routing.aliases(settings.home).set(name, target)
    out.result(as_json(alias), lambda: f"{alias.name} stands for {_short(alias.target)}")


@command.command("list", short_help="the names there are")
@verb
def list_(out: Output, settings: Settings) -> None:
    """Every alias and what it stands for."""
    from overt.gateway import routing

    aliases = routing.aliases(settings.home).all()

    def human() -> str:
        if not aliases:
            return "there are no aliases; `overt alias set NAME REF` makes one"
        rows = [(alias.name, _short(alias.target), alias.time[:10]) for alias in aliases]
        return table(("name", "stands for", "since"), rows)

    out.result(
        {"aliases": [as_json(alias) for alias in aliases]},
        human,
        lambda: "\n".join(alias.name for alias in aliases),
    )


@command.command("show", short_help="one name, its route, and what it stood for before")
@click.argument("name", metavar="NAME")
@verb
def show(out: Output, settings: Settings, *, name: str) -> None:
    """What NAME stands for, in the form that --route reads, and what it stood for before."""
    from overt.gateway import routing

    alias = routing.aliases(settings.home).get(name)

    def human() -> str:
        lines = [pairs({"name": alias.name, "since": alias.time})]
        if isinstance(alias.target, str):
            lines.append(pairs({"model": alias.target}))
        else:
            from overt.formats import yamltext

            lines += [f"learnt {text}" for text in _statements(alias.target)]
            lines += ["", yamltext.dump(alias.target).rstrip()]
        if alias.before:
            lines += ["", "before, the latest last:"]
            lines += [f"  {_short(target)}" for target in alias.before]
        return "\n".join(lines)

    out.result(as_json(alias), human, lambda: _short(alias.target))


@command.command("remove", short_help="take a name away")
@click.argument("name", metavar="NAME")
@verb
def remove(out: Output, settings: Settings, *, name: str) -> None:
    """Take NAME away; `overt alias undo NAME` brings it back."""
    from overt.gateway import routing

    gone = routing.aliases(settings.home).remove(name)
    out.result(
        {"removed": as_json(gone)},
        lambda: f"removed {gone.name}; back with: overt alias undo {gone.name}",
    )


@command.command("undo", short_help="back to what a name stood for before")
@click.argument("name", metavar="NAME")
@verb
def undo(out: Output, settings: Settings, *, name: str) -> None:
    """Go back to what NAME stood for before its last change; 20 changes are kept."""
    from overt.gateway import routing

    alias = routing.aliases(settings.home).undo(name)
    out.result(as_json(alias), lambda: f"{alias.name} stands for {_short(alias.target)} again")


@command.command("learn", short_help="a threshold for a route, with its error rate")
@click.argument("name", metavar="NAME")
@click.option("--good", "file", required=True, metavar="FILE", help="Rows, or a receipt of eval.")
@click.option("--most-wrong", type=float, default=0.1, metavar="SHARE", help="0.1 is one in ten.")
@click.option("--confidence", type=float, default=0.9, metavar="SHARE", help="That it holds: 0.9.")
@click.option("--marginal", is_flag=True, help="Count wrong ones among all answers, on average.")
@click.option("--pass", "least", type=float, default=1.0, metavar="SCORE", help="Good from here.")
@click.option("--model", metavar="REF", help="The model of the route; else the first.")
@click.option("--router", is_flag=True, help="Learn a router from prompts and answers as well.")
@verb
def learn(
    out: Output,
    settings: Settings,
    *,
    name: str,
    file: str,
    most_wrong: float,
    confidence: float,
    marginal: bool,
    least: float,
    model: str | None,
    router: bool,
) -> None:
    """Learn from your own graded answers when a model's answer may be delivered.

    FILE has a line {"signal": -0.31, "good": true} for each answer, or is a receipt of
    `overt eval` for that model. The signal is the mean log-probability of the answer's tokens.
    The threshold is written into the route NAME with how sure it is.

    With --router a line is {"prompt": …, "answer": …, "good": true}: half of them teach what good
    answers look like, the other half give the threshold. It is made for sums in prose.
    """
    from overt.evaluation import conformal
    from overt.gateway import routing

    aliases = routing.aliases(settings.home)
    alias = aliases.get(name)
    if isinstance(alias.target, str):
        raise BadRequest(
            f"{alias.name} stands for one model, and there is nothing to choose",
            f"set a route first: overt alias set {alias.name} --route FILE",
        )
    if router:
        threshold, learnt = _router(Path(file), most_wrong, None if marginal else confidence)
    else:
        rows, skipped = read_rows(Path(file), least)
        if skipped:
            out.note(f"{skipped} rows have no signal or no score, and were left out")
        learnt = (
            conformal.learn_marginal(rows, most_wrong=most_wrong)
            if marginal
            else conformal.learn(rows, most_wrong=most_wrong, confidence=confidence)
        )
        threshold = {"signal": "mean_logprob"}
    threshold |= {"at_least": learnt.at_least, "learnt": learnt.as_json()}
    changed = with_threshold(alias.target, model, threshold)
    aliases.set(alias.name, changed)
    out.result(
        {"name": alias.name, **learnt.as_json()},
        lambda: f"{threshold['signal']} at least {learnt.at_least:.4g}\n{learnt.statement}",
        lambda: f"{learnt.at_least!r}",
    )
    out.note("this holds for later requests that are like the rows")


def _router(
    path: Path, most_wrong: float, confidence: float | None
) -> tuple[dict[str, Any], "LearntThreshold"]:
    from overt.evaluation.router import with_threshold as taught

    router, learnt = taught(read_outcomes(path), most_wrong=most_wrong, confidence=confidence)
    return {"signal": "router", "router": router.as_json()}, learnt


# ---- what is read ----------------------------------------------------------------------------


def read_rows(path: Path, least: float) -> tuple[list["Row"], int]:
    """Rows of (signal, good) from JSON lines or a receipt, and how many lack one of the two.

    `least` is the score from which an item of a receipt is good.

    Raises:
        BadRequest: it cannot be read, or a row is of another shape; with its number.
    """
    text = decode(read_bytes(path, "--good", _MAX_ROWS), str(path))
    rows: list[Row] = []
    skipped = 0
    for number, row in enumerate(_rows_of(text, path), 1):
        signal = row.get("signal")
        good = row.get("good", row.get("score"))
        if signal is None or good is None:
            skipped += 1
            continue
        if not _is_number(signal) or not (isinstance(good, bool) or _is_number(good)):
            raise BadRequest(
                f"row {number} of {path} is not a signal and whether it was good",
                'write {"signal": -0.31, "good": true} on each line',
            )
        rows.append((float(signal), good if isinstance(good, bool) else good >= least))
    return rows, skipped


def read_outcomes(path: Path) -> list["RouterOutcome"]:
    """Rows of a prompt, an answer and whether it was good, from JSON lines.

    Raises:
        BadRequest: it cannot be read, or a row is of another shape; with its number.
    """
    from overt.evaluation.router import RouterOutcome

    text = decode(read_bytes(path, "--good", _MAX_ROWS), str(path))
    outcomes = []
    for number, row in enumerate(_rows_of(text, path), 1):
        prompt, answer, good = row.get("prompt"), row.get("answer"), row.get("good")
        if not (isinstance(prompt, str) and isinstance(answer, str) and isinstance(good, bool)):
            raise BadRequest(
                f"row {number} of {path} is not a prompt, an answer and whether it was good",
                'write {"prompt": "…", "answer": "…", "good": true} on each line',
            )
        outcomes.append(RouterOutcome(prompt, answer, good, True))
    return outcomes


def _rows_of(text: str, path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        whole = None
    if isinstance(whole, dict) and isinstance(whole.get("items"), list):
        lines: list[Any] = whole["items"]
    else:
        lines = [_json(line) for line in text.splitlines() if line.strip()]
    for number, row in enumerate(lines, 1):
        if not isinstance(row, dict):
            raise BadRequest(
                f"row {number} of {path} is not a JSON object",
                'write {"signal": -0.31, "good": true} on each line, or give a receipt',
            )
        yield row


def _json(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _is_number(value: Any) -> bool:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return plain and abs(value) < 1e300  # and so no infinity, and no NaN


def with_threshold(
    route: Mapping[str, Any], model: str | None, threshold: Mapping[str, Any]
) -> dict[str, Any]:
    """A copy of a route's mapping with a threshold for one of its models, the first if None.

    Raises:
        BadRequest: no such model, or it is the last, whose answer is never judged.
    """
    models = [
        model if isinstance(model, dict) else {"model": model} for model in route.get("models", [])
    ]
    names = [model["model"] for model in models]
    at = 0 if model is None else names.index(model) if model in names else -1
    if at < 0 or at >= len(models) - 1:
        raise BadRequest(
            f"{model or 'the first model'} is not followed by another in this route",
            f"name one of: {', '.join(names[:-1])}" if names[:-1] else "add a second model to it",
        )
    models[at] = {**models[at], "threshold": dict(threshold)}
    return {**route, "models": models}


def _route(path: Path) -> dict[str, Any]:
    """The route of a file.

    Raises:
        BadRequest: not readable, or not a route. Refused: it names a command and others than its
            owner may have written it.
    """
    from overt.gateway import routing
    from overt.gateway.routing.command import check_owner

    data = read_bytes(path, "--route", _MAX_ROUTE)
    route, mapping = routing.read(decode(data, str(path)), str(path))
    if (check := route.escalate.check) is not None:
        check_owner(path.expanduser())
        try:
            check_owner(Path(check.command[0]))
        except OSError as error:
            raise BadRequest(
                f"the check {check.command[0]} cannot be used: {error.strerror}",
                "name a program by its whole path in `escalate.check.command`",
            ) from None
    return mapping


def _complete_route(text: str) -> str:
    """A ref that means the same in every folder."""
    from overt import ref as refs

    ref = refs.parse(text)
    return str(Path(text).expanduser().absolute()) if ref.scheme == "path" else text


def _doubts(name: str, target: "Target", settings: Settings) -> Iterator[str]:
    """What a person should know of an alias that may be set all the same.

    Raises:
        ModelNotFound: a path that is not there.
    """
    from overt import ref as refs
    from overt.gateway.aliases import referenced_models
    from overt.gateway.routing import aliases
    from overt.models.sources import catalogue
    from overt.models.store import Store

    store, ours = Store(settings.home), aliases(settings.home)
    for ref in dict.fromkeys(map(refs.parse, referenced_models(target))):
        if ref.scheme == "path" and not Path(ref.name).expanduser().exists():
            raise ModelNotFound(f"{ref} is not there", "name a file or folder that is")
        if ref.remote or ref.scheme in ("path", "echo") or ours.find(str(ref)) is not None:
            continue
        if not _in_store(store, ref):
            yield f"{ref} is not in the store yet: overt pull {ref}"
    own = refs.parse(name)
    if ours.find(name) is None and (catalogue.lookup(own) or _in_store(store, own)):
        yield f"from now on {name} is this alias and not the model of that name"


def _in_store(store: Any, ref: Any) -> bool:
    try:
        store.get(ref)
    except (ModelNotFound, BadRef):
        return False
    return True


# ---- what is shown ---------------------------------------------------------------------------


def as_json(alias: "Alias") -> dict[str, object]:
    return {
        "name": alias.name,
        "target": alias.target,
        "time": alias.time,
        "before": list(alias.before),
    }


def _short(target: "Target") -> str:
    if isinstance(target, str):
        return target
    from overt.gateway.aliases import referenced_models

    rules = len(target.get("rules") or ())
    models = len(target.get("models") or ())
    plural = f"{rules} rule{'s' * (rules != 1)}, {models} model{'s' * (models != 1)}"
    return f"a route ({plural}): {', '.join(dict.fromkeys(referenced_models(target)))}"


def _statements(route: Mapping[str, Any]) -> Iterator[str]:
    for model in route.get("models", []):
        threshold = model.get("threshold") if isinstance(model, dict) else None
        learnt = threshold.get("learnt") if isinstance(threshold, dict) else None
        if isinstance(learnt, dict) and isinstance(statement := learnt.get("statement"), str):
            yield f"{model.get('model')}: {statement}"
