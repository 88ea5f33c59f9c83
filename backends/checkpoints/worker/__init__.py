"""What runs inside the quantizing environment, as a process of its own: nothing of the rest of the project is here.

__main__.py    one job: reads it, does what is left of it, tells each step as a line of JSON on stdout
choosing.py    which of many prompts are calibrated on: no repetition, every length, with and without tools
rendering.py   messages as the model's own chat template writes them
making.py      the work of llm-compressor, and what it needs where there is no accelerator
autoawq.py     the same of AutoAWQ
checking.py    every tensor read back

These files import the standard library, each other, and what is installed there (torch, transformers, llm-compressor or
AutoAWQ), the latter inside functions: the pure ones are tested without.
"""
