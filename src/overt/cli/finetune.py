"""`overt finetune`: a model learns from a file of one's own."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from overt.cli import finetune_view as view
from overt.cli.options import verb
from overt.cli.output import Output, is_terminal
from overt.errors import BadRequest, BadSetting, ModelNotFound, Stopped, Unsupported, UsageError
from overt.settings import Settings

if TYPE_CHECKING:
    from overt.lab.finetune.asked import Asked
    from overt.lab.finetune.plan import Estimate
    from overt.lab.finetune.prepare import Prepared
    from overt.pull import Model
    from overt.recipe import Recipe

_METHODS = ("lora", "qlora", "full", "dpo")
_PRECISIONS = {"f32": "float32", "bf16": "bfloat16"}
_TYPED = {"rate": "--lr", "rows": "--batch"} | {
    name: f"--{name}"
    for name in ("rank", "alpha", "epochs", "steps", "accumulate", "length", "held", "warmup",
                 "patience", "seed", "threads")
}  # fmt: skip
_PATH = click.Path(path_type=Path)


def _options(function: Any) -> Any:
    for option in (
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
                     help="Chat template for a model without one: chatml, gemma, plain; or none."),
        click.option("--method", type=click.Choice(_METHODS), default="lora", show_default=True,
                     help="An adapter, the same on quantized weights, all weights, preferences."),
        click.option("--rank", type=int, default=16, show_default=True, help="Of the adapter."),
        click.option("--alpha", type=float, help="Strength of the adapter; 2 x rank by default."),
        click.option("--targets", metavar="NAMES",
                     help="Layers with an adapter: q_proj,v_proj or attention; all by default."),
        click.option("--epochs", type=int, default=3, show_default=True,
                     help="Times all examples are seen."),
        click.option("--steps", type=int, default=0, help="Steps, in place of --epochs."),
        click.option("--batch", type=int, default=1, show_default=True,
                     help="Rows at once; a row is --length tokens of packed examples."),
        click.option("--accumulate", type=int, default=1, show_default=True,
                     help="Batches in one step."),
        click.option("--length", type=int, default=1024, show_default=True,
                     help="Most tokens of an example."),
        click.option("--pack/--no-pack", default=True, help="Several examples in a row."),
        click.option("--lr", type=float, help="Highest learning rate; by the method if not said."),
        click.option("--schedule", type=click.Choice(["cosine", "linear", "constant"]),
                     default="cosine", show_default=True, help="How it falls."),
        click.option("--warmup", type=float, default=0.05, show_default=True,
                     help="Share of the steps in which it rises."),
        click.option("--patience", type=int, default=2, show_default=True,
                     help="Looks at the held-out part without progress until it ends; 0: never."),
        click.option("--seed", type=int, default=0, show_default=True),
        click.option("--threads", type=int, metavar="N", help="Threads; all cores by default."),
        click.option("--checkpointing", is_flag=True, help="Less memory, a third slower."),
        click.option("--dtype", type=click.Choice(["auto", "f32", "bf16"]), default="auto",
                     show_default=True, help="Of the frozen weights' products."),
        click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto",
                     show_default=True),
        click.option("--merge", is_flag=True, help="Write whole weights instead of an adapter."),
        click.option("--type", "type_", type=click.Choice(["f16", "bf16", "f32"]), default="f16",
                     show_default=True, help="What whole weights are stored as."),
        click.option("-o", "--output", type=_PATH, metavar="DIR",
                     help="Write the adapter for peft there too."),
        click.option("--plot", type=_PATH, metavar="FILE", help="Draw the loss as PNG."),
        click.option("--dry-run", is_flag=True,
                     help="Read, show an example, measure a step, and stop."),
        click.option("-y", "--yes", is_flag=True, help="Start without asking."),
    )[::-1]:  # fmt: skip
        function = option(function)
    return function


@click.command("finetune", short_help="have a model learn from your own data")
@click.argument("ref")
@click.argument("name", required=False)
@_options
@verb
def command(
    out: Output, settings: Settings, ref: str, name: str | None, data: Path, **given: Any
) -> int:
    """Make the model NAME: REF that has learnt from FILE.

    \b
      overt finetune smollm2 mine --data my.jsonl
      overt run mine "…"

    The rows of FILE are chats as OpenAI or ShareGPT write them, instructions, prompts and
    completions, plain text, or preference pairs (with --method dpo). Only the assistant's answers
    are learnt. One example is shown before it starts. After Ctrl-C or a crash the same command goes
    on where it was, to the same weights. Needs what `make lab` installs.
    """
    from overt.create import named
    from overt.lab.finetune import licence

    _writable(given)
    name = name or f"{ref.rpartition('/')[2].partition(':')[0].partition('@')[0]}-tuned"
    named(name)
    said = licence.known(given["data_licence"]) if given["data_licence"] else None
    model = _model(ref, settings, out)
    out.status(f"reading {data}")
    _readable(data, given)
    asked = _asked(data, settings, said, given)
    prepared = _prepared(model, data, asked, settings, given)
    out.clear()
    estimate = _planned(prepared, asked, model)
    judged = licence.check(ref, said, settings)
    view.before(out, prepared, asked, estimate)
    if given["dry_run"]:
        return _dry(out, ref, prepared, asked, estimate, judged)
    if judged["verdict"] == "deny":
        out.warn(licence.sentence(judged))
    _agreed(out, given)
    recipe = _recipe(model, data, asked, settings, given)
    _room(recipe, prepared, asked, settings)
    return _made(out, settings, recipe, (ref, name), data, given, judged)


def _writable(given: Mapping[str, Any]) -> None:
    """Raises what would be found out when all is learnt."""
    from overt import whole

    if given["output"]:
        whole.check_folder(given["output"], "--output")
    if given["plot"]:
        whole.check_file(given["plot"], "--plot")


# ---- before --------------------------------------------------------------------------------


def _model(ref: str, settings: Settings, out: Output) -> "Model":
    from overt import pull
    from overt.cli.pull import fetch

    try:
        model = pull.find(ref, settings)
    except ModelNotFound as missing:
        fetch(ref, settings, out, missing, allowed=True)
        model = pull.find(ref, settings)
    if model.manifest is None:
        raise ModelNotFound(
            f"{ref} is not in the store", f"make a model of it first: overt create, with FROM {ref}"
        )
    return model


def _readable(data: Path, given: Mapping[str, Any]) -> None:
    """Refuse a file that cannot be learnt from, before torch is even loaded."""
    from overt.lab.finetune import data as reader
    from overt.lab.finetune.asked import ending

    for path in (data, given["held_file"]):
        if path is not None and not ending(path.name).removesuffix(".gz"):
            raise BadRequest(
                f"{path} is not read: its name says no format",
                "data files end in .jsonl, .json, .csv or .txt, or .gz after that",
            )
        if path is not None:
            reader.read(path, given["format_"])


def _asked(
    data: Path, settings: Settings, licence: str | None, given: Mapping[str, Any]
) -> "Asked":
    """The parameters, with every default filled in.

    Raises:
        BadSetting: one that is none, by the name of the option.
    """
    with _as_typed():
        return _parameters(data, settings, licence, given)


@contextmanager
def _as_typed() -> Iterator[None]:
    """A setting of the training is called as a person typed it."""
    try:
        yield
    except BadSetting as error:
        name, said, rest = error.message.partition(" is ")
        if not said or name not in _TYPED:
            raise
        option = _TYPED[name]
        raise BadSetting(f"{option}{said}{rest}", f"give another {option}") from None


def _parameters(
    data: Path, settings: Settings, licence: str | None, given: Mapping[str, Any]
) -> "Asked":
    from overt.lab.finetune.asked import RATES, Asked, ending

    method = given["method"]
    rate = RATES[method] if given["lr"] is None else given["lr"]
    device = _device(given["device"])
    held_file = given["held_file"]
    return Asked(
        method=method, file=ending(data.name),
        held_file=ending(held_file.name) if held_file else "",
        format=given["format_"], template=given["template"],
        length=given["length"], rows=given["batch"], pack=given["pack"],
        held=0.0 if held_file else given["held"], merge=given["merge"], type=given["type_"],
        device=device, data_licence=licence or "",
        training=_training(settings, rate, given),
    )  # fmt: skip


def _training(settings: Settings, rate: float, given: Mapping[str, Any]) -> Any:
    from overt import cores
    from overt.lab.finetune.loop import fast_precision
    from overt.lab.finetune.training import Training
    from overt.nets.adapter import Adapter

    method = given["method"]
    precision: Any = _PRECISIONS.get(given["dtype"]) or fast_precision()
    alpha = 2.0 * given["rank"] if given["alpha"] is None else given["alpha"]
    return Training(
        learn="all" if method == "full" else "adapter",
        loss="preference" if method == "dpo" else "answers",
        adapter=Adapter(rank=given["rank"], alpha=alpha, targets=_targets(given["targets"])),
        epochs=given["epochs"], steps=given["steps"], accumulate=given["accumulate"],
        rate=rate, warmup=given["warmup"], schedule=given["schedule"],
        patience=given["patience"], checkpointing=given["checkpointing"],
        precision=precision, seed=given["seed"], threads=settings.threads or cores.usable(),
    )  # fmt: skip


def _targets(said: str | None) -> tuple[str, ...]:
    from overt.nets.adapter import ATTENTION, MLP

    groups = {"": (*ATTENTION, *MLP), "all": (*ATTENTION, *MLP), "attention": ATTENTION, "mlp": MLP}
    if said is None or said in groups:
        return groups[said or ""]
    return tuple(dict.fromkeys(one.strip() for one in said.split(",") if one.strip()))


def _device(said: str) -> Any:
    if said == "cpu":
        return said
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if said == "cuda":
        raise Unsupported("this machine has no GPU that torch can use", "leave --device out")
    return "cpu"


def _prepared(
    model: "Model", data: Path, asked: "Asked", settings: Settings, given: Mapping[str, Any]
) -> "Prepared":
    from overt.lab.finetune import prepare
    from overt.store import Store

    manifest = model.manifest
    assert manifest is not None
    store = Store(settings.home)
    files = {file.path: store.path(file) for file in manifest.files}
    base = prepare.base_of(model.weights, manifest, files)
    held = given["held_file"]
    return prepare.prepare(
        base, data, held, asked, settings, (str(data), str(held) if held else "")
    )


def _planned(prepared: "Prepared", asked: "Asked", model: "Model") -> "Estimate":
    """What it takes. Raises OutOfMemory: more than is free."""
    from overt.fit import free_memory
    from overt.lab.finetune import plan

    wanted = plan.wanted(prepared, asked, model.weights.stat().st_size)
    free = _free_on_gpu() if asked.device == "cuda" else free_memory()
    return plan.check(prepared.base.shape, wanted, free)


def _room(recipe: "Recipe", prepared: "Prepared", asked: "Asked", settings: Settings) -> None:
    """Raises OutOfDisk. What was begun has its room already, or is told by its checkpoints."""
    import shutil

    from overt.lab import jobs
    from overt.lab.finetune import plan

    if jobs.folder_of(recipe, settings.home).exists():
        return
    whole = asked.method == "full" or asked.merge
    wanted = plan.wanted(prepared, asked, 0)
    needed = plan.disk(
        prepared.base.shape, wanted, best=bool(prepared.held),
        whole=(4 if asked.type == "f32" else 2) if whole else 0,
    )  # fmt: skip
    place = next(one for one in (settings.home, *settings.home.parents) if one.exists())
    plan.check_disk(needed, shutil.disk_usage(place).free)


def _free_on_gpu() -> int:
    import torch

    return int(torch.cuda.mem_get_info()[0]) if torch.cuda.is_available() else 0


def _dry(
    out: Output, ref: str, prepared: "Prepared", asked: "Asked", estimate: "Estimate",
    judged: Mapping[str, Any],
) -> int:  # fmt: skip
    from overt.lab.finetune.trial import trial

    out.note("measuring a step …")
    tried = trial(prepared, asked)
    value = {
        "model": ref,
        **view.planned(prepared, asked, estimate),
        "tokens_per_second": tried.tokens_per_second,
        "steps": tried.steps,
        "seconds": tried.seconds,
        "licence": judged,
    }
    out.result(value, lambda: view.dry(value))
    return 0


def _agreed(out: Output, given: Mapping[str, Any]) -> None:
    import sys

    if given["yes"] or out.mode != "human" or not (is_terminal(sys.stdin) and out.progress):
        return
    sys.stderr.write("Start? Enter goes on, n ends. ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() in ("n", "no"):
        raise Stopped("nothing was started", "change what you like and type it again")


# ---- the work ------------------------------------------------------------------------------


def _recipe(
    model: "Model", data: Path, asked: "Asked", settings: Settings, given: Mapping[str, Any]
) -> "Recipe":
    from overt.lab import inputs, make
    from overt.recipe import Input

    manifest = model.manifest
    assert manifest is not None
    read = [
        Input("from", manifest.digest, manifest.ref),
        Input("data", inputs.digest_of(data), data.name),
    ]
    if held := given["held_file"]:
        read.append(Input("held", inputs.digest_of(held), held.name))
    return make.recipe("finetune", read, asked.encode(), settings)


def _made(
    out: Output, settings: Settings, recipe: "Recipe", names: tuple[str, str], data: Path,
    given: Mapping[str, Any], judged: Mapping[str, Any],
) -> int:  # fmt: skip
    from overt.lab import jobs, make

    ref, name = names
    files = [data, given["held_file"]] if given["held_file"] else [data]
    kept = dict(zip((one.digest for one in recipe.inputs[1:]), files, strict=True))
    if jobs.folder_of(recipe, settings.home).exists():
        out.note("this was begun before: it goes on from its last checkpoint, if there is one")
    with view.progress(out) as (step, tell), _stoppable(name):
        manifest = make.make(recipe, name, settings, step, tell, kept)
    report = _report(manifest, settings)
    if given["output"]:
        _copied(manifest, settings, given["output"])
    if given["plot"]:
        view.plot(given["plot"], report)
    value = {
        "model": name,
        "base": ref,
        "digest": manifest.digest,
        "size": manifest.size,
        "licence": judged,
        "recipe": recipe.digest,
        **report,
    }
    out.result(value, lambda: view.result(value), lambda: manifest.digest)
    return 0


@contextmanager
def _stoppable(name: str) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise Stopped(
            f"{name} is not finished, and what was learnt is kept", "the same command goes on"
        ) from None


def _report(manifest: Any, settings: Settings) -> dict[str, Any]:
    import json

    from overt.lab.finetune import REPORT
    from overt.store import Store

    file = next((one for one in manifest.files if one.path == REPORT), None)
    if file is None:
        return {}
    found: dict[str, Any] = json.loads(Store(settings.home).path(file).read_bytes())
    return found


def _copied(manifest: Any, settings: Settings, folder: Path) -> None:
    """The adapter for peft, in a folder of the person's."""
    from shutil import copyfile

    from overt.store import Store

    files = [file for file in manifest.files if file.path.startswith("peft/")]
    if not files:
        raise UsageError("there is no adapter: all weights have learnt", "leave --output out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file in files:
            copyfile(Store(settings.home).path(file), folder / file.path.removeprefix("peft/"))
    except OSError as error:
        raise BadRequest(f"{folder} cannot be written: {error.strerror}", "name another") from None
