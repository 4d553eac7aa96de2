"""Does an answer stay the same when the question has typos or other words.

Multiple-choice questions (MMLU, or a person's own) are asked three times: as they stand, with
typos, and in a mechanical paraphrase (perturb.py). The choices are left alone. A flip is another
letter than for the question as it stands. A model that tells log-probabilities is asked for that of
the letters; another one writes its letter.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from overt.errors import FormatError
from overt.evaluation.audit import perturb, sets
from overt.evaluation.audit.probe import (
    AuditPlan,
    Contrast,
    Measure,
    Need,
    Outcome,
    ProbedModel,
    ProbeItem,
    ProbeMaterial,
    Use,
)
from overt.evaluation.suites import rows
from overt.evaluation.suites.runners.choice import letter

LETTERS: Final = "ABCDEFGHIJ"
_VARIANTS: Final = ("typos", "paraphrase")
_TOKENS: Final = 32
_MMLU: Final = ("question", "A", "B", "C", "D", "answer")


def _flip(variant: str) -> Callable[[Outcome], float | None]:
    return lambda outcome: float(outcome[variant] != outcome["plain"])


def _drop(variant: str) -> Callable[[Outcome], float | None]:
    return lambda outcome: float(
        (outcome["plain"] == outcome["right"]) - (outcome[variant] == outcome["right"])
    )


def _right(variant: str) -> Callable[[Outcome], float | None]:
    return lambda outcome: float(outcome[variant] == outcome["right"])


class _RobustnessProbe:
    name = "robustness"
    title = "Answers under typos and paraphrase"
    version = "1"
    need: Need = "either"
    uses: tuple[Use, ...] = ("seed",)
    sets = ("mmlu",)
    method = (
        f"Each question as it stands, with typos in {perturb.RATE:.0%} of its letters, and "
        "paraphrased by rules; the letter with the highest log-probability after 'Answer:', or the "
        "letter a chat writes where there are no log-probabilities"
    )
    limits = (
        "Typos and paraphrase are made by rules with a seed; people write otherwise, and a rule "
        "may change the meaning of a question now and then",
        "Where accuracy is near chance the answers are near a draw, and flips say little of how "
        "well a model understands",
        "A letter that is taken from a likelihood and one that is written are not comparable",
    )
    cite = ("Hendrycks et al. 2021, MMLU, ICLR 2021 (the questions)",)
    measures = (
        Measure("flips_typos", "share of answers that typos change", _flip("typos")),
        Measure(
            "flips_paraphrase", "share of answers that the paraphrase changes", _flip("paraphrase")
        ),
        Measure(
            "drop_typos",
            "accuracy lost to typos, item by item",
            _drop("typos"),
            -1.0,
            1.0,
            0.0,
            split=False,
        ),
        Measure(
            "drop_paraphrase",
            "accuracy lost to the paraphrase, item by item",
            _drop("paraphrase"),
            -1.0,
            1.0,
            0.0,
            split=False,
        ),
        Measure("accuracy_plain", "accuracy on the questions as they stand", _right("plain")),
    )
    contrasts: tuple[Contrast, ...] = ()

    def material(self, plan: AuditPlan) -> ProbeMaterial:
        if plan.items is not None:
            return _own_questions(plan)
        return sets.material("mmlu", plan, lambda file: _mmlu(file, plan.seed))

    async def look(self, item: ProbeItem, model: ProbedModel, plan: AuditPlan) -> dict[str, Any]:
        data = item.given
        value: dict[str, Any] = {"right": data["right"], "by": "score" if model.scores else "chat"}
        for variant in ("plain", *_VARIANTS):
            value[variant] = await _ask_choice(data[variant], data["choices"], model)
        return value


async def _ask_choice(question: str, choices: Sequence[str], model: ProbedModel) -> int:
    """The place of the choice that the model takes; -1 for none that can be read."""
    letters = LETTERS[: len(choices)]
    listed = "\n".join(f"{letter_}. {text}" for letter_, text in zip(letters, choices, strict=True))
    if model.scores:
        context = f"{question.strip()}\n{listed}\nAnswer:"
        likely = await model.choose(context, [f" {option}" for option in letters])
        return likely.index(max(likely))
    reply = await model.answer(
        f"{question.strip()}\n{listed}\n\nAnswer with the letter of the right choice only.", _TOKENS
    )
    return LETTERS.find(letter(reply, choices) or "?")


def _mmlu(file: sets.ReadSet, seed: int) -> Iterator[ProbeItem]:
    all_rows, _ = rows.read(file.path, _MMLU)
    for number, row in enumerate(all_rows, 1):
        stem, choices = row.text["stem"], [row.text[option] for option in "ABCD"]
        yield _item(
            f"{stem}/{number}",
            row.text["question"],
            choices,
            row.text["answer"],
            row.where,
            seed,
            stem,
        )


def _own_questions(plan: AuditPlan) -> ProbeMaterial:
    assert plan.items is not None
    all_rows, digest = rows.read(plan.items)
    items = []
    for number, row in enumerate(all_rows, 1):
        raw = row.raw
        choices: Any = raw.get("choices")
        if isinstance(choices, str):
            choices = _list(choices)
        if choices is None:
            choices = [row.text[option] for option in LETTERS if row.text.get(option)]
        if not isinstance(choices, list) or not 2 <= len(choices) <= len(LETTERS):
            raise FormatError(
                f"{row.where} has no choices",
                "give columns question, A, B, C, D and answer, or choices as a list",
            )
        if "question" not in raw or "answer" not in raw:
            raise FormatError(f"{row.where} has no question or answer", "name the columns so")
        items.append(
            _item(
                f"own/{number}",
                row.text["question"],
                [str(choice) for choice in choices],
                row.text["answer"],
                row.where,
                plan.seed,
                "own",
            )
        )
    return ProbeMaterial(items, [sets.own_file_facts(plan.items.name, digest, "your own")], ())


def _list(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _item(
    id: str, question: str, choices: Sequence[str], answer: str, where: str, seed: int, group: str
) -> ProbeItem:
    text = answer.strip()
    letters = LETTERS[: len(choices)]
    if len(text) == 1 and text.upper() in letters:
        right = letters.index(text.upper())
    elif text in choices:
        right = list(choices).index(text)
    else:
        raise FormatError(
            f"{where}: the answer {text[:40]!r} is none of the choices",
            f"it is a letter of {letters} or the text of a choice",
        )
    data: Mapping[str, Any] = {
        "plain": question,
        "choices": list(choices),
        "right": right,
        "typos": perturb.typos(question, f"{seed}/{id}"),
        "paraphrase": perturb.paraphrase(question, f"{seed}/{id}"),
    }
    return ProbeItem(id, (group,), data, group)


PROBE = _RobustnessProbe()
