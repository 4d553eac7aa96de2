"""What an evaluation may cost, and what it has cost.

A request is let through when what was spent, what those on their way may cost at most, and what it
may cost itself stay within the cap. What it may cost at most is guessed from its size: one token
for each two bytes of the prompt, and `max_tokens` of answer. Reasoning that a provider bills beyond
`max_tokens` is not foreseen; it is counted once it has been used.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from overt import address
from overt import ref as refs
from overt.chat import Request, Usage
from overt.errors import Refused
from overt.settings import Settings


class BudgetSpent(Refused):
    """The cap does not allow the next request."""


@dataclass(slots=True)
class Purse:
    """What may be spent, and what was.

    Attributes:
        cap: US dollars; None for no cap.
        spent: US dollars in this run, of answers whose price is known.
        held: what requests on their way may cost.
        unknown: answers whose price nobody knows.
    """

    settings: Settings
    cap: float | None = None
    allow_unknown: bool = False
    spent: float = 0.0
    held: float = 0.0
    unknown: int = 0

    def check(self, ref: str) -> None:
        """Raises Refused: there is a cap and the price of `ref` is not known."""
        if self.cap is not None and not self.allow_unknown and self.price(ref, Usage(1, 1)) is None:
            raise Refused(
                f"the price of {ref} is not known, so ${self.cap:g} cannot be kept to",
                "add it to prices.toml (docs/providers.md), or give --allow-unknown",
            )

    def hold(self, ref: str, request: Request) -> float:
        """Set aside what `request` may cost; US dollars.

        Raises:
            BudgetSpent: there is not so much left.
        """
        if self.cap is None:
            return 0.0
        size = sum(len(one.text.encode()) for one in request.messages)
        size += len(request.prompt.encode()) if isinstance(request.prompt, str) else 0
        most = self.price(ref, Usage(size // 2 + 16, request.max_tokens or 4096)) or 0.0
        if self.spent + self.held + most > self.cap:
            raise BudgetSpent(
                f"the budget of ${self.cap:g} is used up: ${self.spent:.4f} is spent and the next"
                f" request may cost ${most:.4f}",
                "its answers are kept: run it again with a larger --budget to go on",
            )
        self.held += most
        return most

    def pay(self, held: float, ref: str, usage: Usage) -> float | None:
        """Count what was used in place of what was held; what it cost, None where unknown.

        US dollars, with what a route asked before. A model of this machine costs what prices.toml
        says of energy and hardware, of which nothing is `spent`.
        """
        self.held -= held
        costs = []
        for one, used in _apart(ref, usage):
            taken = self.price(one, used)
            self.spent += taken or 0.0
            costs.append(taken if is_away(one) else self._listed(one, used))
        known = [cost for cost in costs if cost is not None]
        if len(known) == len(costs):
            return sum(known)
        self.unknown += 1
        return None

    def price(self, ref: str, usage: Usage) -> float | None:
        """US dollars that a provider takes; 0 for a model of this machine, None where unknown."""
        return self._listed(ref, usage) if is_away(ref) else 0.0

    def _listed(self, ref: str, usage: Usage) -> float | None:
        from overt import prices

        found = prices.cost(ref, usage, self.settings)
        return found.usd if found.known else None


def _apart(ref: str, usage: Usage) -> Iterator[tuple[str, Usage]]:
    """Each model that was asked, and what it alone used."""
    yield ref, replace(usage, before=())
    for one, used in usage.before:
        yield from _apart(one, used)


def is_away(ref: str) -> bool:
    """Whether `ref` is a model of another machine; `http` refs of this one's ports are not."""
    if ref.startswith(("http://", "https://")):
        return not address.read(ref).loopback
    return ref.startswith(tuple(f"{name}:" for name in refs.PROVIDERS))
