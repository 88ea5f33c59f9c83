"""llama.cpp's HTTP server on a GGUF file, run by the python of .venv-llama: `llama_server.py MODEL.gguf PORT`.

xllamacpp is llama.cpp's own server compiled into a wheel; with LLAMA_SERVER set, tests/e2e/llama_cpp.py runs that
binary instead. Both were seen to answer alike.
"""

from __future__ import annotations

import sys
import threading

import xllamacpp

SLOTS, CONTEXT = 4, 4096  # of one slot


def main(model: str, port: str) -> None:
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.hostnames = ["127.0.0.1"]
    params.port = int(port)
    params.n_parallel, params.n_ctx = SLOTS, SLOTS * CONTEXT
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.use_jinja = True
    params.model_alias = {"m"}
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
