"""`parity contract`: pins what the arms are into a file, and says later what of it no longer holds.

arms.py      which arms: from a settings file, or from the words; and their clients
take.py      the pin, taken: files read, engines asked
check.py     a pin checked: what differs, what could not be looked at
command.py   the commands: their words, what they print, and the exit codes
"""
