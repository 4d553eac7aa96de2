"""`overt chat`: a conversation in turns."""

import asyncio
import sys
from typing import Any

import click

from overt.chat import Request
from overt.cli.answer import where
from overt.cli.line_editor import LineReader, choose, read
from overt.cli.options import verb
from overt.cli.output import Output, is_terminal
from overt.cli.run import build_request, request_options
from overt.cli.session import Session, interruptible
from overt.cli.slash import COMMANDS, Commands, LeaveChat
from overt.errors import ModelNotFound, OvertError
from overt.settings import Settings


@click.command("chat", short_help="talk with a model in turns")
@click.argument("ref", required=False)
@click.option("--stats", is_flag=True, help="Figures on stderr after every answer.")
@click.option("--no-pull", is_flag=True, help="Fail when the model is not in the store.")
@request_options
@verb
def command(
    out: Output,
    settings: Settings,
    ref: str | None,
    stats: bool,
    no_pull: bool,
    hide_thinking: bool,
    **options: Any,
) -> int:
    """Talk with REF (or the default model) in turns.

    REF may also be a model that runs elsewhere (openai:gpt-…, http://HOST/v1#MODEL) or an alias of
    yours; /model REF goes on with another.

    /help lists the commands of the conversation. Ctrl-C stops an answer, Ctrl-D leaves. When stdin
    is not a terminal its lines are the questions, and --json prints one object an answer.
    """
    request = build_request(ref or settings.model, (), options)
    return talk(
        request,
        out,
        settings,
        system=options.get("system"),
        stats=stats,
        pull=not no_pull,
        thoughts=not hide_thinking,
    )


def talk(
    request: Request,
    out: Output,
    settings: Settings,
    *,
    system: str | None = None,
    stats: bool,
    pull: bool,
    thoughts: bool,
) -> int:
    """Hold a conversation; `request` carries the model and the parameters.

    Returns the exit status: 0, or that of the first error where no person was there to see it.
    """

    async def hold() -> int:
        from overt.gateway.exchange import Exchange

        exchange = Exchange(settings, out.note)
        session = Session(
            out,
            settings,
            request,
            exchange,
            system=system,
            stats=stats,
            thoughts=thoughts,
            person=is_terminal(sys.stdin),
        )
        try:
            out.status(f"loading {request.model}")
            # The worker is started first and loads while the line editor is imported.
            loading = asyncio.ensure_future(session.begin())
            await asyncio.sleep(0)
            reader = choose(settings.home / "history", _words(), json=out.json)
            await loading
            out.clear()
            with interruptible(session):
                return await _converse(session, reader)
        finally:
            out.clear()
            await session.exchange.close()

    try:
        return asyncio.run(hold())
    except ModelNotFound as error:
        from overt.cli.pull import fetch

        fetch(request.model, settings, out, error, allowed=pull)
        return asyncio.run(hold())


async def _converse(session: Session, reader: LineReader) -> int:
    commands, person = Commands(session, reader), session.person
    if person:
        session.out.note(f"{session.request.model} ({where(session.facts)})")
        session.tell_where()
        session.out.note("/help lists the commands, Ctrl-D leaves")
    status, line = 0, None
    while True:
        try:
            line = await read(reader)
            if line is None:
                break
            await _handle_line(line, session, commands)
        except LeaveChat:
            break
        except OvertError as error:
            session.out.error(error)
            if person and session.unanswered and line and not line.startswith("/"):
                session.out.note("(your question is kept: /retry asks it again)")
            status = status or error.exit_code
        except KeyboardInterrupt:
            if not person:
                raise
            session.out.note("(Ctrl-D or /bye leaves)")
    return 0 if person else status


async def _handle_line(line: str, session: Session, commands: Commands) -> None:
    if line.startswith("/"):
        await session.do(commands.run(line))
    elif line.strip():
        await session.do(session.say(line))


def _words() -> list[str]:
    from overt.cli.options import RANGES
    from overt.cli.slash import SETTERS

    return [*COMMANDS, *(f"/set {name}" for name in (*RANGES, *SETTERS))]
