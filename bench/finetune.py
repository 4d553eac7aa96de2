"""How fast Overt learns an adapter, beside transformers' Trainer with peft; and the same losses.

    OVERT_TEST_DATA=FOLDER python bench/finetune.py --model MODEL.gguf

Some 25 minutes on two cores. Both sides get the same examples as tokens, in the same order and
batches, the same first adapter, rank, rate, schedule and clipping. Each run is a process of its
own, in turns. What is counted are real tokens by the seconds of all steps but the first two.

* ``answers``: questions and answers of GSM8K; answers are learnt. Trainer fills its batches up to
  their longest text, Overt puts the texts end to end.
* ``rows``: plain text in rows of one length, every token learnt: nothing is filled up, and no
  token is free of logits. What is left of the difference is the computation itself.

Both in float32 and in bfloat16 (Trainer's ``bf16=True``).
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import machine

ROOT = Path(__file__).resolve().parent.parent
SKIPPED = 2  # steps at the start that are not timed
TEMPLATE = "<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
SIDES = ("overt", "trainer")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--model", type=Path, help="GGUF file of the base")
    options.add_argument("--data", default=os.environ.get("OVERT_TEST_DATA", ""))
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--steps", type=int, default=12)
    options.add_argument("--batch", type=int, default=4)
    options.add_argument("--length", type=int, default=256, help="tokens of a row")
    options.add_argument("--rank", type=int, default=16)
    options.add_argument("--threads", type=int, default=machine.about()["cores"])
    options.add_argument("--loads", default="answers,rows")
    options.add_argument("--precisions", default="float32,bfloat16")
    options.add_argument("--out", type=Path, default=ROOT / ".cache/bench/finetune")
    options.add_argument("--side", choices=SIDES, help="one run, as the bench starts it")
    given = options.parse_args()
    if given.side:
        job = json.loads(sys.stdin.read())
        print(json.dumps(ours(job) if given.side == "overt" else theirs(job)))
        return
    if given.model is None or not given.data:
        sys.exit("name a base with --model, and the test data with --data or OVERT_TEST_DATA")
    given.out.mkdir(parents=True, exist_ok=True)
    release(given)
    runs = measure(given)
    result = {"machine": machine.about(), "runs": runs, "settings": settings(given)}
    (given.out / "finetune.json").write_text(json.dumps(result, indent=1), "utf-8")
    print(table(given, runs))


def settings(given: argparse.Namespace) -> dict[str, Any]:
    names = ("steps", "batch", "length", "rank", "threads", "rounds")
    return {name: getattr(given, name) for name in names}


def release(given: argparse.Namespace) -> None:
    """The base as Trainer reads it, the first adapter, and the examples, each made once."""
    import torch
    from safetensors.torch import save_file

    from overt.nets import architectures, load, lora
    from overt.nets.adapter import Adapter

    net = load.from_gguf(given.model)
    folder = given.out / "base"
    folder.mkdir(exist_ok=True)
    tensors = {name: torch.from_numpy(part) for name, part in load.state(given.model)}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    known = architectures.of_shape(net.shape)
    (folder / "config.json").write_text(json.dumps(known.config(net.shape)), "utf-8")
    adapter = Adapter(rank=given.rank, alpha=2.0 * given.rank)
    lora.add(net, adapter, 1)
    lora.save(net, adapter, given.out / "adapter")
    for load_name in given.loads.split(","):
        made = examples(given, load_name)
        (given.out / f"{load_name}.json").write_text(json.dumps(made), "utf-8")


def examples(given: argparse.Namespace, name: str) -> list[dict[str, Any]]:
    """``ids`` and which of them are learnt."""
    from overt import settings as settings_of
    from overt.lab.tokenizer import VocabularyWorker

    count = given.steps * given.batch
    with VocabularyWorker(given.model, settings_of.load()) as words:
        if name == "rows":
            text = (Path(given.data) / "text/tinyshakespeare.txt").read_text("utf-8")
            ids = words.encode([text[: count * given.length * 6]])[0]
            rows = [ids[i * given.length : (i + 1) * given.length] for i in range(count)]
            return [{"ids": row, "learnt": [True] * len(row)} for row in rows]
        lines = (Path(given.data) / "eval/gsm8k/test.jsonl").read_text("utf-8").splitlines()
        items = [json.loads(line) for line in lines[:count]]
        prompts = words.encode([TEMPLATE.format(**item) for item in items])
        answers = words.encode([item["answer"] + "<|im_end|>\n" for item in items])
    return [
        {"ids": prompt + answer, "learnt": [False] * len(prompt) + [True] * len(answer)}
        for prompt, answer in zip(prompts, answers, strict=True)
    ]


def measure(given: argparse.Namespace) -> list[dict[str, Any]]:
    runs = []
    for number in range(given.rounds):
        order = SIDES if number % 2 == 0 else SIDES[::-1]
        for name in given.loads.split(","):
            for precision in given.precisions.split(","):
                for side in order:
                    job = settings(given) | {
                        "folder": str(given.out),
                        "load": name,
                        "precision": precision,
                    }
                    run = start(side, job, given.threads)
                    runs.append(job | run | {"side": side, "round": number})
                    print(_line(runs[-1]), file=sys.stderr)
    return runs


def start(side: str, job: dict[str, Any], threads: int) -> dict[str, Any]:
    """One run in a process of its own."""
    busy = machine.cores_busy()
    environ = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, __file__, "--side", side],
        input=json.dumps(job),
        stdout=subprocess.PIPE,
        text=True,
        env=environ,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1]) | {"busy_before": round(busy, 2)}


def ours(job: dict[str, Any]) -> dict[str, Any]:
    import shutil

    import torch

    torch.set_num_threads(job["threads"])
    from overt.lab.finetune import loop
    from overt.lab.finetune.example import Example
    from overt.lab.finetune.training import Training
    from overt.nets import load, lora

    folder = Path(job["folder"])
    files, config = [folder / "base/model.safetensors"], folder / "base/config.json"
    net = load.from_safetensors(files, json.loads(config.read_bytes()))
    adapter = lora.load(net, folder / "adapter")
    for parameter in (part for _, one in lora.adapted(net) for part in (one.lora_A, one.lora_B)):
        parameter.requires_grad_(True)
    found = json.loads((folder / f"{job['load']}.json").read_bytes())
    made = [Example(one["ids"], one["learnt"], 0) for one in found]
    batches = [made[i : i + job["batch"]] for i in range(0, len(made), job["batch"])]
    training = Training(
        adapter=adapter,
        rate=2e-4,
        warmup=0,
        schedule="linear",
        shuffle=False,
        precision=job["precision"],
        threads=job["threads"],
    )
    times = [time.perf_counter()]
    place = folder / f"place-{os.getpid()}"

    def tell(event: Any) -> None:
        if event["kind"] == "loss":
            times.append(time.perf_counter())

    done = loop.train(net, training, batches, [], place, tell, save_seconds=1e9)
    shutil.rmtree(place)
    return report(batches, times, [point.loss for point in done.curve])


def theirs(job: dict[str, Any]) -> dict[str, Any]:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

    torch.set_num_threads(job["threads"])
    folder = Path(job["folder"])
    base = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    net = PeftModel.from_pretrained(base, folder / "adapter", is_trainable=True)
    found = json.loads((folder / f"{job['load']}.json").read_bytes())
    times: list[float] = []

    class Clock(TrainerCallback):
        def on_train_begin(self, *args: Any, **others: Any) -> None:
            times.append(time.perf_counter())

        def on_step_end(self, *args: Any, **others: Any) -> None:
            times.append(time.perf_counter())

    class InOrder(Trainer):
        def _get_train_sampler(self, *args: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    def filled(rows: list[dict[str, Any]]) -> dict[str, Any]:
        most = max(len(row["ids"]) for row in rows)
        ids, labels, mask = [], [], []
        for row in rows:
            empty = most - len(row["ids"])
            learnt = zip(row["ids"], row["learnt"], strict=True)
            ids.append(row["ids"] + [0] * empty)
            labels.append([id if yes else -100 for id, yes in learnt] + [-100] * empty)
            mask.append([1] * len(row["ids"]) + [0] * empty)
        tensors = {"input_ids": ids, "labels": labels, "attention_mask": mask}
        return {name: torch.tensor(part) for name, part in tensors.items()}

    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"),
        per_device_train_batch_size=job["batch"],
        max_steps=job["steps"],
        learning_rate=2e-4,
        lr_scheduler_type="linear",
        warmup_steps=0,
        weight_decay=0.0,
        max_grad_norm=1.0,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        bf16=job["precision"] == "bfloat16",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        seed=1,
    )
    trainer = InOrder(
        model=net, args=arguments, train_dataset=found, data_collator=filled, callbacks=[Clock()]
    )
    sys.stdout = sys.stderr  # it prints its logs
    trainer.train()
    sys.stdout = sys.__stdout__
    losses = [one["loss"] for one in trainer.state.log_history if "loss" in one]
    rows = [found[i : i + job["batch"]] for i in range(0, len(found), job["batch"])]
    return report(rows, times, losses)


def report(batches: list[Any], times: list[float], losses: list[float]) -> dict[str, Any]:
    """Real tokens a second of the steps behind the skipped ones."""
    counts = [
        sum(len(one["ids"] if isinstance(one, dict) else one.ids) for one in batch)
        for batch in batches
    ]
    seconds = times[-1] - times[SKIPPED]
    return {
        "seconds": seconds,
        "tokens": sum(counts[SKIPPED:]),
        "rate": sum(counts[SKIPPED:]) / seconds,
        "losses": losses,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
    }


def _line(run: dict[str, Any]) -> str:
    return (
        f"{run['load']} {run['precision']} {run['side']}: {run['rate']:.0f} tokens/s, "
        f"{run['peak_mb']:.0f} MB, last loss {run['losses'][-1]:.4f}, busy {run['busy_before']}"
    )


def table(given: argparse.Namespace, runs: list[dict[str, Any]]) -> str:
    """Medians with the extremes, the ratio within rounds, and how far the losses are apart."""
    lines = [
        machine.sentence(machine.about()).partition(";")[0] + "; " + json.dumps(settings(given)),
        "",
        "| load | precision | Overt tokens/s | Trainer tokens/s | ratio | Overt MB | Trainer MB "
        "| largest loss difference |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in given.loads.split(","):
        for precision in given.precisions.split(","):
            some = [r for r in runs if (r["load"], r["precision"]) == (name, precision)]
            both = {side: [r for r in some if r["side"] == side] for side in SIDES}
            rates = {side: [r["rate"] for r in both[side]] for side in SIDES}
            ratios = [a / b for a, b in zip(rates["overt"], rates["trainer"], strict=True)]
            far = max(
                abs(a - b)
                for one, other in zip(both["overt"], both["trainer"], strict=True)
                for a, b in zip(one["losses"], other["losses"], strict=True)
            )
            memory = [max(r["peak_mb"] for r in both[side]) for side in SIDES]
            lines.append(
                f"| {name} | {precision} | {_spread(rates['overt'])} | {_spread(rates['trainer'])} "
                f"| {_spread(ratios, 2)} | {memory[0]:.0f} | {memory[1]:.0f} | {far:.4f} |"
            )
    lines += ["", f"busiest moment before a run: {max(r['busy_before'] for r in runs)} cores"]
    return "\n".join(lines)


def _spread(values: list[float], digits: int = 0) -> str:
    return f"{median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


if __name__ == "__main__":
    main()
