"""From a base and a file to batches: everything before the first step, and nothing that computes.

The verb does it to refuse, to show and to plan; the step does it again to train. The same inputs
give the same batches.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from overt.errors import FormatError, Unsupported, UsageError
from overt.formats import gguf
from overt.lab.finetune import data, pack, render, templates
from overt.lab.finetune.config import FinetuneConfig
from overt.lab.finetune.data import Data
from overt.lab.finetune.example import Batch, Example, PreferenceExample
from overt.lab.finetune.render import Rendered, RenderedSpan
from overt.lab.finetune.templates import ChatTemplate
from overt.lab.tokenizer import VocabularyWorker
from overt.models import defaults as overlay
from overt.models.defaults import Overlay
from overt.models.store import Manifest
from overt.nets import architectures
from overt.nets.shape import Shape
from overt.settings import Settings

Unit = Batch | list[PreferenceExample]
_MAX_UNREAD = 20
"""Columns that are told by name; somebody's table may have thousands."""


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A model to start from: its weights, its small texts, and what its header says."""

    weights: Path
    overlay: Overlay
    header: gguf.GgufHeader
    shape: Shape


@dataclass(frozen=True, slots=True)
class PreparedFinetune:
    """What will be learnt.

    Attributes:
        base, template: where it starts, and how turns are written.
        about: the format of the data, in words.
        train, held: batches.
        train_examples, held_examples: the same one by one.
        shown: one example in pieces, and `line`, where it stands.
        told: sentences about the data that a person should read.
        left: rows left out, by why.
    """

    base: BaseModel
    template: ChatTemplate
    about: str
    train: list[Unit]
    held: list[Unit]
    train_examples: Sequence[Example] | Sequence[PreferenceExample]
    held_examples: Sequence[Example] | Sequence[PreferenceExample]
    shown: list[RenderedSpan]
    line: int
    told: tuple[str, ...]
    left: Mapping[str, int]

    @property
    def tokens(self) -> int:
        return sum(data.words(self.train_examples))

    @property
    def longest(self) -> int:
        """Tokens of the largest batch's longest row, filled up or not."""
        return max(_size(unit)[1] for unit in self.train)

    @property
    def rows(self) -> int:
        return max(_size(unit)[0] for unit in self.train)


def base_of(weights: Path, manifest: Manifest | None, files: Mapping[str, Path]) -> BaseModel:
    """A model of the store as something to start from.

    Args:
        files: of the manifest, by path.

    Raises:
        FormatError: the weights are no GGUF model.
        Unsupported: an architecture that is not computed here, or a model with an adapter.
    """
    if weights.suffix == ".safetensors" or not _is_gguf(weights):
        raise FormatError(
            "a fine-tune starts from a GGUF model, and these weights are safetensors",
            "make one first: overt convert REF NAME",
        )
    header = gguf.read(weights)
    kind = header.metadata.get("general.type")
    if kind not in (None, "model"):
        raise FormatError(f"these weights are of the kind {str(kind)[:40]}", "name a whole model")
    listed = manifest.files if manifest else ()
    if any(file.role == "adapter" for file in listed):
        raise Unsupported(
            "this model has an adapter already",
            "make whole weights of it first: overt merge REF NAME --adapter REF",
        )
    small: dict[str, str] = {}
    for file in listed:
        if file.role in overlay.ROLES and file.role not in small:
            small[file.role] = overlay.text_of(files[file.path], file.role)
    return BaseModel(weights, overlay.build(small), header, architectures.shape_of_gguf(header))


def prepare(
    base: BaseModel,
    file: Path,
    held_file: Path | None,
    config: FinetuneConfig,
    settings: Settings,
    names: tuple[str, str] = ("", ""),
) -> PreparedFinetune:
    """Read, render, split and pack.

    Args:
        names: what the two files are called, for errors; they say how they are read.

    Raises:
        FormatError: a file, or a row of one; the line is named.
        UsageError: data of one kind for a method of another, or too few.
    """
    read = data.read(file, config.format, names[0])
    held_read = data.read(held_file, config.format or read.format, names[1]) if held_file else None
    _check_kind(read, config)
    if held_read and held_read.kind != read.kind:
        raise UsageError(
            f"the data are {read.about} and what is held out is {held_read.about}",
            "give both in one format",
        )
    length = min(config.length, base.shape.context)
    notes = []
    if length < config.length:
        notes.append(f"sequences have {length} tokens: the model was made for no more")
    with VocabularyWorker(base.weights, settings) as words:
        template = templates.choose(base.overlay, base.header, words, config.template)
        most = base.shape.context
        made = render.render(read, words, template, length, most)
        other = render.render(held_read, words, template, length, most) if held_read else None
        first = render.of_pair(made.pairs[0]) if made.pairs else made.examples[0]
        shown = render.spans_of(first, words)
    notes += _notes(read, made)
    if held_read and other:
        notes += [f"held out: {note}" for note in _notes(held_read, other)]
    notes += _of_template(read, template)
    train, held, more = _parts(made, other, config)
    notes += more
    if not train:
        raise UsageError("everything is held out, and nothing is left to learn", "give more rows")
    return PreparedFinetune(
        base,
        template,
        read.about,
        _batches(train, length, config),
        _batches(held, length, config),
        train,
        held,
        shown,
        first.line,
        tuple(notes),
        dict(made.left),
    )


def _check_kind(read: Data, config: FinetuneConfig) -> None:
    if config.method == "dpo" and read.kind != "preference":
        raise UsageError(
            f"the data are {read.about}, and DPO learns from preference pairs",
            'write rows such as {"prompt": "…", "chosen": "…", "rejected": "…"}',
        )
    if config.method != "dpo" and read.kind == "preference":
        raise UsageError(
            "the data are preference pairs, which only DPO learns from", "type --method dpo"
        )


def _parts(
    made: Rendered, other: Rendered | None, config: FinetuneConfig
) -> tuple[
    Sequence[Example] | Sequence[PreferenceExample],
    Sequence[Example] | Sequence[PreferenceExample],
    list[str],
]:
    seed = config.training.seed
    if other is None:
        if made.pairs:
            return *data.split(made.pairs, config.held, seed), []
        return *data.split(made.examples, config.held, seed), []
    twice = "{} rows of the data are held out too, and are not learnt"
    if made.pairs:
        pairs, count = data.without_held_out(made.pairs, other.pairs)
        return pairs, other.pairs, [twice.format(count)] if count else []
    examples, count = data.without_held_out(made.examples, other.examples)
    return examples, other.examples, [twice.format(count)] if count else []


def _batches(
    examples: Sequence[Example] | Sequence[PreferenceExample], length: int, config: FinetuneConfig
) -> list[Unit]:
    seed = config.training.seed
    singles = [example for example in examples if isinstance(example, Example)]
    if singles:
        return [*pack.packed(singles, length, config.rows, together=config.pack, seed=seed)]
    pairs_ = [example for example in examples if isinstance(example, PreferenceExample)]
    return [*pack.pairs(pairs_, config.rows, seed=seed)]


def _notes(read: Data, made: Rendered) -> list[str]:
    """What to know of a file and of what became of it."""
    notes = []
    rows = len(read.lines)
    for what, count in list(read.unread.items())[:_MAX_UNREAD]:
        notes.append(f"{what} is not used; {count} of {rows} rows have it")
    if len(read.unread) > _MAX_UNREAD:
        notes.append(f"{len(read.unread) - _MAX_UNREAD} more columns are not used")
    if read.doubled:
        notes.append(f"{read.doubled} rows are the same as an earlier one; they count twice")
    for why, count in sorted(made.left.items()):
        notes.append(f"{count} of {rows} rows are left out: {why}")
    for what, count in sorted(made.told.items()):
        notes.append(f"{count} of {rows} rows: {what}")
    return notes


def _of_template(read: Data, template: ChatTemplate) -> list[str]:
    notes = []
    if not template.text and read.kind != "text":
        notes.append("there is no chat template: a completion follows its prompt as plain text")
    if not template.own:
        notes.append("the new model carries the chat template you named")
    return notes


def _size(unit: Unit) -> tuple[int, int]:
    """Rows and the longest row."""
    if isinstance(unit, Batch):
        return len(unit.ids), max(map(len, unit.ids))
    return len(unit), max(map(len, unit))


def _is_gguf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"


def counts(prepared: PreparedFinetune) -> dict[str, int]:
    """How much there is to learn."""
    return dict(
        Counter(
            examples=len(prepared.train_examples),
            held=len(prepared.held_examples),
            batches=len(prepared.train),
            tokens=prepared.tokens,
        )
    )
