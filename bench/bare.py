"""llama.cpp's own HTTP server, from the same wheel and with the same parameters as Overt's worker.

    python bench/bare.py PORT '{"weights": …, "context": …, …}'

The parameters are those of `llamacpp_host.Host.load`. It is what the gateways of gateway.py stand
in front of: no sandbox, no Overt.
"""

import json
import signal
import sys

from overt.runtime.llamacpp import host


def main(port: int, parameters: dict[str, object]) -> None:
    import xllamacpp

    common = host._common(xllamacpp, parameters)
    common.hostnames = ["127.0.0.1"]
    common.port = port
    common.n_threads_http = 16
    server = xllamacpp.Server(common)
    print("ready", flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    del server


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    main(int(sys.argv[1]), json.loads(sys.argv[2]))
