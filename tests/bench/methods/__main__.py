import sys

from tests.bench.methods.command import main

if __name__ == "__main__":
    sys.exit(main())
