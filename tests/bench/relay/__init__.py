"""What the relay costs, beside nginx and its peers, in one interleaved run.

canned.py     the candidate: fixed replies and paced streams, so cheap that it is never what is measured
load.py       the clients: closed and open loop, streams, and what they saw
proxies.py    the arms as processes, and the processes' own counters
scenarios.py  what is sent, how often, at which pace
peers.py      rounds beside the peers, interleaved; figures and ratios
mirror.py     the mirror's arms
workers.py    1 to 8 workers on one port, beside as many relays apart
large.py      small requests while bodies of 1 MB pass through the same worker
page.py       the promises and the tables;  command.py
"""
