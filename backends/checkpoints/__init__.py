"""From a recipe to a checkpoint: what is planned, what it is made from, what is written down about it.

planned.py    a recipe as the modifiers of llm-compressor, or why it has none
schemes.py    number formats as compressed-tensors says them
parent.py     the model that is quantized: its files, its digest, its size
memory.py     what the work needs, and whether this machine has it
samples.py    calibration samples as lines of a file
card.py       what a checkpoint's card says
worker/       what runs in the quantizing environment, a process of its own

Pure values but for parent.py, memory.py, samples.py, which read files, and worker/.
"""
