"""The commands of a chat: what begins with a slash."""

import shlex
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from overt.chat import Sampling
from overt.cli.answer import where
from overt.cli.line_editor import LineReader
from overt.cli.options import RANGES, read_bytes
from overt.cli.output import number, pairs, size
from overt.cli.session import Session
from overt.errors import BadSetting, ModelNotFound, UsageError
from overt.settings import load

_MAX_IMAGE_BYTES = 64 << 20
_SAMPLING = {field.name for field in fields(Sampling)}


class LeaveChat(Exception):
    """The person wants to leave the chat."""


@dataclass(frozen=True)
class Commands:
    """Carries out what begins with a slash."""

    session: Session
    reader: LineReader

    async def run(self, line: str) -> None:
        """Carry out one command.

        Raises:
            Leave: /bye. OvertError: the command is unknown or failed.
        """
        name, _, rest = line.strip().partition(" ")
        if name not in COMMANDS:
            raise UsageError(f"there is no command {name[:40]!r}", _nearest(name))
        await COMMANDS[name].run(self, rest.strip())

    def tell(self, text: str, about: str) -> None:
        """Show something that was asked for."""
        self.session.out.result({"about": about, "text": text}, lambda: text, lambda: text)

    # ---- talking

    async def help(self, _: str) -> None:
        self.tell(HELP, "help")

    async def bye(self, _: str) -> None:
        raise LeaveChat

    async def undo(self, _: str) -> None:
        self.session.undo()
        self.session.out.note("(the last question and its answer are forgotten)")

    async def retry(self, _: str) -> None:
        await self.session.retry()

    async def clear(self, _: str) -> None:
        self.session.clear()
        self.session.out.note("(every message is forgotten; system prompt and parameters stay)")

    async def image(self, name: str) -> None:
        from overt.cli.answer import image_part

        if not name:
            raise UsageError("/image needs a file", "/image photo.png, then ask")
        if name == "none":
            count = self.session.blind()
            count_text = "1 image is" if count == 1 else f"{count} images are"
            self.session.out.note(f"({count_text} left out from now on)")
            return
        # A path dragged into a terminal arrives quoted.
        path = shlex.split(name)[0] if name[0] in "'\"" else name
        part = image_part(read_bytes(Path(path), "/image", _MAX_IMAGE_BYTES), path)
        self.session.images.append(part)
        self.session.out.note(f"({path} goes with the next question)")

    # ---- the model and its parameters

    async def system(self, text: str) -> None:
        if text:
            self.session.system = text
            self.session.out.note("(system prompt set; '/set system none' removes it)")
        else:
            await self.show("system")

    async def model(self, ref: str) -> None:
        if not ref:
            await self.show("model")
            return
        from overt.models.pull import find
        from overt.ref import parse

        session = self.session
        target = session.exchange.resolve(ref)
        if isinstance(target, str) and not (parse(target).remote or target.startswith("echo:")):
            try:
                find(target, session.settings)
            except ModelNotFound as error:
                self._fetch(ref, error)
        await session.open(ref, session.settings)
        there = f": {session.facts.shown}" if session.exchange.leads_away(ref) else ""
        session.out.note(f"({ref} answers from now on{there})")
        session.tell_where()

    def _fetch(self, ref: str, missing: ModelNotFound) -> None:
        from overt.cli.pull import fetch

        session = self.session
        session.blocked = True
        try:
            fetch(ref, session.settings, session.out, missing, allowed=True)
        finally:
            session.blocked = False

    async def set(self, text: str) -> None:
        name, _, value = text.removeprefix("parameter ").strip().partition(" ")
        name, value = name.replace("-", "_"), value.strip()
        if name in RANGES:
            self._set_number(name, value)
        elif name in SETTERS:
            await SETTERS[name](self, value)
        else:
            known = ", ".join([*RANGES, *SETTERS])
            raise UsageError(f"there is no parameter {name[:40]!r}", f"/set takes: {known}")

    def _set_number(self, name: str, value: str) -> None:
        chosen = number_of(name, value)
        if name in _SAMPLING:
            values = {**asdict(self.session.request.sampling), name: chosen}
            self.session.change(sampling=Sampling(**values))
        else:
            self.session.change(**{name: chosen})
        self.session.out.note(f"({name} is {'the default' if chosen is None else f'{chosen:g}'})")

    async def set_system(self, text: str) -> None:
        self.session.system = None if text in ("", "none") else text
        self.session.out.note("(system prompt " + ("set)" if self.session.system else "removed)"))

    async def set_stop(self, text: str) -> None:
        stops = () if text in ("", "none") else tuple(shlex.split(text))
        self.session.change(stop=stops)
        self.session.out.note(f"(stop is {' '.join(map(repr, stops)) or 'off'})")

    async def set_context(self, text: str) -> None:
        await self._reload("context", text)

    async def set_threads(self, text: str) -> None:
        await self._reload("threads", text)

    async def _reload(self, name: str, text: str) -> None:
        if not text.isascii() or not text.isdigit() or len(text) > 9:
            raise BadSetting(f"{name} is {text[:40]!r}", f"give a whole number: /set {name} 4096")
        session = self.session
        if session.exchange.leads_away(session.request.model):
            raise UsageError(
                f"{session.request.model} runs elsewhere and is not loaded here",
                f"/set {name} is for models of this machine",
            )
        flags = {f.name: getattr(session.settings, f.name) for f in fields(session.settings)}
        chosen = load(flags={**flags, name: int(text)})
        await session.open(session.request.model, chosen)
        session.out.note(f"({name} is set: {where(session.facts)})")

    async def set_think(self, _: str) -> None:
        self.session.change(thinking=True)
        self.session.out.note("(the model is asked to reason first)")

    async def set_nothink(self, _: str) -> None:
        self.session.change(thinking=False)
        self.session.out.note("(the model is asked not to reason first)")

    async def set_verbose(self, _: str) -> None:
        self.session.stats = True
        self.session.out.note("(figures after every answer)")

    async def set_quiet(self, _: str) -> None:
        self.session.stats = False
        self.session.out.note("(no figures)")

    async def set_history(self, _: str) -> None:
        self.reader.remember(True)
        self.session.out.note("(what you type is kept in the history file)")

    async def set_nohistory(self, _: str) -> None:
        self.reader.remember(False)
        self.session.out.note("(what you type is not kept)")

    # ---- looking

    async def show(self, what: str) -> None:
        topics: dict[str, Callable[[], str]] = {
            "info": self._info,
            "template": lambda: self._header().chat_template or "(no template)",
            "license": self._licence,
            "licence": self._licence,
            "parameters": self._parameters,
            "system": lambda: self.session.system or "(no system prompt)",
            "model": lambda: self.session.request.model,
        }
        if what not in topics:
            raise UsageError(
                f"there is nothing to show under {what[:40]!r}", f"/show takes: {', '.join(topics)}"
            )
        text = topics[what]()
        self.tell(text, what)

    def _info(self) -> str:
        session, facts = self.session, self.session.facts
        header = self._header() if self._file() else None
        return pairs(
            {
                "model": facts.ref,
                "digest": facts.digest or None,
                "architecture": header and header.architecture,
                "parameters": header and number(header.parameters),
                "file": header and size(header.file_size),
                "bits per weight": header and f"{header.bits_per_weight:.2f}",
                "stands for": self._stands_for(),
                "engine": facts.shown,
                "threads": facts.threads and facts.threads.decode,
                "context": facts.context or None,
                "isolation": ", ".join(facts.isolation) or None,
                "not in force": "; ".join(facts.missing) or None,
                "messages": len(session.messages),
            }
        )

    def _parameters(self) -> str:
        request = self.session.request
        parameters: dict[str, object] = {
            name: getattr(request.sampling if name in _SAMPLING else request, name)
            for name in RANGES
        }
        parameters |= {
            "stop": " ".join(map(repr, request.stop)) or None,
            "think": request.thinking,
            "context": self.session.facts.context or None,
        }
        return pairs(parameters) or "(all are the model's defaults)"

    def _licence(self) -> str:
        from overt.cli.show import licence_text

        return licence_text(self._needed_file(), self.session.settings)

    def _stands_for(self) -> str | None:
        name, exchange = self.session.request.model, self.session.exchange
        target = exchange.resolve(name)
        if isinstance(target, str):
            return target if target != name else None
        return f"a route; {exchange.first(name)} is asked first"

    def _file(self) -> str:
        """The ref of what answers, where that has a file on this machine; else ""."""
        from overt.ref import parse

        target = self.session.exchange.resolve(self.session.request.model)
        if not isinstance(target, str):
            return ""
        ref = parse(target)
        return "" if ref.remote or ref.scheme == "echo" else target

    def _needed_file(self) -> str:
        """As `_file`. Raises UsageError where there is none."""
        ref, facts = self._file(), self.session.facts
        if not ref:
            why = "echo is built in" if facts.engine == "echo" else f"{facts.ref} runs elsewhere"
            why = f"{facts.ref} is a route" if facts.engine == "route" else why
            raise UsageError(f"{why} and has no file", "choose a model: /model smollm2")
        return ref

    def _header(self) -> Any:
        from overt.formats import gguf
        from overt.models.pull import find

        return gguf.read(find(self._needed_file(), self.session.settings).weights)

    # ---- keeping

    async def save(self, name: str) -> None:
        from overt.cli.saved_chats import SavedChat, save

        session, request = self.session, self.session.request
        chat = SavedChat(
            model=request.model,
            digest=session.facts.digest,
            messages=tuple(session.messages),
            system=session.system,
            sampling=request.sampling,
            max_tokens=request.max_tokens,
            stop=request.stop,
            thinking=request.thinking,
        )
        path = save(session.settings.home, _help_line(name, "save"), chat)
        session.out.note(f"(saved in {path})")

    async def load(self, name: str) -> None:
        from overt.cli import saved_chats

        session = self.session
        if not name:
            there = saved_chats.names(session.settings.home)
            self.tell("\n".join(there) or "(nothing is saved yet: /save NAME)", "chats")
            return
        chat = saved_chats.load(session.settings.home, name)
        session.clear()
        session.messages.extend(chat.messages)
        session.system = chat.system
        session.change(
            sampling=chat.sampling,
            max_tokens=chat.max_tokens,
            stop=chat.stop,
            thinking=chat.thinking,
        )
        session.out.note(f"({len(chat.messages)} messages of {name} are back)")
        if chat.model != session.request.model:
            session.out.note(f"(they were with {chat.model}: /model {chat.model} goes on with it)")
        elif chat.digest and chat.digest != session.facts.digest:
            session.out.note(f"(they were with another {chat.model}: {chat.digest})")


def number_of(name: str, text: str) -> float | int | None:
    """A parameter's value as typed; ``default`` (or nothing) is None.

    Raises:
        BadSetting: not a number, or out of range.
    """
    if text in ("", "default", "none"):
        return None
    kind, low, high, _ = RANGES[name]
    try:
        value = kind(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        whole = "a whole number" if kind is int else "a number"
        raise BadSetting(
            f"{name} is {text[:40]!r}", f"it is {whole} from {low:.10g} to {high:.10g}"
        )
    return value


def _help_line(name: str, command: str) -> str:
    if not name:
        raise UsageError(f"/{command} needs a name", f"/{command} monday")
    return name


def _nearest(word: str) -> str:
    import difflib

    near = difflib.get_close_matches(word, COMMANDS, n=2, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return "/help lists the commands; a blank before the slash sends the line to the model"


@dataclass(frozen=True)
class SlashCommand:
    run: Callable[[Commands, str], Awaitable[None]]
    usage: str
    help: str


SETTERS: dict[str, Callable[[Commands, str], Awaitable[None]]] = {
    "stop": Commands.set_stop,
    "system": Commands.set_system,
    "context": Commands.set_context,
    "threads": Commands.set_threads,
    "think": Commands.set_think,
    "nothink": Commands.set_nothink,
    "verbose": Commands.set_verbose,
    "quiet": Commands.set_quiet,
    "history": Commands.set_history,
    "nohistory": Commands.set_nohistory,
}

COMMANDS: dict[str, SlashCommand] = {
    "/set": SlashCommand(
        Commands.set, "/set NAME VALUE", "a parameter, below; 'default' resets it"
    ),
    "/show": SlashCommand(
        Commands.show, "/show WHAT", "info template parameters license system model"
    ),
    "/system": SlashCommand(
        Commands.system, "/system TEXT", "instructions before the conversation"
    ),
    "/model": SlashCommand(Commands.model, "/model REF", "go on with another model"),
    "/image": SlashCommand(Commands.image, "/image FILE", "seen next; /image none leaves all out"),
    "/undo": SlashCommand(Commands.undo, "/undo", "forget the last question and its answer"),
    "/retry": SlashCommand(Commands.retry, "/retry", "ask the last question again"),
    "/clear": SlashCommand(Commands.clear, "/clear", "forget every message"),
    "/save": SlashCommand(Commands.save, "/save NAME", "keep this conversation"),
    "/load": SlashCommand(Commands.load, "/load [NAME]", "bring one back, or list them"),
    "/help": SlashCommand(Commands.help, "/help", "this page"),
    "/bye": SlashCommand(Commands.bye, "/bye", "leave (so does Ctrl-D)"),
}
HELP = "\n".join(
    [
        *(f"  {command.usage:<17}{command.help}" for command in COMMANDS.values()),
        "",
        "  /set takes " + " ".join(list(RANGES)[:7]),
        "             " + " ".join(list(RANGES)[7:]),
        "             " + " ".join(list(SETTERS)[:6]),
        "             " + " ".join(list(SETTERS)[6:]),
        "",
        '  """ begins a text of several lines and ends it. Alt-Enter adds a line.',
        "  Ctrl-C stops the answer. Ctrl-D leaves.",
    ]
)
COMMANDS |= {"/?": COMMANDS["/help"], "/exit": COMMANDS["/bye"], "/quit": COMMANDS["/bye"]}
