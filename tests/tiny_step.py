"""A step that makes a small safetensors file, slowly where asked, and goes on after a kill.

In processes of their own, which kill themselves (-9): ``python -m tiny_step ROOT ROWS PLACE…``.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from overt.models.recipe import Recipe
from overt.provenance import steps
from overt.provenance.steps import StepContext, StepOutput

WIDTH = 4


class _Step:
    name = "tiny"
    version = "1"
    packages = ("numpy",)
    reports: tuple[str, ...] = ()
    drift = 0.0  # what another processor would do to the numbers
    ran: list[int]  # rows that were computed, in this process

    def run(self, work: StepContext) -> list[StepOutput]:
        parameters = work.recipe.parameters
        if parameters.get("refuse"):
            from overt.errors import FormatError

            raise FormatError("line 3 is no JSON", "correct it")
        salt = sum(given.path.stat().st_size for given in work.given("data"))
        so_far = work.place / "rows.json"
        rows = json.loads(so_far.read_text()) if so_far.exists() else []
        self.ran = []
        for number in range(len(rows), parameters["rows"]):
            rows.append([number + salt + self.drift] * WIDTH)
            so_far.with_suffix(".new").write_text(json.dumps(rows))
            so_far.with_suffix(".new").replace(so_far)
            self.ran.append(number)
            work.tell({"kind": "row", "step": number + 1, "steps": parameters["rows"]})
            if parameters["rows"] > 2 and number + 1 == DIE_AT:
                os.kill(os.getpid(), signal.SIGKILL)
        import numpy as np
        from safetensors.numpy import save_file

        target = work.place / "tiny.safetensors"
        save_file({"rows": np.array(rows, "<f4"), "last": np.array(rows[-1], "<f4")}, str(target))
        made = [StepOutput("weights", "tiny.safetensors", target)]
        if parameters.get("log"):
            log = work.place / "log.json"
            log.write_text(json.dumps({"losses": [row[0] for row in rows]}))
            made.append(StepOutput("other", "log.json", log))
        return made

    def tolerance(self, recipe: Recipe) -> float:
        return float(recipe.parameters.get("loose", 0.0))


STEP: Any = _Step()
DIE_AT = 0


def register() -> dict[str, str]:
    """The table of steps with this one in it."""
    return {**steps.STEPS, "tiny": "tiny_step"}


def _main(root: str, rows: str, *places: str) -> None:
    """Make it once for each place, in the home ROOT/place, and be killed there."""
    for place in places:
        child = os.fork()
        if child == 0:
            _die(str(Path(root, place)), int(rows), place)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), f"it survived {place}"
        assert os.WTERMSIG(status) == signal.SIGKILL


def _die(home: str, rows: int, place: str) -> None:
    """At the row `place`, or as the function of that name is called."""
    from overt.models.store import Store
    from overt.provenance import jobs, receipts, run_recipe
    from overt.settings import load

    def kill(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    owners: dict[str, Any] = {
        "commit": Store, "_write": Store, "_point": Store, "write": receipts, "drop": jobs,
    }  # fmt: skip
    module = sys.modules["tiny_step"] = sys.modules["__main__"]
    if place.isdecimal():
        vars(module)["DIE_AT"] = int(place)
    else:
        setattr(owners[place], place, kill)
    vars(steps)["STEPS"] = register()
    settings = load({"OVERT_HOME": home, "OVERT_OFFLINE": "1"})
    run_recipe.make(run_recipe.recipe("tiny", (), {"rows": rows}, settings), "mine", settings)


if __name__ == "__main__":
    _main(*sys.argv[1:])
