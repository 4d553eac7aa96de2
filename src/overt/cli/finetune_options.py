"""The options of `overt finetune`, which of them go together, and how a setting is called there."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click
from click.core import ParameterSource

from overt.cli.options import SEED, THREADS
from overt.errors import BadSetting, UsageError

_METHODS: Final = ("lora", "qlora", "full", "dpo")
_TYPED: Final = {"rate": "--lr", "rows": "--batch", "held_every": "--held-every"} | {
    name: f"--{name}"
    for name in ("rank", "alpha", "dropout", "epochs", "steps", "accumulate", "length", "held",
                 "warmup", "decay", "patience", "beta", "smoothing", "seed", "threads")
}  # fmt: skip
_OF_ADAPTER: Final = (
    "rank",
    "alpha",
    "targets",
    "dropout",
    "rslora",
    "merge",
    "output",
    "keep_quantized",
)
_OF_PREFERENCE: Final = ("beta", "smoothing", "keep_quantized")
_PATH: Final = click.Path(path_type=Path)


def options(function: Any) -> Any:
    """All of them, on a command."""
    for option in (*_DATA, *_METHOD, *_LENGTHS, *_RATES, *_MACHINE, *_RESULT)[::-1]:
        function = option(function)
    return function


_DATA = (
    click.option("--data", type=_PATH, required=True, metavar="FILE",
                 help="What to learn from: .jsonl, .json, .csv or .txt, or .gz of it."),
    click.option("--held-file", type=_PATH, metavar="FILE", help="Examples to hold out."),
    click.option("--held", type=float, default=0.1, show_default=True, metavar="SHARE",
                 help="Share of the examples held out, at most 256."),
    click.option("--data-licence", "--data-license", metavar="SPDX",
                 help="Licence of the data; not known if not said."),
    click.option("--format", "format_", default="", metavar="NAME",
                 help="Of the rows: preference, chat, sharegpt, alpaca, completion, text."),
    click.option("--template", default="", metavar="NAME",
                 help="For a model without one: chatml, gemma, llama3, mistral, plain; or none."),
)  # fmt: skip
_METHOD = (
    click.option("--method", type=click.Choice(_METHODS), default="lora", show_default=True,
                 help="An adapter, the same on quantized weights, all weights, preferences."),
    click.option("--keep-quantized", is_flag=True,
                 help="dpo: keep the frozen weights quantized, as qlora does."),
    click.option("--beta", type=float, default=0.1, show_default=True, metavar="N",
                 help="dpo: how near to stay to the base."),
    click.option("--smoothing", type=float, default=0.0, show_default=True, metavar="SHARE",
                 help="dpo: share of the pairs that are thought to be the wrong way round."),
    click.option("--rank", type=int, default=16, show_default=True, help="Of the adapter."),
    click.option("--alpha", type=float,
                 help="Strength of the adapter; 2 x rank by default, with --rslora 8."),
    click.option("--rslora", is_flag=True, help="Divide alpha by the root of the rank."),
    click.option("--dropout", type=float, default=0.0, show_default=True, metavar="SHARE",
                 help="Share of the adapter's inputs left out at random."),
    click.option("--targets", metavar="NAMES",
                 help="Layers with an adapter: q_proj,v_proj or attention; all by default."),
)  # fmt: skip
_LENGTHS = (
    click.option(
        "--epochs", type=int, default=3, show_default=True, help="Times all examples are seen."
    ),
    click.option("--steps", type=int, default=0, help="Steps, in place of --epochs."),
    click.option(
        "--batch",
        type=int,
        default=1,
        show_default=True,
        help="Rows at once; a row is --length tokens of packed examples.",
    ),
    click.option(
        "--accumulate", type=int, default=1, show_default=True, help="Batches in one step."
    ),
    click.option(
        "--length", type=int, default=1024, show_default=True, help="Most tokens of an example."
    ),
    click.option("--pack/--no-pack", default=True, help="Several examples in a row."),
)
_RATES = (
    click.option("--lr", type=float, help="Highest learning rate; by the method if not said."),
    click.option("--schedule", type=click.Choice(["cosine", "linear", "constant"]),
                 default="cosine", show_default=True, help="How it falls."),
    click.option("--warmup", type=float, default=0.05, show_default=True,
                 help="Share of the steps in which it rises."),
    click.option("--decay", type=float, default=0.0, show_default=True, metavar="N",
                 help="Weight decay of matrices."),
    click.option("--held-every", type=int, default=0, metavar="N",
                 help="Steps between looks at the held-out part; once an epoch by default."),
    click.option("--patience", type=int, default=2, show_default=True,
                 help="Looks at the held-out part without progress until it ends; 0: never."),
    click.option("--seed", type=SEED, default=0, show_default=True, metavar="N"),
)  # fmt: skip
_MACHINE = (
    click.option("--threads", type=int, metavar="N", help=f"{THREADS} All cores unless given."),
    click.option("--checkpointing", is_flag=True, help="Less memory, a third slower."),
    click.option(
        "--dtype",
        type=click.Choice(["auto", "f32", "bf16"]),
        default="auto",
        show_default=True,
        help="Of the frozen weights' products.",
    ),
    click.option(
        "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True
    ),
)
_RESULT = (
    click.option("--merge", is_flag=True, help="Write whole weights instead of an adapter."),
    click.option(
        "--type",
        "type_",
        type=click.Choice(["f16", "bf16", "f32"]),
        default="f16",
        show_default=True,
        help="What whole weights are stored as.",
    ),
    click.option(
        "-o", "--output", type=_PATH, metavar="DIR", help="Write the adapter for peft there too."
    ),
    click.option("--plot", type=_PATH, metavar="FILE", help="Draw the loss as PNG."),
    click.option(
        "--dry-run", is_flag=True, help="Read, show an example, measure a step, and stop."
    ),
    click.option("-y", "--yes", is_flag=True, help="Start without asking."),
)


def check(options: Mapping[str, Any]) -> None:
    """Refuse what a person typed that would do nothing.

    Raises:
        UsageError: with the option, and the one that it does nothing with.
    """
    context = click.get_current_context()
    typed = {
        name
        for name in options
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    for name, why, hint in _idle(options):
        if name in typed:
            option = _spelled(name, options)
            raise UsageError(f"{option} does nothing {why}", hint or f"leave {option} out")


def _idle(options: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Options that do nothing with the others as they are: each, with what, and what to type."""
    method = options["method"]
    with_method = f"with --method {method}"
    if method == "full":
        yield from ((name, with_method, "") for name in _OF_ADAPTER)
    elif not options["merge"]:
        yield "type_", "without --merge", "add --merge, or leave --type out"
    if method == "dpo":
        yield "pack", f"{with_method}: pairs are not packed", ""
    elif method == "lora":
        yield "keep_quantized", with_method, "type --method qlora"
    if method != "dpo":
        yield from ((name, with_method, "") for name in _OF_PREFERENCE)
    if options["held_file"]:
        yield "held", "beside --held-file", ""
    elif not options["held"]:
        yield from ((name, "where nothing is held out", "") for name in ("patience", "held_every"))
    if options["steps"]:
        yield "epochs", "beside --steps", ""


def _spelled(name: str, options: Mapping[str, Any]) -> str:
    if name == "pack":
        return "--pack" if options["pack"] else "--no-pack"
    return f"--{name.rstrip('_').replace('_', '-')}"


@contextmanager
def as_typed() -> Iterator[None]:
    """A setting of the training is called as a person typed it."""
    try:
        yield
    except BadSetting as error:
        name, value_text, rest = error.message.partition(" is ")
        if not value_text or name not in _TYPED:
            raise
        option = _TYPED[name]
        raise BadSetting(f"{option}{value_text}{rest}", f"give another {option}") from None
