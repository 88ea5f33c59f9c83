"""The main job in one command: two engines, the real proxy as processes, real clients, and the verdict.

course.py   healthy candidate, damage while it serves, verdict
stage.py    engines and proxy, started and ended
engines.py  the two arms: the shipped model on the emulator, or scripted ones
process.py  a program as a child
traffic.py  the clients, and the byte comparison
view.py     what a person sees: the live table
"""

from __future__ import annotations

from proxy.demo.course import Plan, run

__all__ = ["Plan", "run"]
