"""Spin checks the model of the handoff, in small configurations, and finds every mistake put into it."""
import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
MODEL = os.path.join(HERE, "fastvec.pml")

needs_spin = pytest.mark.skipif(
    not (shutil.which("spin") and shutil.which("gcc")), reason="needs spin and gcc: apt-get install spin gcc"
)

SOUND = {
    "one worker": "-DROUNDS=3 -DMESSAGES",
    "two workers": "-DWORKERS=2 -DMESSAGES",
    "asynchronous": "-DWORKERS=2 -DBATCH=1 -DROUNDS=3",
    "closed early": "-DWORKERS=2 -DMESSAGES -DCLOSE_EARLY",
    "a death ends the run": "-DWORKERS=2 -DDEATHS=1 -DMESSAGES",
    "one worker, restarted": "-DROUNDS=3 -DDEATHS=2 -DRESTARTS=2 -DMESSAGES",
    "one of two restarted": "-DWORKERS=2 -DDEATHS=1 -DRESTARTS=1",
    "one of two restarted, asynchronous": "-DWORKERS=2 -DBATCH=1 -DDEATHS=1 -DRESTARTS=1",
    "closed early, amid restarts": "-DROUNDS=3 -DDEATHS=2 -DRESTARTS=2 -DMESSAGES -DCLOSE_EARLY",
}

# Mistakes that are stores too late for what follows; with the store waited for, they are none.
LATE = ("post_not_seq_cst", "post_relaxed", "worker_sleep_not_seq_cst", "trainer_sleep_not_seq_cst", "announce_not_seq_cst", "announce_relaxed")
SOUND |= {f"{mistake}, waited for": f"-DBROKEN_{mistake} -DWAITED_FOR" for mistake in LATE}

# What is read or written wrongly; the others leave somebody waiting for ever.
WRONG_DATA = {"post_relaxed", "announce_relaxed", "announce_before_rows", "announce_not_atomic", "restart_before_the_end",
              "restart_without_a_look", "restart_orders_after_the_start"}

# A mistake, and the smallest configuration that shows it.
MISTAKES = {
    "post_not_seq_cst": "",  # K1 and K2 of sync.h change places
    "post_wakes_first": "",
    "post_relaxed": "",  # the payload comes after the order
    "worker_sleep_not_seq_cst": "",  # W1 and W2 change places
    "worker_no_recheck": "",
    "trainer_sleep_not_seq_cst": "",
    "trainer_no_recheck": "",
    "trainer_sleeps_without_limit": "-DDEATHS=1",
    "announce_not_seq_cst": "",
    "announce_wakes_first": "",
    "announce_relaxed": "",  # the rows come after the bit
    "announce_before_rows": "",
    "announce_not_atomic": "-DWORKERS=2",
    "take_not_atomic": "-DWORKERS=2",
    "message_before_announce": "-DMESSAGES",
    "restart_before_the_end": "-DDEATHS=1 -DRESTARTS=1",
    "restart_without_a_look": "-DDEATHS=1 -DRESTARTS=1",
    "restart_keeps_message_bit": "-DDEATHS=1 -DRESTARTS=1 -DMESSAGES",
    "restart_orders_after_the_start": "-DDEATHS=1 -DRESTARTS=1",
}


def verify(folder, flags):
    """(errors that Spin found, states it saw, what it printed)"""
    os.makedirs(folder)

    def run(*command):
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)

    made = run("spin", "-a", *flags.split(), MODEL)
    assert os.path.exists(os.path.join(folder, "pan.c")), made.stdout + made.stderr
    # Without partial-order reduction, which `unless` does not go well with.
    built = run("gcc", "-O1", "-w", "-DSAFETY", "-DNOREDUCE", "-DCOLLAPSE", "-DMEMLIM=4000", "-o", "pan", "pan.c")
    assert built.returncode == 0, built.stderr
    out = run("./pan", "-m1000000").stdout
    errors, states = re.search(r"errors: (\d+)", out), re.search(r"(\d+) states, stored", out)
    assert errors and "search was not completed" not in out.lower() or int(errors[1]), out
    assert "max search depth too small" not in out and "out of memory" not in out, out
    return int(errors[1]), int(states[1]), out


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory):
    """Of every configuration; all at once, since most of the time goes into compiling."""
    folder = tmp_path_factory.mktemp("spin")
    jobs = dict(SOUND) | {m: f"-DBROKEN_{m} {flags}" for m, flags in MISTAKES.items()}
    with ThreadPoolExecutor(2) as pool:
        futures = {name: pool.submit(verify, str(folder / str(k)), flags) for k, (name, flags) in enumerate(jobs.items())}
    return futures


@needs_spin
@pytest.mark.parametrize("name", SOUND)
def test_the_protocol_is_sound(verdicts, name):
    errors, states, out = verdicts[name].result()
    assert errors == 0, out
    assert states > 1000


@needs_spin
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found(verdicts, mistake):
    errors, _, out = verdicts[mistake].result()
    assert errors, out
    assert ("assertion violated" if mistake in WRONG_DATA else "invalid end state") in out.split("Version")[0], out


def test_every_mistake_is_one_of_the_model():
    with open(MODEL) as f:
        assert set(re.findall(r"BROKEN_(\w+)", f.read())) - {"x"} == set(MISTAKES)


def sources():
    """{file name: text} of the code that the model is tied to."""
    found = {}
    for folder in ("fastvec_c", "fastvec"):
        for name in os.listdir(os.path.join(ROOT, folder)):
            if name.endswith((".h", ".pyx", ".py")):
                with open(os.path.join(ROOT, folder, name)) as f:
                    found.setdefault(name, f.read())
    return found


def function(text, name):
    """The text from a function's head to the next one's that is indented like it, whatever the language."""
    kinds = "(?:static inline|cdef|cpdef|def|class|@)"
    start = re.search(rf"^([ \t]*){kinds}\b[^\n]*\b{name}\(", text, re.M)
    assert start, name
    end = re.compile(rf"^{start[1]}{kinds}", re.M).search(text, start.end())
    return text[start.start():end.start() if end else len(text)]


def test_the_model_is_tied_to_lines_that_are_there():
    texts = sources()
    with open(MODEL) as f:
        ties = re.findall(r"^\s*//@ (\S+) (\w+): (.+)$", f.read(), re.M)
    assert len(ties) > 25
    for file, name, line in ties:
        assert line.strip() in function(texts[file], name), f"{file}, {name}: {line}"


def test_the_page_names_functions_that_are_there():
    texts = sources()
    with open(os.path.join(ROOT, "docs", "protocol.md")) as f:
        named = re.findall(r"`(\w+\.(?:h|pyx|py)) (\w+)`", f.read())
    assert len(named) > 8
    for file, name in named:
        function(texts[file], name)
