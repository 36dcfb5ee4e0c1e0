"""Random calls of a VecEnv, good and bad, against a model of it (api_model.py): each does what the model says, or raises what is
documented and changes nothing; closing always succeeds and leaves nothing.

The examples are the same each time; FASTVEC_FUZZ=N runs N new ones instead (`make fuzz`), and shrinks what fails.
"""
import collections
import logging
import os
import sys
import threading

import numpy as np
import pytest

pytest.importorskip("hypothesis")

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

import fastvec
from api_envs import INTERRUPT, KINDS, RAISE, SLOW
from api_model import CLOSED, FLYING, FRESH, HOLDING, Referee, peek

EXAMPLES = int(os.environ.get("FASTVEC_FUZZ", 0))
SETTINGS = settings(
    max_examples=EXAMPLES or 100, stateful_step_count=30, derandomize=not EXAMPLES, deadline=None, database=None,
    phases=[Phase.generate] + [Phase.shrink] * bool(EXAMPLES), suppress_health_check=list(HealthCheck),
)
tried = collections.Counter()


@st.composite
def configs(draw):
    num_workers = draw(st.sampled_from([0, 1, 2, 2, 3, 3]))
    units = max(1, num_workers)
    zero_copy = draw(st.booleans())
    sizes = [k for k in range(1, units + 1) if not zero_copy or units % k == 0]
    return {
        "kind": KINDS[draw(st.sampled_from(list(KINDS)))], "num_workers": num_workers, "envs_per_worker": draw(st.integers(1, 2)),
        "units_per_batch": draw(st.sampled_from(sizes)), "zero_copy": zero_copy, "in_order": draw(st.booleans()),
        "slots": draw(st.integers(1, 4)), "autoreset": draw(st.sampled_from(["next_step", "same_step", "disabled"])),
        "on_failure": draw(st.sampled_from(["raise", "restart", "drop"])) if num_workers else "raise",
        "wait": draw(st.sampled_from(["auto", "park", "yield", "spin"])), "seed": draw(st.integers(0, 2**40)),
        "timeout": draw(st.sampled_from([None, 120.0])), "bad_close": draw(st.booleans()),
        "fail_at": draw(st.sampled_from([0, 0, 5])),
    }


CODES = st.lists(st.integers(0, 3), min_size=1, max_size=6)
CLOSED_CALLS = 4  # so many calls after the end, then a new VecEnv;
FRESH_CALLS = 2  # so many before the first reset, if none comes of itself


class Calls(RuleBasedStateMachine):
    """Which calls are made does not depend on the VecEnv's state: that depends on the scheduler, too, and hypothesis must be
    able to repeat an example."""

    ref = None

    @initialize(config=configs())
    def make(self, config):
        self.config = config
        self.ref, self.idle_calls = Referee(config), 0

    def turn(self, call):
        """The Referee for the next call.  A VecEnv that has been closed, or not yet been reset, for some calls goes on."""
        if self.ref.phase not in (CLOSED, FRESH):
            self.idle_calls = 0
        elif self.ref.phase == CLOSED and self.idle_calls >= CLOSED_CALLS:
            self.ref.finish()
            self.config = {**self.config, "seed": self.config["seed"] + 1}
            self.ref, self.idle_calls = Referee(self.config), 0
        elif self.ref.phase == FRESH and self.idle_calls >= FRESH_CALLS:
            self.ref.reset(None, None, None, True)
            self.idle_calls = 0
        else:
            self.idle_calls += 1
        tried[f"{call}, {self.ref.phase}"] += 1
        return self.ref

    # ---- what a trainer does, at the right moment or not --------------------------------------------------------------

    @rule(seed=st.none() | st.integers(0, 2**62 - 1), listed=st.booleans(), options=st.sampled_from([None, {"level": 1}, "each"]),
          masked=st.lists(st.booleans(), min_size=6, max_size=6) | st.none(), at_once=st.booleans())
    def reset(self, seed, listed, options, masked, at_once):
        ref = self.turn("reset")
        if listed and seed is not None:
            seed = [None if e == 1 else seed + 7 * e for e in range(ref.n)]
        if ref.kind.compiled:
            options = None
        elif options == "each":
            options = [{"level": e} if e % 2 else None for e in range(ref.n)]
        mask = np.array(masked[:ref.n]) if masked else None
        if ref.phase == CLOSED or mask is not None and not ref.holds_all():
            with ref.refused(fastvec.StateError, "env_mask.*needs all rows in hand"):
                (ref.vec.async_reset if at_once else ref.vec.reset)(seed, options, mask)
        elif not any(u.torn for u in ref.units):  # the model does not follow a second reset after a torn one
            ref.reset(seed, options, mask, at_once)

    @rule(codes=CODES, in_place=st.booleans())
    def send(self, codes, in_place):
        ref = self.turn("send")
        if ref.phase == HOLDING:
            ref.send(ref.actions(codes), in_place)
            return
        with ref.refused(fastvec.StateError, "send.. before reset" if ref.phase == FRESH else "send.. twice"):
            ref.vec.send(ref.actions(codes))

    @rule(timeout=st.sampled_from([None, None, None, 0, 1e-9, 1e-4, 0.005, 1, 60, np.float32(2), 10**12]))
    def recv(self, timeout):
        ref = self.turn("recv" if timeout is None else "recv with a timeout")
        if ref.phase == FLYING:
            ref.recv(timeout=timeout)
            return
        with ref.refused(fastvec.StateError, "recv.. before reset" if ref.phase == FRESH else "recv.. with nothing sent"):
            ref.vec.recv(timeout)

    @rule(codes=CODES)
    def step(self, codes):
        ref = self.turn("step")
        if ref.phase == HOLDING:
            if ref.per_batch == ref.units_n:
                ref.recv(step=ref.actions(codes))
            return
        with ref.refused(fastvec.StateError, "send.. before reset" if ref.phase == FRESH else "send.. twice"):
            ref.vec.step(ref.actions(codes))

    @rule(codes=CODES, times=st.integers(1, 4))
    def go_on(self, codes, times):
        """Some rounds, whatever the state."""
        ref = self.turn("rounds")
        for _ in range(times):
            if ref.phase == FRESH:
                ref.reset(None, None, None, True)
            if ref.phase == HOLDING:
                ref.send(ref.actions(codes), False)
            if ref.phase == FLYING:
                ref.recv()

    @rule(codes=CODES, trap=st.sampled_from([SLOW, SLOW, SLOW, RAISE, INTERRUPT]), at=st.integers(0, 5))
    def send_trap(self, codes, trap, at):
        ref = self.turn(f"send a trap ({trap})")
        if ref.phase == HOLDING:
            codes = (codes * 6)[:6]
            codes[at] = trap
            ref.send(ref.actions(codes), False)

    @rule(some=st.none() | st.lists(st.integers(0, 5), max_size=4), factor=st.integers(-2, 3))
    def call(self, some, factor):
        ref = self.turn("call")
        if ref.phase != CLOSED:
            ref.call(None if some is None else [e % ref.n for e in some], factor)
            return
        with ref.refused(None, None):
            ref.vec.call("peek") if some is None else ref.vec.apply(peek, envs=some)

    @rule()
    def read(self):
        """Everything there is to read, in every state."""
        ref = self.turn("read")
        vec = ref.vec
        assert (vec.num_envs, vec.num_workers, vec.slots, vec.num_rows) == (ref.n, ref.workers, ref.c["slots"], ref.n * ref.agents)
        assert vec.batch_size == ref.per_batch * ref.per_unit and vec.agents_per_env == ref.agents
        assert "VecEnv" in repr(vec) and vec.stats().rows == ref.rows_sent
        if ref.phase != CLOSED:
            ref.stats()
        torch = vec.torch if "torch" in sys.modules else None
        for name in ("observations", "actions", "rewards", "terminations", "truncations", "masks"):
            array = getattr(vec, name)
            assert array.shape[0] == vec.num_rows and np.shares_memory(array, vec.fields[name])
            if torch is not None:
                assert getattr(torch, name).data_ptr() == array.ctypes.data
        if ref.holds_all():
            for name in ("observations", "rewards", "terminations", "truncations", "masks"):
                np.testing.assert_array_equal(getattr(vec, name), np.concatenate([u.rows[name] for u in ref.units]))

    # ---- what befalls it ---------------------------------------------------------------------------------------------

    @rule(worker=st.integers(0, 2), sure=st.booleans())
    def kill(self, worker, sure):
        ref = self.turn("kill")
        if ref.phase != CLOSED and ref.workers and (sure or ref.mend != "raise"):
            ref.kill(worker % ref.workers)

    @rule(sure=st.sampled_from([False, False, True]))
    def fork(self, sure):
        if sure:
            self.turn("fork").fork()

    @rule(sure=st.sampled_from([False, False, False, True]))
    def close(self, sure):
        if sure:
            self.turn("close").close()

    # ---- what must be refused ----------------------------------------------------------------------------------------

    @rule(seed=st.sampled_from([-1, 1.5, "a", True, [1] * 7, [-1], [1.5], 2**62, {}, np.array(3), np.zeros(2)]))
    def bad_seed(self, seed):
        ref = self.turn("bad seed")
        for call in (ref.vec.reset, ref.vec.async_reset):
            with ref.refused(ValueError, "seed="):
                call(seed=seed)

    @rule(options=st.sampled_from([[{}] * 7, ({},) * 7, {"f": lambda: 0}, [lambda: 0]]))
    def bad_options(self, options):
        ref = self.turn("bad options")
        if ref.kind.compiled:
            error, says = TypeError, "options=.* takes none"
        elif isinstance(options, (list, tuple)) and len(options) != ref.n:
            error, says = ValueError, f"options: a {type(options).__name__} of {len(options)}; give one for each of the {ref.n} envs"
        elif ref.workers:
            error, says = TypeError, "options: .* cannot be pickled"
        else:
            return
        with ref.refused(error, says):
            ref.vec.reset(options=options)

    @rule(mask=st.sampled_from([[1, 0], True, np.zeros(7, bool), np.zeros((1, 1, 1), bool), "all", [None]]))
    def bad_mask(self, mask):
        ref = self.turn("bad mask")
        with ref.refused(ValueError, "env_mask: .* give bool"):
            ref.vec.reset(env_mask=mask)

    @rule(timeout=st.sampled_from(["a", -1, float("nan"), True, [], -1e-300]))
    def bad_timeout(self, timeout):
        ref = self.turn("bad timeout")
        if ref.phase in (FLYING, CLOSED):
            with ref.refused(ValueError, "recv.timeout=.*give a number of seconds"):
                ref.vec.recv(timeout)

    @rule(what=st.sampled_from(["longer", "nested", "text", "objects", "complex", "ragged", "scalar", "dict", "floats", "high", "low", "in place"]),
          codes=CODES)
    def bad_actions(self, what, codes):
        ref = self.turn("bad actions")
        if ref.phase != HOLDING:
            return
        good = ref.actions(codes)
        whole = good.dtype.kind == "i"
        if what in ("floats", "high", "low", "in place") and not whole:
            return
        if what == "in place":
            first = ref.held[0]
            field = ref.vec.fields["actions"][ref.units[first].slot, ref.rows_of(first)]
            before = field.copy()
            field[0] = 7
        actions, error, says = {
            "longer": (np.concatenate([good, good]), ValueError, "actions: shape"),
            "nested": (good[None], ValueError, "actions: shape"),
            "text": (np.full(good.shape, "a"), TypeError, "actions: dtype <U1 cannot become"),
            "objects": (good.astype(object), TypeError, "actions: dtype object cannot become"),
            "complex": (good + 0j, TypeError, "actions: dtype complex"),
            "ragged": ([[1], [1, 2]] * len(good), ValueError, "actions: "),
            "scalar": (3, ValueError, r"actions: shape \(\); give"),
            "dict": ({"f0": good}, ValueError, r"actions: shape \(\); give"),
            "floats": (good * 0.5, TypeError, "actions: dtype float64 cannot become"),
            "high": (good * 0 + 7, ValueError, r"actions\[0\] = 7 is out of range"),
            "low": (np.full(good.shape, -3, np.int16), ValueError, r"actions\[0\] = -3 is out of range"),
            "in place": (None, ValueError, r"actions\[0\] = 7 is out of range"),
        }[what]
        with ref.refused(error, says):
            ref.vec.send(actions)
        if what == "in place":
            field[:] = before

    @rule(what=st.sampled_from(["name", "name is a function", "arguments", "function", "function's arguments", "number", "range", "float", "mask", "text"]))
    def bad_call(self, what):
        ref = self.turn("bad call")
        vec = ref.vec
        if what in ("arguments", "function", "function's arguments") and not ref.workers:
            return
        lock = threading.Lock()
        call, error, says = {
            "name": (lambda: vec.call(5), TypeError, "name=5; give the name of an attribute"),
            "name is a function": (lambda: vec.call(peek), TypeError, "name=.*give the name of an attribute"),
            "arguments": (lambda: vec.call("peek", lock), TypeError, "call: .* cannot be pickled"),
            "function": (lambda: vec.apply(lambda env: 0), TypeError, "call: .* cannot be pickled"),
            "function's arguments": (lambda: vec.apply(peek, lock), TypeError, "call: .* cannot be pickled"),
            "number": (lambda: vec.apply(peek, envs=1), TypeError, "envs=1; give a list of env indices"),
            "range": (lambda: vec.apply(peek, envs=[0, ref.n]), IndexError, f"envs: {ref.n}; there are {ref.n} envs"),
            "float": (lambda: vec.apply(peek, envs=[0.0]), TypeError, r"envs=\[0.0\]; give a list of env indices"),
            "mask": (lambda: vec.apply(peek, envs=np.array([True])), TypeError, "envs=.*give a list of env indices"),
            "text": (lambda: vec.apply("peek"), TypeError, "function='peek'; give a function"),
        }[what]
        with ref.refused(error, says):
            call()

    @rule(fails=st.sampled_from(["unknown", "raises", "answer"]), sure=st.sampled_from([False, False, False, True]))
    def call_that_raises(self, fails, sure):
        """The documented end of a VecEnv: an env raised in a call."""
        if not sure:
            return
        ref = self.turn("call that raises")
        vec = ref.vec
        if ref.phase == CLOSED or (fails == "answer" and not ref.workers) or any(ref.in_danger()):
            return
        call, says = {
            "unknown": (lambda: vec.call("no_such_thing"), "raised AttributeError .*no_such_thing.* in call"),
            "raises": (lambda: vec.apply(raises), "raised ZeroDivisionError .* in call"),
            "answer": (lambda: vec.apply(gives_a_lock), "pickle"),
        }[fails]
        with pytest.raises(fastvec.WorkerError, match=says) as error:
            call()
        assert error.value.phase == "call"
        ref.phase = CLOSED

    @rule(grace=st.sampled_from([-1, float("nan"), "a", None, True]))
    def bad_grace(self, grace):
        ref = self.turn("bad grace")
        with pytest.raises(ValueError, match="grace=.*give a number of seconds"):
            ref.vec.close(grace)
        ref.look()

    @invariant()
    def what_is_ours_stays(self):
        if self.ref is not None:
            self.ref.look()

    def teardown(self):
        if self.ref is not None:
            self.ref.finish()


def raises(env):
    return 1 // 0


def gives_a_lock(env):
    return threading.Lock()


def test_every_call_in_every_state(capfd):
    tried.clear()
    logging.getLogger("fastvec").disabled = True  # thousands of deaths
    try:
        run_state_machine_as_test(Calls, settings=SETTINGS)
    finally:
        logging.getLogger("fastvec").disabled = False
        if EXAMPLES:
            with capfd.disabled():
                print("", *(f"{n:8,}  {call}" for call, n in sorted(tried.items())), sep="\n")
