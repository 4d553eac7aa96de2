"""The policy: off, warn once or for a reason, enforce; and what is remembered."""

import asyncio
import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from gguf_writer import Tensor, write
from overt.errors import BadRequest, Refused
from overt.models.pull import LocalModel, find
from overt.models.sources.base import sha256_of
from overt.models.store import File, Manifest, Store
from overt.openness.licence import match
from overt.openness.permissions import gate
from overt.openness.permissions.gate import RUNNING, SENDING, SERVING, LicenceGate, consult
from overt.ref import parse
from overt.settings import Settings, load

Shared = Callable[[str], Path]


@pytest.fixture
def settings(home: Path) -> Settings:
    return load()


def enforced(settings: Settings) -> Settings:
    return dataclasses.replace(settings, licence="enforce")


def model(
    settings: Settings, tmp_path: Path, licence: str | None, name: str = "it", text: str = ""
) -> LocalModel:
    """A model of the store, whose manifest and header name `licence` and that brings `text`."""
    weights = tmp_path / f"{name}.gguf"
    told = {"general.license": licence} if licence else {}
    write(
        weights,
        {"general.architecture": "llama", "general.name": name, **told},
        [Tensor("token_embd.weight", (32, 4))],
    )
    files, places = [], {}
    given = [("weights", weights)]
    if text:
        beside = tmp_path / "LICENSE"
        beside.write_text(text, "utf-8")
        given.append(("licence", beside))
    for role, path in given:
        digest = f"sha256:{sha256_of(path)}"
        files.append(File(role, path.name, digest, path.stat().st_size))  # type: ignore[arg-type]
        places[digest] = path
    manifest = Manifest(tuple(files), f"hf:o/{name}@" + "a" * 40, {"source": "hf"}, licence)
    Store(settings.home).commit(manifest, places, [parse(name)])
    return find(name, settings)


def keep(settings: Settings, text: str) -> None:
    (settings.home / "use.toml").write_text(text, "utf-8")


# ---- warn ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "licence", ["apache-2.0", "mit", "cc-by-4.0", None, "other", "house rules"]
)
def test_an_open_or_unnamed_licence_is_passed_in_silence(
    settings: Settings, tmp_path: Path, licence: str | None
) -> None:
    assert consult(model(settings, tmp_path, licence), "it", settings, RUNNING) is None
    assert list((settings.home / "licences").glob("told-*")) == []


def test_a_licence_with_conditions_is_mentioned_once_a_model_and_home(
    settings: Settings, tmp_path: Path
) -> None:
    one, other = (model(settings, tmp_path, "llama3.1", name) for name in ("it", "other"))
    said = consult(one, "it", settings, RUNNING)
    assert said is not None
    assert "`overt may it`" in said.text
    assert "Llama 3.1" in said.text
    assert consult(one, "it", settings, RUNNING) is None
    assert consult(other, "other", settings, RUNNING) is not None


def test_off_asks_nobody(settings: Settings, tmp_path: Path) -> None:
    off = dataclasses.replace(settings, licence="off")
    keep(settings, "commercial = true")
    assert consult(model(settings, tmp_path, "cc-by-nc-4.0"), "it", off, SENDING) is None


def test_a_use_that_is_denied_is_said_every_time(settings: Settings, tmp_path: Path) -> None:
    keep(settings, "commercial = true")
    one = model(settings, tmp_path, "cc-by-nc-4.0")
    for _ in range(2):
        said = consult(one, "it", settings, RUNNING)
        assert said is not None
        assert said.verdict == "deny"
        assert "does not allow" in said.text
        assert "CC-BY-NC-4.0" in said.text


def test_permission_is_asked_for_by_name(settings: Settings, tmp_path: Path) -> None:
    keep(settings, 'mau = "800M"\nreceived_in_end_product = false')
    said = consult(model(settings, tmp_path, "llama3.1"), "it", settings, RUNNING)
    assert said is not None
    assert said.verdict == "needs_permission"


def test_an_altered_text_is_said_every_time_and_recognised_once(
    settings: Settings, tmp_path: Path, shared_data: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = shared_data("licences/Apache-2.0.txt").read_text("utf-8")
    one = model(settings, tmp_path, "apache-2.0", text=f"{text}\n\nNo commercial use is allowed.\n")
    first = consult(one, "it", settings, RUNNING)
    assert first is not None
    assert "differs from Apache-2.0" in first.text
    monkeypatch.setattr(match, "match", lambda _: pytest.fail("it was recognised before"))
    assert consult(one, "it", settings, RUNNING) == first


def test_what_is_remembered_may_be_damaged(
    settings: Settings, tmp_path: Path, shared_data: Shared
) -> None:
    text = shared_data("licences/Apache-2.0.txt").read_text("utf-8")
    one = model(settings, tmp_path, "apache-2.0", text=f"{text}\n\nNo commercial use is allowed.\n")
    first = consult(one, "it", settings, RUNNING)
    for note in (settings.home / "licences").glob("*.json"):
        for damaged in (b"", b"[]", b"{", b'{"licence": 1}', b"\xff"):
            note.write_bytes(damaged)
            assert consult(one, "it", settings, RUNNING) == first


def test_a_folder_is_read_where_it_lies(
    settings: Settings, tmp_path: Path, shared_data: Shared
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    write(folder / "m.gguf", {"general.architecture": "llama"}, [Tensor("a", (32, 4))])
    text = shared_data("licences/llama-3.1-license-2024.txt").read_text("utf-8")
    (folder / "LICENSE").write_text(text.replace("700", "7"), "utf-8")
    said = consult(find(str(folder), settings), str(folder), settings, RUNNING)
    assert said is not None
    assert "differs from llama-3.1-license-2024" in said.text


def test_a_home_that_cannot_be_written_is_no_obstacle(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = model(settings, tmp_path, "llama3.1")
    monkeypatch.setattr(gate, "_memory", lambda _: Path("/proc/no-such-folder"))
    assert consult(one, "it", settings, RUNNING) is not None


# ---- enforce -------------------------------------------------------------------------------------


def test_enforced_a_denied_use_is_refused(settings: Settings, tmp_path: Path) -> None:
    keep(settings, "commercial = true")
    one = model(settings, tmp_path, "cc-by-nc-4.0")
    with pytest.raises(Refused, match="does not allow") as caught:
        consult(one, "it", enforced(settings), RUNNING)
    assert "`overt may it`" in str(caught.value)


def test_enforced_an_open_question_is_refused_and_says_what_to_type(
    settings: Settings, tmp_path: Path
) -> None:
    one = model(settings, tmp_path, "llama3.1")
    with pytest.raises(Refused) as caught:
        consult(one, "it", enforced(settings), RUNNING)
    assert "mau_at_version_release" in caught.value.message
    assert "overt may it" in str(caught.value.hint)


def test_enforced_a_model_without_a_licence_is_refused(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="licence of it"):
        consult(model(settings, tmp_path, None), "it", enforced(settings), RUNNING)


@pytest.mark.parametrize("use", [RUNNING, SERVING, SENDING])
def test_enforced_an_open_licence_is_let_through(
    settings: Settings, tmp_path: Path, use: gate.Use
) -> None:
    assert consult(model(settings, tmp_path, "apache-2.0"), "it", enforced(settings), use) is None


# ---- facts ---------------------------------------------------------------------------------------


def test_facts_of_this_use_are_added_to_those_kept() -> None:
    kept = {"commercial": True, "distributes": ("product",)}
    assert gate.together(kept, SENDING) == {
        "commercial": True, "distributes": ("product", "weights"),
    }  # fmt: skip
    assert gate.together({"distributes": ("nothing",)}, SENDING)["distributes"] == ("weights",)
    assert gate.together({}, RUNNING) == {}


@pytest.mark.parametrize("content", [b"commercial", b"commercial = 7", b"\xff", b"x" * 70_000])
def test_kept_facts_that_cannot_be_read_are_named(settings: Settings, content: bytes) -> None:
    (settings.home / "use.toml").write_bytes(content)
    with pytest.raises(BadRequest, match=r"use\.toml|commercial"):
        gate.saved(settings.home)


# ---- a server ------------------------------------------------------------------------------------


def test_a_gate_asks_once_a_model(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    real = gate.consult

    def counting(model: LocalModel | None, ref: str, *rest: object, **more: object) -> object:
        asked.append(ref)
        return real(model, ref, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(gate, "consult", counting)
    keep(settings, "commercial = true")
    one, other = model(settings, tmp_path, "cc-by-nc-4.0"), model(settings, tmp_path, "mit", "free")
    admit = LicenceGate(settings)
    assert [admit(one) is None for _ in range(3)] == [False, True, True]
    assert admit(other) is None
    assert asked == ["it", "free"]


def test_a_gate_refuses_every_time(settings: Settings, tmp_path: Path) -> None:
    keep(settings, "commercial = true")
    admit, one = LicenceGate(enforced(settings)), model(settings, tmp_path, "cc-by-nc-4.0")
    for _ in range(2):
        with pytest.raises(Refused):
            admit(one)


def test_a_server_does_not_remember_a_place_that_was_refused(
    settings: Settings, tmp_path: Path
) -> None:
    from overt.runtime.loader import PlaceCache

    model(settings, tmp_path, "cc-by-nc-4.0")
    keep(settings, "commercial = true")
    admit = LicenceGate(enforced(settings))
    places = PlaceCache(settings, lambda place: admit(place.model, place.header) and None)
    for _ in range(2):
        with pytest.raises(Refused):
            places.get("it")
        assert places.known("it") is None


def test_whoever_serves_a_model_is_told_once(settings: Settings, tmp_path: Path) -> None:
    from overt.gateway.exchange import Exchange

    model(settings, tmp_path, "llama3.1")
    told: list[str] = []

    async def ask() -> None:
        exchange = Exchange(settings, told.append, shared=True, use=SERVING)
        for _ in range(3):
            await exchange._place("it")
        await exchange.close()

    asyncio.run(ask())
    assert len(told) == 1
    assert "has conditions" in told[0]


def test_a_server_beyond_this_machine_hands_the_model_on(
    settings: Settings, tmp_path: Path
) -> None:
    one = model(settings, tmp_path, "falcon-180b")
    here, beyond = consult(one, "it", settings, RUNNING), consult(one, "it", settings, SERVING)
    assert here is not None
    assert here.verdict == "unknown"
    assert beyond is not None
    assert beyond.verdict == "needs_permission"


@pytest.mark.parametrize(
    ("base", "lacks"),
    [
        ("https://huggingface.co/meta-llama/Llama-3.1-8B", "mau_at_version_release"),
        ("https://huggingface.co/nobody/knows-this", "licence of nobody/knows-this"),
    ],
)
def test_enforced_the_base_in_the_header_counts(
    settings: Settings, tmp_path: Path, base: str, lacks: str
) -> None:
    path = tmp_path / "it.gguf"
    told = {
        "general.architecture": "llama",
        "general.license": "apache-2.0",
        "general.base_model.count": 1,
        "general.base_model.0.repo_url": base,
    }
    write(path, told, [Tensor("token_embd.weight", (32, 4))])
    one = find(str(path), settings)
    assert consult(one, "it", settings, RUNNING) is None
    with pytest.raises(Refused, match=lacks):
        consult(one, "it", enforced(settings), RUNNING)


@pytest.mark.parametrize(
    ("licence", "lacks"),
    [("mit", ""), ("cc-by-nc-4.0", "commercial"), ("other", "licence of Mine")],
)
def test_enforced_the_licence_beside_an_unknown_base_counts(
    settings: Settings, tmp_path: Path, licence: str, lacks: str
) -> None:
    """What Overt merges says each parent's licence: nobody else knows a model of one's own."""
    path = tmp_path / "it.gguf"
    told = {
        "general.architecture": "llama",
        "general.license": "mit",
        "general.base_model.count": 1,
        "general.base_model.0.name": "Mine",
        "general.base_model.0.license": licence,
    }
    write(path, told, [Tensor("token_embd.weight", (32, 4))])
    one = find(str(path), settings)
    if not lacks:
        assert consult(one, "it", enforced(settings), RUNNING) is None
        return
    with pytest.raises(Refused, match=lacks):
        consult(one, "it", enforced(settings), RUNNING)


# ---- ahead of the first use ----------------------------------------------------------------------


@pytest.mark.parametrize("licence", ["mit", "llama3.1", "cc-by-nc-4.0"])
def test_what_was_prepared_is_not_judged_again(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, licence: str
) -> None:
    keep(settings, "commercial = true")
    one, other = (model(settings, tmp_path, licence, name) for name in ("it", "other"))
    first = consult(other, "other", settings, RUNNING)
    assert gate.prepare("it", settings) is None
    monkeypatch.setattr(gate, "_outcome", lambda *_: pytest.fail("it was judged before"))
    said = consult(one, "it", settings, RUNNING)
    assert (said and said.verdict) == (first and first.verdict)


def test_preparing_tells_nobody_and_refuses_nothing(settings: Settings, tmp_path: Path) -> None:
    keep(settings, "commercial = true")
    one = model(settings, tmp_path, "cc-by-nc-4.0")
    gate.prepare("it", enforced(settings))
    with pytest.raises(Refused):
        consult(one, "it", enforced(settings), RUNNING)
    assert list((settings.home / "licences").glob("told-*")) == []
    gate.prepare("not there", settings)
    gate.prepare(str(tmp_path / "it.gguf"), settings)
    assert not (settings.home / "digests").exists()
    (settings.home / "use.toml").write_bytes(b"\xff")
    gate.prepare("it", settings)
    gate.prepare("it", dataclasses.replace(settings, licence="off"))
