"""What an evaluation may cost, and what it has cost.

A request is let through when what was spent, what those on their way may cost at most, and what it
may cost itself stay within the cap. What it may cost at most is guessed from its size: one token
for each two bytes of the prompt, and `max_tokens` of answer. Reasoning that a provider bills beyond
`max_tokens` is not foreseen; it is counted once it has been used. One that does not fit beside
those on their way waits until they have been paid for, as they mostly cost less than was held.

Where nobody tells what an answer took, or one broke off that may be billed, its cost is unknown and
what was held for it counts as spent.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from overt import ref as refs
from overt.chat import Request, Usage
from overt.errors import Refused
from overt.security import urls
from overt.settings import Settings


class BudgetSpent(Refused):
    """The cap does not allow the next request."""


@dataclass(slots=True)
class Budget:
    """What may be spent, and what was.

    Attributes:
        cap: US dollars; None for no cap.
        spent: US dollars in this run, `assumed` among them.
        held: what requests on their way may cost.
        assumed: what was held for answers of which nobody told what they took.
        unknown: answers whose cost nobody knows.
    """

    settings: Settings
    cap: float | None = None
    allow_unknown: bool = False
    spent: float = 0.0
    held: float = 0.0
    assumed: float = 0.0
    unknown: int = 0
    _away: int = 0
    _ended: bool = False
    _moved: asyncio.Event = field(default_factory=asyncio.Event)

    def check(self, ref: str) -> None:
        """Raises Refused: there is a cap and the price of `ref` is not known."""
        if self.cap is not None and not self.allow_unknown and self.price(ref, Usage(1, 1)) is None:
            raise Refused(
                f"the price of {ref} is not known, so ${self.cap:g} cannot be kept to",
                "add it to prices.toml (docs/providers.md), or give --allow-unknown",
            )

    async def hold(self, ref: str, request: Request) -> float:
        """Set aside what `request` may cost; US dollars. Then `pay` or `release` it.

        Raises:
            BudgetSpent: there is not so much left, and nothing on its way; or `end` was called.
        """
        most = 0.0 if self.cap is None else self._most(ref, request)
        while self.cap is not None and self.spent + self.held + most > self.cap:
            if self._ended or self._away <= 0:
                raise self._over(most)
            self._moved.clear()
            await self._moved.wait()
            if self._ended:
                raise self._over(most)
        self.held += most
        self._away += 1
        return most

    def end(self) -> None:
        """Let nothing through that waits for others to be paid."""
        self._ended = True
        self._moved.set()

    def _most(self, ref: str, request: Request) -> float:
        size = sum(len(message.text.encode()) for message in request.messages)
        size += len(request.prompt.encode()) if isinstance(request.prompt, str) else 0
        return self.price(ref, Usage(size // 2 + 16, request.max_tokens or 4096)) or 0.0

    def _over(self, most: float) -> BudgetSpent:
        from overt.evaluation.compare_page import dollars

        assumed = ""
        if self.assumed:
            assumed = (
                f" ({dollars(self.assumed)} of it assumed, for answers of which nobody told what"
                " they took)"
            )
        return BudgetSpent(
            f"the budget of ${self.cap:g} is used up: {dollars(self.spent)} is spent{assumed} and"
            f" the next request may cost {dollars(most)}",
            "its answers are kept: run it again with a larger --budget to go on",
        )

    def release(self, held: float) -> None:
        """Nothing was taken: what was held is free again."""
        self.held -= held
        self._away -= 1
        self._moved.set()

    def pay(self, held: float, ref: str, usage: Usage, *, counted: bool = True) -> float | None:
        """Count what was used in place of what was held; what it cost, None where unknown.

        Where `usage` is not `counted`, or not to the end, what was held counts.
        US dollars, with what a route asked before. A model of this machine costs what prices.toml
        says of energy and hardware, of which nothing is `spent`.
        """
        self.release(held)
        before, costs = self.spent, []
        for model, used in _split_usage(ref, usage):
            taken = self.price(model, used)
            self.spent += taken or 0.0
            costs.append(taken if is_remote(model) else self._listed(model, used))
        known = [cost for cost in costs if cost is not None]
        if not counted:
            more = max(0.0, held - (self.spent - before))
            self.spent += more
            self.assumed += more
        elif len(known) == len(costs):
            return sum(known)
        self.unknown += 1
        return None

    def price(self, ref: str, usage: Usage) -> float | None:
        """US dollars that a provider takes; 0 for a model of this machine, None where unknown."""
        return self._listed(ref, usage) if is_remote(ref) else 0.0

    def _listed(self, ref: str, usage: Usage) -> float | None:
        from overt import prices

        cost = prices.cost(ref, usage, self.settings)
        return cost.usd if cost.known else None


def _split_usage(ref: str, usage: Usage) -> Iterator[tuple[str, Usage]]:
    """Each model that was asked, and what it alone used."""
    yield ref, replace(usage, before=())
    for model, used in usage.before:
        yield from _split_usage(model, used)


def is_remote(ref: str) -> bool:
    """Whether `ref` is a model of another machine; `http` refs of this one's ports are not."""
    if ref.startswith(("http://", "https://")):
        return not urls.read(ref).loopback
    return ref.startswith(refs.ELSEWHERE)
