"""What the sentences of a card say of the model itself, in the few forms that leave no room.

A sentence counts that begins with the model ("This model", "The model", its name) and says one
thing; one that compares, names a family or another model does not.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Final

from overt.openness.subject import statements
from overt.openness.subject.statements import CardStatement

_MAX_SENTENCE: Final = 400
_OTHERS: Final = re.compile(
    r"\b(?:compar\w+|than|teacher|student|distill\w+|draft|vs|versus|unlike|whereas|series|family"
    r"|suite|rang\w+|sizes|variants?|models|smaller|larger|bigger|outperform\w*|based on|built on"
    r"|derived|quanti\w+|vision|encoder|embedding|each|per|original\w*|if|adapter|lora|merg\w+"
    r"|mimic\w*|imitat\w+|similar|like|reproduc\w+|toy"
    r"|fine-?tun\w+|code|data\w*|training|trained on|additional\w*|new|only)\b",
    re.IGNORECASE,
)
"""Words of sentences that are about more than this model, or about a part of it."""
_SIZE: Final = re.compile(
    r"(?<![\w.,-])(\d{1,3}(?:,\d{3}){1,5}|\d{1,12}(?:\.\d{1,4})?)[ -]?"
    r"(k|m|b|thousand|million|billion)?"
    r"[ -](?:total |trainable |learnable |model )?param(?:eter)?s?\b",
    re.IGNORECASE,
)
_CONTEXT: Final = re.compile(
    r"\bcontext (?:length|window|size)s? of (?:up to |about |around |~)?"
    r"(\d{1,3}(?:,\d{3}){1,3}|\d{1,9}) ?(k|m)?(?![\w.])",
    re.IGNORECASE,
)
_LEAD: Final = re.compile(
    r"An? (?!model\b)(?:[\w-]+ ){0,3}?(?:\d[\d.,]*[ -]?(?:[kmb]|million|billion)?[ -]param"
    r"|(?:language |transformer )?model (?:with|of|that has) (?:about |around |~)?\d)",
    re.IGNORECASE,
)
"""How the first sentence below a card's title tells the size."""
_DTYPE: Final = re.compile(
    r"^(?:the |our |all |model )*weights are (?:stored|saved|provided|released|distributed|kept) "
    r"(?:in|as) (?:torch\.)?(b?float16|bf16|fp16|f16|float32|fp32|f32)(?: precision| format)?\.?$",
    re.IGNORECASE,
)
_UNPAID: Final = re.compile(
    r"\bnon-?commercial\b[\w ,-]{0,60}\bonly\b|\bonly (?:be used )?[\w ,]{0,40}\bnon-?commercial"
    r"|\b(?:not|never) (?:be used |permitted |allowed |licen[sc]ed )?"
    r"(?:for|in) (?:any )?commercial (?:use|purpose|application|product|deployment)s?\b"
    r"|\bcommercial use (?:of it )?is (?:not (?:permitted|allowed)|prohibited|forbidden)\b",
    re.IGNORECASE,
)
_PART: Final = re.compile(
    r"\b(?:data\w*|code|tokeni[sz]er|outputs?|demo|unless|except|if|than|versions?|earlier"
    r"|previous\w*|original\w*|base)\b",
    re.IGNORECASE,
)
"""Words of sentences whose ban on commercial use may be another's than this model's."""
_LICENCE: Final = re.compile(
    r"\b(?:released|licen[sc]ed|distributed|available|published) under (?:the |an? )?"
    r"(?:terms of the )?"
    r"([\w. -]{2,60}?)(?: licen[sc]e| community licen[sc]e)?$",
    re.IGNORECASE,
)


def sizes(body: str, names: Sequence[str]) -> list[list[CardStatement]]:
    """Numbers of parameters, those of one sentence together: one of them is the model's."""
    groups = []
    for sentence in own_sentences(body, names):
        numbers = [_stated(match[1], match[2]) for match in _SIZE.finditer(sentence)]
        if numbers and not _OTHERS.search(sentence):
            groups.append(numbers)
    return groups


def contexts(body: str, names: Sequence[str]) -> list[CardStatement]:
    """Context lengths, of sentences that say one."""
    statements = []
    for sentence in own_sentences(body, names):
        numbers = _CONTEXT.findall(sentence)
        if len(numbers) == 1 and not _OTHERS.search(sentence):
            statements.append(_stated(*numbers[0]))
    return statements


def licences(body: str, names: Sequence[str]) -> list[str]:
    """What it is said to be released under, in its words."""
    licences = []
    for sentence in own_sentences(body, names):
        match = _LICENCE.search(sentence.rstrip(". "))
        if match and not _OTHERS.search(sentence):
            licences.append(match[1].strip())
    return licences


def dtype(body: str) -> str:
    """The one number format that the weights are said to be stored in, or ""."""
    dtypes = {
        match[1].lower()
        for line in statements.lines(body)
        for sentence in re.split(r"(?<=[.!?])\s+", line.lstrip("-+* "))
        if (match := _DTYPE.match(re.sub(r"[*`]", "", sentence)))
    }
    return dtypes.pop() if len(dtypes) == 1 else ""


def unpaid(body: str, names: Sequence[str]) -> str:
    """The first sentence that allows the model for no commercial use, or ""."""
    for sentence in own_sentences(body, names):
        if _UNPAID.search(sentence) and not _PART.search(sentence):
            return sentence
    return ""


def _stated(number: str, unit: str | None) -> CardStatement:
    short = {"thousand": "k", "million": "m", "billion": "b"}
    unit = (unit or "").lower()
    return statements.stated(number + short.get(unit, unit))


def own_sentences(body: str, names: Sequence[str]) -> Iterator[str]:
    """Sentences whose subject is the model."""
    known = "".join(f"|{re.escape(name)}" for name in names if len(name) > 2)
    start = re.compile(
        rf"(?:(?:this|the|our) (?:[\w-]+ ){{0,2}}?model\b|this is (?:an?|the)\b{known}"
        r"(?![\w-]))(?! (?:card|page|famil|architecture|was|can))",
        re.IGNORECASE,
    )
    title, first = False, True
    for line in statements.lines(body):
        if line.startswith("#"):
            title, first = line.startswith("# "), True
        if line.startswith(("|", ">", "#")) or not line:
            continue
        plain = re.sub(r"\[([^\][]{1,100})\]\([^()]{0,300}\)", r"\1", line.lstrip("-+* "))
        plain = re.sub(r"[*`]|(?<!\w)_|_(?!\w)", "", plain)
        # Below its title a card speaks of the model: "A small model of 1.1B parameters."
        before, opens = title, title and first
        first = False
        for sentence in re.split(r"(?<=[.!?])\s+", plain):
            # "It" is the model where the sentence before it was about the model alone.
            short = len(sentence) <= _MAX_SENTENCE
            goes_on = before and sentence.startswith(("It is a", "It has ", "It contains "))
            lead = opens and _LEAD.match(sentence)
            before = short and bool(start.match(sentence) or goes_on or lead)
            opens = False
            if before:
                yield sentence
            before = before and not _OTHERS.search(sentence)
