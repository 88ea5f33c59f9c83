"""`parity recipe`: suggest, check, diff, roofline and budget, on files alone.

command.py    the words, the exit codes
view.py       what people see
"""
