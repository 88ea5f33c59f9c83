"""`python -m tests.bench.damage`; what it does is in command.py."""

import sys

from tests.bench.damage.command import main

if __name__ == "__main__":
    sys.exit(main())
