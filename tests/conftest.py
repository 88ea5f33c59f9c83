"""One Hypothesis profile for all: a busy machine draws examples slowly, and that says nothing about the code."""

from hypothesis import HealthCheck, settings

settings.register_profile("parity", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("parity")
