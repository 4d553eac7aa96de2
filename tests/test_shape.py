"""The shape of the code: small files, small functions, plain names, nothing heavy at the start."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src/overt"
MODULES = sorted(SOURCE.rglob("*.py"))
SCRIPTS = sorted([*(ROOT / "bench").rglob("*.py"), *(ROOT / "scripts").rglob("*.py")])

# Signals and not limits: a table or a state machine may read better whole.
FILE_LINES = 600
FUNCTION_LINES = 80
# "file" or "file:function" -> why it is better whole. A reason is a sentence, not "later".
EXEMPT: dict[str, str] = {}


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_there_is_something_to_look_at() -> None:
    assert len(MODULES) > 10


@pytest.mark.parametrize("path", [*MODULES, *SCRIPTS], ids=_name)
def test_no_file_and_no_function_is_long(path: Path) -> None:
    text = path.read_text("utf-8")
    long = {}
    if (lines := len(text.splitlines())) > FILE_LINES:
        long[_name(path)] = lines
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES:
                long[f"{_name(path)}:{node.name}"] = lines
    assert {name: lines for name, lines in long.items() if name not in EXEMPT} == {}


def test_exemptions_are_needed_and_explained() -> None:
    for name, reason in EXEMPT.items():
        assert (ROOT / name.partition(":")[0]).is_file(), name
        assert len(reason.split()) >= 5, name


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_a_module_is_named_for_what_it_holds_and_says_so(path: Path) -> None:
    nothing = {
        "utils",
        "util",
        "common",
        "helpers",
        "helper",
        "core",
        "misc",
        "tools",
        "base_utils",
    }
    assert not nothing & set(path.relative_to(SOURCE).with_suffix("").parts)
    tree = ast.parse(path.read_text("utf-8"))
    if tree.body or path.name != "__init__.py":
        assert ast.get_docstring(tree), "a module begins with a line on what it is for"


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_nothing_is_put_off_in_the_code(path: Path) -> None:
    marks = re.findall(r"\b(?:TODO|FIXME|XXX|HACK)\b", path.read_text("utf-8"))
    assert marks == []


def _declared() -> dict[str, str]:
    """Import name -> the requirement in pyproject.toml, extras included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = [one for extra in project["optional-dependencies"].values() for one in extra]
    named = {_package(one).replace("-", "_"): one for one in [*project["dependencies"], *extras]}
    return {"yaml" if name == "pyyaml" else name: one for name, one in named.items()}


def _package(requirement: str) -> str:
    return re.split(r"[<>=!~ ;\[]", requirement)[0].lower().replace("_", "-")


def _imported(path: Path) -> set[str]:
    """The packages a module imports anywhere, except for the type checker alone."""
    names = set()
    nodes: list[ast.AST] = [ast.parse(path.read_text("utf-8"))]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            nodes += node.orelse
            continue
        nodes += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").partition(".")[0])
    return names


def test_what_is_imported_is_required_and_what_is_required_is_imported() -> None:
    used = set().union(*map(_imported, MODULES)) - sys.stdlib_module_names - {"overt"}
    # Imported by others without being required: the first by model-signing, the rest by uvicorn.
    # lm_eval is run as a command.
    unstated = {"pyopenssl", "httptools", "uvloop", "websockets", "lm_eval"}
    declared = {"opentelemetry" if one.startswith("opentelemetry_") else one for one in _declared()}
    assert used == declared - unstated


# What only one verb or one source needs; `overt --help` has to be there in 150 ms.
HEAVY = {
    "xllamacpp",
    "huggingface_hub",
    "httpx2",
    "httpcore2",
    "prompt_toolkit",
    "rich",
    "numpy",
    "torch",
    "transformers",
    "asyncio",
    "anyio",
    "ssl",
    "msgspec",
    "psutil",
    "truststore",
    "overt.gateway.exchange",
    "overt.models",
    "overt.providers",
    "overt.runtime",
    "overt.server",
    "starlette",
    "uvicorn",
}


def _loaded(code: str) -> set[str]:
    """The modules in a new process after `code`."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint('loaded:', *sorted(sys.modules))"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("loaded:")[2].split())


@pytest.mark.parametrize(
    "code",
    [
        "import overt",
        "import overt.cli",
        "from overt.cli.app import run\nassert run(['--help']) == 0",
        "from overt.cli.app import run\nassert run(['--version']) == 0",
    ],
)
def test_nothing_heavy_is_loaded_at_the_start(code: str) -> None:
    assert _loaded(code) & HEAVY == set()


def test_every_verb_is_one_module() -> None:
    from overt.cli import VERBS

    for verb, entry in VERBS.items():
        path = SOURCE / (entry.module.removeprefix("overt.").replace(".", "/") + ".py")
        assert path.is_file(), f"{verb}: {path} is missing"
        assert entry.help
        assert not entry.help.endswith(".")


# ---- the documents -------------------------------------------------------------------------

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def _targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text("utf-8"), re.M))


def _commands(text: str) -> list[str]:
    """What a reader would copy: the lines of fenced blocks, and code within lines."""
    fenced = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
    lines = [line for block in fenced.findall(text) for line in block.splitlines()]
    lines += re.findall(r"`([^`\n]+)`", fenced.sub("", text))
    bare = [re.sub(r"(^|\s+)# .*", "", line).strip().removeprefix("$ ") for line in lines]
    return [line for line in bare if line]


@pytest.mark.parametrize("path", DOCUMENTS, ids=_name)
def test_every_make_command_in_a_document_exists(path: Path) -> None:
    for command in _commands(path.read_text("utf-8")):
        if found := re.match(r"make ([a-z][a-z-]*)\b", command):
            assert found[1] in _targets(), command


@pytest.mark.parametrize("path", DOCUMENTS, ids=_name)
def test_every_overt_command_in_a_document_exists(path: Path) -> None:
    from overt.cli import VERBS

    for command in _commands(path.read_text("utf-8")):
        if found := re.match(r"overt ([a-z][a-z-]*)\b", command):
            assert found[1] in VERBS, command


def test_the_readme_sets_up_with_make_run_and_make_test_alone() -> None:
    commands = _commands((ROOT / "README.md").read_text("utf-8"))
    assert "make run" in commands
    assert "make test" in commands
    others = r"(pip|uv|python3? -m (pip|venv)|sudo|apt(-get)?|source|curl) "
    assert [c for c in commands if re.match(others, c)] == [], (
        "a newcomer needs `make run` and `make test` and nothing before them"
    )


def test_make_help_names_every_command_with_its_line() -> None:
    listed = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True
    ).stdout
    named = {line.split()[1] for line in listed.splitlines()}
    assert named == _targets()
    assert all(len(line.split()) > 3 for line in listed.splitlines())


def test_the_locks_hold_every_requirement_with_hashes() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    groups = project["dependency-groups"]
    needed = {
        "run": [*project["project"]["dependencies"], *groups["build"]],
        "dev": [*project["project"]["dependencies"], *groups["build"]]
        + [one for one in groups["dev"] if isinstance(one, str)],
    }
    locks = {
        kind: _locked((ROOT / f"requirements/{kind}.txt").read_text("utf-8")) for kind in needed
    }
    # Beside the lock: see add_torch in scripts/bootstrap.py.
    torch = (ROOT / "requirements/torch.txt").read_text("utf-8").strip()
    assert torch in project["project"]["optional-dependencies"]["lab"]
    for kind, requirements in needed.items():
        assert {_package(one) for one in requirements} <= set(locks[kind])
        assert all("--hash=sha256:" in text for text in locks[kind].values())
    run, dev = ({name: _pinned(text) for name, text in locks[kind].items()} for kind in needed)
    assert run.items() <= dev.items(), "both locks hold the same versions"


def _pinned(text: str) -> str:
    """A requirement without its marker: the tests need some packages on more systems."""
    first, newline, rest = text.partition("\n")
    return first.partition(" ; ")[0].removesuffix(" \\") + newline + rest


def _locked(text: str) -> dict[str, str]:
    """Package -> its lines (version, marker, hashes) of a lock, without the comments."""
    bare = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    entries = re.split(r"^(?=[a-z0-9])", bare, flags=re.MULTILINE)
    return {entry.split("==")[0]: entry.rstrip() for entry in entries if "==" in entry}
