"""`overt eval REF --lm-eval TASK`: tasks of lm-eval on our models, as receipts of ours."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from overt.cli.output import Output
from overt.errors import Stopped, UsageError
from overt.settings import Settings

_NOT_HERE = ("temperature", "max_tokens", "budget", "judge", "against", "texts", "no_cache")


def run(out: Output, settings: Settings, refs: tuple[str, ...], flags: dict[str, Any]) -> int:
    """Score each of `refs` on each task; two models are compared item by item.

    Raises:
        UsageError: an option that lm-eval's tasks have not.
    """
    from overt.cli.eval import _record, _report
    from overt.evaluation.suites import lm_eval, receipt

    for name in _NOT_HERE:
        if flags[name]:
            option = name.replace("_", "-")
            raise UsageError(f"--{option} is not for tasks of lm-eval", f"leave --{option} out")
    if flags["data"]:
        raise UsageError("--data is not for tasks of lm-eval", "--include DIR has task files")
    tasks = [task.strip() for task in flags["lm_eval_tasks"].split(",")]
    if len(set(refs)) < len(refs) or len(set(tasks)) < len(tasks):
        raise UsageError("a model or a task is named twice", "name each once")
    seed = flags["seed"] or 0
    options = lm_eval.LmEvalOptions(
        flags["include"], flags["limit"], flags["shots"], flags["hub"], seed
    )
    lm_eval.command(settings)
    if options.include is not None:
        out.note("note: what Python the task files of --include hold is run, without a sandbox")
    receipts: list[list[dict[str, Any]]] = []
    try:
        with _terminate_on_exit():
            for ref in refs:
                who = lm_eval.identify(ref, settings)
                receipts.append(lm_eval.evaluate(who, tasks, options, settings, out.status))
                out.clear()
    except KeyboardInterrupt:
        raise Stopped("stopped; tasks that were done have receipts", "run the others") from None
    finally:
        out.clear()
    compared = [
        {**receipt.compare(receipts[i][k], receipts[j][k], seed), "task": task}
        for k, task in enumerate(tasks)
        for i in range(len(receipts))
        for j in range(i + 1, len(receipts))
    ]
    flat = [receipt for by_model in receipts for receipt in by_model]
    rows = [_record(receipt) for receipt in flat]
    value = {**rows[0], "models": rows, "pairs": compared} if len(rows) > 1 else rows[0]
    out.result(value, lambda: _report(flat, compared), lambda: f"{rows[0]['score']:.4f}")
    for note in dict.fromkeys(note for record in flat for note in record["notes"]):
        out.note(f"note: {note}")
    return 0


@contextmanager
def _terminate_on_exit() -> Iterator[None]:
    """SIGTERM ends it as Ctrl-C does: the server and lm-eval are not left behind."""

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
