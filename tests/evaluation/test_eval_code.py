"""Models' code is run behind walls: what it may do, what it may not, and when it passed."""

import asyncio
import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from overt.errors import NoIsolation
from overt.evaluation.suites import runners, sandbox
from overt.evaluation.suites import suite as task
from overt.evaluation.suites.runners.code import program

_LIMITS = sandbox.SandboxLimits(seconds=1, memory=256 << 20)


@pytest.fixture(autouse=True)
def _walls() -> None:
    try:
        sandbox.check(False)
    except NoIsolation as error:
        pytest.skip(str(error))


def test_a_program_that_ends_passed() -> None:
    ran = sandbox.run("assert sorted([2, 1]) == [1, 2]; print('done')", _LIMITS)
    assert ran == (True, "", "done\n", ran.seconds, sandbox.check(False))


def test_no_network(tmp_path: Path) -> None:
    """The listener is this machine's own, and the attempt works without walls."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code = f"import socket; socket.create_connection(('127.0.0.1', {port}), 3).close()"
        assert sandbox.run(code, _LIMITS, unsafe=True).passed
        ran = sandbox.run(code, _LIMITS)
    assert not ran.passed
    assert "Operation not permitted" in ran.why


@pytest.mark.parametrize(
    "code",
    [
        "import socket; socket.socket(socket.AF_UNIX)",
        "import socket; socket.getaddrinfo('example.org', 80)",
        "import os; os.fork()",
        "import subprocess; subprocess.run(['/bin/true'])",
        "import os; os.kill(os.getppid(), 9)",
        "open('/etc/passwd').read()",
        "import os; os.listdir(os.path.expanduser('~root'))",
        "open('/tmp/made-by-a-model', 'w')",
        "open('big', 'w').write('a' * (2 << 20))",
        "import os; assert os.environ.get('PATH')",
        "[open(f'{i}', 'w') for i in range(100)].clear()",
        "x = bytearray(1 << 30)",
        "while True: pass",
        "import os; os._exit(0)",
        "raise SystemExit(0)",
        "import sys; sys.setrecursionlimit(10**9)\ndef f(): f()\nf()",
        "print('x' * (4 << 20))",
        'import os; [os.write(i, b\'{"word": "guess"}\\n\') for i in range(3, 9)]',
        "import os; os.close(1); os._exit(0)",
        "def f(:",
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
    ],
)
def test_what_it_may_not_do_does_not_pass(code: str) -> None:
    ran = sandbox.run(code, _LIMITS)
    assert not ran.passed
    assert ran.why
    assert len(ran.output) <= 2000
    assert not Path("/tmp/made-by-a-model").exists()


def test_it_may_write_its_own_folder_and_leaves_nothing() -> None:
    code = (
        "import os; open('x', 'w').write('y'); print(os.getcwd()); assert open('x').read() == 'y'"
    )
    ran = sandbox.run(code, _LIMITS)
    assert ran.passed
    assert not Path(ran.output.strip()).exists()


def test_without_walls_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_walls", lambda: (("seccomp",), ("landlock (too old)",)))
    with pytest.raises(NoIsolation, match="no landlock"):
        sandbox.run("pass", _LIMITS)
    assert sandbox.run("pass", _LIMITS, unsafe=True).layers == ()


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Sure:\n```python\ndef f(): pass\n```\nDone", "def f(): pass"),
        ("```\na\n```\n```py\nb\n```", "b"),
        ("    return 1\n", "    return 1"),
        ("```python\nunfinished", "unfinished"),
    ],
)
def test_the_program_of_an_answer(text: str, code: str) -> None:
    assert program(text) == code


def test_humaneval_knows_its_own_solutions(shared_data: Callable[[str], Path]) -> None:
    suite = task.load("humaneval", [shared_data("eval/humaneval/HumanEval.jsonl.gz")])
    assert len(suite.items) == 164
    runner = runners.make(suite, runners.RunnerTools())
    for item in suite.items[:40:10]:
        raw = item.row.raw
        rest = asyncio.run(runner.grade(item, raw["canonical_solution"]))
        fenced = f"```python\n{raw['prompt']}{raw['canonical_solution']}```"
        whole = asyncio.run(runner.grade(item, fenced))
        wrong = asyncio.run(runner.grade(item, "    return None\n"))
        assert (rest.score, whole.score, wrong.score) == (1, 1, 0)
        assert json.loads(json.dumps(wrong.detail))["why"].startswith("error")
