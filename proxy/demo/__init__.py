"""The main job in one command: two scripted engines, the real proxy as processes, real clients, and the verdict.

stage.py    engines and proxy, started and ended
traffic.py  the clients, and the byte comparison
view.py     what a person sees: the live table
"""

from __future__ import annotations

from proxy.demo.course import Plan, run

__all__ = ["Plan", "run"]
