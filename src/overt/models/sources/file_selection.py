"""Which files of a repository, package or folder are the model: rules over names, no reading.

GGUF is preferred, since every local engine loads it; then a safetensors set with its config.
Pickled checkpoints are never chosen. A repository often holds one model in several quantizations;
each is a `Variant`, of one file or of the files of a split model.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from overt.errors import FormatError, ModelNotFound, UnsafeFile
from overt.formats.pickle import PICKLED_SUFFIXES
from overt.models.sources.base import Role
from overt.ref import part_of

_QUANTIZATION = re.compile(
    r"(?:\A|[-._/])(?P<name>(?:UD-)?(?:I?Q|TQ)[1-8](?:_[A-Z0-9]+)*|BF16|F16|F32|FP16|FP32"
    r"|(?:MX|NV)FP4(?:_MOE)?)(?=[-._/]|\Z)",
    re.IGNORECASE,
)
_BESIDE = 32  # licence and card files kept, at most


@dataclass(frozen=True, slots=True)
class Variant:
    """One quantization of a model: its GGUF files in order, and what their name says it is.

    `quantization` is in capitals, such as ``Q4_K_M``, or empty where the name does not say.
    """

    parts: tuple[str, ...]
    quantization: str

    @property
    def name(self) -> str:
        """The path that stands for it: of a split model, the first file."""
        return self.parts[0]


@dataclass(frozen=True, slots=True)
class FileChoice:
    """Paths as they were given.

    Attributes:
        weights: the GGUF files, or the safetensors files, of one model in order.
        files: everything to keep, weights first, with its role.
        note: which was taken of how many, where there was a choice; else None.
    """

    weights: tuple[str, ...]
    files: tuple[tuple[Role, str], ...]
    note: str | None = None


def choose(paths: list[str], file: str | None, place: str) -> FileChoice:
    """The model among `paths`.

    Args:
        paths: relative, with forward slashes.
        file: a path, or a quantization such as ``Q4_K_M``, that a person named after ``#``.
        place: what the paths belong to, for messages.

    Raises:
        ModelNotFound: no weights, or no such file.
        UnsafeFile: the weights are a pickled checkpoint.
        FormatError: a split GGUF that lacks files, or safetensors without a config.
    """
    if file is not None:
        return _choose_named(paths, file, place)
    ggufs = variants(paths)
    if ggufs:
        taken = min(ggufs, key=rank)
        note = f"took {taken.name} of {len(ggufs)} GGUF models" if len(ggufs) > 1 else None
        return _gguf(paths, taken, note)
    if cut := [p for p in paths if part_of(p) and role_of(p) == "weights"]:
        raise _lacking(paths, cut[0], place)
    tensors = [p for p in paths if p.lower().endswith(".safetensors") and role_of(p) == "weights"]
    if tensors:
        return _safetensors(paths, tensors, place)
    if pickled := sorted(p for p in paths if is_pickled(p)):
        raise refused(place, pickled[0])
    raise ModelNotFound(
        f"{place} holds no GGUF or safetensors weights", "choose another repository or file"
    )


def variants(paths: Sequence[str]) -> list[Variant]:
    """The GGUF models among `paths`, a split one only if all its files are there."""
    ggufs = {p for p in paths if p.lower().endswith(".gguf") and role_of(p) == "weights"}
    all_variants = []
    for path in sorted(ggufs):
        part = part_of(path)
        if part is None:
            all_variants.append(Variant((path,), quantization_of(path)))
        elif part.number == 1:
            files = tuple(part.sibling(number) for number in range(1, part.total + 1))
            if ggufs.issuperset(files):
                all_variants.append(Variant(files, quantization_of(part.stem)))
    return all_variants


def quantization_of(path: str) -> str:
    """``Q4_K_M`` of ``a/b-q4_k_m.gguf``: the last such word of the name, else of the folders."""
    part = part_of(path)
    stem = part.stem if part else path.removesuffix(".gguf").removesuffix(".GGUF")
    folder, _, name = stem.rpartition("/")
    for text in (name, folder):
        if matches := list(_QUANTIZATION.finditer(text)):
            return matches[-1]["name"].upper()
    return ""


def is_pickled(path: str) -> bool:
    """Whether the name is that of a checkpoint that runs code when loaded."""
    return path.lower().endswith(PICKLED_SUFFIXES)


def refused(place: str, path: str, runs: Sequence[str] = ()) -> UnsafeFile:
    """The error for a pickled checkpoint; `runs` are the functions it would call, where known."""
    what = f"would run {_listed(runs)}" if runs else "can run code"
    return UnsafeFile(
        f"{path} of {place} is a pickled checkpoint, which {what} when it is loaded",
        "choose a GGUF or safetensors version of the model",
    )


def _choose_named(paths: list[str], file: str, place: str) -> FileChoice:
    if file not in paths:
        return _gguf(paths, _quantized(paths, file, place), None)
    if is_pickled(file):
        raise refused(place, file)
    if file.lower().endswith(".gguf"):
        part = part_of(file)
        if part is None:
            return _gguf(paths, Variant((file,), quantization_of(file)), None)
        for variant in variants(paths):
            if file in variant.parts:
                return _gguf(paths, variant, None)
        raise _lacking(paths, file, place)
    if file.lower().endswith(".safetensors"):
        return _safetensors(paths, [file], place)
    raise ModelNotFound(
        f"{file} of {place} is neither GGUF nor safetensors", "name a .gguf or .safetensors file"
    )


def _quantized(paths: list[str], word: str, place: str) -> Variant:
    """The one variant whose quantization is `word`, in capitals or not."""
    all_variants = variants(paths)
    same = [v for v in all_variants if v.quantization and v.quantization == word.upper()]
    if len(same) == 1:
        return same[0]
    if same:
        raise ModelNotFound(
            f"{place} has {len(same)} files of {word.upper()}",
            f"name one: {' or '.join('#' + v.name for v in same[:3])}",
        )
    from difflib import get_close_matches

    kinds = sorted({v.quantization for v in all_variants if v.quantization})
    near = get_close_matches(word, paths, n=3, cutoff=0.4)
    near = get_close_matches(word.upper(), kinds, n=3, cutoff=0.6) or near
    if near:
        hint = f"did you mean {' or '.join(near)}?"
    elif kinds:
        hint = f"it has {_listed(kinds)}"
    else:
        hint = "leave out the # and its file"
    raise ModelNotFound(f"{place} has no file {word}", hint)


def _lacking(paths: Sequence[str], file: str, place: str) -> FormatError:
    part = part_of(file)
    assert part
    here = sum(part.sibling(number) in paths for number in range(1, part.total + 1))
    return FormatError(
        f"{file} of {place} is one of {part.total} files of a split GGUF, and {here} are there",
        "choose another quantization, and name it after #",
    )


def _listed(words: Sequence[str], most: int = 6) -> str:
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more


def _gguf(paths: list[str], taken: Variant, note: str | None) -> FileChoice:
    projectors = [p for p in paths if role_of(p) == "projector" and p not in taken.parts]
    beside = _beside(paths, taken.name)
    files: list[tuple[Role, str]] = [("weights", path) for path in taken.parts]
    if projectors:
        best = min(projectors, key=lambda p: ("f16" not in p.lower().replace("bf16", ""), p))
        files.append(("projector", best))
    return FileChoice(taken.parts, (*files, *beside), note)


def _safetensors(paths: list[str], tensors: list[str], place: str) -> FileChoice:
    """The files of the outermost folder that has any; its config and tokenizer with them."""
    folder = min((str(PurePosixPath(p).parent) for p in tensors), key=lambda f: (f.count("/"), f))
    here = sorted(p for p in tensors if str(PurePosixPath(p).parent) == folder)
    proper = [p for p in here if not PurePosixPath(p).name.startswith("consolidated")]
    weights = tuple(proper or here)
    beside = [p for p in paths if str(PurePosixPath(p).parent) == folder and p not in here]
    support: list[tuple[Role, str]] = [
        (role, p) for p in beside if (role := role_of(p)) in ("config", "tokenizer", "template")
    ]
    # How sentence-transformers makes one vector of many: in a folder of its own.
    pooling = str(PurePosixPath(folder) / "1_Pooling/config.json")
    support += [("config", p) for p in paths if p == pooling]
    if not any(PurePosixPath(p).name == "config.json" for _, p in support):
        raise FormatError(
            f"{place} has safetensors weights but no config.json beside them",
            "choose a GGUF version, or a repository that has its configuration",
        )
    chosen: list[tuple[Role, str]] = [("weights", p) for p in weights]
    return FileChoice(weights, (*chosen, *support, *_beside(paths, weights[0])))


def _beside(paths: list[str], weights: str) -> tuple[tuple[Role, str], ...]:
    """Licence texts and cards anywhere near: at the top, beside the weights, or in dist-info."""
    folders = {".", str(PurePosixPath(weights).parent)}
    companions: list[tuple[Role, str]] = []
    for path in sorted(paths):
        role = role_of(path)
        folder = str(PurePosixPath(path).parent)
        near = folder in folders or ".dist-info" in folder or folder.split("/")[-1] == "data"
        if role in ("licence", "card") and near:
            companions.append((role, path))
    return tuple(companions[:_BESIDE])


_CONFIGS = ("config.json", "generation_config.json", "params.json", "preprocessor_config.json")
_TOKENIZERS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tekken.json",
    "tokenizer.model.v3",
)
_TEMPLATES = ("chat_template.jinja", "chat_template.json")


def role_of(path: str) -> Role | None:
    """What a file of a model is for, judged by its name alone; None where it is not needed."""
    name = PurePosixPath(path).name
    lower = name.lower()
    stem = lower.split(".")[0]
    if lower.endswith(".gguf"):
        return "projector" if "mmproj" in lower else "weights"
    if lower.endswith(".safetensors"):
        return "adapter" if lower.startswith("adapter_") else "weights"
    if lower in _CONFIGS or lower.endswith(".safetensors.index.json"):
        return "config"
    if lower in _TOKENIZERS:
        return "tokenizer"
    if lower in _TEMPLATES:
        return "template"
    if stem.startswith(("license", "licence", "copying", "notice")) or "terms" in stem.split("_"):
        return "licence"
    if stem in ("use_policy",):
        return "licence"
    if stem in ("readme", "model_card", "modelcard"):
        return "card"
    return None


# Which quantization to take when a repository holds several and none was named: 4-bit with K-means
# first because it is the usual trade between size and quality, then its neighbours, larger before
# much smaller, full precision late because of its size.
ORDER = (
    "q4_k_m", "q4_k_s", "q5_k_m", "q4_1", "q4_0", "iq4_xs", "iq4_nl", "q5_k_s", "q5_1", "q5_0",
    "q6_k", "q8_0", "q3_k_l", "q3_k_m", "q3_k_s", "bf16", "f16", "fp16", "q2_k", "f32",
)  # fmt: skip


def rank(variant: Variant) -> tuple[int, int, str]:
    """The smaller the sooner taken: the first of `ORDER`, then the shortest name."""
    lower = variant.quantization.lower() or PurePosixPath(variant.name).name.lower()
    places = (place for place, kind in enumerate(ORDER) if kind in lower)
    return (next(places, len(ORDER)), len(variant.name), variant.name)
