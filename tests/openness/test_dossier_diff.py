"""What differs between two dossiers, and what of it is a step back."""

import copy

from overt.openness.diff import compare, regressions

BEFORE = {
    "step": {"declared": "fully_open", "verified": "open_weights"},
    "mof": {"declared": "I", "verified": "none"},
    "osaid": {"declared": "pass", "verified": "unknown"},
    "eu_53_2": {"declared": "likely", "verified": "likely"},
    "licence": {
        "declared": "MIT",
        "concluded": "MIT",
        "kind": "osd_open",
        "match": {"altered": False, "riders": []},
    },
    "components": [
        {"name": "weights", "state": "verified", "availability": "full", "licence": "MIT",
         "evidence": []},
        {"name": "tokenizer", "state": "verified", "availability": "full", "licence": None,
         "evidence": []},
    ],
}  # fmt: skip


def changed(**parts):
    after = copy.deepcopy(BEFORE)
    for name, change in parts.items():
        change(after[name])
    return after


def test_the_same_has_no_difference():
    assert compare(BEFORE, copy.deepcopy(BEFORE)) == ()


def test_a_contradiction_is_a_step_back_and_says_why():
    def break_it(components):
        components[0]["state"] = "contradicted"
        components[0]["evidence"] = [
            {"check": "shapes", "result": "fail", "observed": "5 of 9", "reason": ""}
        ]

    after = changed(components=break_it, step=lambda step: step.update(verified="fully_closed"))
    changes = compare(BEFORE, after)
    worse = regressions(changes)
    assert [one.what for one in worse] == ["step.verified", "components.weights.state"]
    assert worse[1].why == "shapes: 5 of 9"


def test_what_could_not_be_looked_at_again_is_no_step_back():
    def unlooked(components):
        components[0]["state"] = "declared"
        components[0]["evidence"] = [
            {"check": "shapes", "result": "not_run", "observed": "", "reason": "offline"}
        ]

    after = changed(components=unlooked, step=lambda step: step.update(verified="fully_closed"))
    changes = compare(BEFORE, after)
    assert len(changes) == 2
    assert changes[1].why == "shapes: offline"
    assert regressions(changes) == ()


def test_an_altered_licence_is_a_step_back():
    after = changed(
        licence=lambda found: found.update(match={"altered": True, "riders": ["not for trade"]})
    )
    (one,) = regressions(compare(BEFORE, after))
    assert (one.what, one.why) == ("licence.altered", "not for trade")


def test_a_step_forward_is_better_and_no_step_back():
    changes = compare(changed(step=lambda step: step.update(verified="fully_closed")), BEFORE)
    assert [one.way for one in changes] == ["better"]
    assert regressions(changes) == ()


def test_from_not_known_to_missing_is_neither_better_nor_worse():
    def to(state, availability):
        def change(components):
            components[1].update(state=state, availability=availability)

        return changed(components=change)

    (one,) = (
        c
        for c in compare(to("declared", "unknown"), to("missing", "absent"))
        if c.what.endswith(".state")
    )
    assert (one.before, one.after, one.way) == ("not known", "missing", "other")
