"""Renders chat templates with llama.cpp's own server: ``python llamacpp_render.py WEIGHTS``.

Standard input is a JSON list of [template, [request bodies]]; standard output the list of rendered
prompts. A process of its own, since nothing native is loaded where the tests run.
"""

import json
import os
import sys
import urllib.request
from pathlib import Path
from typing import Any


def server(weights: Path, template: str) -> Any:
    import xllamacpp

    common = xllamacpp.CommonParams()
    common.model.path = str(weights)
    common.chat_template = template
    common.n_ctx, common.n_parallel = 64, 1
    common.cpuparams.n_threads = common.cpuparams_batch.n_threads = 1
    common.warmup = common.fit_params = common.ui = False
    common.offline = True
    common.verbosity = 1
    common.hostnames, common.port, common.n_threads_http = ["127.0.0.1"], 0, 1
    return xllamacpp.Server(common)


def main() -> None:
    weights = Path(sys.argv[1])
    out = []
    for template, bodies in json.load(sys.stdin):
        running = server(weights, template)
        rendered = []
        for body in bodies:
            request = urllib.request.Request(
                f"{running.listening_address}/apply-template",
                json.dumps(body).encode(),
                {"Content-Type": "application/json"},
            )
            with urllib.request.urlopen(request) as answer:
                rendered.append(json.load(answer)["prompt"])
        out.append(rendered)
    print(json.dumps(out), flush=True)
    os._exit(0)  # the servers' threads would otherwise be waited for


if __name__ == "__main__":
    main()
