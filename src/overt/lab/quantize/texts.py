"""The texts a model is measured and calibrated on, cut into windows of tokens.

Two texts ship with the package, written for it and given away (CC0): `held_out.txt` to measure on
and `calibration.txt` to compute importance matrices on. They share no sentence, so that a matrix is
never judged by the text it was made from.
"""

from functools import cache
from hashlib import sha256
from pathlib import Path

from overt.errors import BadRequest, FormatError
from overt.lab.tokenizer import VocabularyWorker
from overt.settings import Settings

MEASURE = Path(__file__).with_name("held_out.txt")
CALIBRATE = Path(__file__).with_name("calibration.txt")
MAX_BYTES = 256 << 20
MAX_CHARACTERS_A_TOKEN = 64
FEW_TOKENS = 20_000
"""Tokens below which a matrix is said to be of little text."""


def digest(path: Path) -> str:
    """``sha256:`` and 64 hex of a text.

    Raises:
        BadRequest: it cannot be read.
    """
    return f"sha256:{sha256(_read(path, MAX_BYTES)).hexdigest()}"


def windows(
    path: Path, weights: Path, window: int, most: int, settings: Settings
) -> list[list[int]]:
    """The first `most` whole windows of `window` tokens of a text, as llama-perplexity cuts them.

    Where the model puts a token before a text, it takes the place of the first of each window.

    Raises:
        BadRequest: the text cannot be read, or is too long.
        FormatError: it is not UTF-8, or the model's words cannot be read.
    """
    raw = _read(path, MAX_BYTES)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(
            f"{path.name} is not UTF-8: byte {error.start}", "give a plain text"
        ) from None
    text = text[: most * window * MAX_CHARACTERS_A_TOKEN]
    ids, begin = _tokens(text, weights.resolve(), settings)
    cut = [list(ids[at : at + window]) for at in range(0, len(ids) - window + 1, window)][:most]
    if begin is not None:
        for window_ids in cut:
            window_ids[0] = begin
    return cut


@cache
def _tokens(text: str, weights: Path, settings: Settings) -> tuple[tuple[int, ...], int | None]:
    with VocabularyWorker(weights, settings) as words:
        ids = words.encode([text], special=False)[0]
        begin = words.bos if words.begins else None
    return tuple(ids if begin is None else [begin, *ids]), begin


def _read(path: Path, most: int) -> bytes:
    try:
        with path.expanduser().open("rb") as file:
            raw = file.read(most + 1)
    except OSError as error:
        raise BadRequest(
            f"{path} cannot be read: {error.strerror}", "name a text that is there"
        ) from None
    if len(raw) > most:
        raise BadRequest(f"{path.name} is longer than {most >> 20} MiB", "give a part of it")
    return raw
