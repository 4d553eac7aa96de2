"""Every link between this repository's documents leads somewhere: the file, and the heading in it.

usage: python scripts/check_links.py

Links to other sites are not followed. Prints each broken link and exits 1 if there is one.
"""

import re
import sys
import urllib.parse
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FENCED = re.compile(r"^( *)(```|~~~).*?^\1\2", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(\s*<?([^)\s>]+)>?[^)]*\)|^\[[^\]]+\]:\s+(\S+)", re.MULTILINE)


def main() -> int:
    documents = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md"))]
    broken = [
        f"{document.relative_to(ROOT)}: {reason}"
        for document in documents
        for reason in broken_links(document)
    ]
    print("\n".join(broken) or f"{len(documents)} documents, all links lead somewhere")
    return 1 if broken or not documents else 0


def broken_links(document: Path) -> list[str]:
    reasons = []
    for inline, reference in LINK.findall(FENCED.sub("", document.read_text("utf-8"))):
        target = inline or reference
        if re.match(r"[a-z][a-z0-9+.-]*:", target):
            continue
        name, _, heading = target.partition("#")
        file = document.parent / urllib.parse.unquote(name) if name else document
        if not file.resolve().is_relative_to(ROOT):
            reasons.append(f"{target} leaves the repository")
        elif not file.exists():
            reasons.append(f"{target} is not there")
        elif heading and heading not in headings(file):
            reasons.append(f"{target}: {name or document.name} has no such heading")
    return reasons


def headings(file: Path) -> set[str]:
    """The anchors of a Markdown file's headings, as code forges make them."""
    lines = FENCED.sub("", file.read_text("utf-8")).splitlines()
    texts = [line.lstrip("#").strip().lower() for line in lines if re.match(r"#{1,6} ", line)]
    return {re.sub(r"[^\w\- ]", "", text).replace(" ", "-") for text in texts}


if __name__ == "__main__":
    sys.exit(main())
