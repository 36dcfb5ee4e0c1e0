"""How long to wait awake, decided from the machine."""
from __future__ import annotations

from fastvec_c.sync import WaitPolicy

from fastvec.machine import usable_cpus

# Measured on 2 cores (benchmarks/handoff.py, benchmarks/oversubscribed.py): with a CPU for everybody spinning is best and
# nothing else comes near; with more runnable processes than CPUs a spinner keeps the CPU that the one it waits for needs,
# while some yields hand it over and cost little (with 50 instead of 20, workers that are done keep their CPU from looking
# idle, and the kernel does not move others there: 5 % less throughput at 8 workers and 0.1 ms a step).
ROOM = WaitPolicy(spin_us=20, yields=50, yield_us=2000)
CROWDED = WaitPolicy(spin_us=0, yields=20, yield_us=0)

POLICIES = {
    "spin": WaitPolicy(spin_us=10_000, yields=50, yield_us=0),
    "yield": CROWDED,
    "park": WaitPolicy(),
}


def choose(wait, num_workers: int) -> WaitPolicy:
    """The policy for `wait` ("auto", "spin", "yield", "park" or a WaitPolicy) with this many workers.

    Raises:
        ValueError: any other value.
    """
    if isinstance(wait, WaitPolicy):
        return wait
    if wait == "auto":
        return ROOM if num_workers + 1 <= usable_cpus() else CROWDED
    if wait in POLICIES:
        return POLICIES[wait]
    raise ValueError(f"wait={wait!r}; give 'auto', 'spin', 'yield', 'park' or a fastvec.WaitPolicy")
