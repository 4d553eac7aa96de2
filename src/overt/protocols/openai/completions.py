"""OpenAI's older completions (``POST /v1/completions``): text continued as it stands.

What evaluation harnesses score with: ``echo`` with ``logprobs`` tells how likely each token of the
prompt is. Prompts are texts or token ids, one or many; with P prompts and ``n`` the choices are
P x n, in that order.
"""

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from overt.chat import (
    Answer,
    Done,
    Event,
    Failed,
    Logprobs,
    Request,
    Routed,
    Text,
    TokenLogprob,
    Usage,
)
from overt.protocols import multiple_choices
from overt.protocols.base import BadBody, HttpCall, HttpReply, ModelHold, Stream, encode, new_id
from overt.protocols.failure import error_of
from overt.protocols.openai.logprobs import (
    LegacyLogprobs,
    Prompt,
    legacy,
    scored,
    text_of,
    without_added,
)
from overt.protocols.openai.tokens import Begin
from overt.protocols.openai.wire import (
    OpenAIUsage,
    OpenAIWire,
    SamplingBody,
    biases,
    fingerprint,
    finish,
    hold,
    pieces,
    sampling,
    stops,
    usage_body,
)

_DEFAULT_TOKENS = 16  # OpenAI's own default
_MAX_PROMPTS = 2048
_MAX_CHOICES = 4096
TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]


class CompletionStreamOptions(OpenAIWire):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class CompletionsBody(SamplingBody, kw_only=True):
    """The body of ``POST /v1/completions``."""

    prompt: str | list[str | TokenId | list[TokenId]] | None = None
    suffix: str | None = None
    max_tokens: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    best_of: Annotated[int, Meta(ge=1, le=128)] | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None
    logit_bias: dict[str, float] | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: CompletionStreamOptions | None = None
    user: str | None = None


class CompletionChoice(msgspec.Struct):
    text: str
    index: int
    logprobs: LegacyLogprobs | None
    finish_reason: str


class Completions(msgspec.Struct):
    id: str
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: OpenAIUsage
    system_fingerprint: str
    object: str = "text_completion"


async def create(call: HttpCall) -> HttpReply | Stream:
    """Answer ``POST /v1/completions``."""
    body = call.read(CompletionsBody)
    _check(body)
    if call.params.get("model", body.model) != body.model:
        raise BadBody(f"the address names {call.params['model'][:80]!r}", "model")
    prompt_list = prompts(body.prompt)
    if len(prompt_list) * (body.n or 1) > _MAX_CHOICES:
        raise BadBody(
            f"{len(prompt_list)} prompts with n {body.n} are more than {_MAX_CHOICES} answers", "n"
        )
    begin = Begin()
    if "model" in call.params:  # the address of harnesses, which leave those tokens out
        begin = await Begin.of(call, body.model)
    added = [begin.added_to(prompt) for prompt in prompt_list]
    prompt_list = await begin.before(call, body.model, prompt_list)
    job = _CompletionJob(call, body, prompt_list, added, hold(body.keep_alive))
    if body.stream:
        return Stream(job.chunks())
    return HttpReply(await job.whole())


def _check(body: CompletionsBody) -> None:
    n = body.n or 1
    if body.best_of is not None and body.best_of != n:
        raise BadBody(
            f"best_of is {body.best_of} and n is {n}; ask for n answers with logprobs and choose",
            "best_of",
        )
    if body.echo and body.suffix is not None:
        raise BadBody("echo and suffix cannot be combined; leave one out", "suffix")
    if body.stream_options is not None and not body.stream:
        raise BadBody("stream_options is for stream true", "stream_options")


def prompts(prompt: str | list[Any] | None) -> tuple[Prompt, ...]:
    """What is to be continued: one text or list of token ids, or several of them.

    Raises:
        BadBody: an empty list, texts mixed with token ids, or more than 2048 of them.
    """
    if prompt is None or isinstance(prompt, str):
        return (prompt or "",)
    if not prompt:
        raise BadBody("prompt is an empty list; give a text or token ids", "prompt")
    kinds = {type(item) for item in prompt}
    if len(kinds) > 1:
        raise BadBody("prompt mixes texts and token ids; give one kind", "prompt")
    if kinds == {int}:
        return (tuple(prompt),)
    if len(prompt) > _MAX_PROMPTS:
        raise BadBody(
            f"prompt holds {len(prompt)} texts; {_MAX_PROMPTS} is the most at once", "prompt"
        )
    if kinds == {str}:
        return tuple(prompt)
    if not all(prompt):
        raise BadBody("a list of token ids is empty", "prompt")
    return tuple(tuple(ids) for ids in prompt)


@dataclass(slots=True)
class _Echoed:
    """What comes before an answer: the prompt, and with ``logprobs`` its scored tokens.

    `after` is the one token that follows, where scoring already told it.
    """

    text: str = ""
    tokens: tuple[TokenLogprob, ...] = ()
    after: TokenLogprob | None = None
    tokens_in: int = 0


class _CompletionJob:
    """One request: its prompts and where their answers go.

    The first `added` tokens of each prompt are not the client's, and are not told.
    """

    def __init__(
        self,
        call: HttpCall,
        body: CompletionsBody,
        prompt_list: Sequence[Prompt],
        added: Sequence[int],
        held: ModelHold,
    ) -> None:
        self._call, self._body, self._prompts, self._hold = call, body, prompt_list, held
        self._added = added
        self._n = body.n or 1
        self._most = _DEFAULT_TOKENS if body.max_tokens is None else body.max_tokens
        self._request = Request(
            model=body.model,
            prompt="",
            suffix=body.suffix,
            max_tokens=self._most,
            stop=stops(body.stop),
            logit_bias=biases(body.logit_bias),
            grammar=body.grammar,
            logprobs=body.logprobs,
            deterministic=bool(body.deterministic),
        )
        self._id, self._created = new_id("cmpl-"), int(time.time())

    # ---- in one piece ----------------------------------------------------------------------

    async def whole(self) -> Completions:
        """All choices."""
        echoed = await self._all_echoed()
        answers = [Answer() for _ in range(len(self._prompts) * self._n)]
        streams, owners = self._streams(echoed)
        if streams:
            async with aclosing(multiple_choices.merge(streams)) as events:
                async for which, event in events:
                    if isinstance(event, Failed):
                        raise error_of(event)
                    answers[owners[which]].add(event)
        for index, answer in enumerate(answers):
            _complete(answer, echoed[index // self._n])
        return Completions(
            id=self._id,
            created=self._created,
            model=self._body.model,
            choices=[self._choice(i, a, echoed[i // self._n]) for i, a in enumerate(answers)],
            usage=self._usage([answer.usage for answer in answers]),
            system_fingerprint=fingerprint(self._call.services.version),
        )

    def _choice(self, index: int, answer: Answer, echoed: _Echoed) -> CompletionChoice:
        logprobs = None
        if self._body.logprobs is not None:
            logprobs = legacy((*echoed.tokens, *answer.logprobs), self._body.logprobs)
        return CompletionChoice(echoed.text + answer.text, index, logprobs, _reason(answer.finish))

    def _usage(self, usages: Sequence[Usage]) -> OpenAIUsage:
        """Each prompt counts once, whatever ``n`` is."""
        parts = [usage_body(usages[i : i + self._n]) for i in range(0, len(usages), self._n)]
        total = parts[0]
        for part in parts[1:]:
            total.prompt_tokens += part.prompt_tokens
            total.completion_tokens += part.completion_tokens
            total.total_tokens += part.total_tokens
            total.prompt_tokens_details.cached_tokens += part.prompt_tokens_details.cached_tokens
        return total

    # ---- what comes before an answer -------------------------------------------------------

    async def _all_echoed(self) -> list[_Echoed]:
        pairs = zip(self._prompts, self._added, strict=True)
        return [await self._echoed(prompt, added) for prompt, added in pairs]

    async def _echoed(self, prompt: Prompt, added: int) -> _Echoed:
        call, body = self._call, self._body
        if not body.echo:
            return _Echoed(tokens_in=0 if self._most else await self._count(prompt))
        if body.logprobs is None:
            text = prompt
            if not isinstance(text, str):
                text = await call.services.detokenize(call.caller, body.model, text[added:])
            return _Echoed(text, tokens_in=0 if self._most else await self._count(prompt))
        tokens, after = await scored(
            call, body.model, prompt, body.logprobs, self._hold, after=self._scores_the_answer()
        )
        count = len(tokens)
        tokens = without_added(tokens, prompt) if isinstance(prompt, str) else tokens[added:]
        text = prompt if isinstance(prompt, str) else text_of(tokens)
        return _Echoed(text, tokens, after, count)

    async def _count(self, prompt: Prompt) -> int:
        return await self._call.services.count(
            self._call.caller, replace(self._request, prompt=prompt)
        )

    def _scores_the_answer(self) -> bool:
        """Whether the answer is the one most likely token, which the scorer knows as well.

        So harnesses that only want to score (one token, temperature 0) load the model once.
        """
        plain = replace(self._request, prompt="", max_tokens=1, logprobs=None, deterministic=False)
        return (
            self._most == 1
            and self._body.temperature == 0
            and plain == Request(model=self._body.model, prompt="", max_tokens=1)
            and all(
                penalty in (None, neutral)
                for penalty, neutral in (
                    (self._body.presence_penalty, 0),
                    (self._body.frequency_penalty, 0),
                    (self._body.repeat_penalty, 1),
                    (self._body.repetition_penalty, 1),
                )
            )
        )

    def _streams(
        self, echoed: Sequence[_Echoed]
    ) -> tuple[list[AsyncGenerator[Event, None]], list[int]]:
        """The streams that are still needed, and the choice each belongs to."""
        streams, owners = [], []
        for index in range(len(self._prompts) * self._n if self._most else 0):
            if echoed[index // self._n].after is None:
                request = replace(
                    self._request,
                    prompt=self._prompts[index // self._n],
                    sampling=sampling(self._body, index % self._n),
                )
                streams.append(self._call.services.stream(self._call.caller, request, self._hold))
                owners.append(index)
        return streams, owners

    # ---- in chunks -------------------------------------------------------------------------

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Server-sent events."""
        body = self._body
        options = body.stream_options
        counted = options is not None and bool(options.include_usage)
        echoed = await self._all_echoed()
        head, tail = self._head(), b',"usage":null}\n\n' if counted else b"}\n\n"
        writers = [
            _CompletionStreamWriter(body, i, head, tail, echoed[i // self._n])
            for i in range(len(self._prompts) * self._n)
        ]
        streams, owners = self._streams(echoed)
        known = sorted(set(range(len(writers))) - set(owners))
        for index in known:
            yield writers[index].all()

        def write(which: int, event: Event) -> bytes:
            return writers[owners[which]].write(event)

        def last() -> bytes:
            if not counted:
                return b""
            total = self._usage([writer.usage for writer in writers])
            return head + b'"choices":[],"usage":' + encode(total) + b"}\n\n"

        merged = multiple_choices.merge(streams) if streams else _nothing()
        async with aclosing(pieces(merged, write, last, begun=bool(known))) as stream:
            async for piece in stream:
                yield piece

    def _head(self) -> bytes:
        return b"".join(
            (
                b'data: {"id":',
                encode(self._id),
                b',"object":"text_completion","created":%d,"model":' % self._created,
                encode(self._body.model),
                b',"system_fingerprint":',
                encode(fingerprint(self._call.services.version)),
                b",",
            )
        )


def _complete(answer: Answer, echoed: _Echoed) -> None:
    """Put into `answer` what no stream was needed for."""
    if answer.finish is not None:
        return
    answer.finish = "length"
    if echoed.after is not None:
        answer.text = echoed.after.token
        answer.logprobs = [echoed.after]
    answer.usage = Usage(echoed.tokens_in, len(answer.logprobs))


def _reason(reason: Any) -> str:
    finish_reason = finish(reason)
    return finish_reason if finish_reason in ("stop", "length", "content_filter") else "stop"


async def _nothing() -> AsyncGenerator[tuple[int, Event], None]:
    return
    yield  # what makes it a generator


class _CompletionStreamWriter:
    """The chunks of one choice."""

    def __init__(
        self, body: CompletionsBody, index: int, head: bytes, tail: bytes, echoed: _Echoed
    ) -> None:
        self._open = head + b'"choices":[{"text":'
        self._told = b',"index":%d,"logprobs":' % index
        self._plain = self._told + b'null,"finish_reason":null}]' + tail
        self._tail = tail
        self._logprobs = body.logprobs
        self._echoed = echoed
        self._held: str | None = None  # text whose log-probabilities come as the next event
        self._offset = 0
        self._begun = not body.echo
        self.usage = Usage(0, 0)

    def write(self, event: Event) -> bytes:
        """The chunks of `event`, none for some."""
        if type(event) is Text and self._logprobs is None and self._begun:
            return self._open + encode(event.text) + self._plain
        if isinstance(event, Routed):  # says nothing yet: what follows may still be an error
            return b""
        before = b"" if self._begun else self._begin()
        if isinstance(event, Text):
            if self._logprobs is None:
                return before + self._open + encode(event.text) + self._plain
            before += self._release()
            self._held = event.text
        elif isinstance(event, Logprobs):
            text, self._held = self._held or "", None
            before += self._chunk(text, event.tokens, None)
        elif isinstance(event, Usage):
            self.usage = event
        elif isinstance(event, Done):
            before += self._release() + self._chunk("", (), _reason(event.finish))
        return before

    def all(self) -> bytes:
        """Everything, where no stream was needed."""
        answer = Answer()
        _complete(answer, self._echoed)
        self.usage = answer.usage
        before = b"" if self._begun else self._begin()
        if answer.text:
            before += self._chunk(answer.text, answer.logprobs, None)
        return before + self._chunk("", (), "length")

    def _begin(self) -> bytes:
        self._begun = True
        return self._chunk(self._echoed.text, self._echoed.tokens, None)

    def _release(self) -> bytes:
        if self._held is None:
            return b""
        text, self._held = self._held, None
        return self._chunk(text, (), None)

    def _chunk(self, text: str, tokens: Sequence[TokenLogprob], reason: str | None) -> bytes:
        logprobs = None
        if self._logprobs is not None and tokens:
            logprobs = legacy(tokens, self._logprobs, self._offset)
        self._offset += len(text)
        return b"".join(
            (
                self._open,
                encode(text),
                self._told,
                encode(logprobs),
                b',"finish_reason":',
                encode(reason),
                b"}]",
                self._tail,
            )
        )
