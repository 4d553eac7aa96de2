"""What a model's own files claim: its card, its GGUF header, a MOF record that lies with it."""

from collections.abc import Iterator, Mapping
from typing import Any

from overt.errors import OvertError
from overt.openness import records
from overt.openness.subject import places
from overt.openness.subject.record import Claim, Parent, Record, Relation
from overt.openness.subject.subject import Subject
from overt.openness.verdicts.components import Availability

_RELATIONS: Mapping[str, Relation] = {
    "adapter": "adapter",
    "finetune": "finetune",
    "merge": "merge",
    "quantized": "quantized",
}
RECIPE = "its recipe"
"""The source of a parent that the recipe of a model in the store names."""
_MAX_PARENTS = 64
_MAX_RECORDS = 8
_MAX_RECORD_BYTES = 1 << 20


def of(subject: Subject) -> Record:
    """Everything the files say, a MOF record over the card over the header."""
    index = _from_record(subject)
    held = () if _are_elsewhere(index, subject) else tuple(_claims_by_presence(subject))
    record = Record(name=_name(subject), kind=_kind(subject), claims=held)
    for weaker in (index, _from_card(subject), _from_header(subject)):
        if weaker is not None:
            record = record.over(weaker)
    return record


def _name(subject: Subject) -> str:
    header = subject.model
    name = header.name if header else None
    if name is None and subject.card is not None:
        title = subject.card.fields.get("model_name")
        name = title if isinstance(title, str) else None
    return name[:200] if name else subject.record.name


def _kind(subject: Subject) -> Any:
    if subject.file("adapter_config.json"):
        return "adapter"
    kinds = {header.text("general.type") for header in subject.gguf.values()}
    return "adapter" if kinds == {"adapter"} else "model"


def _claims_by_presence(subject: Subject) -> Iterator[Claim]:
    """Weights that lie here are a claim: whoever sends them says they are the model."""
    weights = [file for file in subject.files if file.suffix in (".gguf", ".safetensors")]
    if weights:
        # The one nearest to the top: those further down may be checkpoints.
        first = min(weights, key=lambda file: (file.name.count("/"), file.name)).name
        yield Claim("weights", Availability.FULL, _licence(subject), where=first, source=first)


def _are_elsewhere(index: Record | None, subject: Subject) -> bool:
    """Whether the record says that the weights are where no file is: that is the claim then."""
    claim = index.claim("weights") if index else None
    where = places.inside(claim.where) if claim else None
    return bool(where) and not any(
        file.name == where or file.name.startswith(f"{where}/") for file in subject.files
    )


def _licence(subject: Subject) -> str | None:
    for claim in (_from_card(subject), _from_header(subject)):
        if claim is not None and claim.licence:
            return claim.licence
    return None


def _from_record(subject: Subject) -> Record | None:
    """A record of another index that lies at the top of the folder."""
    tried = 0
    for file in subject.files:
        if "/" in file.name or file.suffix not in (".yml", ".yaml") or tried == _MAX_RECORDS:
            continue
        tried += 1
        text = subject.text(file.name, _MAX_RECORD_BYTES)
        try:
            record = records.read(text, file.name) if text else None
        except OvertError as error:
            subject.damaged[file.name] = error.message
            continue
        if record is not None:
            return record
    return None


def _from_card(subject: Subject) -> Record | None:
    card = subject.card
    if card is None:
        return None
    relation = _RELATIONS.get(str(card.fields.get("base_model_relation")), None)
    bases = card.words("base_model")
    if relation is None:
        relation = "merge" if len(bases) > 1 else "base"
    datasets = card.words("datasets")
    parents = [Parent(name[:200], relation, source=card.name) for name in bases]
    parents += [Parent(name[:200], "dataset", source=card.name) for name in datasets]
    claims = [Claim("model_card", Availability.FULL, source=card.name, where=card.name)]
    if datasets:
        listed = f"its card lists {len(datasets)} data set{'s' * (len(datasets) > 1)}"
        claims.append(Claim("training_data", Availability.INDEXED, source=card.name, note=listed))
    licence, link = _card_licence(card.fields)
    return Record(
        name=subject.record.name,
        claims=tuple(claims),
        licence=licence,
        licence_link=link,
        parents=tuple(parents[:_MAX_PARENTS]),
        source=card.name,
    )


def _card_licence(fields: Mapping[str, Any]) -> tuple[str | None, str]:
    licence = fields.get("license")
    if isinstance(licence, list):  # the hub allows several: all of them hold
        licence = " AND ".join(item for item in licence[:8] if isinstance(item, str))
    if licence == "other":
        licence = fields.get("license_name") or licence
    link = fields.get("license_link")
    return (
        licence[:200] if isinstance(licence, str) and licence else None,
        link[:500] if isinstance(link, str) else "",
    )


def _from_header(subject: Subject) -> Record | None:
    header = subject.model
    if header is None:
        return None
    source = f"the header of {next(name for name, h in subject.gguf.items() if h is header)}"
    claims = []
    if header.tokenizer:
        claims.append(Claim("tokenizer", Availability.FULL, source=source))
    if header.chat_template:
        claims.append(Claim("chat_template", Availability.FULL, source=source))
    claims.append(Claim("architecture", Availability.DESCRIBED, source=source))
    claims.append(Claim("metadata", Availability.FULL, source=source))
    licence = header.licence
    if licence in (None, "other"):
        licence = header.licence_name or licence
    based = list(bases(header))
    if header.licence and _wrote_header(subject):
        # Overt wrote these from the same inputs, and their licences are in the header's own
        based = [(name, licence) for name, licence in based if licence is None]
    relation: Relation = "merge" if len(based) > 1 else "base"
    parents = [
        *(Parent(name[:200], relation, licence, source) for name, licence in based),
        *(Parent(n[:200], "dataset", source=source) for n in listed(header, "general.dataset")),
    ]
    return Record(
        name=header.name or subject.record.name,
        claims=tuple(claims),
        licence=licence[:200] if licence else None,
        licence_link=(header.licence_link or "")[:500],
        parents=tuple(parents[:_MAX_PARENTS]),
        source=source,
    )


def _wrote_header(subject: Subject) -> bool:
    """Whether the newest recipe wrote the bases that the header names. Other steps leave what the
    step before wrote, and with an adapter beside them weights are the base's own file.
    """
    made = {parent.relation for parent in subject.record.parents if parent.source == RECIPE}
    kinds = {header.text("general.type") for header in subject.gguf.values()}
    return bool(made & {"finetune", "merge"}) and "adapter" not in kinds


def bases(header: Any) -> Iterator[tuple[str, str | None]]:
    """Each model that a GGUF header says it was made from: ``owner/repository`` or its name, and
    the licence that Overt writes beside it; None where the header states none.
    """
    for number, name in _listed(header, "general.base_model"):
        licence = header.text(f"general.base_model.{number}.license")
        yield name, licence[:200] if licence else None


def listed(header: Any, prefix: str) -> Iterator[str]:
    """``owner/repository`` (or the name) of each base or data set a GGUF header lists."""
    return (name for _, name in _listed(header, prefix))


def _listed(header: Any, prefix: str) -> Iterator[tuple[int, str]]:
    count = header.number(f"{prefix}.count") or 0
    for i in range(min(count, _MAX_PARENTS)):
        address = header.text(f"{prefix}.{i}.repo_url") or ""
        owner = header.text(f"{prefix}.{i}.organization") or ""
        name = header.text(f"{prefix}.{i}.name") or ""
        _, separator, path = address.partition("huggingface.co/")
        path = path.removeprefix("datasets/")
        if separator and path.count("/") == 1:
            yield i, path
        elif name:
            yield i, f"{owner}/{name}".replace(" ", "-") if owner and " " not in owner else name
