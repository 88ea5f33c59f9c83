"""The contract as a file: what an arm was when somebody said "this one", and what of it still holds.

pin.py       the file: its tables, strictly read, written whole or not at all, and sealed
files.py     SHA-256 of every byte of a checkpoint's files, in parallel
cache.py     digests of files that have not been touched since
probes.py    what an engine says and does over HTTP: version, settings, token ids, one heartbeat
compare.py   a pin against what is there now: each difference by its name

`backends/contract.py` is the quick look that a running monitor takes of any arm; this is the slow and whole one.
"""
