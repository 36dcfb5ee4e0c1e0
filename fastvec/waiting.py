"""How long to wait awake, decided from the machine."""
from __future__ import annotations

from fastvec_c.sync import WaitPolicy

from fastvec.machine import usable_cpus

# Measured on 2 cores (benchmarks/handoff.py, benchmarks/oversubscribed.py): with a CPU for everybody spinning is best and
# nothing else comes near; with more runnable processes than CPUs a spinner keeps the CPU that the one it waits for needs,
# while some yields hand it over and cost little (with 50 instead of 20, workers that are done keep their CPU from looking
# idle, and the kernel does not move others there: 5 % less throughput at 8 workers and 0.1 ms a step).  With as
# many workers as CPUs the trainer takes turns with one of them while the others have a CPU each: 100 yields, some 30 µs,
# last them over its turn, and a wake would take as long, and often put two workers on one CPU (2 workers, steps of 0.1 ms:
# 1.9 instead of 1.8 times one worker on one CPU; steps of 10 µs and 30 µs between them: 45 instead of 63 µs).
ROOM = WaitPolicy(spin_us=20, yields=50, yield_us=2000)
FULL = WaitPolicy(spin_us=0, yields=100, yield_us=0)
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
    if isinstance(wait, str) and wait == "auto":
        cpus = usable_cpus()
        return ROOM if num_workers + 1 <= cpus else FULL if num_workers == cpus else CROWDED
    if isinstance(wait, str) and wait in POLICIES:
        return POLICIES[wait]
    raise ValueError(f"wait={wait!r}; give 'auto', 'spin', 'yield', 'park' or a fastvec.WaitPolicy")
