"""Where in a rendered chat the assistant's own words stand, end of turn included.

A template is a program, and what it wrote of whom cannot be read off its text. So it is asked: the
text of a chat before an answer, with the prompt for one, is what the engine will send; what the
whole chat has beyond that is what the model has to write. Where a template writes such prompts
otherwise than it writes chats, each answer is replaced by a word of its own, and where that word
then stands is where the answer stood.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from overt.errors import FormatError
from overt.lab.finetune.row import Turn

Said = str | FormatError
_WORD: Final = "overt-{}-answer"
_THOUGHT: Final = "</think>"


@dataclass(frozen=True, slots=True)
class AnswerSpan:
    """Characters from `start` to `end` are the assistant's.

    With `tail` only the answer itself is known to lie in it: the mark that ends the turn follows.
    """

    start: int
    end: int
    tail: bool = False


@dataclass(frozen=True, slots=True)
class RenderedChat:
    """A rendered chat and its answers; `last` where only the last can be learnt as it was said."""

    text: str
    spans: tuple[AnswerSpan, ...]
    last: bool = False


def render_requests(
    turns: Sequence[Turn], values: Mapping[str, Any], wanted: Sequence[int]
) -> list[dict[str, Any]]:
    """What to render for `find`: of each answer the text before it and with it; then the chat with
    words in place of the answers.

    Args:
        wanted: places of the answers that are looked for, in order; the last ends the chat.
    """
    calls = []
    for at in wanted:
        calls.append({**values, "messages": list(turns[:at]), "add_generation_prompt": True})
        calls.append({**values, "messages": list(turns[: at + 1]), "add_generation_prompt": False})
    marked = [
        {**turn, "content": _WORD.format(at)} if at in wanted and turn["content"] else turn
        for at, turn in enumerate(turns)
    ]
    calls.append({**values, "messages": marked, "add_generation_prompt": False})
    return calls


def spoken(content: str) -> str:
    """An answer without the thoughts before it, which templates of models that think cut off."""
    return _after_thoughts(content).strip()


def _after_thoughts(content: str) -> str:
    return content.rpartition(_THOUGHT)[2]


def find(turns: Sequence[Turn], renderings: Sequence[Said], wanted: Sequence[int]) -> RenderedChat:
    """Where the answers at `wanted` stand, by what the template made of `render_requests`.

    Raises:
        FormatError: the template refuses the chat, or hides where its answers stand.
    """
    whole = renderings[-2]
    if isinstance(whole, FormatError):
        raise whole
    pairs = list(zip(renderings[:-1:2], renderings[1:-1:2], strict=True))
    spans: list[AnswerSpan | None] = [_between(before, after, whole) for before, after in pairs]
    if all(spans):
        return RenderedChat(whole, tuple(span for span in spans if span))
    if last := _ending(pairs[-1][0], whole):
        # The template shows older answers otherwise than it showed them when they were written.
        return RenderedChat(whole, (last,), last=len(pairs) > 1)
    marked = renderings[-1]
    if isinstance(marked, str) and (replaced := _replaced(turns, marked, whole, wanted)):
        return RenderedChat(whole, replaced)
    raise FormatError(
        "the chat template does not show where the assistant's words stand",
        "train with another: --template chatml",
    )


def _between(before: Said, after: Said, whole: str) -> AnswerSpan | None:
    if not isinstance(before, str) or not isinstance(after, str):
        return None
    if after.startswith(before) and whole.startswith(after) and len(after) > len(before):
        return AnswerSpan(len(before), len(after))
    return None


def _ending(before: Said, whole: str) -> AnswerSpan | None:
    if isinstance(before, str) and whole.startswith(before) and len(whole) > len(before):
        return AnswerSpan(len(before), len(whole))
    return None


def _replaced(
    turns: Sequence[Turn], marked: str, whole: str, wanted: Sequence[int]
) -> tuple[AnswerSpan, ...] | None:
    """The answers' places by the text between the words that stand for them."""
    spans: list[AnswerSpan] = []
    at, rest = 0, marked
    for index in wanted:
        content = turns[index]["content"]
        head, word, rest = rest.partition(_WORD.format(index))
        if not word or turns[index].get("tool_calls") or not whole.startswith(head, at):
            return None
        start = at + len(head)
        forms = (content, content.strip(), _after_thoughts(content), spoken(content))
        written = next((form for form in forms if whole.startswith(form, start)), None)
        if not written:
            return None
        spans.append(AnswerSpan(start, start + len(written), tail=True))
        at = start + len(written)
    return tuple(spans) if whole[at:] == rest else None
