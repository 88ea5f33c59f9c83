"""A scripted vLLM on a real socket: the demo's two engines, and every test's upstream.

Its replies follow from the request's bytes, so two servers agree to the byte unless one of them is told to be
faulty, noisy or quantized. HTTP and vLLM's fields are in backends/dialect. Reading order of the rest:

    ask.py           the request, read by our tokenizer            template.py   chat to token ids and back
    answer.py        what the model says                           tools.py      which tool, which arguments
    generate.py      tokens, stops, logprobs                       structured.py JSON for a schema
    distribution.py  next-token probabilities                      tokens.py     a reversible tokenizer
    stream.py        what of each token shows                      faults.py     what goes wrong on purpose
    delivery.py      timing, spoiling    routes.py  controls       script.py     what a server plays
    server.py        all of it           traffic.py requests to send it
    lacking.py       what it cannot do, so that it stands for another engine
"""

from backends.scripted.faults import Fault
from backends.scripted.script import Script
from backends.scripted.server import ScriptedServer

__all__ = ["Fault", "Script", "ScriptedServer"]
