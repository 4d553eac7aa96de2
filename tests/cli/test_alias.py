"""`overt alias`: set, list, show, remove, undo and learn."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from conftest import OvertCli
from overt.cli.alias import read_rows, with_threshold
from overt.errors import BadRequest
from overt.gateway import routing

ROUTE = """
models:
  - echo:a
  - openai:gpt-6-luna
escalate: {length: true}
"""


def test_set_list_show_undo_remove(home: Path, overt_cli: OvertCli, tmp_path: Path) -> None:
    assert "overt alias set NAME REF" in overt_cli("alias", "list").stdout
    assert overt_cli("alias", "set", "writer", "openai:gpt-6-luna").stdout == (
        "writer stands for openai:gpt-6-luna\n"
    )
    (tmp_path / "r.yaml").write_text(ROUTE)
    ran = overt_cli("alias", "set", "writer", "--route", str(tmp_path / "r.yaml"))
    assert ran.stdout == (
        "writer stands for a route (0 rules, 2 models): echo:a, openai:gpt-6-luna\n"
    )
    shown = overt_cli("alias", "show", "writer:latest").stdout
    assert "models:\n- echo:a\n- openai:gpt-6-luna\n" in shown
    assert "before, the latest last:\n  openai:gpt-6-luna" in shown
    said = json.loads(overt_cli("alias", "list", "--json").stdout)["aliases"]
    assert said[0]["target"]["escalate"] == {"length": True}
    assert (
        "writer stands for openai:gpt-6-luna again" in overt_cli("alias", "undo", "writer").stdout
    )
    assert overt_cli("alias", "remove", "writer").code == 0
    gone = overt_cli("alias", "show", "writer", "--json")
    assert gone.code == 3
    assert json.loads(gone.stdout)["error"]["hint"] == "`overt alias list` shows them"


def test_set_warns_and_refuses(home: Path, overt_cli: OvertCli, tmp_path: Path) -> None:
    hides = overt_cli("alias", "set", "smollm2", "echo:a")
    assert hides.code == 0
    assert "from now on smollm2 is this alias and not the model of that name" in hides.stderr
    absent = overt_cli("alias", "set", "w", "hf:org/repo")
    assert absent.code == 0
    assert "hf:org/repo is not in the store yet: overt pull hf:org/repo" in absent.stderr
    path = overt_cli("alias", "set", "p", "./nowhere.gguf")
    assert path.code == 3
    assert "nowhere.gguf is not there" in path.stderr
    for arguments in ([], ["echo:a", "--route", "x"]):
        assert overt_cli("alias", "set", "w", *arguments).code == 2
    assert overt_cli("alias", "set", "a b", "echo:a").code == 2
    circle = overt_cli("alias", "set", "w", "w")
    assert circle.code == 2
    assert "circle: w -> w" in circle.stderr
    (tmp_path / "r.yaml").write_text("models: [echo:a, 3]")
    wrong = overt_cli("alias", "set", "w", "--route", str(tmp_path / "r.yaml"))
    assert f"models[1] of {tmp_path}/r.yaml is 3; it should be a mapping" in wrong.stderr


def test_a_check_comes_only_from_a_file_that_is_the_owners(
    home: Path, overt_cli: OvertCli, tmp_path: Path
) -> None:
    route, check = tmp_path / "r.json", tmp_path / "check"
    content = {"models": ["echo:a", "echo:b"], "escalate": {"check": {"command": [str(check)]}}}
    route.write_text(json.dumps(content))
    route.chmod(0o666)
    ran = overt_cli("alias", "set", "w", "--route", str(route))
    assert (ran.code, "others may write to" in ran.stderr) == (5, True)
    route.chmod(0o644)
    ran = overt_cli("alias", "set", "w", "--route", str(route))
    assert "cannot be used: No such file" in ran.stderr
    check.write_text("#!/bin/sh\n")
    check.chmod(0o755)
    assert overt_cli("alias", "set", "w", "--route", str(route)).code == 0


def _rows(count: int) -> list[dict[str, Any]]:
    dice = random.Random(3)
    signals = [-2 * dice.random() for _ in range(count)]
    return [{"signal": one, "good": dice.random() < 1 + one / 3} for one in signals]


def test_learn_writes_the_threshold_and_what_it_is_worth(
    home: Path, overt_cli: OvertCli, tmp_path: Path
) -> None:
    aliases = routing.aliases(home)
    aliases.set("writer", {"models": ["smollm2", "openai:gpt-6-luna"]})
    file = tmp_path / "good.jsonl"
    rows = [*_rows(1000), {"signal": None, "good": True}]
    file.write_text("\n".join(map(json.dumps, rows)))
    ran = overt_cli("alias", "learn", "writer", "--good", str(file), "--most-wrong", "0.2")
    assert ran.code == 0, ran.stderr
    assert "1 rows have no signal" in ran.stderr
    assert "at most 0.2 of the accepted answers are wrong, with confidence 0.9" in ran.stdout
    route = aliases.find("writer")
    assert isinstance(route, routing.Route)
    threshold = route.models[0].threshold
    assert threshold is not None
    # P(wrong | accepted) of `_rows` is a sixth of -threshold: 0.2 is reached at -1.2.
    assert -1.2 < threshold.at_least < -0.4
    assert threshold.learnt is not None
    assert threshold.learnt["rows"] == 1000
    shown = overt_cli("alias", "show", "writer").stdout
    assert "learnt smollm2: at most 0.2 of the accepted answers are wrong" in shown
    assert overt_cli("alias", "undo", "writer").code == 0
    found = aliases.find("writer")
    assert isinstance(found, routing.Route)
    assert found.models[0].threshold is None


def test_learn_a_router_and_use_it(home: Path, overt_cli: OvertCli, tmp_path: Path) -> None:
    aliases = routing.aliases(home)
    aliases.set("writer", {"models": ["smollm2", "openai:gpt-6-luna"]})
    dice, lines = random.Random(1), []
    for _ in range(200):
        a, b, good = dice.randrange(2, 99), dice.randrange(2, 99), dice.random() < 0.6
        answer = f"{a} * {b} = {a * b if good else a * b + 99 * a}"
        lines.append(json.dumps({"prompt": f"{a} times {b}?", "answer": answer, "good": good}))
    file = tmp_path / "graded.jsonl"
    file.write_text("\n".join(lines))
    ran = overt_cli("alias", "learn", "writer", "--router", "--good", str(file))
    assert ran.code == 0, ran.stderr
    assert ran.stdout.startswith("router at least 0.")
    route = aliases.find("writer")
    assert isinstance(route, routing.Route)
    threshold = route.models[0].threshold
    assert threshold is not None
    assert threshold.router is not None
    assert threshold.router.score("2 times 3?", "2 * 3 = 6") >= threshold.at_least
    assert threshold.router.score("2 times 3?", "2 * 3 = 7") < threshold.at_least
    file.write_text('{"prompt": "a", "answer": "b", "good": 1}')
    ran = overt_cli("alias", "learn", "writer", "--router", "--good", str(file))
    assert "row 1 of" in ran.stderr


def test_learn_says_what_is_wrong(home: Path, overt_cli: OvertCli, tmp_path: Path) -> None:
    aliases = routing.aliases(home)
    aliases.set("one", "smollm2")
    aliases.set("route", {"models": ["smollm2", "gemma3", "openai:gpt-6-luna"]})
    file = tmp_path / "good.jsonl"
    file.write_text('{"signal": 1, "good": true}\n' * 200)
    ran = overt_cli("alias", "learn", "one", "--good", str(file))
    assert "stands for one model" in ran.stderr
    ran = overt_cli("alias", "learn", "route", "--good", str(file), "--model", "qwen")
    assert "qwen is not followed by another in this route; name one of: smollm2, gemma3" in (
        ran.stderr
    )
    ran = overt_cli("alias", "learn", "route", "--good", str(file), "--model", "gemma3", "--json")
    assert json.loads(ran.stdout)["wrong"] == 0
    file.write_text('{"signal": 1, "good": false}\n' * 200)
    ran = overt_cli("alias", "learn", "route", "--good", str(file))
    assert "no threshold can be shown" in ran.stderr
    assert ran.code == 2


def test_rows_and_receipts(tmp_path: Path) -> None:
    file = tmp_path / "rows"
    file.write_text('{"signal": -1, "good": true}\n\n{"signal": -2.5, "good": 0.5}\n')
    assert read_rows(file, 1.0) == ([(-1.0, True), (-2.5, False)], 0)
    assert read_rows(file, 0.5) == ([(-1.0, True), (-2.5, True)], 0)
    items = [{"id": "a", "score": 1.0, "signal": -0.5}, {"id": "b", "score": None, "signal": -1}]
    file.write_text(json.dumps({"form": "overt-evaluation-1", "items": items}, indent=1))
    assert read_rows(file, 1.0) == ([(-0.5, True)], 1)


@pytest.mark.parametrize(
    "text",
    ["x", "[1]", '{"signal": "1", "good": true}', '{"signal": 1, "good": "yes"}',
     '{"signal": NaN, "good": true}', '{"signal": 1e999, "good": true}',
     '{"signal": true, "good": true}', '{"items": [3]}', "[" * 99999],
)  # fmt: skip
def test_rows_of_another_shape_are_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "rows"
    file.write_text(text)
    with pytest.raises(BadRequest, match="row 1 of"):
        read_rows(file, 1.0)


def test_a_threshold_goes_where_there_is_a_model_after_it() -> None:
    route = {"models": ["a", {"model": "b", "threshold": None}, "c"]}
    threshold = {"signal": "mean_logprob", "at_least": -1.0, "learnt": {"statement": "x"}}
    changed = with_threshold(route, "b", threshold)
    assert changed["models"][0] == {"model": "a"}
    assert changed["models"][1]["threshold"]["at_least"] == -1.0
    assert route["models"][1] == {"model": "b", "threshold": None}
    assert routing.read_mapping(changed).models[1].threshold is not None
    for models in ([], ["a"]):
        with pytest.raises(BadRequest, match="not followed by another"):
            with_threshold({"models": models}, None, threshold)
