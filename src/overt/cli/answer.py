"""One answer on the command line: its pieces as they come, then its record and its figures."""

import os
import time
from typing import TYPE_CHECKING

from overt.chat import Answer, ImagePart, Progress, Request, Text, Thought
from overt.cli.output import Output, duration
from overt.errors import BadRequest
from overt.evaluation.timing import UNCOUNTED, TimedAnswer, is_measurable, read
from overt.protocols.failure import error_of

if TYPE_CHECKING:
    from overt.cli.usage_report import Account
    from overt.gateway.exchange import Exchange, ModelFacts

_LONG_PROMPT = 512  # tokens from which reading a prompt takes long enough to be worth a word


async def answer(
    exchange: "Exchange",
    request: Request,
    out: Output,
    *,
    show_thinking: bool = True,
    timed: TimedAnswer | None = None,
) -> TimedAnswer:
    """Stream one answer to `out` (nothing is shown with --json) and return it.

    `timed` is filled as events come, so that a cancelled answer's part is not lost.

    Raises:
        OvertError: whatever the engine raised; also half-way, after the text so far was shown.
    """
    timed = timed or TimedAnswer()

    def show(event: object) -> None:
        _show(event, out, show_thinking=show_thinking)

    await read(exchange, request, timed, None if out.json else show)
    if not out.json:
        out.end_line()
    if timed.answer.failed is not None:
        raise error_of(timed.answer.failed)
    return timed


def _show(event: object, out: Output, *, show_thinking: bool) -> None:
    match event:
        case Text(text):
            out.piece(text)
        case Thought(text):
            if show_thinking and out.remarks:
                out.thought(text)
        case Progress(done, total):
            if total >= _LONG_PROMPT and done < total:
                out.status(f"reading the prompt: {done} of {total} tokens")
        case _:
            pass


def record(
    facts: "ModelFacts",
    timed: TimedAnswer,
    seconds_to_first_token: float | None,
    account: "Account",
) -> dict[str, object]:
    """The object `overt run --json` prints. The first nine keys are a contract."""
    answer, usage = timed.answer, timed.answer.usage
    first = None if seconds_to_first_token is None else round(seconds_to_first_token, 3)
    counted = account.routed is None or is_measurable(
        answer
    )  # a model of this machine always counts
    value: dict[str, object] = {
        "model": facts.ref,
        "digest": facts.digest,
        "text": answer.text,
        "tokens_in": usage.tokens_in if counted else None,
        "tokens_out": usage.tokens_out if counted else None,
        "seconds_to_first_token": first,
        "tokens_per_second": timed.tokens_per_second,
        "finish": answer.finish,
        "engine": facts.engine,
        "build": facts.build,
        "context": facts.context,
        "threads": facts.threads.decode if facts.threads else None,
        "prompt_threads": facts.threads.prompt if facts.threads else None,
        "isolation": list(facts.isolation),
        "isolation_missing": list(facts.missing),
        "tokens_cached": usage.tokens_cached,
        "tokens_thought": usage.tokens_thought,
        **account.as_json(),
    }
    if answer.thought:
        value["thinking"] = answer.thought
    if answer.tool_calls:
        value["tool_calls"] = [
            {"id": call.id, "name": call.name, "arguments": call.arguments}
            for call in answer.tool_calls
        ]
    if answer.logprobs:
        value["logprobs"] = logprobs(answer)
    return value


def logprobs(answer: Answer) -> list[dict[str, object]]:
    """Each token with its natural log-probability and its likeliest alternatives, best first."""
    return [
        {
            "token": token.token,
            "logprob": token.logprob,
            "top": [{"token": text, "logprob": value} for text, value in token.top],
        }
        for token in answer.logprobs
    ]


def figures(
    facts: "ModelFacts",
    timed: TimedAnswer,
    seconds_to_first_token: float | None,
    account: "Account",
) -> str:
    """The line of --stats."""
    usage = timed.answer.usage
    speed = timed.tokens_per_second
    read = usage.tokens_in - usage.tokens_cached
    parts = [
        f"{usage.tokens_in} tokens in"
        + (f" ({usage.tokens_cached} reused)" if usage.tokens_cached else ""),
        f"{usage.tokens_out} out ({timed.answer.finish or 'stopped'})"
        + (f", {usage.tokens_thought} of them reasoning" if usage.tokens_thought else ""),
    ]
    if account.routed is not None and not is_measurable(timed.answer):
        parts = [f"{UNCOUNTED} ({timed.answer.finish or 'stopped'})"]
    if seconds_to_first_token is not None:
        parts.append(f"first token after {duration(seconds_to_first_token)}")
    if usage.prompt_seconds > 0:
        parts.append(f"prompt {read / usage.prompt_seconds:.0f} tokens/s")
    if speed is not None:
        parts.append(f"answer {speed:.1f} tokens/s")
    return "; ".join([*parts, where(facts), *account.figures()])


def where(facts: "ModelFacts") -> str:
    """Which engine answers, and how it is shut in."""
    engine = facts.shown
    if facts.threads:
        decode, prompt = facts.threads.decode, facts.threads.prompt
        engine += f", {decode} thread{'s' if decode > 1 else ''}"
        engine += f" ({prompt} for the prompt)" if prompt != decode else ""
    if facts.context:
        engine += f", context {facts.context}"
    if facts.isolation:
        engine += f", isolated by {' + '.join(facts.isolation)}"
    return engine


def since_start() -> float:
    """Seconds since the system started this process, interpreter start-up included."""
    try:
        with open("/proc/self/stat", "rb") as file:  # noqa: PTH123 - on the way to the first token
            after_name = file.read().rpartition(b")")[2].split()
        ticks = int(after_name[19])  # field 22 of proc_pid_stat(5), in ticks since boot
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        import psutil

        return max(0.0, time.time() - psutil.Process().create_time())


def image_part(data: bytes, name: str) -> "ImagePart":
    """An image for a message, its kind told by its first bytes.

    Raises:
        BadRequest: not PNG, JPEG, WebP or GIF.
    """
    image = ImagePart.of(data)
    if image is None:
        raise BadRequest(f"{name} is not an image this can read", "give PNG, JPEG, WebP or GIF")
    return image
