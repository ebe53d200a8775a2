"""For every test: the hypothesis profiles, and the kernel settings put back afterwards.

HYPOTHESIS_PROFILE=ci (the default) is the same few examples each time; intense is for long runs.
"""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

from minillm import kernels

sys.path.insert(0, str(Path(__file__).parent))  # for `import strategies` in every folder

QUIET = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture)
PHASES = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)  # explain takes half a minute
every = settings(deadline=None, suppress_health_check=QUIET, phases=PHASES)
settings.register_profile("ci", every, max_examples=20, derandomize=True)
settings.register_profile("intense", every, max_examples=2000, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(autouse=True)
def kernel_settings():
    """What a test does to target, implementations, threads or observers ends with it."""
    before = kernels.info()
    threads, observers = kernels.get_num_threads(), list(kernels.observers)
    yield
    if kernels.info()["target"] != before["target"]:
        kernels.set_target(before["target"])
    kernels.use("", **before["kernels"])
    kernels.set_num_threads(threads)
    kernels.observers[:] = observers
