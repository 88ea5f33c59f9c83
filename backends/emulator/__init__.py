"""A precision emulator: a small real model on numpy, with each precision axis set apart, behind vLLM's HTTP dialect.

No torch. The number formats are ml_dtypes'; values are rounded to their grids where an engine rounds them, and the
sums run in float32. Reading order:

    recipes.py     the three axes, the named table, what cannot be combined
    formats.py     grids and scales             weights.py     a matrix as a recipe stores it
    checkpoint.py  a model directory, checked   network.py     its matrices, ready to multiply
    cache.py       keys and values              forward.py     tokens in, logits out
    calibrate.py   fixed scales                 sampling.py    the next token and its logprobs
    vocabulary.py  tokenizer and template       hermes.py      tool calls in text
    engine.py      many requests, one thread    sequence.py    one request's way through it
    server.py      the socket                   delivery.py    one reply on its way
    command.py     `python -m backends.emulator`
    model/         the shipped model, with its card
"""
