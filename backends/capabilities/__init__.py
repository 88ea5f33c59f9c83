"""What an engine can do, asked of it over HTTP with a handful of tiny requests.

    record.py   Capability, Finding and Capabilities: what was found, JSON-ready
    reply.py    what of each capability stands in a reply
    probe.py    the requests, in order; `find` makes the record
    leave.py    what shadow calls must leave out, so that both arms answer, and in the same words

Determinism is not asked here: the noise floor measures it, on the traffic.
"""

from backends.capabilities.leave import Asking, asking
from backends.capabilities.probe import find
from backends.capabilities.record import LACKING, Capabilities, Capability, Finding

__all__ = ["LACKING", "Asking", "Capabilities", "Capability", "Finding", "asking", "find"]
