"""Looking at minillm from outside: where time and bytes go, what runs here, and what a run did.

with ml.observe.profile() as p: …       every operation and kernel call of what happens inside
"""

from minillm.observe.profiler import Profile, profile

__all__ = ["Profile", "profile"]
