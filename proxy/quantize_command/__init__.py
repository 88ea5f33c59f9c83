"""`parity quantize`: from a recipe to a checkpoint with its card.

command.py     the words, the exit codes
asked.py       what was asked for, held against what is there, before any work
work.py        the work, step by step: what is done stays done
workplace.py   OUT.partial: its lock, its state, and how it becomes OUT
process.py     the process in the quantizing environment
gguf.py        llama.cpp's own tools, for K-quants
traffic.py     calibration samples from a ledger's kept pairs
view.py        what people see
"""
