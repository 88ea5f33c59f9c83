"""`parity serve`: one supervisor, N relay workers and a monitor.

supervise.py  starts, restarts and drains children;  child.py: what both sides agree on;  printer.py: their output
"""

from __future__ import annotations

from proxy.supervisor.child import die_with_parent, reserve_port
from proxy.supervisor.supervise import Child, Policy, supervise

__all__ = ["Child", "Policy", "die_with_parent", "reserve_port", "supervise"]
