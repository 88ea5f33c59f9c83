"""`parity gate`: asks a running monitor for its verdict, for a CI job or a script. Nothing here decides anything.

ask.py       one question over HTTP: an answer, or why there is none
wait.py      asks again until it is decided or the time is up
command.py   the command: its words, what it prints, and the exit code
"""
