"""Rows become tokens, with a mark on each that is learnt.

A text is tokenized as a whole, as the engine does it, and each token is laid against the text by
its bytes: a token is learnt where it lies in what the assistant wrote.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from overt.errors import FormatError
from overt.lab.finetune import spans
from overt.lab.finetune.data import Data, DataLine
from overt.lab.finetune.example import Example, PreferenceExample
from overt.lab.finetune.row import Dialogue, PreferencePair, Prose, Turn
from overt.lab.finetune.spans import AnswerSpan, RenderedChat
from overt.lab.finetune.templates import ChatTemplate, needed
from overt.lab.tokenizer import VocabularyWorker

LONG: Final = "longer than the sequence"
HUGE: Final = "longer than 4 M characters"
NOTHING: Final = "without anything to learn"
LAST: Final = "only the last answer is learnt: the template shows older ones otherwise"
JOINED: Final = "the first token of the answer is joined with the prompt and is not learnt"
ENDLESS: Final = "no token ends the answer"
CUT: Final = "cut into pieces of the sequence's length"
INSIDE: Final = "a token that ends answers is written inside of one"
APART: Final = "the two answers do not share their prompt"
THOUGHT: Final = "the template leaves out what was thought before an answer"
_AT_ONCE: Final = 200
_MAX_ROW: Final = 4 << 20
"""Characters of a chat: of a longer one the worker of the words renders nothing."""
_PART: Final = 1 << 20
"""Characters of a text that are tokenized at once."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """What a file became.

    Attributes:
        examples: of answers or text; pairs: of preferences. One of them is empty.
        left: rows left out, by why; told: rows to know something about, by what.
    """

    examples: list[Example] = field(default_factory=list)
    pairs: list[PreferenceExample] = field(default_factory=list)
    left: Counter[str] = field(default_factory=Counter)
    told: Counter[str] = field(default_factory=Counter)
    _known: set[tuple[str, int]] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self.examples) + len(self.pairs)

    def tell(self, what: str, line: int) -> None:
        """Count a row once, however many of its answers it is true of."""
        if (what, line) not in self._known:
            self._known.add((what, line))
            self.told[what] += 1


@dataclass(frozen=True, slots=True)
class _TokenizedText:
    """A text to be tokenized; `end`: whether a token that ends texts is put behind it, which the
    template has done otherwise, and nobody does where the text goes on."""

    line: DataLine
    found: RenderedChat
    end: Literal["put", "there", "none"]


@dataclass(frozen=True, slots=True)
class RenderedSpan:
    """A part of a rendered example, and whether it is learnt."""

    text: str
    learnt: bool


def render(
    data: Data, words: VocabularyWorker, template: ChatTemplate, length: int, most: int = 0
) -> Rendered:
    """Every row of `data` as examples of at most `length` tokens.

    What is longer is left out and counted; plain text is cut into pieces and counted.

    Args:
        most: tokens that the model reads at all, for a hint; 0 is not known.

    Raises:
        FormatError: the template refuses a row, or shows less of it than the row says; the line is
            named. Or nothing is left to learn from.
    """
    made = Rendered()
    for start in range(0, len(data.lines), _AT_ONCE):
        _render_lines(data.lines[start : start + _AT_ONCE], words, template, length, made)
    if not made:
        raise _nothing(data, made, length, most)
    return made


def _nothing(data: Data, made: Rendered, length: int, most: int) -> FormatError:
    """Every row was left out."""
    total = len(data.lines)
    reasons = [
        (count, f"{why} of {length} tokens" if why == LONG else why)
        for why, count in sorted(made.left.items(), key=lambda item: (-item[1], item[0]))
    ]
    why_all = reasons[0][1] if len(reasons) == 1 else ", ".join(f"{n} {why}" for n, why in reasons)
    rows = "the one row" if total == 1 else f"all {total} rows"
    hint = "look at the file"
    if made.left[LONG]:
        longer = min(2 * length, most or 2 * length)
        hint = f"give more tokens: --length {longer}"
        if longer <= length:
            hint = "the model reads no more: cut the rows, or choose another model"
    left = "is" if total == 1 else "are"
    return FormatError(f"{rows} of {data.name} {left} left out: {why_all}", hint)


def spans_of(example: Example, words: VocabularyWorker) -> list[RenderedSpan]:
    """An example back as text, in pieces that are learnt or not."""
    pieces: list[RenderedSpan] = []
    start = 0
    for at in range(1, len(example.ids) + 1):
        if at == len(example.ids) or example.labels[at] != example.labels[start]:
            pieces.append(RenderedSpan(words.decode(example.ids[start:at]), example.labels[start]))
            start = at
    return pieces


def of_pair(pair: PreferenceExample) -> Example:
    """The chosen answer with its prompt, to be shown."""
    labels = [False] * len(pair.prompt) + [True] * len(pair.chosen)
    return Example([*pair.prompt, *pair.chosen], labels, pair.line)


def _render_lines(
    lines: Sequence[DataLine],
    words: VocabularyWorker,
    template: ChatTemplate,
    length: int,
    made: Rendered,
) -> None:
    """The rows of one go: all their chats are rendered at once, and all texts tokenized."""
    lines = [line for line in lines if _is_fit(line, made)]
    talks = [(line, talk) for line in lines for talk in _talks(line)]
    rendered = iter(_texts(talks, words, template, made))
    texts: list[_TokenizedText] = []
    for line in lines:
        if isinstance(line.item, Prose):
            texts += _parts(line, line.item.text)
        else:
            end: Literal["put", "there"] = "there" if template.text else "put"
            texts += [_TokenizedText(line, next(rendered), end) for _ in _talks(line)]
    ids = words.encode([text_.found.text for text_ in texts], begin=True)
    made_of: dict[int, list[Example]] = {line.line: [] for line in lines}
    for text, tokens in zip(texts, ids, strict=True):
        made_of[text.line.line].append(_example(text, tokens, words, made))
    for line in lines:
        examples = made_of[line.line]
        if isinstance(line.item, PreferencePair):
            _add_pair(examples[0], examples[1], length, made)
        elif isinstance(line.item, Prose):
            _add_pieces(examples, words, length, made)
        else:
            _add(examples[0], length, made)


def _is_fit(line: DataLine, made: Rendered) -> bool:
    """Whether a row can be learnt from; counted where not."""
    if line.size > _MAX_ROW:
        made.left[HUGE] += 1
        return False
    if not all(talk.learnt for talk in _talks(line)):
        made.left[NOTHING] += 1
        return False
    return True


def _parts(line: DataLine, text: str) -> Iterator[_TokenizedText]:
    """A text in parts that can be tokenized at once, cut at blank lines where it has them."""
    start = 0
    while start < len(text):
        end = min(start + _PART, len(text))
        if end < len(text):
            for mark in ("\n\n", "\n", " "):
                if (at := text.rfind(mark, start + _PART // 2, end)) >= 0:
                    end = at + len(mark)
                    break
        part = text[start:end]
        whole = RenderedChat(part, (AnswerSpan(0, len(part), tail=True),))
        yield _TokenizedText(line, whole, "put" if end == len(text) else "none")
        start = end


def _talks(line: DataLine) -> tuple[Dialogue, ...]:
    if isinstance(line.item, PreferencePair):
        return (line.item.chosen, line.item.rejected)
    return (line.item,) if isinstance(line.item, Dialogue) else ()


# ---- chats as text -------------------------------------------------------------------------


def _texts(
    talks: Sequence[tuple[DataLine, Dialogue]],
    words: VocabularyWorker,
    template: ChatTemplate,
    made: Rendered,
) -> list[RenderedChat]:
    if not template.text:
        return [_plain(line, talk, words) for line, talk in talks]
    values: list[dict[str, Any]] = []
    whole = [_dialogue_turns(talk, template) for _, talk in talks]
    around = {"bos_token": words.written(words.bos), "eos_token": words.written(words.eos)}
    counts = []
    for (turns, wanted), (_, talk) in zip(whole, talks, strict=True):
        more = {**around, "tools": list(talk.tools)} if talk.tools else around
        calls = spans.render_requests(turns, more, wanted)
        values += calls
        counts.append(len(calls))
    rendered = words.render(template.text, values)
    results, start = [], 0
    for count, (turns, wanted), (line, talk) in zip(counts, whole, talks, strict=True):
        try:
            result = spans.find(turns, rendered[start : start + count], wanted)
        except FormatError as error:
            raise FormatError(f"{line.where}: {error.message}", error.hint) from None
        _check(line, talk, result.text, made)
        results.append(_without_beginning(result, words))
        start += count
    return results


def _dialogue_turns(talk: Dialogue, template: ChatTemplate) -> tuple[list[Turn], list[int]]:
    """The turns with what the model itself puts before them, as `overlay.apply` does it, and the
    places of those that are learnt. What comes after the last of these is not needed."""
    turns = talk.turns[: talk.learnt[-1] + 1]
    first = [turn for turn in turns[:1] if turn["role"] == "system"]
    rest = turns[len(first) :]
    if not first and template.system:
        first = [{"role": "system", "content": template.system}]
    whole = [*first, *template.before, *rest]
    return whole, [at + len(whole) - len(turns) for at in talk.learnt]


def _plain(line: DataLine, talk: Dialogue, words: VocabularyWorker) -> RenderedChat:
    if talk.plain is None:
        error = needed(words)
        raise FormatError(f"{line.where}: {error.message}", error.hint)
    prompt, answer = talk.plain
    whole = prompt + answer
    return RenderedChat(whole, (AnswerSpan(len(prompt), len(whole), tail=True),))


def _check(line: DataLine, talk: Dialogue, text: str, made: Rendered) -> None:
    """A template that knows no tools leaves them out in silence."""
    for turn in talk.turns[: talk.learnt[-1] + 1]:
        for call in turn.get("tool_calls", ()):
            if call["function"]["name"] not in text:
                raise FormatError(
                    f"{line.where} calls a tool, and the model's chat template shows no calls",
                    "leave such rows out, or take a model that knows tools",
                )
        if not _contains_turn(turn, text):
            raise FormatError(
                f"{line.where} has a turn of the {turn['role']} that the chat template leaves out",
                "take that turn out, or choose another template: --template chatml",
            )
        if any(thought not in text for thought in _thoughts(turn)):
            made.tell(THOUGHT, line.line)
    for tool in talk.tools:
        if tool["function"]["name"] not in text:
            raise FormatError(
                f"{line.where} has tools, and the model's chat template shows none",
                "leave them out, or take a model that knows tools",
            )


def _contains_turn(turn: Turn, text: str) -> bool:
    """Whether what a turn says stands in the text: as it is, or as JSON (results of tools, with
    Llama 3.1); of an answer at least what stands after its thoughts (older ones, with Qwen 3)."""
    content = turn["content"]
    if content.strip() in text:
        return True
    if turn["role"] == "assistant":
        return spans.spoken(content) in text
    if turn["role"] != "tool":
        return False
    forms = (content, content.strip())
    return any(json.dumps(form, ensure_ascii=False)[1:-1] in text for form in forms)


def _thoughts(turn: Turn) -> Iterator[str]:
    """What an answer's author thought before it, in a field of its own or in the answer."""
    if turn["role"] != "assistant":
        return
    yield turn.get("reasoning_content", "").strip()
    before, end, _ = turn["content"].rpartition("</think>")
    if end:
        yield before.rpartition("<think>")[2].strip()


def _without_beginning(text: RenderedChat, words: VocabularyWorker) -> RenderedChat:
    """The engine puts its own mark before a prompt, and takes a second one of the template away."""
    mark = words.written(words.bos) if words.begins else ""
    if not mark or not text.text.startswith(mark):
        return text
    cut = len(mark)
    moved = tuple(AnswerSpan(span.start - cut, span.end - cut, span.tail) for span in text.spans)
    return RenderedChat(text.text[cut:], moved, text.last)


# ---- text as tokens ------------------------------------------------------------------------


def _example(
    text: _TokenizedText, ids: list[int], words: VocabularyWorker, made: Rendered
) -> Example:
    """Tokens and labels of one text."""
    line, marked = text.line, text.found
    begun = 1 if words.begins and words.bos is not None else 0
    places = _places(marked.text.encode(), words.pieces(ids[begun:]))
    if places is None:
        raise FormatError(
            f"{line.where} has letters that this model's tokens cannot write",
            "take them out, or choose another model",
        )
    labels = [False] * len(ids)
    for span in _in_bytes(marked):
        for what in _mark(span, places, begun, ids, labels, words):
            made.tell(what, line.line)
    if text.end == "put" and words.eos is not None:
        ids, labels = [*ids, words.eos], [*labels, True]
    elif text.end != "none" and not any(
        label and id in words.ends for id, label in zip(ids, labels, strict=True)
    ):
        made.tell(ENDLESS, line.line)
    labels[0] = False
    if marked.last:
        made.tell(LAST, line.line)
    return Example(ids, labels, line.line)


def _mark(
    span: AnswerSpan,
    places: Sequence[tuple[int, int]],
    begun: int,
    ids: Sequence[int],
    labels: list[bool],
    words: VocabularyWorker,
) -> list[str]:
    """Mark the tokens of one answer, up to the one that ends the turn; what to know of it."""
    flags = []
    inside = [at for at, (start, end) in enumerate(places) if _overlaps(start, end, span)]
    if any(start < span.start < end for start, end in places):
        flags.append(JOINED)
    if not inside:
        return flags
    ends = [at for at in inside if ids[at + begun] in words.ends]
    if len(ends) > 1 - span.tail:
        flags.append(INSIDE)
    if span.tail:
        after = inside[-1] + 1
        if after < len(places) and ids[after + begun] in words.ends:
            inside.append(after)
    elif ends:  # a line break behind the end of the turn is the template's
        inside = [at for at in inside if at <= ends[-1]]
    for at in inside:
        labels[at + begun] = True
    return flags


def _overlaps(start: int, end: int, span: AnswerSpan) -> bool:
    return span.start <= start and end <= span.end and start < end


def _in_bytes(marked: RenderedChat) -> Iterator[AnswerSpan]:
    """The spans in bytes of UTF-8."""
    if marked.text.isascii():
        yield from marked.spans
        return
    for span in marked.spans:
        start = len(marked.text[: span.start].encode())
        end = start + len(marked.text[span.start : span.end].encode())
        yield AnswerSpan(start, end, span.tail)


def _places(text: bytes, pieces: Sequence[bytes]) -> list[tuple[int, int]] | None:
    """Where each token lies in the text; None where the tokens do not write it.

    SentencePiece puts a blank before a text that the text does not have.
    """
    places, at = [], 0
    for piece in pieces:
        if text.startswith(piece, at):
            end = at + len(piece)
        elif piece.startswith(b" ") and text.startswith(piece[1:], at):
            end = at + len(piece) - 1
        else:
            return None
        places.append((at, end))
        at = end
    return places if at == len(text) else None


# ---- examples that fit ---------------------------------------------------------------------


def _add(example: Example, length: int, made: Rendered) -> None:
    if len(example.ids) > length:
        made.left[LONG] += 1
    elif not example.learnt:
        made.left[NOTHING] += 1
    else:
        made.examples.append(example)


def _add_pieces(
    parts: Sequence[Example], words: VocabularyWorker, length: int, made: Rendered
) -> None:
    """A text in pieces, each of which begins as the model begins a text."""
    if len(parts) == 1 and len(parts[0].ids) <= length:
        _add(parts[0], length, made)
        return
    made.tell(CUT, parts[0].line)
    for part in parts:
        begin = part.ids[:1] if words.begins else []
        body = part.ids[len(begin) :]
        room = length - len(begin)
        for start in range(0, len(body), room):
            ids = begin + body[start : start + room]
            if len(ids) > 1:
                made.examples.append(Example(ids, [False] + [True] * (len(ids) - 1), part.line))


def _add_pair(chosen: Example, rejected: Example, length: int, made: Rendered) -> None:
    if max(len(chosen.ids), len(rejected.ids)) > length:
        made.left[LONG] += 1
        return
    first, answer = _parted(chosen)
    second, other = _parted(rejected)
    if first != second or not answer or not other:
        made.left[APART] += 1
        return
    made.pairs.append(PreferenceExample(first, answer, other, chosen.line))


def _parted(example: Example) -> tuple[list[int], list[int]]:
    """The tokens before the last answer, and that answer."""
    labels = example.labels
    end = max((at for at, label in enumerate(labels) if label), default=-1) + 1
    start = end
    while start > 0 and labels[start - 1]:
        start -= 1
    return example.ids[:start], example.ids[start:end]
