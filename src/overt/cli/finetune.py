"""`overt finetune`: a model learns from a file of one's own."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from overt.cli import finetune_view as view
from overt.cli.finetune_options import as_typed, check, options
from overt.cli.options import threads, verb
from overt.cli.output import Output, is_terminal
from overt.errors import BadRequest, ModelNotFound, Stopped, Unsupported
from overt.settings import Settings

if TYPE_CHECKING:
    from overt.lab.finetune.config import FinetuneConfig
    from overt.lab.finetune.plan import Estimate
    from overt.lab.finetune.prepare import PreparedFinetune
    from overt.models.pull import LocalModel
    from overt.models.recipe import Recipe
    from overt.nets.adapter import Adapter

_PRECISIONS = {"f32": "float32", "bf16": "bfloat16"}


@click.command("finetune", short_help="have a model learn from your own data")
@click.argument("ref")
@click.argument("name", required=False)
@options
@verb
def command(
    out: Output, settings: Settings, ref: str, name: str | None, data: Path, **options: Any
) -> int:
    """Make the model NAME: REF that has learnt from FILE.

    \b
      overt finetune smollm2 mine --data my.jsonl
      overt run mine "…"

    The rows of FILE are chats as OpenAI or ShareGPT write them, instructions, prompts and
    completions, plain text, or preference pairs (with --method dpo). Only the assistant's answers
    are learnt. One example is shown before it starts. After Ctrl-C or a crash the same command goes
    on where it was, to the same weights. Needs `pip install 'overt[lab]'`.
    """
    from overt.lab.finetune import licence
    from overt.models.modelfile_build import parse_name

    check(options)
    _writable(options)
    name = name or _name(ref)
    parse_name(name)
    data_licence = licence.canonical(options["data_licence"]) if options["data_licence"] else None
    model = _model(ref, settings, out)
    out.status(f"reading {data}")
    _readable(data, options)
    config = _config_of(data, settings, data_licence, options)
    prepared = _prepared(model, data, config, settings, options)
    out.clear()
    estimate = _planned(prepared, config, model)
    judged = licence.check(ref, data_licence, settings)
    view.before(out, prepared, config, estimate)
    _tell_threads(out, config, settings)
    if options["dry_run"]:
        stated = model.manifest.licence if model.manifest else None
        about = {"model": name, "base": ref, "licence": stated, "may": judged}
        return _dry(out, about, prepared, config, estimate)
    if judged["verdict"] == "deny":
        out.warn(licence.sentence(judged))
    _agreed(out, options)
    recipe = _recipe(model, data, config, settings, options)
    _room(recipe, prepared, config, settings)
    return _run_finetune(out, settings, recipe, (ref, name), data, options, judged)


def _name(ref: str) -> str:
    """What the new model is called where nobody said: after the model, whatever brings it."""
    from overt.ref import parse

    parsed = parse(ref)
    last = parsed.name.replace("\\", "/").rstrip("/").rpartition("/")[2]
    short = last.removeprefix("sha256:")[:12] if parsed.scheme == "sha256" else last
    letters = [
        letter if letter.isascii() and (letter.isalnum() or letter in "._-") else "-"
        for letter in short
    ]
    return f"{''.join(letters).removesuffix('.gguf').strip('._-')[:100] or 'model'}-tuned"


def _writable(options: Mapping[str, Any]) -> None:
    """Raises what would be found out when all is learnt."""
    from overt.files import atomic as whole

    if options["output"]:
        whole.check_folder(options["output"], "--output")
    if options["plot"]:
        whole.check_file(options["plot"], "--plot")


# ---- before --------------------------------------------------------------------------------


def _model(ref: str, settings: Settings, out: Output) -> "LocalModel":
    from overt.cli.pull import fetch
    from overt.models import pull

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


def _readable(data: Path, options: Mapping[str, Any]) -> None:
    """Refuse a file that cannot be learnt from, before torch is even loaded."""
    from overt.lab.finetune import data as reader
    from overt.lab.finetune.config import ending

    for path in (data, options["held_file"]):
        if path is not None and not ending(path.name).removesuffix(".gz"):
            raise BadRequest(
                f"{path} is not read: its name says no format",
                "data files end in .jsonl, .json, .csv or .txt, or .gz after that",
            )
        if path is not None:
            reader.read(path, options["format_"])


def _config_of(
    data: Path, settings: Settings, licence: str | None, options: Mapping[str, Any]
) -> "FinetuneConfig":
    """The parameters, with every default filled in.

    Raises:
        BadSetting: one that is none, by the name of the option.
    """
    with as_typed():
        return _parameters(data, settings, licence, options)


def _parameters(
    data: Path, settings: Settings, licence: str | None, options: Mapping[str, Any]
) -> "FinetuneConfig":
    from overt.lab.finetune.config import RATES, FinetuneConfig, ending

    method = options["method"]
    rate = RATES[method] if options["lr"] is None else options["lr"]
    device = _device(options["device"])
    held_file = options["held_file"]
    return FinetuneConfig(
        method=method,
        file=ending(data.name),
        held_file=ending(held_file.name) if held_file else "",
        format=options["format_"],
        template=options["template"],
        length=options["length"],
        rows=options["batch"],
        pack=options["pack"],
        held=0.0 if held_file else options["held"],
        keep_quantized=options["keep_quantized"],
        merge=options["merge"],
        type=options["type_"],
        device=device,
        data_licence=licence or "",
        training=_training(settings, rate, device, options),
    )


def _training(settings: Settings, rate: float, device: str, options: Mapping[str, Any]) -> Any:
    from overt.lab.finetune.config import follows
    from overt.lab.finetune.loop import fast_precision
    from overt.lab.finetune.training import Training
    from overt.runtime import cpu

    learn, loss = follows(options["method"])
    precision: Any = _PRECISIONS.get(options["dtype"]) or fast_precision(device)
    return Training(
        learn=learn,
        loss=loss,
        adapter=_adapter(options),
        epochs=options["epochs"],
        steps=options["steps"],
        accumulate=options["accumulate"],
        rate=rate,
        warmup=options["warmup"],
        schedule=options["schedule"],
        decay=options["decay"],
        held_every=options["held_every"],
        patience=options["patience"],
        beta=options["beta"],
        smoothing=options["smoothing"],
        checkpointing=options["checkpointing"],
        precision=precision,
        seed=options["seed"],
        threads=threads(settings, cpu.usable()),
    )


def _adapter(options: Mapping[str, Any]) -> "Adapter":
    from overt.nets.adapter import Adapter

    rank, stabilised = options["rank"], options["rslora"]
    # by default as strong at rank 16 in both ways: 32 / 16 and 8 / root of 16
    usual = 8.0 if stabilised else 2.0 * rank
    alpha = usual if options["alpha"] is None else options["alpha"]
    return Adapter(
        rank=rank,
        alpha=alpha,
        targets=_targets(options["targets"]),
        stabilised=stabilised,
        dropout=options["dropout"],
    )


def _targets(targets: str | None) -> tuple[str, ...]:
    from overt.nets.adapter import ATTENTION, MLP

    groups = {"": (*ATTENTION, *MLP), "all": (*ATTENTION, *MLP), "attention": ATTENTION, "mlp": MLP}
    if targets is None or targets in groups:
        return groups[targets or ""]
    return tuple(dict.fromkeys(target.strip() for target in targets.split(",") if target.strip()))


def _device(name: str) -> Any:
    if name == "cpu":
        return name
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if name == "cuda":
        raise Unsupported("this machine has no GPU that torch can use", "leave --device out")
    return "cpu"


def _prepared(
    model: "LocalModel",
    data: Path,
    config: "FinetuneConfig",
    settings: Settings,
    options: Mapping[str, Any],
) -> "PreparedFinetune":
    from overt.lab.finetune import prepare
    from overt.models.store import Store

    manifest = model.manifest
    assert manifest is not None
    store = Store(settings.home)
    files = {file.path: store.path(file) for file in manifest.files}
    base = prepare.base_of(model.weights, manifest, files)
    held = options["held_file"]
    return prepare.prepare(
        base, data, held, config, settings, (str(data), str(held) if held else "")
    )


def _planned(
    prepared: "PreparedFinetune", config: "FinetuneConfig", model: "LocalModel"
) -> "Estimate":
    """What it takes. Raises OutOfMemory: more than is free."""
    from overt.lab.finetune import plan
    from overt.models.memory import free_memory

    wanted = plan.memory_request(prepared, config)
    free = _free_on_gpu() if config.device == "cuda" else free_memory()
    return plan.check(prepared.base.shape, wanted, free)


def _room(
    recipe: "Recipe", prepared: "PreparedFinetune", config: "FinetuneConfig", settings: Settings
) -> None:
    """Raises OutOfDisk. What was begun has its room already, or is told by its checkpoints."""
    import shutil

    from overt.lab.finetune import plan
    from overt.provenance import jobs

    if jobs.folder_of(recipe, settings.home).exists():
        return
    whole = config.method == "full" or config.merge
    wanted = plan.memory_request(prepared, config)
    needed = plan.disk(
        prepared.base.shape,
        wanted,
        best=bool(prepared.held),
        whole=(4 if config.type == "f32" else 2) if whole else 0,
    )
    place = next(folder for folder in (settings.home, *settings.home.parents) if folder.exists())
    plan.check_disk(needed, shutil.disk_usage(place).free)


def _free_on_gpu() -> int:
    import torch

    return int(torch.cuda.mem_get_info()[0]) if torch.cuda.is_available() else 0


def _dry(
    out: Output,
    about: Mapping[str, Any],
    prepared: "PreparedFinetune",
    config: "FinetuneConfig",
    estimate: "Estimate",
) -> int:
    from overt.lab.finetune.step_timing import trial

    out.note("measuring a step …")
    tried = trial(prepared, config)
    value = {
        **about,
        **view.planned(prepared, config, estimate),
        "tokens_per_second": tried.tokens_per_second,
        "steps": tried.steps,
        "seconds": tried.seconds,
    }
    out.result(value, lambda: view.dry(value))
    return 0


def _tell_threads(out: Output, config: "FinetuneConfig", settings: Settings) -> None:
    """Threads are part of the outcome: what is stopped goes on with as many alone."""
    from overt.runtime import cpu

    threads = config.training.threads
    if not settings.threads and threads != cpu.usable():
        out.note(f"{threads} of {cpu.usable()} cores are free: to go on, type --threads {threads}")


def _agreed(out: Output, options: Mapping[str, Any]) -> None:
    import sys

    if options["yes"] or out.mode != "human" or not (is_terminal(sys.stdin) and out.progress):
        return
    sys.stderr.write("Start? Enter goes on, n ends. ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() in ("n", "no"):
        raise Stopped("nothing was started", "change what you like and type it again")


# ---- the work ------------------------------------------------------------------------------


def _recipe(
    model: "LocalModel",
    data: Path,
    config: "FinetuneConfig",
    settings: Settings,
    options: Mapping[str, Any],
) -> "Recipe":
    from overt.models.recipe import Input
    from overt.provenance import inputs, run_recipe

    manifest = model.manifest
    assert manifest is not None
    read = [
        Input("from", manifest.digest, manifest.ref),
        Input("data", inputs.digest_of(data), data.name),
    ]
    if held := options["held_file"]:
        read.append(Input("held", inputs.digest_of(held), held.name))
    return run_recipe.recipe("finetune", read, config.encode(), settings)


def _run_finetune(
    out: Output,
    settings: Settings,
    recipe: "Recipe",
    names: tuple[str, str],
    data: Path,
    options: Mapping[str, Any],
    judged: Mapping[str, Any],
) -> int:
    from overt.provenance import jobs, run_recipe

    ref, name = names
    files = [data, options["held_file"]] if options["held_file"] else [data]
    paths = dict(zip((entry.digest for entry in recipe.inputs[1:]), files, strict=True))
    if jobs.folder_of(recipe, settings.home).exists():
        out.note("this was begun before: it goes on from its last checkpoint, if there is one")
    with view.progress(out) as (step, tell), _stoppable(name):
        manifest = run_recipe.make(recipe, name, settings, step, tell, paths)
    report = _report(manifest, settings)
    if options["output"]:
        _copied(manifest, settings, options["output"])
    if options["plot"]:
        view.plot(options["plot"], report)
    value = {
        "model": name,
        "base": ref,
        "digest": manifest.digest,
        "size": manifest.size,
        "licence": manifest.licence,
        "may": judged,
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
    from overt.models.store import Store

    file = next((file for file in manifest.files if file.path == REPORT), None)
    if file is None:
        return {}
    report: dict[str, Any] = json.loads(Store(settings.home).path(file).read_bytes())
    return report


def _copied(manifest: Any, settings: Settings, folder: Path) -> None:
    """The adapter for peft, in a folder of the person's."""
    from shutil import copyfile

    from overt.models.store import Store

    files = [file for file in manifest.files if file.path.startswith("peft/")]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file in files:
            copyfile(Store(settings.home).path(file), folder / file.path.removeprefix("peft/"))
    except OSError as error:
        raise BadRequest(f"{folder} cannot be written: {error.strerror}", "name another") from None
