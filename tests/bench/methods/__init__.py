"""Every method that `parity quantize` knows, made of the shipped model, served by a real vLLM, mirrored, scored.

recipes.py    the rows: one recipe each, and what vLLM is told beside the checkpoint
traffic.py    what is sent, and what is calibrated on
mirrored.py   one candidate beside the reference through the real proxy, and what the ledger has of it
study.py      calibration on the ledger's traffic against calibration on unrelated text; a cache with wrong scales
page.py       docs/methods.md
command.py    `python -m tests.bench.methods`
"""
