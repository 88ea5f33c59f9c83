"""One Hypothesis profile for all: a busy machine draws examples slowly, and that says nothing about the code.

And one answer to Ctrl-C: a shell starts what it runs in the background with SIGINT ignored, and children inherit that.

And one thread for numpy's sums, as `python -m backends.emulator` has: the emulator's products are small, and a second
thread that waits for its core while the first spins makes a busy machine ten times slower than it is.
"""

import os
import signal

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # BLAS reads this when numpy is first imported

from hypothesis import HealthCheck, settings

settings.register_profile("parity", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("parity")
signal.signal(signal.SIGINT, signal.default_int_handler)
