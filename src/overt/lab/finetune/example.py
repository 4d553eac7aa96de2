"""What a net learns from: tokens, and which of them it should have written."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Example:
    """One text as tokens.

    Attributes:
        ids: the whole text as the engine sees it, what it puts before a prompt included.
        labels: of each token, whether it is learnt; the first never is, as nothing predicts it.
        line: of the data file; of a list, the number of the item.
    """

    ids: list[int]
    labels: list[bool]
    line: int

    @property
    def learnt(self) -> int:
        """Tokens that are learnt."""
        return sum(self.labels)


@dataclass(frozen=True, slots=True)
class PreferenceExample:
    """A prompt, the answer that was chosen and the one that was rejected, as tokens."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]
    line: int

    def __len__(self) -> int:
        return len(self.prompt) + max(len(self.chosen), len(self.rejected))


@dataclass(frozen=True, slots=True)
class Batch:
    """What a net sees at once: rows of one length, filled up at their ends.

    All fields have the shape (rows, length).

    Attributes:
        ids: tokens; 0 where a row is filled up.
        labels: whether a token is learnt; never where a row is filled up.
        positions: of each token in its example.
        segments: number of the example in its row from 0, -1 where the row is filled up. Examples
            of one row do not see each other.
    """

    ids: Sequence[Sequence[int]]
    labels: Sequence[Sequence[bool]]
    positions: Sequence[Sequence[int]]
    segments: Sequence[Sequence[int]]

    @property
    def tokens(self) -> int:
        """Those that are not filled up."""
        return sum(segment >= 0 for row in self.segments for segment in row)

    @property
    def learnt(self) -> int:
        return sum(label for row in self.labels for label in row)
