"""A dossier in plain words: the sentences that people read on the page, the badge and in tables."""

from typing import Final

from overt.openness.dossier import Dossier
from overt.openness.evidence import ComponentResult, Evidence
from overt.openness.verdicts.components import Availability

"""Least open first, as the spectrum is drawn."""

STEP_WORDS: Final = {
    "fully_closed": "fully closed",
    "partially_open": "partially open",
    "open_weights": "open weights",
    "fully_open": "fully open",
}

STEP_MEANING: Final = {
    "fully_closed": "you use it on its maker's computers, and little is told about it",
    "partially_open": "you cannot have the model, but parts of it are described or published",
    "open_weights": "you can have the model itself, but not all that made it",
    "fully_open": "you can have the model, its training data and the code that made it",
}

STATE_WORDS: Final = {
    "verified": "verified",
    "declared": "claimed only",
    "missing": "missing",
    "contradicted": "contradicted",
    "unknown": "not known",
}

AS_SAID: Final = {
    "verified": "{0}, verified",
    "declared": "said to be {0}, not verified",
    "missing": "missing",
    "contradicted": "said to be {0}, which what was found contradicts",
    "unknown": "nothing is known about it",
}

STATE_MEANING: Final = {
    "verified": "Overt looked at it, and it is what it is said to be.",
    "declared": "Somebody says so. Overt could not look, or the look settled nothing.",
    "missing": "Overt looked where it should be, or its maker says so: it is not there.",
    "contradicted": "Overt looked, and it is not what it is said to be.",
    "unknown": "Nobody says anything about it, and Overt could not find out.",
}

AVAILABILITY_WORDS: Final = {
    Availability.ABSENT: "not available",
    Availability.UNKNOWN: "there",
    Availability.DESCRIBED: "described in words",
    Availability.INDEXED: "listed by its sources",
    Availability.PARTIAL: "partly available",
    Availability.RECONSTRUCTIBLE: "one that public sources rebuild",
    Availability.GATED: "available to those who agree to terms first",
    Availability.FULL: "available",
}

GROUPS: Final = (
    ("The model itself", ("weights", "checkpoints", "architecture", "tokenizer", "chat_template",
                          "metadata", "signature")),
    ("Data", ("training_data", "evaluation_data", "sample_outputs")),
    ("Code", ("training_code", "preprocessing_code", "inference_code", "evaluation_code",
              "libraries")),
    ("Documents", ("model_card", "data_card", "report", "paper", "evaluation_results",
                   "safety_policy")),
)  # fmt: skip
"""All components, as people look for them."""

COMPONENT_MEANING: Final = {
    "weights": "the numbers that the finished model consists of",
    "checkpoints": "the same numbers, saved while the model was being trained",
    "architecture": "the plan by which the model is built",
    "tokenizer": "what cuts text into the pieces the model reads",
    "chat_template": "how a conversation is written down for the model",
    "metadata": "facts about the model that programs read",
    "signature": "proof of who published the files",
    "training_data": "the texts and other material the model learned from",
    "evaluation_data": "the questions the model was examined with",
    "sample_outputs": "examples of what the model answers",
    "training_code": "the programs that trained the model",
    "preprocessing_code": "the programs that gathered, cleaned and filtered the data",
    "inference_code": "the programs that run the model",
    "evaluation_code": "the programs that examined the model",
    "libraries": "other programs that all of this needs",
    "model_card": "what the model is for, and where it fails",
    "data_card": "what the training data is, and where it comes from",
    "report": "how the model was made, in detail",
    "paper": "the scientific publication about the model",
    "evaluation_results": "how well the model did when it was examined",
    "safety_policy": "what the makers do against harm",
}

CLAIMED: Final = {
    Availability.ABSENT: "It is said not to be available.",
    Availability.UNKNOWN: "It is named, and not said whether it can be had.",
    Availability.DESCRIBED: "It is said to be described, not published.",
    Availability.INDEXED: "Its sources are said to be listed.",
    Availability.PARTIAL: "Part of it is said to be available.",
    Availability.RECONSTRUCTIBLE: "It is said that public sources rebuild it.",
    Availability.GATED: "It is said to be available to those who agree to its terms first.",
    Availability.FULL: "It is said to be available.",
}

RESULT_WORDS: Final = {
    "pass": "passed",
    "fail": "failed",
    "inconclusive": "settled nothing",
    "not_run": "could not be run",
}

RELATION_WORDS: Final = {
    "finetune": "trained further from",
    "quantized": "compressed from",
    "merge": "merged from",
    "adapter": "an add-on for",
    "distilled": "taught by",
    "dataset": "trained on",
    "base": "based on",
}

LICENCE_KIND: Final = {
    "osd_open": "open-source licence",
    "data_open": "open data licence",
    "use_restricted": "licence with forbidden uses",
    "scale_limited": "licence with a size limit",
    "non_commercial": "non-commercial licence",
    "research_only": "research-only licence",
    "proprietary": "proprietary terms",
    "unknown": "licence unknown",
}

LICENCE_MEANING: Final = {
    "osd_open": "May be used for any purpose, commercially too, changed and passed on.",
    "data_open": "May be used for any purpose, commercially too, with credit to its makers.",
    "use_restricted": "May be used, commercially too, except for uses that the licence forbids.",
    "scale_limited": "May be used commercially; the largest companies must ask first.",
    "non_commercial": "May be used, but not commercially.",
    "research_only": "May be used for research only.",
    "proprietary": "Nothing is licensed to you but what your contract with the provider says.",
    "unknown": "Nobody could say which licence this is. Assume that you need permission.",
}

MOF_WORDS: Final = {
    "I": "Class I (open science)",
    "II": "Class II (open tooling)",
    "III": "Class III (open model)",
    "none": "no class",
}


OSAID_WORDS: Final = {
    "pass": "meets it",
    "fail": "does not meet it",
    "unknown": "a person must judge",
}

EXEMPTION_WORDS: Final = {
    "likely": "likely to apply",
    "no": "does not apply",
    "unknown": "cannot be said",
}

GLOSSARY: Final = (
    (
        "Model",
        "A program that has learned from examples. Here: one that reads and writes text, and "
        "perhaps looks at pictures.",
    ),
    (
        "Weights",
        "The numbers a model consists of. Who has them can run the model without its makers.",
    ),
    (
        "Training data",
        "What a model learned from. Who can see it can find out what the model was taught, "
        "and whose work is in it.",
    ),
    (
        "The four steps",
        "Fully closed: you only get answers from the maker's computers. Partially open: parts "
        "of it are published, not the model. Open weights: the model is published, not all "
        "that made it. Fully open: model, training data and the code that made it are "
        "published, so that others can make it again.",
    ),
    (
        "Claimed and verified",
        "Claimed is what makers, model cards and lists say. Verified is what Overt saw for "
        "itself in the files. A claim without a check stays a claim.",
    ),
    (
        "Contradicted",
        "Overt looked, and what is there is not what is said.",
    ),
    (
        "Model Openness Framework",
        "A list of 17 parts of a model, and three classes (III, II and I, the best) for how "
        "many of them are published under open licences.",
    ),
    (
        "Open Source AI Definition",
        "What the Open Source Initiative asks of a system that is to be called open source.",
    ),
    (
        "Article 53(2)",
        "The European AI Act frees models under free and open-source licences from some "
        "duties. This page says whether that is likely; it is no legal advice.",
    ),
)


def step_words(step: str) -> str:
    return STEP_WORDS.get(step, step.replace("_", " "))


def kind_words(kind: str) -> str:
    return LICENCE_KIND.get(kind, LICENCE_KIND["unknown"])


def headline(dossier: Dossier) -> str:
    """What a person can do with this model and what they can check, in two sentences."""
    weights, data = dossier.component("weights"), dossier.component("training_data")
    if (
        (weights.state, data.state) == ("declared", "declared")
        and weights.availability >= Availability.GATED
        and data.availability >= Availability.RECONSTRUCTIBLE
    ):
        return (
            "It is said that you can download it, run it, and see what it was trained on; "
            "none of that was checked."
        )
    return f"{_having(dossier)} {_checking(dossier)}"


def _having(dossier: Dossier) -> str:
    weights = dossier.component("weights")
    if dossier.record.kind == "api" or weights.availability <= Availability.PARTIAL:
        if weights.state == "contradicted":
            return "What is offered as this model is not what it is said to be."
        if dossier.record.kind == "api":
            return "You can use it only on its provider's computers; you cannot download it."
        return "You cannot download all of it."
    if weights.state == "contradicted":
        return "You can download it, but it is not what it is said to be."
    if weights.state == "declared":
        return "It is said that you can download it and run it; that was not checked."
    if weights.availability == Availability.GATED:
        return "You can download it once you have agreed to its terms, and run it."
    return "You can download it and run it."


def _checking(dossier: Dossier) -> str:
    data, code = dossier.component("training_data"), dossier.component("training_code")
    if data.state == "contradicted":
        return "What is said about its training data does not hold."
    if data.availability < Availability.RECONSTRUCTIBLE or data.state == "missing":
        if data.availability in (Availability.PARTIAL, Availability.INDEXED):
            return "You can check only part of what it was trained on."
        return "You cannot check what it was trained on."
    if data.state == "declared":
        return "Its makers say that its training data is public; that was not checked."
    if code.state == "verified" and code.availability >= Availability.GATED:
        return "You can check what it was trained on and how."
    return "You can check what it was trained on."


def anything_verified(dossier: Dossier) -> bool:
    return any(component.state == "verified" for component in dossier.components)


def step_phrase(dossier: Dossier) -> str:
    """The step to speak of: the verified one; the claimed one where nothing could be verified."""
    step = dossier.verdicts.step
    return step.verified if anything_verified(dossier) else step.declared


def step_difference(dossier: Dossier) -> str:
    """What the two markers of the spectrum say, in two sentences."""
    step = dossier.verdicts.step
    claimed, verified = step_words(step.declared), step_words(step.verified)
    if not anything_verified(dossier):
        why = "" if dossier.files else ", because there are no files to look at"
        return f"Claimed: {claimed}. Nothing could be verified{why}."
    if step.declared == step.verified:
        return f"Claimed: {claimed}. Verified: {verified}."
    return f"Claimed: {claimed}. Only this much could be verified: {verified}."


def licence_lines(dossier: Dossier) -> list[str]:
    """What the licence lets a person do, and whether it is the licence it is said to be."""
    finding = dossier.licence
    lines = [LICENCE_MEANING.get(finding.kind, LICENCE_MEANING["unknown"])]
    if finding.altered:
        lines = [
            "The licence text that comes with the model is not the standard one: its terms were "
            "changed. Read it before you rely on it."
        ]
    elif finding.declared and finding.concluded and finding.declared != finding.concluded:
        lines.append("The text that comes with the model is another licence than the one claimed.")
    elif finding.concluded:
        lines.append("The text that comes with the model is that licence.")
    elif finding.match is not None:
        lines.append("A licence text comes with the model, and it is none that Overt knows.")
    elif finding.declared or finding.declared_text:
        lines.append(
            "No licence text was found with the model; this is what is claimed."
            if dossier.files
            else "This is what is claimed; there are no files to find its text in."
        )
    return lines


def state_of(component: ComponentResult) -> str:
    """The state for people: `declared` without anybody who says anything is `unknown`."""
    if component.state == "declared" and component.availability == Availability.UNKNOWN:
        return "unknown"
    return component.state


def finished_sentence(component: ComponentResult) -> str:
    """One component in one line."""
    claimed = component.claim.availability if component.claim else component.availability
    availability = component.availability if component.state == "verified" else claimed
    wording = AS_SAID[state_of(component)].format(AVAILABILITY_WORDS[availability])
    return f"{component.component.title}: {wording}"


def result_words(piece: Evidence) -> str:
    """What came out of a check."""
    if piece.absent and piece.result == "fail":
        return "did not find it where it should be"
    return RESULT_WORDS[piece.result]


def evidence_sentence(piece: Evidence) -> str:
    """One finding in one line."""
    parts = [f"The check {piece.check} (version {piece.version}) {result_words(piece)}."]
    if piece.observed:
        parts.append(f"Found: {piece.observed}.")
    if piece.expected:
        parts.append(f"Expected: {piece.expected}.")
    if piece.reason:
        parts.append(f"Why: {piece.reason}.")
    return " ".join(parts)


def contradictions(dossier: Dossier) -> list[tuple[str, Evidence]]:
    """Every finding that contradicts a claim, with the title of its component."""
    return [
        (component.component.title, piece)
        for component in dossier.components
        if component.state == "contradicted"
        for piece in component.evidence
        if piece.result == "fail"
    ]
