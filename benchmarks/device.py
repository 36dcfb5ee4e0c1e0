"""A policy on a device: a plain loop with copies against fastvec.torch.DeviceLoop, pageable, page-locked and overlapped.

    pip install torch 'fastvec[bench]'

Envs: no-op rows of 2984 floats (a compiled env), drive in float32 and packed; 1 to 16 workers, as far as there are CPUs.  The
policy is a small network, which expands packed rows on the device.  "plain" is what one writes without the loop: `recv`, a copy to
the device, `send` with the actions copied back.  On a GPU the loop runs from pageable memory without overlap, from page-locked
memory without overlap, and overlapped; on the CPU it runs on the arena's memory, and the plain loop copies to a buffer that stands
for a device's.  Last: how near the loop comes to a plain copy from page-locked memory, and what a batch costs the trainer's thread.
"""
import sys
import time
from contextlib import ExitStack
from functools import partial

try:
    import torch
except ImportError:
    print("device: torch is not installed: pip install torch")
    sys.exit()

import fastvec
import fastvec.drive
from fastvec.drive.observation import Expand
from fastvec.machine import usable_cpus
from fastvec.torch import DeviceLoop
from fastvec_c.probe import Probe

import harness

FLOATS, AGENTS, WORLDS = 2984, 256, 8  # of a row; of a no-op env; of a drive env
WORKERS = (1, 2, 4, 8, 16)
PARTS = 4  # batches that all rows make, overlapped
KINDS = ("no-op", "drive, float32", "drive, packed")
PLAIN, PAGEABLE, PINNED, OVERLAPPED = "plain", "pageable", "page-locked", "overlapped"
ON_CPU = {PLAIN: "plain, with a copy", PINNED: "loop, in place", OVERLAPPED: "loop, in place, in parts"}
BANDWIDTH, CPU_US = 0.9, 100


def main():
    p = harness.parser(__doc__)
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: cuda, or cpu where there is none")
    args = p.parse_args()
    device = torch.device(args.device)
    report = harness.Report("device", args)
    report.say(f"device: {report.content['machine'].get('gpu', 'no GPU') if device.type == 'cuda' else 'cpu'}")
    if device.type == "cpu":
        report.say("skipped: copies to a GPU from pageable and page-locked memory, and their bandwidth: they need one")
        torch.set_num_threads(1)  # the workers need CPUs too
    repetitions, seconds = (2, 0.1) if args.quick else (5, 1.0)
    workers = [n for n in WORKERS if n <= max(1, usable_cpus())]
    for kind in KINDS:
        rates(report, device, kind, workers, repetitions, seconds)
    if device.type == "cuda":
        bandwidth(report, device, workers, repetitions, seconds)
    trainer(report, device, workers, repetitions, seconds)
    report.finish()


# ---- the sides -------------------------------------------------------------------------------------------------------


def pool(device, kind, workers, parts=1, **options):
    """A VecEnv with one env in each worker, whose rows make `parts` batches, or as many as there are workers."""
    if kind == "no-op":
        creator = partial(Probe, observation_size=FLOATS, num_agents=AGENTS)
    else:
        creator = fastvec.drive.creator("shipped", WORLDS, observation=kind.split(", ")[1])
    # A process that has used CUDA is best not forked.
    method = "forkserver" if device.type == "cuda" else None
    return fastvec.make(creator, workers, batch_size=workers // min(parts, workers), zero_copy=True, start_method=method, seed=0, **options)


def network(device, kind):
    """Observations to actions, on the device."""
    layers = [Expand()] if kind == "drive, packed" else []
    torch.manual_seed(0)
    layers += [torch.nn.Linear(FLOATS, 64), torch.nn.Tanh(), torch.nn.Linear(64, 2 if kind == "no-op" else 91)]
    net = torch.nn.Sequential(*layers).to(device)
    return lambda observations: net(observations).argmax(-1)


class Plain:
    """One batch of all rows after the other, copied there and back."""

    def __init__(self, vec, device, policy):
        self.vec, self.policy = vec, policy
        self.target = torch.empty(vec.observations.shape, dtype=torch.from_numpy(vec.observations).dtype, device=device)
        self.rows = vec.num_rows
        vec.async_reset()

    def step(self):
        batch = self.vec.recv()
        self.target.copy_(torch.from_numpy(batch.observations))
        self.vec.send(self.policy(self.target).cpu().numpy())

    def finish(self):
        pass


class Loop:
    """A DeviceLoop."""

    def __init__(self, vec, device, policy, **options):
        self.loop, self.policy = DeviceLoop(vec, device, **options), policy
        self.rows = vec.batch_size * vec.agents_per_env
        self.loop.reset()

    def step(self):
        self.loop.send(self.policy(self.loop.recv().observations))

    def finish(self):
        self.loop.flush()


def sides(stack, device, kind, workers):
    """{name: what can be stepped}; all end with the stack."""
    policy = network(device, kind)

    def side(build, parts=1, **options):
        it = build(stack.enter_context(pool(device, kind, workers, parts)), device, policy, **options)
        if isinstance(it, Loop):
            stack.callback(it.loop.close)
        return it

    found = {PLAIN: side(Plain)}
    if device.type == "cuda":
        found[PAGEABLE] = side(Loop, depth=1, pin=False)
    return found | {PINNED: side(Loop, depth=1), OVERLAPPED: side(Loop, PARTS)}


def rate(it, seconds):
    """Rows per second."""
    with torch.no_grad():
        took = harness.seconds_per_call(it.step, seconds)
        it.finish()
    return it.rows / took


def rates(report, device, kind, workers, repetitions, seconds):
    rows = []
    for n in workers:
        with ExitStack() as stack:
            found = sides(stack, device, kind, n)
            nbytes = found[PLAIN].vec.observation_spec.nbytes
            measured = report.rounds.in_turn({name: partial(rate, it, seconds) for name, it in found.items()}, repetitions)
        row = [harness.workers(n), found[PLAIN].rows, *measured.values()]
        row += [harness.ratio(measured[OVERLAPPED], measured[PLAIN]), f"{measured[OVERLAPPED].median * nbytes / 1e9:.3g}"]
        rows.append(row)
    names = [name if device.type == "cuda" else ON_CPU[name] for name in measured]
    report.table(f"{kind}: rows/s with a small policy on {device}", ["", "rows", *names, "last / plain", "GB/s of observations"], rows, brief=True)


# ---- the copies alone ------------------------------------------------------------------------------------------------


def bandwidth(report, device, workers, repetitions, seconds):
    """GB/s of observations that reach the GPU through the loop, against a copy of a batch from page-locked memory; no policy."""
    rows = []
    for n in workers:
        with ExitStack() as stack:
            vec = stack.enter_context(pool(device, "no-op", n, PARTS))
            actions = torch.zeros(vec.batch_size * AGENTS, dtype=torch.int64, device=device)
            it = Loop(vec, device, lambda _: actions)
            stack.callback(it.loop.close)
            source = torch.empty((it.rows, FLOATS), pin_memory=True)
            target = torch.empty((it.rows, FLOATS), device=device)
            gb = source.nbytes / 1e9
            measured = report.rounds.in_turn({
                "plain copy": lambda: gb / seconds_per_copy(target, source, seconds),
                "loop": lambda: gb * rate(it, seconds) / it.rows,
            }, repetitions)
        share = harness.ratio(measured["loop"], measured["plain copy"])
        rows.append([harness.workers(n), f"{gb * 1e3:.3g}", *measured.values(), share])
    report.table("no-op, no policy: GB/s to the GPU", ["", "MB a batch", "plain page-locked copy", "loop", "share"], rows)
    report.target(f"{BANDWIDTH:.0%} of the bandwidth of a plain page-locked copy, {rows[-1][0]}", share.median >= BANDWIDTH, str(share))


def seconds_per_copy(target, source, seconds):
    """Of copies that are queued one behind the other."""
    def copies(n):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(n):
            target.copy_(source, non_blocking=True)
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3 / n

    copies(3)
    return copies(max(3, int(seconds / copies(10))))


def trainer(report, device, workers, repetitions, seconds):
    """CPU time of the trainer's thread, with workers that are waited for in the kernel, and a policy that is nothing."""
    rows = []
    for n in workers:
        with ExitStack() as stack:
            vec = stack.enter_context(pool(device, "no-op", n, PARTS, wait="park"))
            actions = torch.zeros(vec.batch_size * AGENTS, dtype=torch.int64, device=device)
            it = Loop(vec, device, lambda _: actions)
            stack.callback(it.loop.close)
            cost = report.rounds.in_turn({"loop": partial(cpu_us, it, seconds)}, repetitions)["loop"]
        rows.append([harness.workers(n), it.rows, cost])
    report.table("the trainer's CPU time for a batch, µs", ["", "rows of a batch", "loop"], rows)
    most = max((row[-1] for row in rows), key=lambda cost: cost.median)
    report.target(f"under {CPU_US} µs of the trainer's CPU time for a batch, on {device.type}", most.median < CPU_US, str(most))


def cpu_us(it, seconds):
    for _ in range(20):
        it.step()
    began, end, batches = time.thread_time(), time.perf_counter() + seconds, 0
    while time.perf_counter() < end:
        it.step()
        batches += 1
    return 1e6 * (time.thread_time() - began) / batches


if __name__ == "__main__":
    sys.exit(main())
