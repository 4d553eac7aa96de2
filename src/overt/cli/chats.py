"""`overt chats`: conversations of other programs brought in, and taken away again."""

import re
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from overt.cli import saved_chats
from overt.cli.options import verb
from overt.cli.output import Output, plain, table
from overt.errors import BadRequest, NotFound, UsageError
from overt.settings import Settings

if TYPE_CHECKING:
    from overt.conversations.base import Conversation, Lost

_FORMATS = ("chatgpt", "claude", "openai", "sharegpt", "markdown")
_MAX_NAME = 60  # characters of a name made of a title
_DEVICE = re.compile(r"con|prn|aux|nul|(?:com|lpt)[0-9]")  # no names for files on Windows
_EACH = 25  # conversations, after which progress is shown anew
_MAX_KINDS_SHOWN = 20  # kinds of what is left behind


@click.group("chats", short_help="bring conversations in, and take them away", no_args_is_help=True)
def command() -> None:
    """Conversations: those of ChatGPT and Claude become yours, and yours go where you like.

    \b
      overt chats import export.zip        from ChatGPT's or Claude's export
      overt chats list
      overt chats export --to openai -o all.jsonl
      overt chats convert in.json out.jsonl --to sharegpt

    `overt chat`, then `/load NAME`, goes on with one of them on any model.
    """


@command.command("list", short_help="the saved conversations")
@verb
def list_(out: Output, settings: Settings) -> int:
    """The saved conversations."""
    rows = []
    for name in saved_chats.names(settings.home):
        chat = saved_chats.load(settings.home, name)
        rows.append({"name": name, "model": chat.model, "messages": len(chat.messages)})
    if out.json:
        out.object({"chats": rows})
    elif rows:
        cells = [(str(row["name"]), str(row["model"]), str(row["messages"])) for row in rows]
        out.line(table(("name", "model", "messages"), cells))
    else:
        out.note("no conversation is saved: /save NAME in `overt chat`, or `overt chats import`")
    return 0


@command.command("import", short_help="bring in those of a file: ChatGPT's, Claude's …")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--from", "source", type=click.Choice(_FORMATS[:-1]), help="Its format.")
@click.option("--model", metavar="REF", help="The model they go on with; the default without.")
@click.option("--dry-run", is_flag=True, help="Say what would come, and bring nothing.")
@verb
def import_(
    out: Output,
    settings: Settings,
    file: Path,
    source: str | None,
    model: str | None,
    dry_run: bool,
) -> int:
    """Bring in the conversations of FILE: ChatGPT's or Claude's export, OpenAI or ShareGPT JSON.

    Each is saved under a name made of its title. One that is here already, unchanged, is not saved
    twice; nothing that is here is replaced. What has no place here is counted and told.
    """
    from overt.conversations import base

    lost: Lost = Counter()
    out.status(f"reading {file}")
    format, conversations = base.read(file, lost, source or "")
    there = saved_chats.names(settings.home)
    known = {
        (chat.system, chat.messages)
        for chat in map(partial(saved_chats.load, settings.home), there)
    }
    used = dict.fromkeys(map(str.lower, there), 1)  # some disks take A and a for one name
    names: list[str] = []
    for number, conversation in enumerate(conversations, 1):
        if number % _EACH == 0:
            out.status(f"{number} of {len(conversations)} conversations")
        chat = _chat(conversation, model or settings.model)
        if (chat.system, chat.messages) in known:
            continue
        known.add((chat.system, chat.messages))
        name = _free(_slug(conversation.title), used)
        if not dry_run:
            saved_chats.save(settings.home, name, chat, lasting=False)
        names.append(name)
    if names and not dry_run:
        out.status("making them last")
        saved_chats.settle(settings.home)
    out.clear()
    same = len(conversations) - len(names)
    dropped = +lost
    if out.json:
        out.object(
            {
                "format": format,
                "imported": names,
                "unchanged": same,
                "lost": dict(dropped),
                "dry_run": dry_run,
            }
        )
        return 0
    verb_ = "would come in" if dry_run else "came in"
    all_ = len(conversations) + dropped[base.EMPTY]
    out.line(f"{len(names)} of {all_} conversations {verb_} (format: {format})")
    if same:
        out.note(f"{same} were here already, word for word")
    _print_lost(out, dropped)
    return 0


@command.command("export", short_help="write them in another program's format")
@click.argument("names", nargs=-1)
@click.option("--to", "target", type=click.Choice(_FORMATS), required=True, help="The format.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="A file; stdout without.")
@click.option("--replace", is_flag=True, help="Let the file be replaced.")
@verb
def export(
    out: Output,
    settings: Settings,
    names: tuple[str, ...],
    target: str,
    output: Path | None,
    replace: bool,
) -> int:
    """Write the conversations NAMES, or all of them, in another program's format."""
    from overt.conversations import base

    wanted = names or tuple(saved_chats.names(settings.home))
    if not wanted:
        raise NotFound("no conversation is saved", "/save NAME in `overt chat`")
    conversations = [_conversation(name, saved_chats.load(settings.home, name)) for name in wanted]
    lost: Lost = Counter()
    data = base.write(conversations, target, lost)
    _write_output(out, data, output, replace=replace, count=len(conversations), lost=+lost)
    return 0


@command.command("convert", short_help="turn a file of one format into another")
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--from", "source", type=click.Choice(_FORMATS[:-1]), help="The format it is in.")
@click.option("--to", "target", type=click.Choice(_FORMATS), required=True, help="The other one.")
@click.option("--replace", is_flag=True, help="Let the file be replaced.")
@verb
def convert(
    out: Output,
    settings: Settings,
    file: Path,
    output: Path,
    source: str | None,
    target: str,
    replace: bool,
) -> int:
    """Write the conversations of FILE to OUTPUT in another format; nothing is saved here."""
    from overt.conversations import base

    lost: Lost = Counter()
    _, conversations = base.read(file, lost, source or "")
    data = base.write(conversations, target, lost)
    _write_output(out, data, output, replace=replace, count=len(conversations), lost=+lost)
    return 0


def _write_output(
    out: Output, data: bytes, output: Path | None, *, replace: bool, count: int, lost: "Lost"
) -> None:
    from overt.files import atomic

    if output is None:
        if out.json:
            raise UsageError("--json and the file both want stdout", "add -o FILE")
        out.line(data.decode("utf-8", "replace").rstrip("\n"))
        _print_lost(out, lost)
        return
    if output.exists() and not replace:
        raise BadRequest(f"{output} is there already", "add --replace, or choose another name")
    try:
        atomic.write(output.absolute(), data)
    except OSError as error:
        raise BadRequest(
            f"{output} cannot be written: {error.strerror}", "name another file"
        ) from None
    if out.json:
        out.object(
            {"file": str(output), "conversations": count, "bytes": len(data), "lost": dict(lost)}
        )
        return
    count_text = "1 conversation is" if count == 1 else f"{count} conversations are"
    out.line(f"{count_text} in {output} ({len(data)} bytes)")
    _print_lost(out, lost)


def _print_lost(out: Output, lost: "Lost") -> None:
    for what, times in sorted(lost.items())[:_MAX_KINDS_SHOWN]:
        out.note(f"left behind: {plain(what)} ({times})")
    if len(lost) > _MAX_KINDS_SHOWN:
        out.note(f"left behind: {len(lost) - _MAX_KINDS_SHOWN} other kinds (--json shows all)")


def _chat(conversation: "Conversation", model: str) -> saved_chats.SavedChat:
    """As `/save` keeps it: system prompts at the beginning are the chat's own."""
    messages = conversation.messages
    begin = 0
    while begin < len(messages) and messages[begin].role == "system":
        begin += 1
    system = "\n\n".join(message.text for message in messages[:begin])
    return saved_chats.SavedChat(model, "", messages[begin:], system=system or None)


def _conversation(name: str, chat: saved_chats.SavedChat) -> "Conversation":
    from overt.chat import Message
    from overt.conversations.base import Conversation

    first = (Message.of("system", chat.system),) if chat.system else ()
    return Conversation(name, (*first, *chat.messages), id=name, model=chat.model)


def _slug(title: str) -> str:
    """A name for a file: letters and digits of the title, joined by dashes."""
    words = re.findall(r"[A-Za-z0-9]+", title)
    name = "-".join(words)[:_MAX_NAME].strip("-").lower() or "conversation"
    return f"{name}-chat" if _DEVICE.fullmatch(name) else name


def _free(name: str, used: dict[str, int]) -> str:
    """`name`, or with a number behind it, and notes it in `used`: the last number of each."""
    free = name
    while free in used:
        used[name] += 1
        free = f"{name}-{used[name]}"
    used[free] = 1
    return free
