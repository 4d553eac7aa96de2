"""Which files of a repository, package or folder are the model: rules over names, no reading.

One GGUF file is preferred, since every local engine loads it; then a safetensors set with its
config. Pickled checkpoints are never chosen.
"""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from overt.errors import FormatError, ModelNotFound, UnsafeFile
from overt.sources.base import Role

# Loading one of these runs code that the file brings along (pickle opcodes), so they are refused.
PICKLED = (
    ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".dill", ".th", ".pt2",
)  # fmt: skip

_SPLIT = re.compile(r"-(\d{5})-of-(\d{5})\.gguf\Z", re.IGNORECASE)
_BESIDE = 32  # licence and card files kept, at most


@dataclass(frozen=True, slots=True)
class Choice:
    """Paths as they were given.

    Attributes:
        weights: one GGUF file, or the safetensors files of one model in order.
        files: everything to keep, weights first, with its role.
        note: which was taken of how many, where there was a choice; else None.
    """

    weights: tuple[str, ...]
    files: tuple[tuple[Role, str], ...]
    note: str | None = None


def choose(paths: list[str], file: str | None, place: str) -> Choice:
    """The model among `paths`.

    Args:
        paths: relative, with forward slashes.
        file: the one a person named after ``#``, or None.
        place: what the paths belong to, for messages.

    Raises:
        ModelNotFound: no weights, or no such file.
        UnsafeFile: the weights are a pickled checkpoint.
        FormatError: GGUF cut in several files, or safetensors without a config.
    """
    if file is not None:
        return _named(paths, file, place)
    ggufs = [p for p in paths if p.lower().endswith(".gguf") and role_of(p) == "weights"]
    whole = [p for p in ggufs if not _SPLIT.search(p)]
    if whole:
        taken = preferred(whole)
        note = f"took {taken} of {len(whole)} GGUF files" if len(whole) > 1 else None
        return _gguf(paths, taken, note)
    if ggufs:
        raise _cut(place, ggufs[0])
    tensors = [p for p in paths if p.lower().endswith(".safetensors") and role_of(p) == "weights"]
    if tensors:
        return _safetensors(paths, tensors, place)
    if pickled := sorted(p for p in paths if is_pickled(p)):
        raise refused(place, pickled[0])
    raise ModelNotFound(
        f"{place} holds no GGUF or safetensors weights", "choose another repository or file"
    )


def is_pickled(path: str) -> bool:
    """Whether the name is that of a checkpoint that runs code when loaded."""
    return path.lower().endswith(PICKLED)


def refused(place: str, path: str) -> UnsafeFile:
    """The error for a pickled checkpoint."""
    return UnsafeFile(
        f"{path} of {place} is a pickled checkpoint, which can run code when it is loaded",
        "choose a GGUF or safetensors version of the model",
    )


def _named(paths: list[str], file: str, place: str) -> Choice:
    if file not in paths:
        from difflib import get_close_matches

        near = get_close_matches(file, paths, n=3, cutoff=0.4)
        raise ModelNotFound(
            f"{place} has no file {file}",
            f"did you mean {' or '.join(near)}?" if near else "leave out the # and its file",
        )
    if is_pickled(file):
        raise refused(place, file)
    if _SPLIT.search(file):
        raise _cut(place, file)
    if file.lower().endswith(".gguf"):
        return _gguf(paths, file, None)
    if file.lower().endswith(".safetensors"):
        return _safetensors(paths, [file], place)
    raise ModelNotFound(
        f"{file} of {place} is neither GGUF nor safetensors", "name a .gguf or .safetensors file"
    )


def _cut(place: str, file: str) -> FormatError:
    count = int(_SPLIT.search(file)[2])  # type: ignore[index]
    return FormatError(
        f"{file} of {place} is one of {count} pieces of a split GGUF, which Overt cannot join yet",
        "choose a quantization that is one file, and name it after #",
    )


def _gguf(paths: list[str], weights: str, note: str | None) -> Choice:
    projectors = [p for p in paths if role_of(p) == "projector" and p != weights]
    beside = _beside(paths, weights)
    files: list[tuple[Role, str]] = [("weights", weights)]
    if projectors:
        best = min(projectors, key=lambda p: ("f16" not in p.lower().replace("bf16", ""), p))
        files.append(("projector", best))
    return Choice((weights,), (*files, *beside), note)


def _safetensors(paths: list[str], tensors: list[str], place: str) -> Choice:
    """The files of the outermost folder that has any; its config and tokenizer with them."""
    folder = min((str(PurePosixPath(p).parent) for p in tensors), key=lambda f: (f.count("/"), f))
    here = sorted(p for p in tensors if str(PurePosixPath(p).parent) == folder)
    proper = [p for p in here if not PurePosixPath(p).name.startswith("consolidated")]
    weights = tuple(proper or here)
    beside = [p for p in paths if str(PurePosixPath(p).parent) == folder and p not in here]
    support: list[tuple[Role, str]] = [
        (role, p) for p in beside if (role := role_of(p)) in ("config", "tokenizer", "template")
    ]
    if not any(PurePosixPath(p).name == "config.json" for _, p in support):
        raise FormatError(
            f"{place} has safetensors weights but no config.json beside them",
            "choose a GGUF version, or a repository that has its configuration",
        )
    chosen: list[tuple[Role, str]] = [("weights", p) for p in weights]
    return Choice(weights, (*chosen, *support, *_beside(paths, weights[0])))


def _beside(paths: list[str], weights: str) -> tuple[tuple[Role, str], ...]:
    """Licence texts and cards anywhere near: at the top, beside the weights, or in dist-info."""
    folders = {".", str(PurePosixPath(weights).parent)}
    found: list[tuple[Role, str]] = []
    for path in sorted(paths):
        role = role_of(path)
        folder = str(PurePosixPath(path).parent)
        near = folder in folders or ".dist-info" in folder or folder.split("/")[-1] == "data"
        if role in ("licence", "card") and near:
            found.append((role, path))
    return tuple(found[:_BESIDE])


_CONFIGS = ("config.json", "generation_config.json", "params.json", "preprocessor_config.json")
_TOKENIZERS = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt", "tekken.json", "tokenizer.model.v3",
)  # fmt: skip
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


def preferred(paths: list[str]) -> str:
    """The GGUF to take of several: the first of `ORDER` in its name, then the shortest name."""

    def rank(path: str) -> tuple[int, int, str]:
        lower = PurePosixPath(path).name.lower()
        found = (place for place, kind in enumerate(ORDER) if kind in lower)
        return (next(found, len(ORDER)), len(path), path)

    return min(paths, key=rank)
