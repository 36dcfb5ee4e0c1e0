"""What a VecEnv must do, call by call: the Referee makes the calls, and says where one does something else.

The states are those of the pool: fresh (never reset), holding (a batch is in the user's hands), flying (recv has something to
wait for) and closed.  Of each unit (a worker, or all envs of this process) the Referee knows what its rows must be when they
come next.  Where the kernel decides who is first (batches smaller than all, a worker killed while it steps), it allows each
outcome that may be, looks which one it was, and holds the VecEnv to it.
"""
import contextlib
import os
import signal

import numpy as np
import pytest

import fastvec
from api_envs import Fails, Interrupted, Rows

FRESH, HOLDING, FLYING, CLOSED = "fresh", "holding", "flying", "closed"


class Unit:
    """What is known of one worker's envs.

    Attributes:
        twins: of its envs, as they are after the last order, if that comes to its end.
        rows, infos: what they have written then: {field: array}, {env: info}.
        order: the last one, "step" or "reset"; it writes `slot`.
        fate: of that order: "done" comes to its end; "lost" does not: its worker was dead, or an env raises; "torn" may or
            may not: its worker was killed meanwhile.
        raised: (env, Fails or Interrupted) where an env raises.
        torn: of a reset that came after a torn order, (twins, rows, infos) if it reached the heir of the dead worker.
        dead: its worker was killed, and nobody has noticed.
        replaced: restarts of its worker that have been told.
    """

    def __init__(self, twins):
        self.twins = twins
        self.rows = self.raised = self.torn = self.masks_before = None
        self.infos = {}
        self.slot = 0
        self.order, self.fate = "reset", "done"
        self.dead = self.dropped = False
        self.replaced = 0


class Referee:
    """Makes a VecEnv and calls it.

    Args:
        config: as drawn by test_api_fuzz.configs.
    """

    def __init__(self, config):
        c = self.c = config
        self.kind = c["kind"](c["autoreset"], c["bad_close"], c["fail_at"])
        self.workers = c["num_workers"]
        self.units_n = max(1, self.workers)
        self.per_unit = c["envs_per_worker"]
        self.n = self.units_n * self.per_unit
        self.agents = max(self.kind.agents(e) for e in range(self.n))
        self.per_batch = c["units_per_batch"]
        self.mend = c["on_failure"]
        self.fds = len(os.listdir("/proc/self/fd"))
        self.vec = fastvec.make(
            self.kind.creator, self.workers, num_envs=self.n, batch_size=self.per_batch * self.per_unit, slots=c["slots"],
            zero_copy=c["zero_copy"], in_order=c["in_order"], seed=c["seed"], autoreset=c["autoreset"], wait=c["wait"],
            on_failure=self.mend, max_restarts=1000, timeout=c["timeout"],
        )
        self.pids = set(self.living())
        self.units = [Unit(self.new_twins(u)) for u in range(self.units_n)]
        self.phase = FRESH
        self.seed = c["seed"]  # for the first reset
        self.held = []  # units of the batch in hand
        self.queue = []  # units under way, or ready, in the order in which they were sent
        self.kept = []  # [batch, copy of it, sends since]
        self.batches = self.rows_sent = 0

    # ---- small things ------------------------------------------------------------------------------------------------

    def new_twins(self, u):
        return [self.kind.twin(e) for e in self.envs_of(u)]

    def envs_of(self, u):
        return range(u * self.per_unit, (u + 1) * self.per_unit)

    def rows_of(self, u):
        k = self.per_unit * self.agents
        return slice(u * k, (u + 1) * k)

    def living(self):
        return [w.process.pid for w in self.vec._workers]

    def num_rows_held(self):
        return len(self.held) * self.per_unit * self.agents

    def holds_all(self):
        return self.phase == HOLDING and len(self.held) == self.units_n

    def actions(self, codes):
        """For the rows in hand (or all), from a list of any length."""
        n = self.num_rows_held() or self.n * self.agents
        return self.kind.actions([codes[i % len(codes)] for i in range(n)])

    @contextlib.contextmanager
    def refused(self, error, says):
        """The call must raise this, and change nothing."""
        if self.phase == CLOSED:
            error, says = fastvec.ClosedError, "make a new VecEnv"
        with pytest.raises(error, match=says) as raised:
            yield
        assert self.phase == CLOSED or not isinstance(raised.value, fastvec.ClosedError)
        self.look()

    def look(self):
        """What is in the user's hands is as it was when it came."""
        if self.phase == CLOSED:
            return
        for batch, then, _ in self.kept:
            for name, before in then.items():
                np.testing.assert_array_equal(getattr(batch, name), before, err_msg=f"{name} of a batch that is ours")
        if self.phase == HOLDING:
            for u in self.held:
                self.compare_fields(u)

    def compare_fields(self, u):
        unit = self.units[u]
        for name, expected in unit.rows.items():
            got = self.vec.fields[name][unit.slot, self.rows_of(u)]
            np.testing.assert_array_equal(got, expected, err_msg=f"{name} of unit {u}, slot {unit.slot}")

    # ---- what rows must be -------------------------------------------------------------------------------------------

    def laid_out(self, parts):
        """{field: rows of a unit} and {env: info}; envs with fewer agents than others leave rows that are zero and masked."""
        fields, infos = {}, {}
        for name in (*Rows.NAMES, *(n for n in self.vec.fields if n not in (*Rows.NAMES, "actions"))):
            one = getattr(parts[0], name)
            whole = np.zeros((self.per_unit * self.agents, *one.shape[1:]), one.dtype)
            for i, part in enumerate(parts):
                rows = getattr(part, name)
                whole[i * self.agents:i * self.agents + len(rows)] = rows
            fields[name] = whole
        return fields, [part.info for part in parts]

    def blank(self, u):
        return {name: np.zeros_like(view[0, self.rows_of(u)]) for name, view in self.vec.fields.items() if name != "actions"}

    def infos_of(self, u, parts):
        return {e: info for e, info in zip(self.envs_of(u), parts) if info}

    def order_reset(self, u, seeds, options, mask):
        unit = self.units[u]
        unit.order = "reset"
        if mask is None:
            unit.slot = 0
        if unit.dropped:
            unit.rows, unit.infos = self.blank(u), {}
            return
        unit.fate = "lost" if unit.dead else "done"
        if unit.dead:
            return
        parts = []
        for i, e in enumerate(self.envs_of(u)):
            if mask is None or mask[e]:
                parts.append(unit.twins[i].reset(seeds[e], options[e]))
            else:
                parts.append(self.kept_part(unit, i))
        rows, infos = self.laid_out(parts)
        unit.rows, unit.infos = rows, self.infos_of(u, infos)

    def kept_part(self, unit, i):
        """The rows that an env has, as if it had just written them."""
        part = Rows(unit.rows["observations"][i * self.agents:(i + 1) * self.agents])
        for name, rows in unit.rows.items():
            setattr(part, name, rows[i * self.agents:(i + 1) * self.agents].copy())
        return part

    def order_step(self, u, actions):
        unit = self.units[u]
        unit.order = "step"
        unit.slot = (unit.slot + 1) % self.c["slots"]
        unit.masks_before = unit.rows["masks"].copy()
        if unit.dropped:
            unit.rows, unit.infos = self.blank(u), {}
            return
        unit.fate = "lost" if unit.dead else "done"
        unit.raised = None
        if unit.dead:
            return
        parts = []
        for i, e in enumerate(self.envs_of(u)):
            mine = actions[i * self.agents:i * self.agents + self.kind.agents(e)]
            try:
                parts.append(unit.twins[i].step(mine))
            except (Fails, Interrupted) as error:
                unit.fate, unit.raised = "lost", (e, type(error))
                return
        rows, infos = self.laid_out(parts)
        unit.rows, unit.infos = rows, self.infos_of(u, infos)

    def heirs(self, u):
        """The twins of a worker that takes the place of a dead one, and their parts after its first reset."""
        unit = self.units[u]
        twins = self.new_twins(u)
        seeds = [
            int(np.random.SeedSequence([self.c["seed"], e, unit.replaced + 1]).generate_state(1)[0]) for e in self.envs_of(u)
        ]
        return twins, [twin.reset(seed) for twin, seed in zip(twins, seeds, strict=True)]

    def inherit(self, u):
        """Unit u comes back from a death: replaced or dropped."""
        unit = self.units[u]
        if self.mend == "restart":
            unit.twins, parts = self.heirs(u)
            unit.rows, _ = self.laid_out(parts)
            if unit.order == "step":
                unit.rows["truncations"] = unit.rows["masks"].copy()
            unit.replaced += 1
        else:
            unit.rows, unit.dropped = self.blank(u), True
            if unit.order == "step":
                masks = unit.masks_before
                if self.c["slots"] == 1:  # the dead worker may have written them already
                    masks = self.vec.fields["masks"][0, self.rows_of(u)].copy()
                unit.rows["masks"], unit.rows["truncations"] = masks, masks.copy()
        unit.dead, unit.fate, unit.raised = False, "done", None
        self.pids.update(self.living())

    # ---- errors that deaths lead to ----------------------------------------------------------------------------------

    def in_danger(self):
        """Units under way that are lost, those that are torn, and others whose worker is dead."""
        lost, torn = ([u for u in self.queue if self.units[u].fate == fate] for fate in ("lost", "torn"))
        return lost, torn, [u for u in range(self.units_n) if self.units[u].dead and u not in lost + torn]

    def check_failure(self, error, among):
        """A WorkerError that had to come, or might: of one of these units."""
        u = 0 if error.worker is None else error.worker
        assert u in among, f"{u} is not among {among}: {error}"
        assert (error.worker is None) == (self.workers == 0)
        assert error.envs == self.envs_of(u)
        unit = self.units[u]
        if unit.raised and not unit.dead and unit.fate == "lost":
            assert (error.env, error.phase) == (unit.raised[0], "step"), error
        self.phase = CLOSED

    # ---- calls -------------------------------------------------------------------------------------------------------

    def reset(self, seed, options, mask, at_once):
        vec = self.vec
        lost, torn, idle_dead = self.in_danger()
        call = vec.async_reset if at_once else vec.reset
        chosen = self.seed if seed is None else seed
        try:
            result = call(seed=seed, options=options, env_mask=mask)
        except fastvec.WorkerError as error:
            return self.reset_failed(error, lost, torn, idle_dead)
        except KeyboardInterrupt:
            assert self.workers == 0 and self.units[0].raised[1] is Interrupted and lost
            return self.interrupted()
        assert not (self.mend == "raise" and lost)
        self.seed = None
        seeds = [None] * self.n if chosen is None else chosen if isinstance(chosen, list) else [chosen + e for e in range(self.n)]
        options = options if isinstance(options, list) else [options] * self.n
        self.kept = []
        for u in lost:  # replaced or dropped while reset waited for them; then reset like the others
            self.inherit(u)
        for u in range(self.units_n):
            unit = self.units[u]
            if u in torn:
                # It came to its end, and its death was noticed with the reset; or it did not, and its heir was reset.
                unit.order = "reset"
                unit.slot = 0
                unit.fate = "torn"
                if self.mend == "restart":
                    twins, _ = self.heirs(u)
                    parts = [twin.reset(s, o) for twin, s, o in
                             zip(twins, [seeds[e] for e in self.envs_of(u)], [options[e] for e in self.envs_of(u)], strict=True)]
                    rows, infos = self.laid_out(parts)
                    unit.torn = (twins, rows, self.infos_of(u, infos))
                else:
                    unit.torn = (unit.twins, self.blank(u), {})
            else:
                unit.torn = None
                self.order_reset(u, seeds, options, mask)
        self.phase, self.held, self.queue = FLYING, [], list(range(self.units_n))
        if not at_once:
            observations, infos = result
            self.arrived(list(range(self.units_n)), infos)
            np.testing.assert_array_equal(observations, np.concatenate([u.rows["observations"] for u in self.units]))

    def reset_failed(self, error, lost, torn, idle_dead):
        if self.mend == "drop":
            self.last_one(error)
        else:
            assert self.mend == "raise"
            self.check_failure(error, lost + torn + idle_dead)

    def last_one(self, error):
        """With "drop": an error may come only when nobody is left."""
        assert "It was the last worker" in str(error), error
        assert all(u.dropped or u.dead or u.fate != "done" for u in self.units), error
        self.phase = CLOSED

    def interrupted(self):
        """Ctrl-C amid the step of an env of this process: all must be reset."""
        self.phase, self.held, self.queue, self.kept = FRESH, [], [], []
        self.units[0].fate, self.units[0].raised = "done", None

    def send(self, actions, in_place):
        if in_place:
            k = self.per_unit * self.agents
            for i, u in enumerate(self.held):
                self.vec.fields["actions"][self.units[u].slot, self.rows_of(u)] = actions[i * k:(i + 1) * k]
        self.vec.send(None if in_place else actions)
        self.sent(actions)

    def sent(self, actions):
        k = self.per_unit * self.agents
        for i, u in enumerate(self.held):
            self.order_step(u, actions[i * k:(i + 1) * k])
        for entry in self.kept:
            entry[2] += 1
        self.kept = [entry for entry in self.kept if entry[2] < self.c["slots"]]
        self.batches += 1
        self.rows_sent += self.num_rows_held()
        self.queue += self.held
        self.phase, self.held = FLYING, []

    def recv(self, timeout=None, step=None):
        """Receives; or, with the actions `step`, steps."""
        vec = self.vec
        try:
            if step is None:
                batch = vec.recv(timeout) if timeout is not None else vec.recv()
            else:
                results = vec.step(step)
        except BaseException as error:
            if step is not None:
                self.sent(step)
            return self.recv_failed(error, timeout)
        if step is not None:
            self.sent(step)
            assert self.per_batch == self.units_n
            self.arrived(list(range(self.units_n)), results[4])
            for got, name in zip(results, Rows.NAMES[:4]):
                np.testing.assert_array_equal(got, np.concatenate([u.rows[name] for u in self.units]))
            return None
        k = self.per_unit * self.agents
        units = [int(r) // k for r in batch.rows[::k]]
        assert batch.rows.tolist() == [r for u in units for r in range(u * k, (u + 1) * k)]
        self.check_choice(units)
        self.arrived(units, batch.infos)
        for name in Rows.NAMES:
            np.testing.assert_array_equal(getattr(batch, name), np.concatenate([self.units[u].rows[name] for u in units]), err_msg=name)
        self.kept.append([batch, {name: getattr(batch, name).copy() for name in (*Rows.NAMES, "rows")}, 0])
        return None

    def check_choice(self, units):
        """These units may come next."""
        assert len(units) == len(set(units)) == self.per_batch and set(units) <= set(self.queue)
        if self.per_batch == self.units_n:
            assert units == list(range(self.units_n))
        elif self.c["in_order"]:
            assert units == self.queue[:self.per_batch]
        elif self.c["zero_copy"]:
            assert units == list(range(units[0], units[0] + self.per_batch)) and units[0] % self.per_batch == 0

    def recv_failed(self, error, timeout):
        lost, torn, _ = self.in_danger()
        if isinstance(error, fastvec.RecvTimeout):
            assert timeout is not None and self.workers and f"recv(): no answer within {timeout:g} s from worker" in str(error)
            return
        if isinstance(error, KeyboardInterrupt):
            assert self.workers == 0 and self.units[0].raised[1] is Interrupted
            self.interrupted()
            return
        if not isinstance(error, fastvec.WorkerError):
            raise error
        if self.mend == "drop":
            self.last_one(error)
        else:
            assert self.mend == "raise", error
            self.check_failure(error, lost + torn)

    def arrived(self, units, infos):
        """Rows of these units have come, with these infos; what they must be is settled now."""
        infos = dict(infos)
        for u in units:
            unit = self.units[u]
            told = {e: infos.pop(e) for e in self.envs_of(u) if e in infos}
            again = any(word in info for info in told.values() for word in ("restarted", "dropped"))
            torn = unit.fate == "torn"
            assert again or unit.fate != "lost", f"unit {u} cannot have come to an end"
            assert not again or unit.fate != "done", f"unit {u} was not disturbed: {told}"
            if again:
                self.inherit(u)
                word = "restarted" if self.mend == "restart" else "dropped"
                assert set(told) == set(self.envs_of(u))
                for info in told.values():
                    assert info.pop(word) is True and f"worker {u}" in info.pop("error")
                assert torn or not any(told.values())
            else:
                if torn and unit.order == "reset" and unit.torn is not None:
                    unit.twins, unit.rows, unit.infos = unit.torn
                    unit.replaced += self.mend == "restart"
                    unit.dropped = self.mend == "drop"
                    unit.dead = False
                unit.fate = "done"
                # Infos that a worker announced and did not live to send are missing.
                assert same(told, unit.infos) or (torn and not told), f"unit {u}: {told}, not {unit.infos}"
            unit.torn = None
        assert not infos, f"infos of envs that are not in the batch: {infos}"
        self.pids.update(self.living())
        self.held = units
        self.queue = [u for u in self.queue if u not in units]
        self.phase = HOLDING
        for u in units:
            self.compare_fields(u)

    def call(self, envs, factor):
        """`peek` of every env, or of some."""
        def ask():
            if envs is None:
                return self.vec.call("num_agents") if self.kind.compiled else self.vec.call("peek", factor)
            return self.vec.apply(num_agents if self.kind.compiled else peek, *([] if self.kind.compiled else [factor]), envs=envs)

        lost, torn, idle_dead = self.in_danger()
        try:
            answers = ask()
        except fastvec.WorkerError as error:
            if self.mend == "raise" or idle_dead or torn:
                assert error.worker is None or error.worker in lost + torn + idle_dead
                assert not (lost and self.mend == "raise" and error.phase == "call" and not torn)
                self.phase = CLOSED
            else:
                self.last_one(error)
            return
        except KeyboardInterrupt:
            assert self.workers == 0 and self.units[0].raised[1] is Interrupted and lost
            return self.interrupted()
        assert not idle_dead and not (lost and self.mend == "raise")
        for e, answer in zip(range(self.n) if envs is None else envs, answers, strict=True):
            unit, i = self.units[e // self.per_unit], e % self.per_unit
            if self.kind.compiled:
                right = [self.kind.agents(e)]
            elif e // self.per_unit in lost + torn:
                right = [self.heirs(e // self.per_unit)[0][i].peek(factor)]
            else:
                right = [unit.twins[i].peek(factor)]
            if unit.dropped or (self.mend == "drop" and e // self.per_unit in lost + torn):
                right = [None]
            if e // self.per_unit in torn and unit.order == "reset" and unit.torn is not None:
                right.append(unit.torn[0][i].peek(factor) if not self.kind.compiled else right[0])
            assert answer in right, f"env {e}: {answer}, not {right}"

    def kill(self, u):
        """Ends a worker from outside."""
        unit = self.units[u]
        worker = self.vec._workers[u]
        if unit.dead or unit.dropped or unit.fate != "done":
            return
        os.kill(worker.process.pid, signal.SIGKILL)
        assert worker.ended(20)
        unit.dead = True
        unit.torn = None
        if u in self.queue:
            unit.fate = "torn"

    def stats(self):
        stats = self.vec.stats()
        assert (stats.batches, stats.rows) == (self.batches, self.rows_sent)
        assert stats.env >= 0 and stats.handoff >= -1e-6 and stats.policy >= 0
        assert len(stats.workers) == self.workers
        for u, worker in enumerate(stats.workers):
            unit = self.units[u]
            assert worker.restarts in ({unit.replaced} if unit.fate == "done" and not unit.dead else {unit.replaced, unit.replaced + 1})

    def fork(self):
        """In a forked child every call is refused; the parent does not notice."""
        pid = os.fork()
        if pid == 0:
            rc = 1
            try:
                for call in (self.vec.reset, self.vec.async_reset, self.vec.recv, self.vec.send, lambda: self.vec.step(None),
                             lambda: self.vec.call("peek"), lambda: self.vec.apply(peek)):
                    with pytest.raises(fastvec.ClosedError):
                        call()
                self.vec.close()
                rc = 17
            finally:
                os._exit(rc)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 17
        self.look()

    def close(self):
        self.vec.close()
        for batch, then, _ in self.kept:  # the memory is still there, whatever it holds
            for name in then:
                getattr(batch, name).tobytes()
        self.phase, self.kept = CLOSED, []

    def finish(self):
        """Closing succeeds whatever was before, and leaves nothing."""
        self.close()
        self.vec.close()
        assert not self.vec._workers
        for pid in self.pids:
            assert not os.path.exists(f"/proc/{pid}"), f"worker {pid} is left"
        assert len(os.listdir("/proc/self/fd")) <= self.fds, "descriptors are left"


def peek(env, factor=1):
    return env.peek(factor)


def num_agents(env):
    return env.num_agents


def same(a, b):
    """Whether two infos are equal, arrays in them too."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    return a == b
