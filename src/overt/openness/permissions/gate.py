"""Whether a model may be used as it is about to be: asked before it runs, is served or handed on.

The setting `licence` decides what comes of the answer. With ``off`` nobody asks. With ``warn`` a
remark is made where the licence forbids this use or wants permission, as far as the facts that
`overt may --save` keeps tell, and one remark a model and home where its licence has conditions at
all. With ``enforce`` the model is refused, also where the answer is not known.

Only what is at hand is read: the manifest, the header, the small licence files, one file of terms.
An answer is kept in the home by everything that went into it, and a licence text that was
recognised by its digest, so that asking again reads one small file.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from overt.errors import BadRequest, OvertError, Refused
from overt.openness import program
from overt.settings import Settings

if TYPE_CHECKING:
    from overt.formats.gguf import GgufHeader
    from overt.models.pull import LocalModel
    from overt.openness.permissions.may import Decision, LicenceLink
    from overt.openness.subject.named_licences import StatedLicence

Use = Mapping[str, object]
RUNNING: Final[Use] = {}
SERVING: Final[Use] = {"distributes": ("hosted_api",)}
"""What is true of a server that other machines reach."""
SENDING: Final[Use] = {"distributes": ("weights",)}
"""What is true of an export or a push."""

_MAX_SAVED_BYTES = 1 << 16
_MAX_TEXT = 1 << 20
_MAX_TEXTS = 4
_MAX_BASES = 8
_QUIET = ("osd_open", "data_open")  # kinds of licences that ask nothing of who runs a model
_T = TypeVar("_T")


class LicenceWarning(NamedTuple):
    """What a person should know before the model is used.

    Attributes:
        text: one sentence.
        verdict: allow_with_obligations, needs_permission, deny or unknown.
    """

    text: str
    verdict: str


class LicenceGate:
    """Asks once a model: what was let through is let through until the process ends."""

    def __init__(self, settings: Settings, use: Use = RUNNING) -> None:
        self._settings, self._use = settings, use
        self._passed: set[str] = set()

    def __call__(
        self, model: "LocalModel", header: "GgufHeader | None" = None
    ) -> LicenceWarning | None:
        """What to say about `model` the first time it is used. Raises Refused, as `consult`."""
        if self._settings.licence == "off" or model.digest in self._passed:
            return None
        answer = consult(model, model.ref, self._settings, self._use, header=header)
        self._passed.add(model.digest)
        return answer


def consult(
    model: "LocalModel | None",
    ref: str,
    settings: Settings,
    use: Use,
    *,
    header: "GgufHeader | None" = None,
) -> LicenceWarning | None:
    """What to say before `model` is used as `use` tells, or nothing.

    Args:
        model: None where there are no files (a model behind an API).
        header: of its weights, where it is read already.

    Raises:
        Refused: with the policy ``enforce``, where this use is denied, needs permission, or cannot
            be judged.
        BadRequest: the saved facts cannot be read.
    """
    if settings.licence == "off":
        return None
    answer = _answer(model, ref, settings, use, header)
    if answer.refusal:
        raise Refused(answer.text, answer.refusal)
    if answer.once and not _first(settings.home, model.digest if model else ref):
        return None
    return LicenceWarning(answer.text, answer.verdict) if answer.text else None


def prepare(ref: str, settings: Settings) -> None:
    """Ask about a model of the store ahead of its first use, so that a run finds the answer kept.

    Says nothing, and what goes wrong here goes wrong again where somebody hears of it. A plain
    file, which would be hashed, is left alone.
    """
    from overt.models.pull import find
    from overt.ref import parse

    if settings.licence == "off":
        return
    with suppress(OvertError, OSError):
        if parse(ref).scheme != "path":
            model = find(ref, settings)
            _answer(model, model.ref, settings, RUNNING, None)


def _answer(
    model: "LocalModel | None", ref: str, settings: Settings, use: Use, header: "GgufHeader | None"
) -> "_Outcome":
    """What there is to say, kept from before or found now. Raises as `consult`, not Refused."""
    profile = _saved_profile(settings.home)
    texts = list(_texts(model, settings)) if model else []
    question = {
        "policy": settings.licence,
        "model": [ref, model.digest, bool(model.projector)] if model else [ref],
        "texts": [stamp for _, stamp, _ in texts],
        "facts": [profile.decode("latin-1"), sorted(use.items())],
    }

    def judge() -> "_Outcome":
        facts_ = together(_profile(profile, settings.home), use)
        return _outcome(model, ref, settings, facts_, header, texts)

    return _remembered(settings.home, "answer", json.dumps(question), _read_outcome, judge)


def saved(home: Path) -> dict[str, Any]:
    """The facts that `overt may --save` keeps. Raises BadRequest: they cannot be read."""
    return _profile(_saved_profile(home), home)


def together(known: Use, use: Use) -> dict[str, Any]:
    """Saved facts and those of this use: what is handed on adds up, else this use counts."""
    merged = {**known, **use}
    before, now = known.get("distributes"), use.get("distributes")
    if isinstance(before, tuple) and isinstance(now, tuple):
        words = {*before, *now} - {"nothing"}
        merged["distributes"] = tuple(word for word in (*before, *now) if word in words)
    return merged


def _saved_profile(home: Path) -> bytes:
    path = home / "use.toml"
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_SAVED_BYTES + 1)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise BadRequest(f"{path} cannot be read: {error.strerror}", "correct it") from None
    if len(data) > _MAX_SAVED_BYTES:
        raise BadRequest(f"{path} is larger than {_MAX_SAVED_BYTES} bytes", "delete it")
    return data


def _profile(profile: bytes, home: Path) -> dict[str, Any]:
    if not profile:
        return {}
    from overt.openness.permissions import facts

    path = home / "use.toml"
    try:
        return dict(facts.read_profile(profile.decode("utf-8-sig"), str(path)))
    except UnicodeDecodeError:
        raise BadRequest(f"{path} is not UTF-8 text", "correct it or delete it") from None


# -- the answer ------------------------------------------------------------------------------------


class _Outcome(NamedTuple):
    """What `consult` says; with `refusal` it is refused, with `once` said once a model and home."""

    text: str = ""
    verdict: str = ""
    refusal: str = ""
    once: bool = False


def _read_outcome(content: Any) -> _Outcome:
    text, verdict, refusal, once = content
    return _Outcome(str(text), str(verdict), str(refusal), bool(once))


def _outcome(
    model: "LocalModel | None",
    ref: str,
    settings: Settings,
    given_facts: Use,
    header: "GgufHeader | None",
    texts: "list[_Text]",
) -> _Outcome:
    own, declared, header = _own_licences(model, settings.home, header, texts)
    enforced = settings.licence == "enforce"
    altered = next((licence for licence in own if licence.altered), None)
    if not (given_facts or enforced or altered):
        return _conditions(ref, own)
    from overt.openness.permissions import may

    multimodal = bool(model and model.projector)
    decision = may.decide(tuple(_links(ref, own, declared, header, multimodal)), given_facts)
    if enforced and decision.verdict not in ("allow", "allow_with_obligations"):
        return _refusal(ref, decision)
    if decision.verdict in ("deny", "needs_permission"):
        return _Outcome(f"{_against(ref, decision)}; `overt may {ref}` says why", decision.verdict)
    if altered:
        text = (
            f"the licence text of {ref} differs from {altered.licence or 'any known licence'}; "
            f"`overt may {ref}` quotes what was changed"
        )
        return _Outcome(text, decision.verdict)
    return _conditions(ref, own)


def _refusal(ref: str, decision: "Decision") -> _Outcome:
    from overt.openness.permissions import facts

    hint = f"`overt may {ref}` says why"
    if decision.verdict == "unknown":
        lacking = ", ".join(decision.missing[:4]) or "a fact"
        text = f"whether {ref} may be used like this is not known, for want of {lacking}"
        if all(facts.fact(name) for name in decision.missing):
            hint = f"type `overt may {ref} --save` and answer what it asks"
        else:
            hint += ", and OVERT_LICENCE=warn lets it through once you know"
        return _Outcome(text, decision.verdict, hint)
    if decision.verdict == "needs_permission":
        hint += ", and OVERT_LICENCE=warn lets it through once you have it"
    return _Outcome(_against(ref, decision), decision.verdict, hint)


def _against(ref: str, decision: "Decision") -> str:
    from overt.openness.subject.named_licences import place

    reason = (
        f"the licence of {ref} does not allow this use"
        if decision.verdict == "deny"
        else f"this use of {ref} needs permission"
    )
    for clause in decision.clauses:
        if clause.effect == decision.verdict and not clause.when:
            return f"{reason} ({place(clause.licence, clause.section)})"
    return reason


def _conditions(ref: str, own: "list[StatedLicence]") -> _Outcome:
    """The remark that a licence has conditions; nothing for an open one, or one nobody names."""
    from overt.openness.licence import names

    facts_list = [names.facts(licence.licence) for licence in own if licence.licence]
    limited = next(
        (facts_ for facts_ in facts_list if facts_ is not None and facts_.kind not in _QUIET), None
    )
    if limited is None:
        return _Outcome()
    text = (
        f"the licence of {ref} ({limited.title}) has conditions: `overt may {ref}` asks what they "
        f"mean for you"
    )
    return _Outcome(text, "unknown", once=True)


# -- the licences, from what is at hand ------------------------------------------------------------

_Text = tuple[str, str, Path]  # name, what changes with its content, place


def _own_licences(
    model: "LocalModel | None", home: Path, header: "GgufHeader | None", texts: list[_Text]
) -> "tuple[list[StatedLicence], bool, GgufHeader | None]":
    """What the model's files say, whether a licence is named at all, and the header."""
    from overt.openness.subject.named_licences import StatedLicence, agree, ids_of

    licences = [licence_ for text in texts for licence_ in _recognised(text, home)]
    if model is None:
        return licences, False, None
    if header is None and model.weights.suffix != ".safetensors":
        header = _header(model)
    declared = list(_declared(model, header))
    for words in declared:
        for id_ in ids_of(words):
            if not any(agree(words, id_, other.licence) for other in licences if other.licence):
                licences.append(StatedLicence(id_))
    return licences, bool(declared), header


def _links(
    ref: str,
    own: "list[StatedLicence]",
    declared: bool,
    header: "GgufHeader | None",
    multimodal: bool,
) -> "Iterator[LicenceLink]":
    """As chain.py finds them, without a card, and with one step of parents."""
    from overt.openness.subject.named_licences import StatedLicence, link_of

    facts = {"modality": "multimodal"} if multimodal else {}
    bases = list(_bases(header))[:_MAX_BASES] if header is not None else []
    if not any(licence_.licence for licence_ in own):
        claimed = () if declared else _claimed(ref)
        own = [*own, *claimed]
        if not claimed and (declared or not bases):
            own = own or [StatedLicence(None)]
    yield from (link_of(ref, licence_, facts) for licence_ in own)
    taken = {licence_.licence for licence_ in own}
    for name, licence in bases:
        for licence_ in (*_stated_licences(licence), *_claimed(name)) or (StatedLicence(None),):
            if licence_.licence is None or licence_.licence not in taken:
                taken.add(licence_.licence)
                yield link_of(name, licence_, {}, "base")


def _stated_licences(words: str | None) -> "tuple[StatedLicence, ...]":
    """The licences that a header names beside one of its bases."""
    from overt.openness.subject.named_licences import StatedLicence, ids_of, says_nothing

    return () if says_nothing(words) else tuple(map(StatedLicence, ids_of(words or "")))


def _claimed(name: str) -> "tuple[StatedLicence, ...]":
    """The licences that the catalogue has for a ref, or for a name in a header."""
    from overt.openness.subject import families
    from overt.openness.subject.named_licences import StatedLicence, ids_of
    from overt.ref import parse

    known = families.find(name)
    if known is None:
        with suppress(OvertError):
            known = families.lookup(parse(name))
    return tuple(map(StatedLicence, ids_of(known.licence))) if known and known.licence else ()


def _declared(model: "LocalModel", header: "GgufHeader | None") -> Iterator[str]:
    """The words of the manifest and of the header, each once."""
    from overt.openness.subject.named_licences import says_nothing

    names_ = [model.manifest.licence if model.manifest else None]
    if header is not None:
        names_ += [header.licence_name if says_nothing(header.licence) else header.licence]
    yield from dict.fromkeys(words for words in names_ if words and not says_nothing(words))


def _header(model: "LocalModel") -> "GgufHeader | None":
    from overt.formats import gguf

    try:
        return gguf.read(model.weights, whole=False)
    except OvertError:
        return None


def _bases(header: "GgufHeader") -> "Iterator[tuple[str, str | None]]":
    if not header.number("general.base_model.count"):
        return
    from overt.openness.subject import claims

    yield from claims.bases(header)


def _texts(model: "LocalModel", settings: Settings) -> Iterator[_Text]:
    """The licence files of a model, a few at most."""
    from overt.openness.subject.named_licences import is_main

    texts: list[_Text] = []
    if model.manifest is not None:
        from overt.models.store import Store

        store = Store(settings.home)
        for file in model.manifest.files:
            if file.role == "licence" and file.size <= _MAX_TEXT and is_main(file.path):
                texts.append((file.path, file.digest, store.path(file)))
    else:
        folder = Path(model.ref).expanduser()
        with suppress(OSError):
            for path in sorted(folder.iterdir()) if folder.is_dir() else ():
                if is_main(path.name) and path.is_file():
                    state = path.stat()
                    stamp = f"{state.st_ino} {state.st_size} {state.st_mtime_ns}"
                    texts.append((path.name, stamp, path))
    yield from texts[:_MAX_TEXTS]


def _recognised(text: _Text, home: Path) -> "tuple[StatedLicence, ...]":
    """What a licence file says, looked at now or before."""
    name, _, path = text
    try:
        with path.open("rb") as opened:
            data = opened.read(_MAX_TEXT)
    except OSError:
        return ()

    def look() -> "tuple[StatedLicence, ...]":
        from overt.openness.licence import digests
        from overt.openness.subject.named_licences import StatedLicence, is_policy, of_text

        words = data.decode("utf-8-sig", "replace")
        if known := digests.id_of(words):
            return () if is_policy(known) else (StatedLicence(known),)
        from overt.openness.licence import match

        return of_text(name, words, match.match(words))

    return _remembered(home, "text", f"{name}\0{sha256(data).hexdigest()}", _decode_licences, look)


def _decode_licences(content: Any) -> "tuple[StatedLicence, ...]":
    from overt.openness.subject.named_licences import StatedLicence

    licences = []
    for licence, altered, riders in content:
        if not (licence is None or isinstance(licence, str)) or not isinstance(altered, bool):
            raise TypeError(licence)
        licences.append(StatedLicence(licence, altered, tuple(str(rider) for rider in riders)))
    return tuple(licences)


# -- what the home remembers -----------------------------------------------------------------------


def _first(home: Path, what: str) -> bool:
    """Whether this home is told for the first time; True too where it cannot write that down."""
    mark = _memory(home) / f"told-{sha256(what.encode('utf-8', 'replace')).hexdigest()}"
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        return False
    except OSError:
        return True
    return True


def _memory(home: Path) -> Path:
    return home / "licences"


def _remembered(
    home: Path, kind: str, key: str, read: Callable[[Any], _T], make: Callable[[], _T]
) -> _T:
    """What was made of `key` before, by the same program; else made now and kept.

    A home that cannot be read or written costs time and nothing else.
    """
    digest = sha256(f"{_program()}\0{kind}\0{key}".encode("utf-8", "surrogatepass")).hexdigest()
    note = _memory(home) / f"{digest}.json"
    with suppress(OSError, ValueError, TypeError):
        return read(json.loads(note.read_bytes()))
    made = make()
    from overt.files import atomic

    with suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        atomic.write(note, json.dumps(made).encode(), lasting=False)
    return made


@cache
def _program() -> str:
    """Which program this is: what another one answered is asked again.

    Of data/terms and data/models the folders count and not their hundred files, whose content
    `scripts/pack_data.py` writes to a file that does.
    """
    here = Path(__file__).parents[1]
    return program.stamp((here, here / "permissions", here / "licence", here / "data"))
