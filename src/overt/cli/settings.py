"""`overt settings`: every setting, its value and where that came from."""

import os
from dataclasses import fields

import click

from overt.cli.options import engine_options, verb
from overt.cli.output import Output, table
from overt.settings import Settings, load

FOREIGN = (
    "HF_ENDPOINT",
    "HF_TOKEN",
    "HF_HUB_OFFLINE",
    "PIP_INDEX_URL",
    "UV_INDEX_URL",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "SSL_CERT_FILE",
    "PIP_CERT",
    "NO_COLOR",
)
_SECRET = ("HF_TOKEN",)


@click.command("settings", short_help="every setting and where it came from")
@engine_options
@verb
def command(out: Output, settings: Settings) -> int:
    """Show every setting in force: from its default, overt.toml, the environment or a flag."""
    plain, default = load(), Settings()
    file_only = load({"OVERT_HOME": str(settings.home)})
    rows = []
    for field in fields(Settings):
        value = getattr(settings, field.name)
        variable = f"OVERT_{field.name.upper()}"
        if value != getattr(plain, field.name):
            origin = "flag"
        elif os.environ.get(variable):
            origin = variable
        elif field.name != "home" and getattr(file_only, field.name) != getattr(
            default, field.name
        ):
            origin = "overt.toml"
        else:
            origin = "default"
        rows.append(
            {
                "name": field.name,
                "value": str(value) if field.name == "home" else value,
                "from": origin,
                "variable": variable,
                "help": field.metadata["help"],
            }
        )
    honoured = {name: _setting_value(name) for name in FOREIGN if os.environ.get(name)}

    def human() -> str:
        text = table(
            ("setting", "value", "from", "meaning"),
            [(row["name"], row["value"], row["from"], row["help"]) for row in rows],
        )
        also = [f"{name}={value}" for name, value in honoured.items()]
        return "\n".join([text, *(["", "also honoured: " + "  ".join(also)] if also else [])])

    out.result({"settings": rows, "environment": honoured}, human)
    return 0


def _setting_value(name: str) -> str:
    """A variable's value, with nothing secret in it."""
    value = os.environ[name]
    if name in _SECRET:
        return "(set)"
    scheme, mark, rest = value.partition("://")
    if mark and "@" in rest:  # a user and password before the host
        return f"{scheme}://…@{rest.rpartition('@')[2]}"
    return value
