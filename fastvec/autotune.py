"""How many workers: measured on one env, predicted for many."""
from __future__ import annotations

import time

import numpy as np

from fastvec.spaces import Spec

_PROBE_SECONDS = 0.2
# What a step costs beside the envs, measured by benchmarks/handoff.py on 2 cores of an AMD EPYC VM: with a CPU for
# everybody, and with more processes than CPUs.  Only their rough size matters.
_HANDOFF_ROOM, _HANDOFF_CROWDED = 1.5e-6, 4e-6
_PER_WORKER = 0.3e-6
_WORTH_IT = 0.9  # more workers must take at most this share of the time


def choose_workers(make_probe, num_envs: int, cpus: float) -> int:
    """The number of workers that should step `num_envs` envs fastest; 0 is this process.

    Args:
        make_probe: returns a VecEnv of one worker with one env.
        cpus: how many we may use.
    """
    with make_probe() as probe:
        per_env = seconds_per_step(probe)
    best, best_time = 0, num_envs * per_env
    for workers in range(1, min(num_envs, max(1, int(cpus))) + 1):
        if num_envs % workers:
            continue
        predicted = num_envs * per_env / workers + handoff(workers, cpus)
        if predicted < _WORTH_IT * best_time:
            best, best_time = workers, predicted
    return best


def handoff(workers: int, cpus: float) -> float:
    """Roughly what a step with so many workers takes beside the envs, in seconds."""
    return (_HANDOFF_ROOM if workers + 1 <= cpus else _HANDOFF_CROWDED) + workers * _PER_WORKER


def seconds_per_step(vec) -> float:
    """How long one step of all envs of a VecEnv with one worker takes inside the worker, resets included."""
    rng = np.random.default_rng(0)
    vec.reset(seed=0)
    end = time.perf_counter() + _PROBE_SECONDS
    while time.perf_counter() < end:
        vec.step(random_actions(vec.action_spec, vec.num_rows, rng))
    worker = vec.stats().workers[0]
    return worker.busy / worker.steps


def random_actions(spec: Spec, num_rows: int, rng: np.random.Generator) -> np.ndarray:
    """Actions drawn uniformly from within the bounds; zeros where there are none."""
    shape = (num_rows, *spec.shape)
    if spec.low is None or spec.high is None or spec.dtype.names is not None:
        return np.zeros(shape, spec.dtype)
    if spec.dtype.kind in "iub":
        return rng.integers(spec.low, np.asarray(spec.high), shape, endpoint=True).astype(spec.dtype)
    low, high = np.broadcast_to(spec.low, spec.shape), np.broadcast_to(spec.high, spec.shape)
    bounded = np.isfinite(low) & np.isfinite(high)
    low, high = np.where(bounded, low, 0), np.where(bounded, high, 0)
    return (low + (high - low) * rng.random(shape)).astype(spec.dtype)
