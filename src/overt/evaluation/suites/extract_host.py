"""What an expression finds in a text: the process of runners/extract.py."""

import re
from typing import Any

from overt.formats import subprocess_reader


def find(question: Any) -> str:
    group = ""
    for match in re.finditer(question["pattern"], question["text"], re.MULTILINE):
        group = match[1] if match.re.groups else match[0]
    return group or ""


if __name__ == "__main__":
    subprocess_reader.serve(find)
