"""What a pool needs of memory: the arena, and what each worker has to itself (USS).

A Probe env needs next to nothing, so its worker shows what a worker itself costs.  And what a thousand driving worlds need
in all (PSS: shared pages are counted once), from JSON files and from a packed one.
"""
import sys
import tempfile
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_all_start_methods

import psutil

import fastvec
import fastvec.drive
from fastvec.drive import scenes
from fastvec_c.probe import Probe

import harness

TARGET = 60  # MB of a worker, beside its env
WORKERS = 2
WORLDS, WORLDS_TARGET = 1000, 1000  # driving worlds, MB for all of them


def main():
    p = harness.parser(__doc__)
    p.add_argument("--scenes", nargs="+", help="of the thousand worlds: files and folders (default: the generated and the Waymo-derived ones "
                   "in ../shared/data, or FASTVEC_TEST_DATA; where these are not, the shipped ones)")
    args = p.parse_args()
    report = harness.Report("memory", args)
    envs = {"Probe": Probe, "drive, 8 worlds": partial(fastvec.drive.creator, "shipped", 8)()}
    rows, own = [], {}
    for name, creator in envs.items():
        for method in get_all_start_methods():
            arena, trainer, workers = measure(creator, method, 91)
            rows.append([name, method, arena, trainer, workers])
            own[name, method] = workers
    report.table(f"{WORKERS} workers after 91 steps, in MB", ["env in each worker", "start method", "arrays", "USS of the trainer",
                                                           "USS of a worker"], rows)
    for (name, method), workers in own.items():
        if name == "Probe":
            report.target(f"a worker takes less than {TARGET} MB ({method})", workers.median < TARGET, f"{workers.median:.1f} MB")
    crowd(report, args.scenes or recorded_scenes(report))
    report.finish()


def recorded_scenes(report):
    if harness.WAYMO_SCENES.is_dir():
        return [harness.DATA / "generated" / "scenes", harness.WAYMO_SCENES]
    report.say(f"{harness.WAYMO_SCENES} is not there: the thousand worlds host the shipped scenes only")
    return "shipped"


def crowd(report, wanted):
    """A thousand worlds: what trainer and workers need in all."""
    files, rows = scenes.find(wanted), []
    with tempfile.TemporaryDirectory() as folder:
        packed = f"{folder}/all.scenes"
        scenes.pack(files, packed)
        for name, of in {"files": files, "one packed file": packed}.items():
            with running(fastvec.drive.creator(of, WORLDS // WORKERS), None, 91) as vec:
                arena = sum(field.nbytes for field in vec.fields.values()) / 1e6
                total = sum(p.memory_full_info().pss for p in [psutil.Process(), *processes(vec)]) / 1e6
                rows.append([name, vec.num_rows, arena, total])
    report.table(f"{WORLDS} worlds over {len(files)} scenes, {WORKERS} workers, in MB", ["scenes from", "rows", "arrays", "PSS of all processes"], rows)
    report.target(f"{WORLDS} worlds take less than {WORLDS_TARGET} MB", max(row[-1] for row in rows) < WORLDS_TARGET, f"{max(row[-1] for row in rows):.0f} MB")


def measure(creator, method, steps):
    """MB: the arena's arrays, the trainer's USS, the workers'."""
    with running(creator, method, steps) as vec:
        arena = sum(field.nbytes for field in vec.fields.values()) / 1e6
        return arena, uss(psutil.Process()), harness.Sample(tuple(map(uss, processes(vec))))


@contextmanager
def running(creator, method, steps):
    """A VecEnv that made some steps."""
    with fastvec.make(creator, WORKERS, start_method=method) as vec:
        vec.reset(seed=0)
        for _ in range(steps):
            vec.send()
            vec.recv()
        yield vec


def processes(vec):
    return [psutil.Process(worker.process.pid) for worker in vec._workers]


def uss(process) -> float:
    return process.memory_full_info().uss / 1e6


if __name__ == "__main__":
    sys.exit(main())
