"""A scripted vLLM on a real socket: the demo's two engines, and every test's upstream.

Its replies follow from the request's bytes, so two servers agree to the byte unless one of them is told to be
faulty, noisy or quantized. Reading order, from the request to the socket:

    ask.py           the request, checked as vLLM checks it        template.py   chat to token ids and back
    answer.py        what the model says                           tools.py      which tool, which arguments
    generate.py      tokens, stops, logprobs                       structured.py JSON for a schema
    distribution.py  next-token probabilities                      tokens.py     a reversible tokenizer
    reply.py         whole bodies    stream.py  events             faults.py     what goes wrong on purpose
    delivery.py      timing, spoiling    routes.py  the rest     script.py     what a server plays
    server.py        the listener        wire.py    the socket   traffic.py    requests to send it
"""

from backends.scripted.faults import Fault
from backends.scripted.script import Script
from backends.scripted.server import ScriptedServer

__all__ = ["Fault", "Script", "ScriptedServer"]
