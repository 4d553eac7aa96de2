"""`overt serve`: answer programs over HTTP, or let other machines take models from this one."""

import os
import sys
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from overt.cli.options import engine_options, verb
from overt.cli.output import Mode, Output, duration, size
from overt.errors import BadRef, BadSetting
from overt.settings import Settings

if TYPE_CHECKING:
    from overt.server.app import ListenAddress, RequestSummary
    from overt.server.logs import Kind

_KEPT = ("OVERT_MIRROR_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE", "SSL_CERT_FILE")
_TELEMETRY = "OTEL_"
_LOGS: "dict[Mode, Kind]" = {"json": "json", "human": "text", "quiet": "off"}


@dataclass(frozen=True, slots=True)
class Flags:
    """What is to be served, and how."""

    mirror: bool
    host: str
    port: int
    token: str | None
    names: tuple[str, ...]
    origins: tuple[str, ...]
    certificate: Path | None
    key: Path | None
    require_key: bool
    preload: tuple[str, ...]
    registries: tuple[str, ...]
    providers: bool
    log: "Kind | None"

    def listen(self) -> "ListenAddress":
        from overt.server.app import ListenAddress

        return ListenAddress(self.host, self.port, self.certificate, self.key)


@click.command("serve", short_help="answer programs over HTTP, or be a mirror")
@click.option("--host", default="127.0.0.1", metavar="ADDRESS", help="Address to listen on.")
@click.option("--port", default=11435, type=click.IntRange(0, 65535), help="0 is any free one.")
@click.option("--name", "names", multiple=True, metavar="HOST", help="A host name it answers to.")
@click.option(
    "--origin",
    "origins",
    multiple=True,
    metavar="URL",
    help="Web pages of this origin may ask it too (CORS).",
)
@click.option("--certificate", type=click.Path(path_type=Path), help="PEM file, for https.")
@click.option("--key", type=click.Path(path_type=Path), help="The certificate's key, PEM.")
@click.option("--require-key", is_flag=True, help="Ask for a key on this machine too.")
@click.option(
    "--providers",
    is_flag=True,
    help="Clients of other machines may name models of providers too, which you pay for.",
)
@click.option("--preload", multiple=True, metavar="REF", help="Have this model in memory at once.")
@click.option(
    "--registry",
    "registries",
    multiple=True,
    metavar="HOST",
    help="Clients with a key may name this registry, even if it is in a private network.",
)
@click.option(
    "--log",
    type=click.Choice(["json", "text", "off"]),
    help="A line for each request, on stderr; json where --json is given, else text.",
)
@click.option("--install", is_flag=True, help="Start it with this machine, as asked for here.")
@click.option("--uninstall", is_flag=True, help="Do not start it with this machine any more.")
@click.option("--mirror", is_flag=True, help="Offer the models of the store for pulling instead.")
@click.option(
    "--token",
    metavar="TEXT",
    envvar="OVERT_MIRROR_TOKEN",
    help="With --mirror: what clients must send, beyond this machine (OVERT_MIRROR_TOKEN).",
)
@engine_options
@verb
@click.pass_context
def command(
    context: click.Context,
    /,
    out: Output,
    settings: Settings,
    *,
    install: bool,
    uninstall: bool,
    **options: Any,
) -> int:
    """Answer the protocols of OpenAI, Anthropic, Gemini, Ollama and LM Studio until SIGTERM.

    \b
      export OPENAI_BASE_URL=http://127.0.0.1:11435/v1
      overt serve --port 11434          stands in for Ollama
      overt serve --host 0.0.0.0        for other machines: needs a key, see `overt keys add`

    On this machine no key is needed. Models are loaded when they are asked for. A signal lets
    running answers end, for 30 s at most; a second one ends it at once. docs/serve.md has more.

    With --mirror it offers the models of the store to other machines instead, by the protocols of
    a hub and of a registry (docs/transfer.md):

    \b
      HF_ENDPOINT=http://127.0.0.1:11435 overt pull hf:owner/repo
      overt pull oci:127.0.0.1:11435/smollm2
    """
    flags = Flags(**options)
    _check(flags, install and uninstall)
    if uninstall:
        return _uninstall(out)
    if install:
        return _install(out, settings, flags, _words(context))
    return _mirror(out, settings, flags) if flags.mirror else _api(out, settings, flags)


def _check(flags: Flags, both: bool) -> None:
    if both:
        raise BadSetting("--install and --uninstall cannot both be meant", "give one of them")
    if bool(flags.certificate) != bool(flags.key):
        raise BadSetting("TLS needs a certificate and its key", "give --certificate and --key both")
    only = {
        "--origin": flags.origins,
        "--require-key": flags.require_key,
        "--preload": flags.preload,
        "--registry": flags.registries,
        "--providers": flags.providers,
    }
    if flags.mirror and (wrong := [name for name, value in only.items() if value]):
        raise BadSetting(f"{wrong[0]} means nothing to a mirror", "leave it out, or --mirror")
    if flags.token and not flags.mirror and not os.environ.get("OVERT_MIRROR_TOKEN"):
        raise BadSetting("--token is for --mirror", "make a key instead: overt keys add")


# ---- the API -------------------------------------------------------------------------------


def _api(out: Output, settings: Settings, flags: Flags) -> int:
    from overt.models.pull import find
    from overt.openness.permissions.gate import RUNNING, SERVING
    from overt.server import app, assembly, guard, logs, telemetry
    from overt.server.api_keys import ApiKeys

    for ref in flags.preload:
        if not ref.startswith("echo:"):
            find(ref, settings)  # what is not here is told at once
    keys = ApiKeys(settings.home)
    gate = guard.gate(
        app.address_of(flags.host),
        keys,
        names=flags.names,
        origins=flags.origins,
        require_key=flags.require_key,
    )
    if not gate.loopback and not flags.certificate:
        out.warn("without --certificate keys and answers cross the network unencrypted")
    kind = flags.log or _LOGS[out.mode]
    logs.set_up(kind)
    sinks: list[Any] = [] if kind == "off" else [logs.AccessLog(kind, _writer(kind, out))]
    spans = telemetry.spans()
    if spans is not None:
        sinks.append(spans)
    api = assembly.build(
        settings,
        out.note,
        gate=gate,
        sinks=sinks,
        preload=flags.preload,
        hosts=flags.registries,
        providers=gate.loopback or flags.providers,
        use=RUNNING if gate.loopback else SERVING,
    )

    def ready(url: str) -> None:
        if spans is not None:
            spans.serving_at(url)
        for text in leave_itself_out(url, os.environ):
            out.warn(text)
        out.result(
            {"url": url, "key_needed": gate.needs_key},
            lambda: f"serving at {url}; its addresses: {url}/docs; Ctrl-C ends it",
            lambda: url,
        )

    try:
        app.run(api, flags.listen(), ready, interactive=True)
    finally:
        keys.note_used()
        if spans is not None:
            spans.close()
    out.note("stopped")
    return 0


def leave_itself_out(url: str, environ: MutableMapping[str, str]) -> Iterator[str]:
    """Take base URLs of providers that are this server's own out of `environ`, and say so.

    The variables are set for clients, often in the shell that starts the server too. It would ask
    itself, and where the model's name is an alias of it, without end.
    """
    from overt.security import credentials
    from overt.security.urls import read

    ours = read(url)
    for name in credentials.VARIABLES:
        variable = credentials.moved_by(name)
        try:
            there = read(environ.get(variable, ""))
        except BadRef:
            continue  # not set, or an error of the request that needs it
        if there.port == ours.port and (there.loopback or there.host == ours.host):
            del environ[variable]
            yield (
                f"{variable} is this server's own address, so it is left out here: "
                f"{name}:… is asked at {credentials.official(name)}"
            )


def _writer(kind: str, out: Output) -> Callable[[str], None]:
    if kind == "text":
        return out.note if out.remarks else out.warn

    def write(line: str) -> None:
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()

    return write


# ---- starting with the machine -------------------------------------------------------------


def _install(out: Output, settings: Settings, flags: Flags, words: list[str]) -> int:
    from overt.server import app, guard, registries, units
    from overt.server.api_keys import ApiKeys

    registries.registries(True, flags.registries)
    # What would keep the server from starting is told now, and not to a log.
    if flags.mirror:
        guard.rules(app.address_of(flags.host), flags.names, flags.token)
    else:
        guard.gate(
            app.address_of(flags.host),
            ApiKeys(settings.home),
            names=flags.names,
            origins=flags.origins,
            require_key=flags.require_key,
        )
    environ = {name: os.environ[name] for name in _KEPT if os.environ.get(name)}
    environ |= {k: v for k, v in sorted(os.environ.items()) if k.startswith(_TELEMETRY)}
    unit = units.unit(words, {**environ, "OVERT_HOME": str(settings.home)})
    new = units.install(unit)
    out.result(
        {"path": str(unit.path), "written": new, "start": list(unit.start)},
        lambda: "\n".join(
            [f"{'wrote' if new else 'unchanged:'} {unit.path}", "now type:"]
            + [f"  {line}" for line in unit.start]
        ),
        lambda: str(unit.path),
    )
    return 0


def _uninstall(out: Output) -> int:
    from overt.server import units

    unit = units.unit((), {})
    units.uninstall(unit.path)
    out.result(
        {"path": str(unit.path), "stop": list(unit.stop)},
        lambda: "\n".join(
            [f"deleted {unit.path}", "if it is still running, type:"]
            + [f"  {line}" for line in unit.stop]
        ),
        lambda: str(unit.path),
    )
    return 0


def _words(context: click.Context) -> list[str]:
    """The options that were given on this command line, to be given again."""
    words: list[str] = []
    for parameter in context.command.params:
        name = parameter.name or ""
        typed = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if not typed or name in ("install", "uninstall", "home", "json", "quiet", "debug"):
            continue
        option = max(parameter.opts, key=len)
        value = context.params[name]
        if isinstance(parameter, click.Option) and parameter.is_flag:
            words += [option]
            continue
        for item in value if isinstance(value, tuple) else (value,):
            text = str(item.absolute()) if isinstance(item, Path) else str(item)
            words += [option, text]
    return words


# ---- the mirror ----------------------------------------------------------------------------


def _mirror(out: Output, settings: Settings, flags: Flags) -> int:
    from overt.models.store import Store
    from overt.server import app, guard
    from overt.server.mirror import oci
    from overt.server.mirror.catalogue import HUB, MirrorCatalogue
    from overt.server.mirror.hub import Mirror

    rules = guard.rules(app.address_of(flags.host), flags.names, flags.token)
    if not rules.loopback and not flags.certificate:
        out.warn("without --certificate the token and the models cross the network unencrypted")
    shelf = MirrorCatalogue(Store(settings.home))
    doors = (oci.RegistryMirror(shelf), Mirror(shelf))

    def ready(url: str) -> None:
        ids = list(shelf.all(HUB))
        out.result(
            {"url": url, "token": flags.token is not None, "models": ids},
            lambda: f"{len(ids)} models at {url} ({', '.join(ids[:8])}); Ctrl-C ends it",
            lambda: url,
        )

    def log(served: "RequestSummary") -> None:
        if out.mode == "human":
            out.note(_line(served))

    application = app.application(doors, rules, oci.refuse, log)
    app.run(application, flags.listen(), ready)
    out.note("stopped")
    return 0


def _line(served: "RequestSummary") -> str:
    cut = "" if served.whole else ", broken off"
    return (
        f"{served.method} {served.path[:200]} {served.status} {size(served.sent)} in "
        f"{duration(served.seconds)}{cut}"
    )
