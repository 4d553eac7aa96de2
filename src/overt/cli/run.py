"""`overt run`: one question, one answer, and out."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from overt.chat import Message, Part, Request, TextPart
from overt.cli.options import (
    MAX_SCHEMA_BYTES,
    decode,
    engine_options,
    read_bytes,
    read_schema,
    read_text,
    sampling_options,
    take_sampling,
    verb,
)
from overt.cli.output import Output, is_terminal
from overt.errors import BadRequest, ModelNotFound, UsageError
from overt.settings import Settings

if TYPE_CHECKING:
    from overt.cli.usage_report import Account
    from overt.evaluation.timing import TimedAnswer
    from overt.gateway.exchange import ModelFacts

_MAX_IMAGE_BYTES = 64 << 20
_MAX_PROMPT_BYTES = 64 << 20
_PATIENCE = 2.0  # seconds before saying that piped text is still awaited


def request_options(function: Any) -> Any:
    """Options of one request, shared by run and chat."""
    for option in (
        click.option("--hide-thinking", is_flag=True, help="Leave the model's reasoning out."),
        click.option("--think/--no-think", default=None, help="Ask it to reason first, or not."),
        click.option("--deterministic", is_flag=True, help="Same text whatever else is running."),
        click.option("--grammar", metavar="FILE", help="Hold the answer to a GBNF grammar."),
        click.option("--schema", metavar="FILE|JSON", help="Hold the answer to a JSON Schema."),
        click.option("--system", metavar="TEXT", help="Instructions before the conversation."),
    ):
        function = option(function)
    return engine_options(sampling_options(function))


@click.command("run", short_help="ask a model once and print its answer")
@click.argument("ref", required=False)
@click.argument("prompt", nargs=-1)
@click.option("--image", "images", multiple=True, metavar="FILE", help="Show it an image too.")
@click.option("--raw", is_flag=True, help="Continue the text as it stands, without a template.")
@click.option("--logprobs", type=click.IntRange(0, 20), metavar="N", help="N alternatives a token.")
@click.option("--stats", is_flag=True, help="Figures on stderr after the answer.")
@click.option("--no-pull", is_flag=True, help="Fail when the model is not in the store.")
@request_options
@verb
def command(
    out: Output,
    settings: Settings,
    ref: str | None,
    prompt: tuple[str, ...],
    images: tuple[str, ...],
    raw: bool,
    stats: bool,
    no_pull: bool,
    hide_thinking: bool,
    **options: Any,
) -> int:
    """Ask REF one question and print its answer as it comes.

    PROMPT is the rest of the line. Text piped in comes before it, with an empty line between:

        overt run smollm2 "Summarise this." < notes.txt

    REF may also be a model that runs elsewhere (openai:gpt-…, http://HOST/v1#MODEL) or an alias of
    yours; `overt help refs` has all forms. A model that is not in the store is pulled first.
    Without a prompt, on a terminal, `overt chat` starts instead.
    """
    from overt.runtime import cpu  # noqa: F401 - from here it watches how busy the cores are

    ref = ref or settings.model
    if " " in ref and not prompt:
        raise UsageError(
            f"{ref[:40]!r} is not the name of a model",
            f"name one first: overt run {settings.model} …",
        )
    text = _prompt(prompt, out)
    if text is None:
        if raw or images or out.json:
            raise UsageError("there is no prompt", f'write one: overt run {ref} "Hello"')
        from overt.cli.chat import talk

        request = build_request(ref, (), options)
        return talk(
            request, out, settings, stats=stats, pull=not no_pull, thoughts=not hide_thinking
        )
    if raw and (options.get("system") or images):
        raise UsageError("--raw takes neither --system nor --image", "leave --raw out")
    system = options.get("system")
    messages: tuple[Message, ...] = (Message("user", (*map(_image, images), TextPart(text))),)
    if system:
        messages = (Message.of("system", system), *messages)
    request = build_request(ref, () if raw else messages, options, prompt=text if raw else None)
    timed, facts, first = answer_request(
        request, out, settings, pull=not no_pull, show_thinking=not hide_thinking
    )
    usage = None
    if out.json or stats:
        from overt.cli.usage_report import account

        usage = account(ref, timed, settings)
    _report(out, facts, timed, first, usage)
    return 0


def build_request(
    ref: str, messages: tuple[Message, ...], options: dict[str, Any], prompt: str | None = None
) -> Request:
    """The request the flags describe.

    Raises:
        BadRequest: a schema or grammar that cannot be read, or both.
    """
    schema, grammar = options.get("schema"), options.get("grammar")
    if schema and grammar:
        raise BadRequest("--schema and --grammar were both given", "give one of the two")
    rest = dict(options)
    return Request(
        ref,
        messages,
        prompt=prompt,
        sampling=take_sampling(rest),
        max_tokens=rest["max_tokens"],
        stop=tuple(rest["stop"]),
        json_schema=read_schema(schema) if schema else None,
        grammar=read_text(Path(grammar), "--grammar", MAX_SCHEMA_BYTES) if grammar else None,
        logprobs=rest.get("logprobs"),
        thinking=rest["think"],
        deterministic=rest["deterministic"],
    )


def answer_request(
    request: Request, out: Output, settings: Settings, *, pull: bool, show_thinking: bool
) -> tuple["TimedAnswer", "ModelFacts", float | None]:
    """Answer `request`; pull the model first where it is missing and `pull` allows it.

    Returns the answer, the facts of what answered, and seconds from the start of this process to
    the first token (time spent pulling left out).
    """
    import asyncio

    from overt.cli.answer import answer, since_start
    from overt.cli.usage_report import answering, prepare
    from overt.gateway.exchange import Exchange

    async def once() -> tuple["TimedAnswer", "ModelFacts"]:
        exchange = Exchange(settings, out.note)
        try:
            out.status(f"loading {request.model}")
            facts = await prepare(exchange, request.model)
            if request.thinking and facts.engine != "route":
                engine = await exchange.open(request.model)
                if not engine.capabilities.thinking:
                    out.note("this model has no way to reason apart from its answer")
            timed = await answer(exchange, request, out, show_thinking=show_thinking)
            return timed, answering(exchange, facts, timed)
        finally:
            out.clear()
            await exchange.close()

    pulling = 0.0
    try:
        timed, facts = asyncio.run(once())
    except ModelNotFound as error:
        from overt.cli.pull import fetch

        pulling = fetch(request.model, settings, out, error, allowed=pull)
        timed, facts = asyncio.run(once())
    if timed.first is None:
        return timed, facts, None
    import time

    return timed, facts, since_start() - (time.monotonic() - timed.first) - pulling


def _report(
    out: Output,
    facts: "ModelFacts",
    timed: "TimedAnswer",
    first: float | None,
    account: "Account | None",
) -> None:
    from overt.cli.answer import figures, record

    if out.json and account:
        out.object(record(facts, timed, first, account))
        return
    if timed.answer.finish == "length":
        out.note("(ended by --max-tokens or a full context)")
    if timed.answer.logprobs:
        from overt.cli.output import table

        rows = [
            (
                repr(token.token),
                f"{token.logprob:.4f}",
                "  ".join(f"{text!r} {value:.4f}" for text, value in token.top),
            )
            for token in timed.answer.logprobs
        ]
        out.note(table(("token", "logprob", "likeliest"), rows))
    if account:
        out.note(figures(facts, timed, first, account))


def _prompt(words: tuple[str, ...], out: Output) -> str | None:
    """The prompt from the command line and from a pipe; None where there is neither."""
    typed = " ".join(words)
    piped = _piped(out, waiting=bool(typed)).rstrip("\n")
    text = "\n\n".join(part for part in (piped, typed) if part.strip())
    if text:
        return text
    if words or not is_terminal(sys.stdin):
        raise UsageError("the prompt is empty", 'write one: overt run smollm2 "Hello"')
    return None


def _piped(out: Output, *, waiting: bool) -> str:
    """What another program or a file feeds to stdin; empty where stdin is neither."""
    import os
    import stat

    try:
        descriptor = sys.stdin.fileno()
        mode = os.fstat(descriptor).st_mode
    except (AttributeError, OSError, ValueError):  # no stdin at all
        return ""
    if not (stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)):
        return ""
    if waiting and os.name == "posix" and not stat.S_ISREG(mode):
        import select

        if not select.select([descriptor], [], [], _PATIENCE)[0]:
            out.note("waiting for the text piped in on stdin (add < /dev/null if there is none)")
    data = sys.stdin.buffer.read(_MAX_PROMPT_BYTES + 1)
    if len(data) > _MAX_PROMPT_BYTES:
        raise BadRequest(f"more than {_MAX_PROMPT_BYTES} bytes were piped in", "pipe in less")
    return decode(data, "the text piped in")


def _image(name: str) -> Part:
    from overt.cli.answer import image_part

    part: Part = image_part(read_bytes(Path(name), "--image", _MAX_IMAGE_BYTES), name)
    return part
