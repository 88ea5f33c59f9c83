"""What each precision recipe costs the shipped model, measured on the emulator; `python -m tests.bench.damage`.

items.py     the requests, and how many each recipe gets     measure.py   one recipe against BF16
tally.py     shares, means and their intervals               claims.py    what the field knows, checked
page.py      the table as JSON and as docs/damage.md         proxied.py   the same rows through the whole proxy
command.py   all of it in turn
"""

import os

# Many small products: more threads than one only get into each other's way. BLAS reads this when numpy is imported.
for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
