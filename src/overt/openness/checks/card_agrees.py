"""What a model card states against what the artefact is: sizes, context, base, task, scores, files.

Only what is stated in a form that leaves no room is compared: the fields at the card's top, rows of
two cells, lines like ``Context length: 8192``, and sentences that say one thing of the model itself
(`prose`). Numbers are compared after ``8k``, ``8,192`` and ``7B`` are made numbers, as roughly as
they are written.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from overt.openness.evidence import Finding
from overt.openness.subject import places, prose, results, sizes, statements
from overt.openness.subject.statements import CardStatement
from overt.openness.subject.subject import Subject
from overt.openness.verdicts.components import Strength

VERSION = 3
TTL = 0

_MAX_FINDINGS: Final = 12
_MIN_PARAMETERS: Final = 10_000
"""A smaller number counts something else."""
_TASKS: Final[Mapping[str, tuple[str, ...]]] = {
    "text-generation": (
        "ForMaskedLM",
        "ForSequenceClassification",
        "ForTokenClassification",
        "ForQuestionAnswering",
    ),
    "fill-mask": ("ForCausalLM", "GPT2LMHeadModel", "ForSequenceClassification"),
    "text-classification": ("ForMaskedLM", "ForTokenClassification", "ForQuestionAnswering"),
    "token-classification": (
        "ForCausalLM",
        "GPT2LMHeadModel",
        "ForMaskedLM",
        "ForSequenceClassification",
    ),
    "question-answering": ("ForMaskedLM", "ForTokenClassification"),
}
"""Kinds of models that cannot do a task, by their class in config.json."""
_DTYPES: Final[Mapping[str, str]] = {
    "bf16": "BF16",
    "bfloat16": "BF16",
    "fp16": "F16",
    "float16": "F16",
    "half": "F16",
    "fp32": "F32",
    "float32": "F32",
    "f32": "F32",
    "f16": "F16",
}
_NAMED_CLASS: Final = re.compile(
    r"(?:[\w. -]{1,40}\()?"
    r"(\w{3,60}(?:ForCausalLM|LMHeadModel|ForConditionalGeneration|ForMaskedLM))\)?"
)
"""A class of transformers, alone or behind a name: ``GPT-2 (GPT2LMHeadModel)``."""
_FAMILIES: Final[Mapping[str, tuple[str, ...]]] = {
    "llama": ("llama", "mistral"),
    "mistral": ("mistral", "llama"),
    "mixtral": ("mixtral", "llama"),
    "gpt2": ("gpt2",),
    "gptneox": ("gpt_neox", "gptneox"),
    "qwen2": ("qwen2",),
    "qwen3": ("qwen3",),
    "gemma": ("gemma",),
    "gemma2": ("gemma2",),
    "gemma3": ("gemma3", "gemma3_text"),
    "olmo2": ("olmo2",),
    "phi3": ("phi3",),
    "bert": ("bert",),
    "falcon": ("falcon",),
    "bloom": ("bloom",),
    "mamba": ("mamba",),
}
"""Architectures by their bare names, and the names that files of them say: a Mistral is a Llama to
llama.cpp."""
_TEXT_ONLY: Final = (
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "MixtralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "GemmaForCausalLM",
    "Gemma2ForCausalLM",
    "GPT2LMHeadModel",
    "GPTNeoXForCausalLM",
    "Olmo2ForCausalLM",
    "Phi3ForCausalLM",
    "BertForMaskedLM",
)
_NOT_OF_TEXT: Final = (
    "image-text-to-text",
    "image-to-text",
    "image-classification",
    "object-detection",
    "automatic-speech-recognition",
    "visual-question-answering",
    "depth-estimation",
)
"""Tasks that begin with a picture or a sound, for which a model of text has no way in."""
_COMMON: Final = {
    "base", "instruct", "chat", "model", "hf", "gguf", "it", "pt", "the", "of", "and", "llm", "v1",
    "v2", "v3", "mini", "small", "medium", "large", "tiny", "xl", "final", "main", "local", "sft",
    "dpo", "preview", "text", "code", "open", "ai", "lm", "research", "labs", "meta", "team",
}  # fmt: skip
"""Words that names of unrelated models have in common."""


@dataclass(frozen=True)
class StatementComparison:
    """One statement beside the artefact: `wrong` says what is there instead, or is None."""

    what: str
    stated: str
    wrong: str | None
    path: str = ""


def check(subject: Subject) -> Iterator[Finding]:
    """Compare everything the card states that can be."""
    card = subject.card
    if card is None:
        return
    stated = statements.read(card.body, card.fields)
    comparisons = [
        *_sizes(subject, stated),
        *_sentences(subject),
        *_words(subject, stated),
        *_task(subject),
        *_library(subject),
        *_base(subject),
        *_licence(subject, stated),
        *_files(subject, stated),
    ]
    wrong = [statement for statement in comparisons if statement.wrong is not None]
    for statement in wrong[:_MAX_FINDINGS]:
        yield Finding(
            "model_card",
            "fail",
            Strength.CONSISTENT,
            observed=f"{statement.what}: {statement.wrong}",
            expected=f"{statement.stated}, as {card.name} says",
            paths=(card.name, *((statement.path,) if statement.path else ())),
        )
    if comparisons and not wrong:
        agreed = "; ".join(f"{statement.what} {statement.stated}" for statement in comparisons[:6])
        yield Finding(
            "model_card",
            "pass",
            Strength.CONSISTENT,
            paths=(card.name,),
            observed=f"{len(comparisons)} statements agree with the files: {agreed}",
        )
    yield from _doubts(subject)
    yield from _scores(subject)


# -- numbers -------------------------------------------------------------------------------------


def _sizes(subject: Subject, stated: Mapping[str, CardStatement]) -> Iterator[StatementComparison]:
    config = sizes.config(subject)
    header = subject.model
    longest = header.context_length if header else None
    source = "config.json" if config else next(iter(subject.gguf), "")
    actual: dict[str, list[int]] = {
        "parameters": sizes.parameters(subject),
        "parameters without embeddings": sizes.parameters(subject),
        "model size": sizes.parameters(subject),
        "context length": sizes.contexts(subject, config, longest),
        "vocabulary": sizes.vocabularies(subject, config),
        "layers": sizes.either(
            config,
            ("num_hidden_layers", "n_layer", "num_layers"),
            header.block_count if header else None,
        ),
        "hidden size": sizes.either(
            config,
            ("hidden_size", "n_embd", "d_model"),
            header.embedding_length if header else None,
        ),
        "inner size": sizes.either(
            config,
            ("intermediate_size", "n_inner", "ffn_dim"),
            (*header.feed_forward_lengths, None)[0] if header else None,
        ),
        "experts": sizes.experts(subject, config),
        "attention heads": sizes.either(
            config,
            ("num_attention_heads", "n_head"),
            (*header.head_counts, None)[0] if header else None,
        ),
        "key-value heads": sizes.either(
            config, ("num_key_value_heads",), (*header.kv_head_counts, None)[0] if header else None
        ),
    }
    # Some call the width so, and some the inner size.
    actual["hidden dimension"] = actual["hidden size"] and [
        *actual["hidden size"],
        *actual["inner size"],
    ]
    fits: dict[str, Callable[[CardStatement, int], bool]] = {
        "parameters": sizes.about,
        "parameters without embeddings": sizes.about,
        "model size": sizes.about_or_bytes,
        "context length": sizes.same_length,
        "vocabulary": sizes.same_vocabulary,
    }
    for what, numbers in actual.items():
        statement = stated.get(what)
        if statement is None or not statement.values or not numbers:
            continue
        counted = what.startswith("parameters") or what == "model size"
        if (counted and max(statement.values) < _MIN_PARAMETERS) or (
            what == "experts" and statement.values == (1,)
        ):
            continue
        agrees = fits.get(what, sizes.exactly)
        fit = any(agrees(statement, number) for number in numbers)
        wrong = None if fit else str(numbers[0])
        yield StatementComparison(what, statement.words, wrong, "" if counted else source)


def _sentences(subject: Subject) -> Iterator[StatementComparison]:
    """What the text says of the model itself."""
    card, config = subject.card, sizes.config(subject)
    assert card is not None
    names = _names(subject)
    actual = sizes.parameters(subject)
    if actual and subject.record.kind == "model":
        for mentions in prose.sizes(card.body, names):
            if max(number for mention in mentions for number in mention.values) < _MIN_PARAMETERS:
                continue
            fit = any(sizes.roughly(mention, number) for mention in mentions for number in actual)
            words = " and ".join(mention.words for mention in mentions)
            yield StatementComparison("parameters", words, None if fit else str(actual[0]))
    header = subject.model
    known = sizes.contexts(subject, config, header.context_length if header else None)
    for mention in prose.contexts(card.body, names):
        if known and mention.values:
            # Less may be what it was trained with; far more is another model's.
            fit = min(mention.values) <= 1.5 * max(known)
            wrong = None if fit else str(max(known))
            yield StatementComparison(
                "context length", mention.words, wrong, "config.json" if config else ""
            )


def _names(subject: Subject) -> list[str]:
    """What the card may call the model."""
    card = subject.card
    title = card.fields.get("model_name") if card else None
    names = [subject.record.name.rpartition("/")[2], title if isinstance(title, str) else ""]
    heads = (x for x in (card.body if card else "").split("\n")[:200] if x.startswith("# "))
    names.append(next(heads, "")[2:].strip(" *_`#")[:100])
    return [name for name in dict.fromkeys(names) if re.search(r"[A-Za-z]", name)]


# -- words ---------------------------------------------------------------------------------------


def _words(subject: Subject, stated: Mapping[str, CardStatement]) -> Iterator[StatementComparison]:
    config = subject.config or {}
    classes = config.get("architectures")
    statement = stated.get("architecture")
    named = _NAMED_CLASS.fullmatch(statement.words) if statement else None
    if statement and named and isinstance(classes, list) and classes:
        wrong = None if named[1] in classes else str(classes[0])
        yield StatementComparison("architecture", statement.words, wrong, "config.json")
    kind = config.get("model_type")
    header = subject.model
    for what in ("architecture", "model type"):
        statement = stated.get(what)
        family = (
            _FAMILIES.get(re.sub(r"[^a-z0-9]", "", statement.words.lower())) if statement else None
        )
        actual = kind if isinstance(kind, str) else header.architecture if header else ""
        if (
            statement
            and family
            and actual in {x for several in _FAMILIES.values() for x in several}
        ):
            fit = actual in family and not (config and actual == "llama" != family[0])
            wrong = None if fit else actual
            yield StatementComparison(what, statement.words, wrong, "config.json" if config else "")
    statement = stated.get("model type")
    if (
        statement
        and isinstance(kind, str)
        and re.fullmatch(r"[a-z0-9]+(?:_[a-z0-9]+)+", statement.words)
    ):
        yield StatementComparison(
            "model type", statement.words, None if statement.words == kind else kind, "config.json"
        )
    statement = stated.get("dtype")
    told_of = (
        statement.words if statement else prose.dtype(subject.card.body if subject.card else "")
    )
    wanted = _DTYPES.get(told_of.lower().removeprefix("torch."))
    mix = _mix(subject)
    if wanted and mix:
        yield StatementComparison("dtype", told_of, None if wanted == mix else mix)


def _mix(subject: Subject) -> str:
    """The type most bytes of the weights are in; "" for GGUF, whose types are another check's."""
    counted: dict[str, int] = {}
    for header in subject.safetensors.values():
        for kind, share in header.type_mix().items():
            counted[kind] = counted.get(kind, 0) + share.bytes
    return max(counted, key=lambda kind: counted[kind]) if counted else ""


def _task(subject: Subject) -> Iterator[StatementComparison]:
    card, config = subject.card, subject.config
    task = card.fields.get("pipeline_tag") if card else None
    classes = config.get("architectures") if config else None
    if not isinstance(task, str) or not isinstance(classes, list) or not classes:
        return
    wrong = _TEXT_ONLY if task in _NOT_OF_TEXT else _TASKS.get(task)
    if wrong is None or not all(isinstance(name, str) for name in classes):
        return
    bad = all(name.endswith(wrong) for name in classes)
    yield StatementComparison("task", task, classes[0] if bad else None, "config.json")


def _library(subject: Subject) -> Iterator[StatementComparison]:
    card = subject.card
    name = card.fields.get("library_name") if card else None
    if not isinstance(name, str) or not places.searched(subject):
        return
    wanted = {"gguf": ".gguf", "llama.cpp": ".gguf", "onnx": ".onnx", "safetensors": ".safetensors"}
    if suffix := wanted.get(name.lower()):
        there = any(file.suffix == suffix for file in subject.files)
        yield StatementComparison("library", name, None if there else f"no {suffix} file")
    elif name.lower() == "peft":
        there = any(file.stem == "adapter_config.json" for file in subject.files)
        yield StatementComparison("library", name, None if there else "no adapter_config.json")


def _base(subject: Subject) -> Iterator[StatementComparison]:
    card = subject.card
    bases = card.words("base_model") if card else ()
    if not bases:
        return
    named_bases = ", ".join(bases[:3])
    if subject.file("adapter_config.json"):
        adapter = subject.json("adapter_config.json")
        name = adapter.get("base_model_name_or_path") if isinstance(adapter, dict) else None
        if isinstance(name, str) and re.fullmatch(r"[\w.-]+/[\w.-]+", name):
            fit = any(_last(name) == _last(base) for base in bases)
            yield StatementComparison(
                "base", named_bases, None if fit else name, "adapter_config.json"
            )
    header = subject.model
    if header is None:
        return
    count = min(header.number("general.base_model.count") or 0, 16)
    own = [
        header.text(f"general.base_model.{i}.{key}") or ""
        for i in range(count)
        for key in ("name", "repo_url")
    ]
    if any(own):
        names = [*own, header.name or "", header.text("general.basename") or ""]
        mine = set().union(*(_marks(name) for name in names))
        theirs = set().union(*(_marks(base) for base in bases))
        if mine and theirs:
            path = next(iter(subject.gguf), "")
            fit = bool(mine & theirs)
            yield StatementComparison(
                "base", named_bases, None if fit else next(name for name in own if name), path
            )


def _last(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2].lower()


def _marks(name: str) -> set[str]:
    """The words that tell one family of models from another."""
    words = re.findall(r"[a-z]+", _last(name))
    return {word for word in words if len(word) > 1 and word not in _COMMON}


def _licence(
    subject: Subject, stated: Mapping[str, CardStatement]
) -> Iterator[StatementComparison]:
    """A line ``License: …`` or a sentence in the text against the field at its top."""
    from overt.openness.licence import names
    from overt.openness.subject import named_licences as naming

    card, statement = subject.card, stated.get("licence")
    words = card.words("license") if card else ()
    if card is None or len(words) != 1:
        return
    field = naming.ids_of(words[0])
    if field and (limit := prose.unpaid(card.body, _names(subject))):
        allows = f"{field[0]} in the card's own fields, which allows commercial use"
        facts = names.facts(field[0])
        free = facts is not None and facts.kind in ("osd_open", "data_open")
        yield StatementComparison("licence", f"“{limit[:200]}”", allows if free else None)
    texts = [statement.words] if statement else prose.licences(card.body, _names(subject))
    for text in texts:
        line = naming.ids_of(text)
        if field and line:
            fit = naming.agree(text, line[0], field[0]) or naming.agree(words[0], field[0], line[0])
            wrong = None if fit else f"{field[0]} in the card's own fields"
            yield StatementComparison("licence", text, wrong)


# -- files, and what settles nothing -------------------------------------------------------------


def _files(subject: Subject, stated: Mapping[str, CardStatement]) -> Iterator[StatementComparison]:
    card = subject.card
    assert card is not None
    sums = list(statements.digests(card.body))
    alone = [file.name for file in subject.files if file.suffix in (".gguf", ".safetensors")]
    bare = stated.get("sha256")
    if bare and len(alone) == 1 and not sums and re.fullmatch(r"[0-9a-f]{64}", bare.words):
        sums = [(alone[0], bare.words)]
    for name, digest in sums:
        file = subject.file(name)
        if file is None or (file.sparse and not file.stated):
            continue
        actual = subject.digest(name).removeprefix("sha256:")
        if len(actual) == 64:
            yield StatementComparison(
                f"sha256 of {name}", digest, None if actual == digest else actual, name
            )
    if not places.searched(subject):
        return
    listed = statements.weights(card.body)
    here = {file.name.rpartition("/")[2] for file in subject.files}
    lost = [name for name in listed if name not in here]
    if listed and len(lost) == len(listed):
        yield StatementComparison("files", ", ".join(listed[:3]), f"none of {len(listed)} is here")


def _doubts(subject: Subject) -> Iterator[Finding]:
    """A config that remembers another model than the card names as its base."""
    card, config = subject.card, subject.config
    name = config.get("_name_or_path") if config else None
    if card is None or not isinstance(name, str) or not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        return
    bases = card.words("base_model")
    theirs = set().union(*(_marks(base) for base in bases), _marks(subject.record.name))
    mine = _marks(name)
    if not bases or not mine or not theirs or mine & theirs:
        return
    from overt.openness.subject import families

    known = families.find(name)
    named = [family for base in bases if (family := families.find(base))]
    origin = f"config.json was saved from {name}"
    if known is not None and named and all(family_.name != known.name for family_ in named):
        yield Finding(
            "model_card",
            "fail",
            Strength.CONSISTENT,
            observed=origin,
            expected=f"{', '.join(bases[:3])}, its base by the card",
            paths=(card.name, "config.json"),
        )
        return
    yield Finding(
        "model_card",
        "inconclusive",
        Strength.CONSISTENT,
        paths=(card.name, "config.json"),
        reason=f"{origin}, and the card names {', '.join(bases[:3])} as its base",
    )


def _scores(subject: Subject) -> Iterator[Finding]:
    """Scores of the card against the files of results that lie with it."""
    card = subject.card
    assert card is not None
    measured = results.measured(subject)
    if not measured.scores:
        return
    same, wrong = results.compared(card, measured)
    paths = (card.name, *measured.files)
    for score, expected in wrong[:_MAX_FINDINGS]:
        yield Finding(
            "evaluation_results",
            "fail",
            Strength.CONSISTENT,
            observed=score,
            expected=expected,
            paths=paths,
        )
    if same and not wrong:
        yield Finding(
            "evaluation_results",
            "pass",
            Strength.CONSISTENT,
            paths=paths,
            observed=f"{same} scores of {card.name} are those of {', '.join(measured.files[:2])}",
        )
