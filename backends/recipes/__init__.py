"""Recipes: a model, a workload and hardware on three precision axes; what is wrong with one, and what it could buy.

formats.py    the number formats, their bits, and the words for them (the emulator's own, and more)
hardware.py   what each card computes natively, its memory and its rates
shapes.py     a model's size in the numbers that the roofline needs
recipe.py     what a recipe file may say, axis by axis;  reading.py, written.py: reads and writes one
differ.py     one knob at a time
methods.py    the guide to the quantization methods
serving.py    what vLLM serves: schemes, KV dtypes by attention backend;  engines.py: a recipe against it
check.py      a recipe against all of them (finding.py);  observed.py: and against what was measured
suggest.py    the other way round: from model, workload, hardware and context to a recipe, with its reasons
stored.py     what a checkpoint's folder says of itself;  storage.py: in any form engines read;  carded.py: its card
matching.py   a checkpoint against its recipe;  folders.py: what engines read there beside the formats
command_line.py  an arm as vLLM's own flags;  placement.py: the cards and the memory of both;  tool_parsers.py
roofline.py   bytes, capacity, ceilings, the ridge;  picture.py: the same, drawn

Pure values but for what reads files: `reading.load_recipe`, `shapes.shape_of`, and a checkpoint's folder (stored.py,
folders.py, carded.py). Source throughout, unless another is
named: "precision", the project's knowledge page of mid-2026, which docs/recipes.md repeats row by row.
"""
