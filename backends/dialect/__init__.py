"""How a vLLM speaks over HTTP: what the scripted engine and the emulator have in common.

    wire.py       HTTP/1.1 on a socket          listener.py  connections, one request at a time on each
    words.py      the values that cross: tokenizer, prompt, step, choice, stamp
    ask.py        the request, checked as vLLM checks it
    reply.py      whole bodies                  stream.py    events
    identity.py   models, version, health, tokenize, detokenize

Held against recorded replies of vLLM 0.32 in tests/integration/test_backends_scripted_fidelity.py.
"""
