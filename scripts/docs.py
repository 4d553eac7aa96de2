"""Write docs/cli.md from the command line's own help.

usage: python scripts/docs.py [--check]

With --check nothing is written, and the exit status is 1 where the file is not what the code says.
"""

import importlib
import os
import sys
from pathlib import Path

import click

from overt.cli import VERBS
from overt.cli.help import EXIT_CODES, REFS
from overt.cli.slash import HELP
from overt.settings import Settings

TARGET = Path(__file__).resolve().parent.parent / "docs" / "cli.md"
WIDTH = 96

INTRODUCTION = """\
<!-- Written by scripts/docs.py from the code: change the code, then run it again. -->

# The command line

Answers and tables go to stdout; remarks, progress and errors go to stderr. An error is one
sentence, `overt: <what is wrong>; <what to type next>`, and its kind is the exit code. Every verb
takes these options, before or after it:

- `--json` prints exactly one JSON object on stdout, also for an error; `overt chat` prints one an
  answer.
- `--quiet` prints the data (names, digests, the answer) and no remarks.
- `--offline` never uses the network. `--home DIR` is the folder of everything Overt writes.
- `--debug` shows the traceback of an error, and the engine's own log.

Colour is used on terminals alone and carries no meaning; `NO_COLOR` switches it off. Text of a
model or a file that reaches a terminal has its control characters written out (`\\x1b`), so that it
cannot drive the terminal; what is piped to a file or program is left as it is.
"""

RUN = """\
### The object of `overt run --json`

| key | meaning |
|---|---|
| `model`, `digest` | the ref as typed, and the digest of what it named (empty for `echo:`) |
| `text` | the answer |
| `tokens_in`, `tokens_out` | counted by the engine; `tokens_cached` of the first were reused |
| `seconds_to_first_token` | from the moment the system started this process to the first token |
| `tokens_per_second` | of the answer, by the engine's own clock; null where it had one token |
| `finish` | `stop`, `length` (`--max-tokens` or a full context), `tool_calls` or `cancelled` |
| `engine`, `build` | which engine answered, and its build |
| `context`, `threads`, `prompt_threads` | what the model was loaded with |
| `isolation`, `isolation_missing` | walls of the worker that are in force, and that are not |
| `thinking`, `tool_calls`, `logprobs` | where the model gave them or they were asked for |

`seconds_to_first_token` counts the interpreter's start, the sandbox, the load of the model and the
reading of the prompt, but no time spent pulling. On Linux the start is the kernel's record of the
process (field 22 of `/proc/self/stat`, in hundredths of a second), so it holds a shell's life
before an `exec` too. In `overt chat` it counts from the question.

When text is piped in and a prompt is given as well, the piped text comes first, then an empty line,
then the prompt. Overt waits for the pipe to end: a script whose own stdin stays open should add
`< /dev/null`.
"""

GRAMMAR = """\
### Grammars

`--schema` takes a JSON Schema, as a file or inline, and the answer is JSON that follows it.
`--grammar` takes a file in GBNF, the notation of llama.cpp: rules of the form `name ::= …`, of
which `root` is where the answer begins.

```
root   ::= answer "\\n"
answer ::= "yes" | "no" | number
number ::= [0-9]+
```

`"text"` is text, `[a-z]` a choice of characters (`[^a-z]` all others), `|` an alternative, `( )` a
group, `*`, `+`, `?` and `{2,5}` repeat what stands before them, and `#` begins a comment.
"""


def main() -> int:
    text = page()
    if "--check" not in sys.argv[1:]:
        TARGET.write_text(text, "utf-8")
        return 0
    if TARGET.is_file() and TARGET.read_text("utf-8") == text:
        print("docs/cli.md says what the code does")
        return 0
    print("docs/cli.md is not what the code says; run: python scripts/docs.py", file=sys.stderr)
    return 1


def page() -> str:
    """The whole of docs/cli.md."""
    parts = [INTRODUCTION, _fenced(REFS), _fenced(EXIT_CODES), _settings()]
    group = None
    for name, verb in VERBS.items():
        if verb.group != group:
            group = verb.group
            parts.append(f"## {group}\n")
        command: click.Command = importlib.import_module(verb.module).command
        parts.append(f"### `overt {name}`\n\n{_help(command, f'overt {name}')}")
        if name == "run":
            parts += [RUN, GRAMMAR]
        if name == "chat":
            parts.append("### Commands of a chat\n\n```text\n" + HELP + "\n```\n")
    return "\n".join(parts)


def _help(command: click.Command, name: str) -> str:
    """The help of a command and of the commands below it, as a terminal shows it."""
    context = click.Context(
        command,
        info_name=name,
        terminal_width=WIDTH,
        max_content_width=WIDTH,
        color=False,
        help_option_names=["-h", "--help"],
    )
    with context:
        text = f"```text\n{command.get_help(context)}\n```\n"
        if isinstance(command, click.Group):
            for below in command.list_commands(context):
                found = command.get_command(context, below)
                assert found is not None
                text += f"\n#### `{name} {below}`\n\n{_help(found, f'{name} {below}')}"
    return text


def _fenced(text: str) -> str:
    title, _, rest = text.partition("\n\n")
    return f"## {title}\n\n```text\n{rest}\n```\n"


def _settings() -> str:
    from dataclasses import fields

    lines = [
        "## Settings",
        "",
        "A flag goes before the environment, the environment before `overt.toml` in the folder of",
        "`OVERT_HOME`. `overt settings` shows what is in force and where it came from.",
        "",
        "| setting | variable | default | meaning |",
        "|---|---|---|---|",
    ]
    for field in fields(Settings):
        default = str(field.default).lower() if isinstance(field.default, bool) else field.default
        variable = f"OVERT_{field.name.upper()}"
        lines.append(f"| `{field.name}` | `{variable}` | `{default}` | {field.metadata['help']} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    os.environ["COLUMNS"] = str(WIDTH)
    sys.exit(main())
