"""`overt serve`: let other machines of a team take models from this one."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from overt.cli.options import verb
from overt.cli.output import Output, duration, size
from overt.errors import BadSetting
from overt.settings import Settings

if TYPE_CHECKING:
    from overt.server.app import Asked


@click.command("serve", short_help="let other machines take models from this one")
@click.option("--mirror", is_flag=True, help="Offer the models of the store for pulling.")
@click.option("--host", default="127.0.0.1", metavar="ADDRESS", help="Address to listen on.")
@click.option("--port", default=11435, type=click.IntRange(0, 65535), help="0 is any free one.")
@click.option(
    "--token", metavar="TEXT", envvar="OVERT_MIRROR_TOKEN",
    help="What clients must send; needed beyond this machine (OVERT_MIRROR_TOKEN).",
)  # fmt: skip
@click.option("--name", "names", multiple=True, metavar="HOST", help="A host name it answers to.")
@click.option("--certificate", type=click.Path(path_type=Path), help="PEM file, for https.")
@click.option("--key", type=click.Path(path_type=Path), help="The certificate's key, PEM.")
@verb
def command(
    out: Output,
    settings: Settings,
    *,
    mirror: bool,
    host: str,
    port: int,
    token: str | None,
    names: tuple[str, ...],
    certificate: Path | None,
    key: Path | None,
) -> int:
    """Serve the models of the store to other machines until Ctrl-C or SIGTERM.

    With --mirror they are read by the protocols of a hub and of a registry:

    \b
      HF_ENDPOINT=http://127.0.0.1:11435 overt pull hf:owner/repo
      overt pull oci:127.0.0.1:11435/smollm2

    Models without an owner are hf:local/NAME there. Beyond this machine a token is needed: clients
    send it as HF_TOKEN, or as the password of `docker login`. docs/transfer.md has more.
    """
    if bool(certificate) != bool(key):
        raise BadSetting("TLS needs a certificate and its key", "give --certificate and --key both")
    if not mirror:
        from overt.server import app, assembly

        api = assembly.build(settings, out.note)
        app.run(
            api,
            app.Listen(host, port, certificate, key),
            lambda url: out.result({"url": url}, lambda: f"serving at {url}", lambda: url),
            interactive=True,
        )
        return 0
    from overt.server import app, artefacts, guard
    from overt.server.mirror import Mirror
    from overt.server.shelf import HUB, Shelf
    from overt.store import Store

    rules = guard.rules(app.address_of(host), names, token)
    if not rules.loopback and not certificate:
        out.warn("without --certificate the token and the models cross the network unencrypted")
    shelf = Shelf(Store(settings.home))
    doors = (artefacts.Registry(shelf), Mirror(shelf))

    def ready(url: str) -> None:
        ids = list(shelf.all(HUB))
        out.result(
            {"url": url, "token": token is not None, "models": ids},
            lambda: f"{len(ids)} models at {url} ({', '.join(ids[:8])}); Ctrl-C ends it",
            lambda: url,
        )

    def log(asked: "Asked") -> None:
        if out.mode == "human":
            out.note(_line(asked))

    application = app.application(doors, rules, artefacts.refuse, log)
    app.run(application, app.Listen(host, port, certificate, key), ready)
    out.note("stopped")
    return 0


def _line(asked: "Asked") -> str:
    cut = "" if asked.whole else ", broken off"
    return (
        f"{asked.method} {asked.path[:200]} {asked.status} {size(asked.sent)} in "
        f"{duration(asked.seconds)}{cut}"
    )
