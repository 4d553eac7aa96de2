"""Which files of a release are which component: by the paths claimed for it, else by custom.

A claim may say where its component lies (a path inside the release); that counts first. The rest is
told by the names people give such files and folders. A name decides only what is looked at: whether
it is what it is called is for the checks.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Final

from overt.openness.subject.subject import Subject, SubjectFile
from overt.openness.verdicts.components import COMPONENTS

CODE: Final = (
    ".py", ".pyx", ".ipynb", ".sh", ".cpp", ".cc", ".cu", ".c", ".h", ".hpp", ".rs", ".jl", ".go",
    ".js", ".ts", ".r", ".java", ".slurm", ".sbatch",
)  # fmt: skip
SETTINGS: Final = (".yaml", ".yml", ".json", ".toml", ".cfg", ".ini", ".gin", ".jsonnet", ".args")
WEIGHTS: Final = (".safetensors", ".gguf", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".onnx", ".npz")
DOCUMENTS: Final = (".md", ".pdf", ".txt", ".html", ".tex", ".rst", ".docx", ".bib", ".cff", "")

_MAX_PATH: Final = 4096
"""Characters of a path; the time for a name grows with the square of its length."""
_STEP: Final = re.compile(
    r"(?:^|[-_./])(?:global[-_]?step|step|checkpoint|ckpt|iter(?:ation)?)[-_]?(\d{1,12})(?=[-_./]|$)",
    re.IGNORECASE,
)
_FOLDERS: Final[Mapping[str, tuple[str, ...]]] = {
    "checkpoints": ("checkpoints", "checkpoint", "ckpts", "intermediate"),
    "evaluation_data": ("eval_data", "evaluation_data", "benchmarks", "test_data"),
    "evaluation_code": ("eval", "evals", "evaluation", "evaluations"),
    "preprocessing_code": (
        "preprocessing",
        "preprocess",
        "data_prep",
        "data_processing",
        "dataprep",
        "prepare_data",
        "tokenization",
    ),
    "inference_code": ("inference", "generation", "serving", "demo"),
    "training_code": ("training", "train", "pretraining", "pretrain", "trainer"),
    "training_data": ("data", "dataset", "datasets", "corpus", "shards", "training_data"),
    "sample_outputs": ("samples", "sample_outputs", "outputs", "generations"),
    "signature": ("signatures",),
}
"""Folders by the component they hold; of several on a path the outermost decides."""

_PATTERNS: Final[tuple[tuple[str, str, tuple[str, ...]], ...]] = (
    ("signature", r"model\.sig|.*\.sig|.*\.sigstore(?:\.json)?", ()),
    ("model_card", r"readme\.md|model[-_]?card.*\.md", ()),
    ("data_card", r"data(?:set)?[-_ ]?(?:card|sheet|statement).*", DOCUMENTS),
    ("safety_policy",
     r"(?:safety|us(?:e|age)[-_ ]?policy|acceptable[-_ ]?use|responsible[-_ ]?use|aup\b).*",
     DOCUMENTS),
    ("paper", r"(?:.*[-_])?paper.*|citation.*|arxiv.*", DOCUMENTS),
    ("report", r"(?:.*[-_])?(?:tech(?:nical)?[-_]?)?report.*|whitepaper.*", DOCUMENTS),
    ("training_data",
     r"(?:.*[-_.])?manifest(?:[-_.].*)?|.*croissant.*\.json(?:ld)?|sha256sums?(?:\.txt)?", ()),
    ("evaluation_results",
     r"(?!train)(?:.*[-_])?(?:results?|evaluations?|eval[-_]results?|metrics|scores?|leaderboard)(?:[-_.].*)?"
     r"\.(?:json|jsonl|csv|tsv|md|yaml|yml)", ()),
    ("sample_outputs", r"(?:sample[-_]outputs?|samples?|generations)(?:[-_.].*)?", ()),
    ("evaluation_code", r"(?:run[-_])?eval(?:uat(?:e|ion))?(?:[-_].*)?\..*", CODE),
    ("preprocessing_code",
     r"(?:preprocess|prepare|tokeni[sz]e|clean|dedup|filter|build[-_]data|make[-_]data|download)"
     r"(?:[-_]?(?:ing|icate|data).*|[-_].*)?\..*", CODE),
    ("training_code", r"(?:.*[-_])?(?:pre)?train(?:er|ing)?(?:[-_].*)?\..*|finetune.*\..*", CODE),
    ("inference_code",
     r"(?:modeling|inference|infer|generate|generation|sample|chat|predict|serve)(?:[-_].*)?\..*",
     CODE),
    ("libraries",
     r"requirements.*\.txt|environment\.ya?ml|pyproject\.toml|setup\.py|pipfile|poetry\.lock|uv\.lock",
     ()),
)  # fmt: skip
_COMPILED: Final = tuple((name, re.compile(rule), ends) for name, rule, ends in _PATTERNS)
_OWN: Final = {
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "preprocessor_config.json",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
    "adapter_config.json",
}
"""Parts of the model itself at the top of a release, and no component of this list."""


def components(subject: Subject) -> Mapping[str, tuple[SubjectFile, ...]]:
    """The files of each component that has any, those of a claim's own path first."""
    by_component: dict[str, dict[str, SubjectFile]] = {}
    taken: set[str] = set()  # a file that is claimed for one component is no other by custom
    for claim in subject.record.claims:
        path = inside(claim.where)
        if path is None or claim.component == "weights":
            continue
        for file in subject.files:
            if not path:
                named = component_of(file.name) == claim.component
            else:
                named = file.name == path or file.name.startswith(path + "/")
            if named:
                by_component.setdefault(claim.component, {})[file.name] = file
                taken.add(file.name)
    for file in subject.files:
        component = None if file.name in taken else component_of(file.name)
        if component:
            by_component.setdefault(component, {})[file.name] = file
    return {
        component.name: tuple(by_component[component.name].values())
        for component in COMPONENTS
        if component.name in by_component
    }


def of(subject: Subject, component: str) -> tuple[SubjectFile, ...]:
    """The files of one component."""
    return components(subject).get(component, ())


def inside(where: str) -> str | None:
    """A claim's place as a path inside the release, "" for all of it; None for an address."""
    if not where or "://" in where or where.startswith(("~", "mailto:", "www.")):
        return None
    path = where.split("#")[0].strip().lstrip("/").removeprefix("./").rstrip("/")
    return None if ".." in path.split("/") else path


def searched(subject: Subject) -> bool:
    """Whether what is not among the files is absent, and not only elsewhere."""
    return subject.place and not subject.remote


@lru_cache(maxsize=1 << 15)
def component_of(name: str) -> str | None:
    """The component a file is by its name alone."""
    if len(name) > _MAX_PATH:
        return None
    path = PurePosixPath(name.lower())
    stem, folders = path.name, path.parts[:-1]
    if not folders and stem in _OWN:
        return None
    if stem.startswith(("license", "licence", "copying", "notice")):
        return None
    if step_of(name) is not None and folders[:1] != ("data",):
        return "checkpoints"
    named = _component_of_stem(stem, path.suffix)
    if named in ("data_card", "model_card") and (named == "data_card" or not folders):
        return named
    for folder in folders:
        for component, names in _FOLDERS.items():
            if folder in names:
                return _in_folder(component, named, path.suffix)
    if named == "model_card":
        return None
    if named is None and folders and path.suffix in CODE + SETTINGS and _is_code(folders):
        return "training_code"
    return named


def _component_of_stem(stem: str, suffix: str) -> str | None:
    for component, rule, ends in _COMPILED:
        if (not ends or suffix in ends) and rule.fullmatch(stem):
            return component
    return None


def _is_code(folders: tuple[str, ...]) -> bool:
    return folders[0] in ("src", "code", "scripts", "configs", "recipes", "megatron", "olmo")


def _in_folder(component: str, named: str | None, suffix: str) -> str | None:
    """What a file in a folder is: code among data prepares them, results among code are results."""
    code = suffix in CODE
    if component == "training_data":
        return "preprocessing_code" if code else component
    if component == "evaluation_code":
        if named in ("evaluation_results", "sample_outputs", "evaluation_data"):
            return named
        return component if code or suffix in SETTINGS else "evaluation_data"
    if component in ("training_code", "inference_code", "preprocessing_code") and suffix in WEIGHTS:
        return None
    return component


def step_of(name: str) -> int | None:
    """The step a path of a checkpoint names; the innermost that does."""
    numbers = _STEP.findall(name)
    return int(numbers[-1]) if numbers else None
