"""The data plane. Moves bytes between clients and the candidate, and tees what is sampled; parses no JSON.

server.py     listening, sweeping, draining
worker.py     what the connections of one worker share
client.py     a client's connection: heads, bodies, limits, one request at a time
candidate.py  a connection to the candidate, and the pool of idle ones
head.py       what may pass, what is refused, what is cut out; pure
chunked.py    a client's chunked body, read strictly; pure
refusal.py    what the relay answers in its own name
capture.py    the tee
arms.py       which of two engines serves a request, in a staged rollout
kernel.py     what the system knows of a connection, and how many it allows
"""

from __future__ import annotations

from proxy.relay.server import serve_relay

__all__ = ["serve_relay"]
