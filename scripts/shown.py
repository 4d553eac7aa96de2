"""Run the program as a person would, keep what it printed, and put that into a page.

Used by the scripts `show_*`. A block is what one command or several gave; in a page it stands in a
fence or a table after a line ``<!-- shown: NAME -->``.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_FENCE = r"(?P<mark><!-- shown: (?P<name>\S+) -->\n```\w*\n).*?(?P<end>```\n)"
_TABLE = r"(?P<mark><!-- shown: (?P<name>\S+) -->\n\n)\|.*?\n(?P<end>\n+(?=[^\n|]|\Z))"
_WIDEST = 168
_PROGRESS = re.compile(r"[\w ]+: \d+ % of ")


class Show:
    """A run in a folder of its own, with a home of its own."""

    def __init__(self, folder: Path, home: Path, threads: int = 1) -> None:
        self.folder = folder
        self.blocks: dict[str, str] = {}
        self.environ = {
            **os.environ,
            "OVERT_HOME": str(home),
            "OVERT_OFFLINE": "1",
            "NO_COLOR": "1",
            "COLUMNS": "120",
            "OMP_NUM_THREADS": str(threads),
        }

    def run(
        self,
        block: str,
        *words: str,
        before: Mapping[str, str] | None = None,
        into: str = "",
        fold: str = "",
        fails: bool = False,
    ) -> str:
        """Run ``overt WORDS`` and add it to a block, as it stands on a screen, progress left out.

        Args:
            before: variables that stand before the command.
            into: a file in the folder that takes stdout.
            fold: of lines that this expression finds, the first and the last are shown.
            fails: it may end with another code than 0, which is shown.

        Returns: what was printed, whole.
        """
        begins = [f"{name}={value}" for name, value in (before or {}).items()]
        typed = " ".join([*begins, shlex.join(["overt", *words]), *(["> " + into] if into else [])])
        print(f"$ {typed}", flush=True)
        done = subprocess.run(
            [sys.executable, "-m", "overt", *words],
            env={**self.environ, **(before or {})},
            cwd=self.folder,
            text=True,
            stdout=subprocess.PIPE,
            stderr=None if "--json" in words else subprocess.STDOUT,
        )
        if done.returncode and not fails:
            raise SystemExit(f"exit code {done.returncode}: {done.stdout}")
        text = done.stdout
        if into:
            (self.folder / into).write_text(text)
            text = ""
        lines = [
            line[:_WIDEST] + " …" * (len(line) > _WIDEST)
            for line in text.splitlines()
            if not _PROGRESS.match(line)
        ]
        lines = folded(lines, fold) if fold else lines
        if done.returncode:
            lines.append(f"(exit code {done.returncode})")
        print("\n".join(lines), flush=True)
        self.add(block, "\n".join([f"$ {typed}", *lines]))
        return done.stdout

    def add(self, block: str, text: str) -> None:
        """More text for a block."""
        text = text.replace(str(self.folder) + os.sep, "").rstrip("\n")
        self.blocks[block] = self.blocks.get(block, "") + text + "\n"

    def put(self, page: Path) -> None:
        """Write the blocks into a page.

        Raises:
            SystemExit: a block has no place there.
        """
        text, used = page.read_text(), set()

        def replaced(match: re.Match[str]) -> str:
            if (name := match["name"]) not in self.blocks:
                return match[0]
            used.add(name)
            return f"{match['mark']}{self.blocks[name]}{match['end']}"

        for pattern in (_FENCE, _TABLE):
            text = re.sub(pattern, replaced, text, flags=re.DOTALL)
        if unused := self.blocks.keys() - used:
            raise SystemExit(f"{page.name} has no place for {', '.join(sorted(unused))}")
        page.write_text(text)


def folded(lines: Sequence[str], expression: str) -> list[str]:
    """The lines, with only the first and the last of those that follow each other and match."""
    kept: list[str] = []
    for number, line in enumerate(lines):
        same = [
            0 <= at < len(lines) and re.search(expression, lines[at]) is not None
            for at in (number - 1, number, number + 1)
        ]
        if not all(same):
            kept.append(line)
        elif kept[-1] != "…":
            kept.append("…")
    return kept


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def linked(source: Path, home: Path) -> None:
    """A home of its own that has the models of `source`, by hard links."""
    for folder in ("blobs", "manifests", "names", "licences"):
        if (source / folder).is_dir():
            shutil.copytree(source / folder, home / folder, dirs_exist_ok=True, copy_function=_link)


@contextmanager
def fresh(home: Path, threads: int) -> Iterator[Show]:
    """A run in a new folder, deleted at the end, with the models of `home`."""
    with tempfile.TemporaryDirectory(dir=ROOT / ".cache") as folder:
        own = Path(folder, "home")
        linked(home, own)
        yield Show(Path(folder), own, threads)


def learnt(show: Show, block: str, name: str, data: str, licence: str, *more: str) -> None:
    """SmolLM2 learns `data`, some of which is in held.jsonl, and becomes the model `name`."""
    said = show.run(
        block,
        "finetune",
        "smollm2",
        name,
        "--data",
        data,
        "--held-file",
        "held.jsonl",
        "--data-licence",
        licence,
        "--length",
        "512",
        *more,
        fold=r"^step \d+ of",
    )
    assert f"{name} is in the store" in said


def _link(source: str, target: str) -> str:
    if not Path(target).exists():
        os.link(source, target)
    return target
