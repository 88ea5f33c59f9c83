"""Upstreams: what speaks HTTP and precision. Knows neither `proxy` nor `scorers`.

base.py       the Backend seam: Reply and the error tree
openai.py     the shadow-side client of one arm
shape.py      the only place where a request body is edited;  needle.py: where a planted fact goes
    scoring.py    calls of our own about tokens: tokenize, detokenize, verify
    eligible.py   which requests can be mirrored at all
contract.py   what a server says about itself, and what changed
pinned/       the contract as a file: every byte, the engine, token ids and a heartbeat; and what differs from it
dialect/      how a vLLM speaks over HTTP: what the engines below have in common
recipes/      the precision recipes: file, hardware gate, advice, roofline
checkpoints/  from a recipe to a checkpoint: the plan, the prompts, the card, and the worker in its own environment
emulator/     a small model with emulated precision on the CPU, with the shipped one in emulator/model
scripted/     a scripted vLLM on a real socket, for the demo, tests and planted faults
"""
