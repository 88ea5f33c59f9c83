"""`python -m tests.bench.relay`."""

import sys

from tests.bench.relay.command import main

sys.exit(main())
