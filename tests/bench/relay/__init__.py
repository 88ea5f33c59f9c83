"""What the relay costs, beside nginx and its peers, in one interleaved run.

canned.py     the candidate: fixed replies and paced streams, so cheap that it is never what is measured
load.py       the clients: closed and open loop, streams, and what they saw
proxies.py    the arms as processes, and the processes' own counters
scenarios.py  what is sent, how often, at which pace
run.py        rounds, interleaved; figures and ratios
told.py       the JSON and the table
"""
