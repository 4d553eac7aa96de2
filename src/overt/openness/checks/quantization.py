"""The claimed quantization against the types of the tensors.

A type is claimed by a file's name, by ``general.file_type``, by the record and, for the only GGUF
file of a release, by its name, its card's title, fields and tags (of several one must hold).
llama.cpp's mixes keep some tensors in more bits, and where rows do not fill blocks of 256 it falls
back to another type, so a claim is judged by the matrices of the blocks: the type that holds most
of their parameters must be one that the claim stands for, and for the types that are never mixed
downwards no matrix may have fewer bits. Embedding and output are free. Measured: SmolLM2's Q4_1 has
its embedding in Q8_0; in Gemma 3 270M's Q4_K_M 63 % of the blocks' parameters are Q5_0, which
stands in for Q4_K in rows of 640. llama.cpp made every type it makes without an importance matrix
of six small models (rows of 256, 320 and 512; dense and mixture of experts): no false alarm.

Sources: llama-quant.cpp of llama.cpp b11549 (default types, fallbacks, what is mixed in).
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from overt.formats.ggml import TYPES
from overt.openness.evidence import Finding
from overt.openness.shapes.plan import text_config
from overt.openness.subject import prose, statements, tensors
from overt.openness.subject.subject import Subject
from overt.openness.subject.tensors import LocatedTensor, Weights
from overt.openness.verdicts.components import Strength

VERSION = 3
TTL = 0

_CLAIM = re.compile(
    r"(?:^|[-._ /])(UD-)?(IQ[1-4]_(?:XXS|XS|NL|S|M)(?:_XL)?|Q[2-8]_K(?:_(?:XXS|XS|XL|S|M|L|P))?"
    r"|Q[1-8]_[01]|TQ[12]_0|MXFP4(?:_MOE)?|NVFP4|BF16|FP?16|FP?32|Q[2-8])(?=$|[-._ /])",
    re.I,
)
FALLBACK: Final[Mapping[str, tuple[str, ...]]] = {
    "Q4_K": ("Q5_0",), "Q5_K": ("Q5_1",), "Q6_K": ("Q8_0",), "TQ1_0": ("Q4_0",),
    "TQ2_0": ("Q4_0",),
    **dict.fromkeys(
        ("Q2_K", "Q3_K", "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S",
         "IQ4_XS"), ("IQ4_NL", "Q4_0"),
    ),
}  # fmt: skip
"""What stands in for a type in rows that are no multiple of 256: now, and in older versions."""
_MEANT: Final[Mapping[str, tuple[str, ...]]] = {
    "IQ1_M": ("IQ1_M", "IQ1_S"),
    "IQ2_S": ("IQ2_XS", "IQ2_S"),
    "IQ2_M": ("IQ2_S", "IQ2_XS", "IQ3_S"),
    "IQ3_XS": ("IQ3_S", "IQ3_XXS"),
    "IQ3_M": ("IQ3_S",),
    "IQ3_XXS": ("IQ3_XXS", "IQ2_S"),
    "MXFP4_MOE": ("MXFP4", "Q8_0"),
    "FP16": ("F16",),
    "FP32": ("F32",),
}
_BITS: Final[Mapping[str, float]] = {
    kind.name: kind.bytes * 8 / kind.block for kind in TYPES.values()
}
_NEVER_REDUCED: Final = (
    "F32",
    "F16",
    "BF16",
    "Q8_0",
    "Q5_0",
    "Q5_1",
    "Q4_0",
    "Q4_1",
    "Q3_K",
    "Q4_K",
    "Q5_K",
    "Q6_K",
    "IQ4_NL",
    "IQ4_XS",
)
_EXACT = ("F16", "BF16", "F32")
_APART = re.compile(r".*(norm|ffn_gate_inp|ssm_|time_mix|_b\.weight|shexp_gate|rope_|conv)")
_DTYPES = {
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float64": "F64",
    "half": "F16",
    "float": "F32",
}


@dataclass(frozen=True, slots=True)
class ClaimedQuantization:
    """`types` the claim may stand for; `loose` only by its bits (``UD-``, a bare ``Q4``)."""

    text: str
    source: str
    types: tuple[str, ...]
    bits: int
    loose: bool


def check(subject: Subject) -> Iterable[Finding]:
    models = [model for model in tensors.of(subject) if model.tensors]
    alone = sum(model.format == "gguf" for model in models) == 1
    for weights in models:
        if weights.format == "gguf":
            yield from _gguf(subject, weights, alone)
        else:
            yield from _dtype(subject, weights)


def claim(text: str, source: str) -> ClaimedQuantization | None:
    """The quantization that a text names last; None where it names none."""
    claims = list(_CLAIM.finditer(text))
    if not claims:
        return None
    # What is said of single tensors comes after (Q4_K_M-f16-output), and in 16 bits.
    packed = [match for match in claims if match[2][-2:] not in ("16", "32")]
    chosen = (packed or claims)[-1]
    dynamic, name = chosen[1], chosen[2].upper()
    digits = re.search(r"\d+", name)
    bits = int(digits[0]) if digits else 0
    base = re.sub(r"_K_\w+$", "_K", name)
    loose = bool(dynamic) or name.endswith(("_XL", "_P")) or ("_" not in name and name[0] == "Q")
    return ClaimedQuantization(
        chosen[0].strip("-._ /"), source, _MEANT.get(name, (base,)), bits, loose
    )


def _gguf(subject: Subject, weights: Weights, alone: bool) -> Iterator[Finding]:
    claims = list(_claims(subject, weights, alone))
    if not claims:
        return
    if weights.lacking:
        yield Finding(
            "weights",
            "not_run",
            Strength.CONSISTENT,
            reason=f"{len(weights.lacking)} of its files are not here",
        )
        return
    matrices = _matrices(weights)
    text = _type_shares(matrices)
    loose = any(claim_.loose for claim_ in claims)
    for claim_ in claims:
        if trouble := _judge(claim_, matrices, loose):
            yield Finding(
                "weights",
                "fail",
                Strength.CONSISTENT,
                trouble,
                f"{claim_.text} by {claim_.source}",
                paths=weights.files,
            )
            return
    expected = ", ".join(f"{claim_.text} by {claim_.source}" for claim_ in claims)
    yield Finding("weights", "pass", Strength.CONSISTENT, text, expected, paths=weights.files)


def _claims(subject: Subject, weights: Weights, alone: bool) -> Iterator[ClaimedQuantization]:
    texts = [(weights.name.rpartition("/")[2].removesuffix(".gguf"), "the file's name")]
    if weights.header is not None:
        texts.append((weights.header.file_type or "", "general.file_type"))
        named = claim(weights.header.name or "", "general.name")
        # In 16 bits it is what the file was made from.
        if named is not None and named.types[0] not in _EXACT:
            yield named
    quantization = subject.record.facts.get("quantization")
    if isinstance(quantization, str) and alone:
        texts.append((quantization, "the record"))
    for text, source in texts:
        claimed = claim(text, source)
        if claimed is not None:
            yield claimed
    if alone and claim(texts[0][0], "") is None:
        yield from _claims_in_card(subject, weights)


def _claims_in_card(subject: Subject, weights: Weights) -> Iterator[ClaimedQuantization]:
    """What is said around a file whose own name says nothing; in 16 bits may be what it was made
    from."""
    card, name = subject.card, weights.name.rpartition("/")[2]
    texts = [(subject.record.name, "the release's name")] if subject.place else []
    if card is not None:
        lines = card.body.split("\n", 2000)[:2000]
        title = next((line for line in lines if line.startswith("# ")), "")
        stated = statements.read(card.body, card.fields).get("quantization")
        texts += [(title[:200], "the card's title"), (stated.words if stated else "", card.name)]
        texts += [
            (line[:400], f"{card.name}'s table")
            for line in lines
            if line.startswith("|") and name in line
        ]
        texts += [
            (sentence, card.name)
            for sentence in prose.own_sentences(card.body, [subject.record.name])
        ]
        tags = [match for tag in card.words("tags") if (match := _CLAIM.fullmatch(tag))]
        if len(tags) == 1:
            texts.append((tags[0][0], f"{card.name}'s tags"))
    for text, source in texts:
        plain = re.sub(r"[`*(),:]", " ", text)
        claimed = claim(plain, source)
        # Of several the one that is here need not be the last.
        several = {match[2].upper() for match in _CLAIM.finditer(plain)}
        if claimed is not None and len(several) == 1 and claimed.types[0] not in _EXACT:
            yield claimed


def _matrices(weights: Weights) -> list[LocatedTensor]:
    """What is quantized: the matrices of the blocks; of a model without blocks all matrices."""
    matrices = [
        t for t in weights.tensors.values() if len(t.shape) > 1 and not _APART.match(t.name)
    ]
    return [t for t in matrices if t.name.startswith("blk.")] or matrices


def _shares(matrices: list[LocatedTensor]) -> list[tuple[str, float]]:
    total = sum(tensor.parameters for tensor in matrices) or 1
    shares: dict[str, int] = {}
    for tensor in matrices:
        shares[tensor.type] = shares.get(tensor.type, 0) + tensor.parameters
    ordered = sorted(shares.items(), key=lambda item: (-item[1], item[0]))
    return [(kind, count / total) for kind, count in ordered]


def _type_shares(matrices: list[LocatedTensor]) -> str:
    shares = ", ".join(f"{share:.0%} {kind}" for kind, share in _shares(matrices)[:4])
    return f"{shares} of the parameters of {len(matrices)} matrices"


def _judge(claim_: ClaimedQuantization, matrices: list[LocatedTensor], loose: bool) -> str | None:
    """What is there instead; None where the claim holds."""
    if not matrices:
        return None
    total = sum(tensor.parameters for tensor in matrices)
    if claim_.loose or loose:
        bits = sum(tensor.size for tensor in matrices) * 8 / total
        good = 0.55 * claim_.bits <= bits <= 1.6 * claim_.bits + 1.2
        return None if good else f"{bits:.2f} bits a weight in {len(matrices)} matrices"
    as_meant = sum(t.parameters for t in matrices if t.type in _allowed(claim_.types, t))
    others: dict[str, int] = {}
    for tensor in matrices:
        if tensor.type not in _allowed(claim_.types, tensor):
            others[tensor.type] = others.get(tensor.type, 0) + tensor.parameters
    if as_meant < max(others.values(), default=0) or not as_meant:
        return _type_shares(matrices)
    if claim_.types[0] in _NEVER_REDUCED:
        for tensor in matrices:
            if tensor.type in _allowed(claim_.types, tensor):
                continue
            if _BITS[tensor.type] < _BITS[claim_.types[0]] - 0.01:
                return f"{tensor.name} is {tensor.type}, of {_BITS[tensor.type]:.3g} bits a weight"
    return None


def _allowed(types: tuple[str, ...], tensor: LocatedTensor) -> tuple[str, ...]:
    row = tensor.shape[-1]
    allowed = types
    if row % 256:
        allowed += tuple(other for kind in types for other in FALLBACK.get(kind, ()))
    if row % 32 and not set(types) <= {"F16", "BF16", "F32"}:
        allowed += ("F16", "F32", "BF16")
    return allowed


# ---- safetensors ---------------------------------------------------------------------------


def _dtype(subject: Subject, weights: Weights) -> Iterator[Finding]:
    """``torch_dtype`` of config.json against the dtype of most parameters."""
    config = subject.config or {}
    yield from _packed(subject, weights)
    dtype = (
        config.get("dtype") or config.get("torch_dtype") or text_config(config).get("torch_dtype")
    )
    if not isinstance(dtype, str) or weights.lacking or config.get("quantization_config"):
        return
    expected = _DTYPES.get(dtype.removeprefix("torch."))
    if expected is None:
        return
    shares = _shares(list(weights.tensors.values()))
    observed = ", ".join(f"{share:.0%} {kind}" for kind, share in shares[:3])
    good = bool(shares) and shares[0][0] == expected
    yield Finding(
        "metadata",
        "pass" if good else "fail",
        Strength.CONSISTENT,
        f"{observed} of {weights.parameters} parameters",
        f"{dtype[:40]} by config.json",
        paths=("config.json", *weights.files),
    )


_METHODS: Final[Mapping[str, tuple[str, ...]]] = {
    "gptq": ("I32", "U32"),
    "awq": ("I32", "U32"),
    "fp8": ("F8_E4M3", "F8_E5M2"),
}
"""Ways to quantize that cannot be loaded from whole numbers, and what they are stored in.

bitsandbytes is none of them: it quantizes while it loads.
"""


def _packed(subject: Subject, weights: Weights) -> Iterator[Finding]:
    """``quantization_config`` of config.json, or a tag of the card, against the types."""
    config, card = subject.config or {}, subject.card
    config_ = config.get("quantization_config")
    method = config_.get("quant_method") if isinstance(config_, dict) else None
    source = "quantization_config"
    if config_ is None and card is not None:
        tags = [tag.lower() for tag in card.words("tags")]
        method = next((tag for tag in ("gptq", "awq") if tag in tags), None)
        source = f"{card.name}'s tags"
    kinds = _METHODS.get(method) if isinstance(method, str) else None
    if kinds is None or weights.lacking or not weights.tensors:
        return
    if not any(tensor.type in kinds for tensor in weights.tensors.values()):
        shares = _shares(list(weights.tensors.values()))
        observed = ", ".join(f"{share:.0%} {kind}" for kind, share in shares[:3])
        yield Finding(
            "weights",
            "fail",
            Strength.CONSISTENT,
            f"{observed}, and no {kinds[0]}",
            f"{method} by {source}",
            paths=weights.files,
        )
