"""Suites: a YAML file that says what to ask and how to grade, and a data file with the items.

Everything is read and every template filled before the first request is made, so that a mistake in
row 900 is told at once, with its file and row, and not after an hour.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from importlib import resources
from pathlib import Path
from typing import Any, Final

from overt.chat import Message, Request, Sampling
from overt.errors import FormatError, NotFound
from overt.evaluation.suites import rows
from overt.evaluation.suites.template import FieldTemplate
from overt.formats import yamltext
from overt.openness.export.text import canonical

KINDS: Final = ("exact", "numeric", "choice", "code", "schema", "ifeval", "judge")
"""Each is a file in runners/."""
BUILT_IN: Final = ("gsm8k", "mmlu", "humaneval", "ifeval")
"""Suites that come with Overt, without their data."""
MAX_TOKENS: Final = 1024
"""Tokens of an answer, where a suite does not say."""
_MAX_SHOTS = 100
_MAX_PROMPT = 1 << 20  # characters

_COMMON: dict[str, tuple[type, ...]] = {
    "name": (str,), "kind": (str,), "about": (str,), "data": (str,), "prompt": (str,),
    "answer": (str, int, float), "system": (str,), "shots": (dict,), "shot_answer": (str,),
    "raw": (bool,), "max_tokens": (int,), "temperature": (int, float), "seed": (int,),
    "stop": (str, list), "think": (bool,), "public": (bool,), "licence": (str,), "source": (str,),
    "columns": (list,), "id": (str,), "extract": (str,), "version": (int, str),
}  # fmt: skip
_OF_KIND: dict[str, dict[str, tuple[type, ...]]] = {
    "exact": {"normalise": (list,), "match": (str,), "also": (list,)},
    "numeric": {"tolerance": (int, float), "relative": (int, float)},
    "choice": {"choices": (list,), "shuffle": (bool,)},
    "code": {"program": (str,), "seconds": (int,), "memory": (int,)},
    "schema": {"schema": (str, dict), "constrain": (bool,)},
    "ifeval": {"instructions": (str,), "arguments": (str,)},
    "judge": {"rubric": (str,), "against": (str,), "scale": (int,)},
}
_NEEDED = {
    "exact": ("answer",),
    "numeric": ("answer",),
    "choice": ("choices", "answer"),
    "code": ("program",),
    "schema": ("schema",),
    "ifeval": (),
    "judge": ("rubric",),
}
_NAMES = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "a mapping",
}


@dataclass(frozen=True, slots=True)
class SuiteItem:
    """One question.

    Attributes:
        messages: the conversation that asks it; empty where `prompt` is continued as it stands.
        answer: the right one, filled in; "" where the kind has none.
        row: what the data file says, for templates of the kind.
        letters: of a choice: for each letter shown, the number of the choice in the data.
    """

    id: str
    prompt: str
    messages: tuple[Message, ...]
    answer: str
    row: rows.DataRow
    choices: tuple[str, ...] = ()
    letters: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Suite:
    """What is asked, and how it is graded.

    Attributes:
        told: the YAML as read.
        digest: sha256 (hex) of `told` without the place of its data, and of the shots: what makes
            two suites ask and grade alike.
        data: files and their sha256 (hex).
        folder: where files the suite names are; None for a built-in one.
        shots: worked examples before each item.
        think: whether to ask for reasoning; None leaves it to the model.
    """

    name: str
    kind: str
    told: Mapping[str, Any]
    items: tuple[SuiteItem, ...]
    digest: str
    data: tuple[tuple[str, str], ...]
    folder: Path | None
    max_tokens: int = MAX_TOKENS
    temperature: float = 0.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    raw: bool = False
    shots: int = 0
    think: bool | None = None
    public: bool = False
    licence: str = ""
    json_schema: Mapping[str, Any] | None = field(default=None)

    def request(self, item: SuiteItem, model: str) -> Request:
        """What is asked of `model` for `item`."""
        return Request(
            model,
            item.messages,
            prompt=item.prompt if self.raw else None,
            sampling=Sampling(temperature=self.temperature, seed=self.seed),
            max_tokens=self.max_tokens,
            stop=self.stop,
            json_schema=self.json_schema,
            thinking=self.think,
        )

    def sample(self, limit: int | None, seed: int) -> "Suite":
        """`limit` of its items, the same ones for a seed, in their own order."""
        if limit is None or limit >= len(self.items):
            return self
        draw = random.Random(seed)  # noqa: S311 - a sample, not a secret
        indices = sorted(draw.sample(range(len(self.items)), limit))
        return replace(self, items=tuple(self.items[i] for i in indices))


def load(
    name: str,
    data: Sequence[Path] = (),
    *,
    seed: int | None = None,
    shots: int | None = None,
    max_tokens: int | None = None,
    temperature: float | None = None,
) -> Suite:
    """The suite in the file `name`, or the built-in one called so.

    Args:
        data: its items, in place of the file the suite names; a folder is all its data files.
        seed, shots, max_tokens, temperature: in place of what the suite says.

    Raises:
        NotFound: no such suite or file.
        FormatError: a file that is not what it should be; names file, line or row, and what is
            expected.
    """
    built_in = name in BUILT_IN
    path = Path(name).expanduser()
    if built_in:
        text = resources.files("overt.evaluation.suites").joinpath(f"builtin/{name}.yaml")
        source, written = f"the suite {name}", text.read_text("utf-8")
    else:
        source, written = str(path), _text(path)
    definition = _checked(yamltext.load(written, source), source)
    for key, value in {
        "seed": seed,
        "max_tokens": max_tokens,
        "temperature": temperature,
    }.items():
        if value is not None:
            definition[key] = value
    if shots is not None:
        definition["shots"] = {**definition.get("shots", {}), "count": shots}
    folder = None if built_in else path.absolute().parent
    files = _data_files(definition, data, folder, source)
    return _SuiteReader(definition, source, folder, files).suite()


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(yamltext.MAX_BYTES + 1).decode("utf-8-sig")
    except FileNotFoundError:
        raise NotFound(
            f"there is no suite {str(path)!r}",
            f"name a YAML file or one of {', '.join(BUILT_IN)}; overt eval --new NAME writes one",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise FormatError(f"{path} cannot be read: {why}", "check the file") from None


def _checked(definition: Any, source: str) -> dict[str, Any]:
    if not isinstance(definition, dict):
        raise FormatError(
            f"{source} is not a suite", "it holds `name:`, `kind:`, `data:` and `prompt:`"
        )
    kind = definition.get("kind")
    if kind not in KINDS:
        what = "has no `kind:`" if kind is None else f"has the kind {str(kind)[:60]!r}"
        raise FormatError(f"{source} {what}", f"kinds are {', '.join(KINDS)}")
    known = {**_COMMON, **_OF_KIND[kind]}
    for key, value in definition.items():
        if key not in known:
            raise FormatError(
                f"{source} has the unknown key {key[:60]!r}",
                f"keys of the kind {kind} are {', '.join(known)}",
            )
        right = isinstance(value, known[key]) and (
            bool in known[key] or not isinstance(value, bool)
        )
        if not right:
            names = " or ".join(_NAMES[kind_name] for kind_name in known[key])
            raise FormatError(f"{source}: `{key}:` is {value!r:.80} and {names} is expected")
    for key in ("prompt", *_NEEDED[kind]):
        if key not in definition:
            raise FormatError(f"{source} has no `{key}:`, which the kind {kind} needs")
    _check_values(definition, source)
    return dict(definition)


def _check_values(definition: dict[str, Any], source: str) -> None:
    """Numbers within their ranges, lists of texts; numbers in such a list become texts."""
    for key, low, high in (
        ("max_tokens", 1, 1_000_000),
        ("temperature", 0, 100),
        ("seed", 0, 2**32 - 2),
        ("seconds", 1, 600),
        ("memory", 16, 65536),
        ("scale", 2, 100),
        ("tolerance", 0, 1e308),
        ("relative", 0, 1),
    ):
        if key in definition and not low <= definition[key] <= high:
            raise FormatError(
                f"{source}: `{key}:` is {definition[key]} and goes from {low} to {high}"
            )
    for key in ("columns", "choices", "normalise", "also", "stop"):
        if isinstance(definition.get(key), list):
            for value in definition[key]:
                if not isinstance(value, str | int | float) or isinstance(value, bool):
                    raise FormatError(f"{source}: `{key}:` is a list of texts")
            definition[key] = [str(item) for item in definition[key]]


def _data_files(
    definition: Mapping[str, Any], paths: Sequence[Path], folder: Path | None, source: str
) -> list[Path]:
    if paths:
        files: list[Path] = []
        for given_path in paths:
            path = given_path.expanduser()
            inside = sorted(path.iterdir()) if path.is_dir() else [path]
            endings = (".csv", ".jsonl", ".json", ".jsonl.gz", ".csv.gz")
            matching = [file for file in inside if file.name.endswith(endings)]
            files += matching if path.is_dir() else inside
        if not files:
            raise NotFound(f"no data file is in {paths[0]}", "give .csv or .jsonl files")
        return files
    if folder is None:
        raise NotFound(
            f"{source} comes without its data",
            "get the files from "
            + str(definition.get("source", "its source"))
            + " and give --data FILE",
        )
    if "data" not in definition:
        raise FormatError(f"{source} has no `data:`", "name the file of the items, or give --data")
    return [beside(folder, str(definition["data"]), source)]


def beside(folder: Path, name: str, source: str) -> Path:
    """A file that a suite names: in its own folder or below, wherever links lead.

    Raises:
        FormatError: elsewhere. A suite of somebody else's shall not send files of yours.
    """
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise FormatError(
            f"{source} names {name[:120]!r}, which is outside its folder",
            "put the file beside the suite, or give it with --data",
        )
    return path


class _SuiteReader:
    """Makes a suite of what its file says."""

    def __init__(
        self, definition: dict[str, Any], source: str, folder: Path | None, files: list[Path]
    ) -> None:
        self._told, self._source, self._folder, self._files = definition, source, folder, files
        self._prompt = self._template("prompt")
        self._answer = self._template("answer")
        self._system = self._template("system")
        self._shot = FieldTemplate(
            str(definition.get("shot_answer", definition.get("answer", ""))),
            self._what("shot_answer"),
        )
        self._choices = [
            FieldTemplate(choice, self._what("choices")) for choice in definition.get("choices", ())
        ]
        if len(self._choices) > 26 or (definition["kind"] == "choice" and len(self._choices) < 2):
            raise FormatError(
                f"{source}: `choices:` has {len(self._choices)} and 2 to 26 are read",
                "list one template a choice",
            )
        self._shots_digests: list[str] = []

    def suite(self) -> Suite:
        definition, items = self._told, list[SuiteItem]()
        digests = []
        used: dict[str, str] = {}
        most = 0
        for path in self._files:
            data_rows, digest = rows.read(path, definition.get("columns", ()))
            digests.append((str(path), digest))
            shots = self._shots(path, data_rows[0])
            most = max(most, len(shots))
            for number, row in enumerate(data_rows, 1):
                item = self._item(row, f"{path.name.partition('.')[0]}/{number}", shots)
                if item.id in used:
                    raise FormatError(
                        f"{row.where} has the id {item.id[:80]!r} of {used[item.id]}",
                        "give each item its own, or leave `id:` out",
                    )
                used[item.id] = row.where
                items.append(item)
        hashed = {
            key: value
            for key, value in definition.items()
            if key not in ("data", "about", "source")
        }
        stop = definition.get("stop", [])
        return Suite(
            name=str(definition.get("name") or Path(self._source).stem),
            kind=definition["kind"],
            told=definition,
            items=tuple(items),
            digest=sha256(canonical([hashed, self._shots_digests]).encode()).hexdigest(),
            data=tuple(digests),
            folder=self._folder,
            max_tokens=definition.get("max_tokens", MAX_TOKENS),
            temperature=float(definition.get("temperature", 0)),
            seed=definition.get("seed", 0),
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
            raw=definition.get("raw", False),
            shots=most,
            think=definition.get("think"),
            public=definition.get("public", False),
            licence=definition.get("licence", ""),
        )

    def _item(self, row: rows.DataRow, id: str, shots: Sequence[tuple[str, str]]) -> SuiteItem:
        if "id" in self._told:
            id = FieldTemplate(f"{{{self._told['id']}}}", self._what("id")).fill(
                row.text, row.where
            )
        choices, order = self._order(row)
        answer = self._answer.fill(row.text, row.where) if self._answer else ""
        if choices:
            answer = self._letter(answer, choices, order, row.where)
        values = {**row.text, "choices": _listed(choices)} if choices else row.text
        prompt = self._prompt.fill(values, row.where) if self._prompt else ""
        system = self._system.fill(row.text, row.where) if self._system else ""
        if self._told.get("raw"):
            text = "".join(f"{before}{after}\n\n" for before, after in shots)
            messages: tuple[Message, ...] = ()
            prompt = f"{system}\n\n{text}{prompt}" if system else text + prompt
        else:
            turns = [Message.of("system", system)] if system else []
            for before, after in shots:
                turns += [Message.of("user", before), Message.of("assistant", after)]
            messages = (*turns, Message.of("user", prompt))
        if len(prompt) > _MAX_PROMPT:
            raise FormatError(
                f"{row.where} makes a prompt of {len(prompt)} characters",
                f"the most is {_MAX_PROMPT}",
            )
        return SuiteItem(id[:200], prompt, messages, answer, row, choices, order)

    def _order(self, row: rows.DataRow) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """The choices of a row as shown, and for each the number it has in the data."""
        choices = [template.fill(row.text, row.where) for template in self._choices]
        order = list(range(len(choices)))
        if self._told.get("shuffle"):
            # By the row as well as the seed: the same whatever else is in the sample.
            seed = f"{self._told.get('seed', 0)} {canonical(choices)}"
            random.Random(seed).shuffle(order)  # noqa: S311
        return tuple(choices[i] for i in order), tuple(order)

    def _letter(self, answer: str, choices: Sequence[str], order: Sequence[int], where: str) -> str:
        """The letter shown for the right choice, which the data name by letter or text."""
        stripped = answer.strip()
        letter = stripped.upper()
        if len(letter) == 1 and 0 <= ord(letter) - 65 < len(choices):
            return chr(65 + list(order).index(ord(letter) - 65))
        if choices.count(stripped) == 1:
            return chr(65 + choices.index(stripped))
        raise FormatError(
            f"{where} has the answer {stripped[:60]!r}",
            f"it is a letter from A to {chr(64 + len(choices))}, or the text of one choice",
        )

    def _shots(self, path: Path, first: rows.DataRow) -> list[tuple[str, str]]:
        """Worked examples: prompts and their answers."""
        options = self._told.get("shots") or {}
        unknown = sorted(set(options) - {"file", "count"})
        count = options.get("count", 5)
        if unknown or not isinstance(count, int) or not 0 <= count <= _MAX_SHOTS:
            raise FormatError(
                f"{self._source}: `shots:` is {options!r:.80}",
                f"write `shots: {{file: examples.jsonl, count: 5}}`, count up to {_MAX_SHOTS}",
            )
        if not options or not count:
            return []
        if "file" not in options:
            raise FormatError(f"{self._source}: `shots:` has no `file`", "name the examples' file")
        name = FieldTemplate(str(options["file"]), self._what("shots")).fill(first.text)
        if self._folder is None:  # a suite of Overt's own: beside it, or where its data lie
            file = Path(str(resources.files("overt.evaluation.suites").joinpath(f"builtin/{name}")))
            file = file if file.is_file() and "/" not in name else path.absolute().parent / name
        else:
            file = beside(self._folder, name, self._source)
        examples, digest = rows.read(file, self._told.get("columns", ()))
        if len(examples) < count:
            raise FormatError(
                f"{file} has {len(examples)} examples and {count} are wanted",
                f"--shots {len(examples)}",
            )
        self._shots_digests.append(digest)
        return [self._worked(row) for row in examples[:count]]

    def _worked(self, row: rows.DataRow) -> tuple[str, str]:
        choices, order = self._order(row)
        values = {**row.text, "choices": _listed(choices)} if choices else dict(row.text)
        if choices and self._answer:
            right = self._answer.fill(row.text, row.where)
            values["letter"] = self._letter(right, choices, order, row.where)
        prompt = self._prompt.fill(values, row.where) if self._prompt else ""
        return prompt, self._shot.fill(values, row.where)

    def _template(self, key: str) -> FieldTemplate | None:
        return FieldTemplate(str(self._told[key]), self._what(key)) if key in self._told else None

    def _what(self, key: str) -> str:
        return f"`{key}:` of {self._source}"


def _listed(choices: Sequence[str]) -> str:
    return "\n".join(f"{chr(65 + i)}. {text}" for i, text in enumerate(choices))


EXAMPLE: Final = """\
# A suite: what to ask, and how to grade. `overt eval {name}.yaml -m smollm2` runs it.
name: {name}
kind: exact            # exact, numeric, choice, code, schema, ifeval or judge: docs/eval.md
data: {name}.csv       # its columns are the fields below
prompt: "What is the capital of {{country}}? Answer with the city only."
answer: "{{capital}}"
max_tokens: 16
"""
EXAMPLE_DATA: Final = """\
country,capital
France,Paris
Japan,Tokyo
Kenya,Nairobi
Peru,Lima
Norway,Oslo
"""


def create_template(name: str, folder: Path) -> tuple[Path, Path]:
    """Write a small suite and its data to start from; returns both files.

    Raises:
        FormatError: one of the files is there already, or `name` is no name of a file.
    """
    if not name or Path(name).name != name or not name.replace("-", "").replace("_", "").isalnum():
        raise FormatError(f"{name[:60]!r} is no name for a suite", "use letters, digits, - and _")
    made = folder / f"{name}.yaml", folder / f"{name}.csv"
    for path, text in zip(made, (EXAMPLE.format(name=name), EXAMPLE_DATA), strict=True):
        try:
            with path.open("x", encoding="utf-8", newline="") as file:
                file.write(text)
        except FileExistsError:
            raise FormatError(f"{path} is there already", "choose another name") from None
        except OSError as error:
            raise FormatError(
                f"{path} cannot be written: {error.strerror}", "type it in a folder of yours"
            ) from None
    return made
