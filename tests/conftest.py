"""One Hypothesis profile for all: a busy machine draws examples slowly, and that says nothing about the code.

And one answer to Ctrl-C: a shell starts what it runs in the background with SIGINT ignored, and children inherit that.
"""

import signal

from hypothesis import HealthCheck, settings

settings.register_profile("parity", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("parity")
signal.signal(signal.SIGINT, signal.default_int_handler)
