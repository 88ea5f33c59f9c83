"""`python -m backends.emulator`; what it does is in command.py."""

import os
import sys

# One core for each engine, because two arms share a machine; BLAS reads this when numpy is first imported.
for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

from backends.emulator.command import main  # noqa: E402 - imports numpy

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
