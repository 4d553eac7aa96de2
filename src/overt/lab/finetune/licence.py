"""Whether what is made of a base and of data may be used: their licences as one chain."""

from collections.abc import Mapping
from typing import Any

from overt.errors import BadRequest
from overt.openness.licence import names
from overt.openness.permissions import chain, gate, may
from overt.openness.permissions.may import LicenceLink
from overt.openness.subject import gather
from overt.settings import Settings


def canonical(words: str) -> str:
    """The licence that `words` name, by its id.

    Raises:
        BadRequest: nobody knows a licence of that name.
    """
    licence = names.canonical(words)
    if licence is None:
        raise BadRequest(
            f"--data-licence {words[:60]!r} is no licence known here",
            "write its SPDX id, such as MIT or CC-BY-4.0, or leave it out",
        )
    return licence


def check(base: str, licence: str | None, settings: Settings) -> dict[str, Any]:
    """What `overt may` says of the base together with the data, as JSON.

    Args:
        base: a ref.
        licence: of the data; None where nobody said: it stays unknown, and is told.
        settings: whose kept facts of use are asked.
    """
    subject = gather.subject(base, settings)
    links = (
        *chain.of(subject, settings).links,
        LicenceLink("your data", "dataset", licence, known=licence is not None),
    )
    facts: Mapping[str, object] = gate.saved(settings.home)
    decision = may.decide(links, facts)
    return {
        **decision.as_json(),
        "base": base,
        "data_licence": licence,
        "chain": [
            {"name": link.name, "relation": link.relation, "licence": link.licence}
            for link in links
        ],
    }


def sentence(answer: Mapping[str, Any]) -> str:
    """The answer for people."""
    verdict = {
        "allow": "may be used as you said",
        "allow_with_obligations": "may be used, with obligations",
        "needs_permission": "needs a permission for the use you named",
        "deny": "may not be used as you said",
        "unknown": "cannot be judged yet",
    }[answer["verdict"]]
    missing = ", ".join(answer["missing"][:4])
    what = f"the new model {verdict}{f' (not known: {missing})' if missing else ''}"
    licence = answer["data_licence"]
    return f"{what}; the licence of your data is {licence or 'not stated (--data-licence)'}"
