"""What a step costs beside the envs: a round trip of send and recv, called from Python, with envs that do nothing.

Its floor is pingpong.c: two C processes that bounce a number between two cache lines.  Both are measured in turn.
"""
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from itertools import repeat
from pathlib import Path

import numpy as np

import fastvec
from fastvec.machine import usable_cpus
from fastvec_c.probe import Probe

import harness

TARGET = 10  # times the floor, at most


def main():
    p = harness.parser(__doc__)
    p.add_argument("--wait", default="auto", type=harness.wait_policy, help=harness.WAIT_HELP)
    args = p.parse_args()
    report = harness.Report("handoff", args)
    repetitions, seconds = (3, 0.02) if args.quick else (15, 0.1)
    vecs = {n: fastvec.make(Probe, n, num_envs=n or 1, wait=args.wait) for n in (0, 1, 2, 4, 8)}
    for vec in vecs.values():
        vec.reset(seed=0)
    with tempfile.TemporaryDirectory() as folder:
        sides = {"floor": floor} if (floor := ping_pong(folder, 20_000 if args.quick else 200_000)) else {}
        sides |= {n: partial(round_trip, vec, seconds) for n, vec in vecs.items()}
        measured = report.rounds.in_turn(sides, repetitions)
    rows = [["C ping-pong", measured["floor"], None, None]] if floor else []
    for n, vec in vecs.items():
        over = harness.ratio(measured[n], measured["floor"]) if floor else None
        rows.append([harness.workers(n), measured[n], over, repr(vec.policy)[len("WaitPolicy"):] if n else None])
        vec.close()
    report.table("send + recv, one compiled env that does nothing in each worker",
                 ["", "ns", "times the floor", "wait policy"], rows)
    if usable_cpus() >= 2 and floor:
        over = harness.ratio(measured[1], measured["floor"])
        report.target(f"one worker within {TARGET} times the floor", over.median <= TARGET,
                      f"{measured[1].median:.0f} ns against {measured['floor'].median:.0f} ns, {over.median:.1f} times")
    report.finish()


def ping_pong(folder, rounds):
    """A function that measures the floor, in ns; None without a C compiler."""
    if (cc := shutil.which("cc")) is None:
        return None
    program = Path(folder, "pingpong")
    subprocess.run([cc, "-O2", "-o", program, Path(__file__).with_name("pingpong.c")], check=True)

    def measure():
        out = subprocess.run([program, str(rounds)], check=True, capture_output=True, text=True).stdout
        return statistics.median(map(float, out.split()))

    return measure


def round_trip(vec, seconds) -> float:
    """ns of a send and a recv.  The vec's workers may be asleep: the first steps do not count."""
    actions = np.zeros(vec.num_rows, np.int64)
    steps = 64
    while (took := timed(vec, actions, steps)) < seconds / 20:
        steps *= 2
    steps = max(1, int(steps * seconds / took))
    return timed(vec, actions, steps) / steps * 1e9


def timed(vec, actions, steps) -> float:
    send, recv = vec.send, vec.recv
    began = time.perf_counter()
    for _ in repeat(None, steps):
        send(actions)
        recv()
    return time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(main())
