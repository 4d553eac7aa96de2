"""Make src/overt/openness/data/texts.tsv (overt/openness/licence/digests.py).

    python scripts/licence_digests.py SPDX_XML_REPOSITORY LICENCE_FOLDER FOLDER…

The first is a clone of github.com/spdx/license-list-XML (a bare one will do), whose folder `test`
has each licence as a plain text; the second the folder `licences` of the project's shared test
data. Of licence files at any depth of the others (site-packages) those count that several projects
bring, which leaves out the names of single holders. To be run after a change of the fingerprints.
What is written holds no text.
"""

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from overt.openness.licence import digests, match
from overt.openness.licence.fingerprints import load_index

PLACE = "test/simpleTestForGenerator"
MOST = 200_000
SEVERAL = 3


def spdx(repository: Path) -> Iterator[str]:
    """The plain texts of the licences that have fingerprints."""
    wanted = {load_index().entry(number).id for number in range(load_index().count)}
    for name in sorted(wanted):
        command = ["git", "-C", str(repository), "show", f"HEAD:{PLACE}/{name}.txt"]
        done = subprocess.run(command, capture_output=True)
        if done.returncode == 0:
            yield done.stdout.decode("utf-8-sig", "replace")


def found(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*")):
        name = path.name.lower()
        if not (name.startswith(("license", "licence", "copying")) or name.endswith(".txt")):
            continue
        if path.is_file() and path.stat().st_size <= MOST and path.suffix not in (".py", ".json"):
            yield path.read_bytes().decode("utf-8-sig", "replace")


def main(repository: str, folder: str, *others: str) -> None:
    texts = [*spdx(Path(repository)), *found(Path(folder))]
    counted = Counter(text for each in others for text in found(Path(each)))
    texts += [text for text, count in counted.items() if count >= SEVERAL]
    lines = {}
    for text in texts:
        seen = match.match(text)
        whole = seen.kind in ("exact", "near") and not (seen.others or seen.missing_version)
        if seen.id and whole and not seen.altered:
            lines[digests.digest(text)] = seen.id
    head = "# Made by scripts/licence_digests.py; see overt/openness/licence/digests.py."
    rows = [f"{digest}\t{one}" for digest, one in sorted(lines.items(), key=lambda row: row[::-1])]
    digests.FILE.write_text("\n".join([head, *rows, ""]), "utf-8")
    print(f"{len(rows)} of {len(texts)} texts")


if __name__ == "__main__":
    main(*sys.argv[1:])
