"""The worker's end: the envs of one worker, and the loop that steps them on order."""
import numpy as np
from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from fastvec_c.env cimport FASTVEC_ERROR, FASTVEC_INFO, FASTVEC_OK, CompiledEnv
from fastvec_c.fields cimport (
    ACTIONS, EXTRA, MASKS, OBSERVATIONS, REWARDS, TERMINATIONS, TRUNCATIONS, Field, row,
)
from fastvec_c.mailbox cimport (
    FV_CALL, FV_CLOSE, FV_RESET, FV_STEP, fv_account, fv_announce, fv_await_order, fv_finish, fv_look_for_order,
    fv_mailbox,
)
from fastvec_c.pyenv cimport PyEnv
from fastvec_c.sync cimport WaitPolicy, fv_now


cdef class Host:
    """The envs of one worker, stepped one after the other on their rows of the arena.

    Args:
        envs: all PyEnv, or all CompiledEnv.
        first_env: the global index of the first.
    """

    def __cinit__(self, list envs, int first_env):
        self.envs = envs
        self.num_envs = len(envs)
        self.first_env = first_env
        self.infos = {}
        self.current = &self.own_current
        self.compiled = isinstance(envs[0], CompiledEnv)
        self.c = <fastvec_env **>calloc(self.num_envs, sizeof(fastvec_env *))
        self.agents = <int *>calloc(self.num_envs, sizeof(int))
        self.has_info = <uint8_t *>calloc(self.num_envs, 1)
        if self.c == NULL or self.agents == NULL or self.has_info == NULL:
            raise MemoryError()
        for i, env in enumerate(envs):
            self.agents[i] = env.num_agents
            if isinstance(env, CompiledEnv) != self.compiled:
                raise ValueError("creators: some envs are compiled, some are not; make two VecEnvs of them")
            if self.compiled:
                self.c[i] = (<CompiledEnv>env).c

    @property
    def env_at_work(self):
        """Global index of the env that was stepped, reset or called last."""
        return self.first_env + self.current[0]

    def __dealloc__(self):
        free(self.c)
        free(self.agents)
        free(self.has_info)

    def bind(self, Fields fields, size_t seeds_at, size_t whats_at, int first_row, int rows_per_env, bint fresh=True):
        """Gives every env its rows: `rows_per_env` each, from `first_row` on.

        Args:
            fresh: nobody has used the rows: they are touched, so that they lie near.  Else some are the trainer's.
        """
        cdef int i, first
        self.fields = fields
        self.first_row = first_row
        self.rows_per_env = rows_per_env
        self.seed = <int64_t *>fields.arena.at(seeds_at, 0) + self.first_env
        self.what = <uint8_t *>fields.arena.at(whats_at, 0) + self.first_env
        for view in fields.views.values() if fresh else ():
            view[:, first_row:first_row + self.num_envs * rows_per_env] = np.zeros((), view.dtype)
        if not self.compiled:
            for i, env in enumerate(self.envs):
                self.current[0] = i
                first = first_row + i * rows_per_env
                env.bind([
                    {name: view[s, first:first + env.num_agents] for name, view in fields.views.items()}
                    for s in range(fields.slots)
                ])

    cdef fastvec_rows rows(self, int i, int action_slot, int slot) noexcept nogil:
        cdef fastvec_rows out
        cdef Field *f = self.fields.field
        cdef int r = self.first_row + i * self.rows_per_env, k
        out.actions = row(&f[ACTIONS], action_slot, r)
        out.observations = row(&f[OBSERVATIONS], slot, r)
        out.rewards = <float *>row(&f[REWARDS], slot, r)
        out.terminations = <uint8_t *>row(&f[TERMINATIONS], slot, r)
        out.truncations = <uint8_t *>row(&f[TRUNCATIONS], slot, r)
        out.masks = <uint8_t *>row(&f[MASKS], slot, r)
        for k in range(EXTRA, self.fields.num_fields):
            out.extra[k - EXTRA] = row(&f[k], slot, r)
        return out

    cdef void prepare_reset(self, int i, const fastvec_rows *at) noexcept nogil:
        """What the ABI promises to reset: rewards and flags 0, masks 1."""
        memset(at.rewards, 0, self.agents[i] * sizeof(float))
        memset(at.terminations, 0, self.agents[i])
        memset(at.truncations, 0, self.agents[i])
        memset(at.masks, 1, self.agents[i])

    cdef void carry_masks(self, int i, int from_slot, int slot) noexcept nogil:
        """Masks hold until an env writes them, over slots too."""
        cdef Field *f = &self.fields.field[MASKS]
        cdef int r = self.first_row + i * self.rows_per_env
        if slot != from_slot:
            memcpy(row(f, slot, r), row(f, from_slot, r), self.agents[i])

    cdef int step_compiled(self, int action_slot, int slot) noexcept nogil:
        """FASTVEC_OK, FASTVEC_INFO or FASTVEC_ERROR (of the env at work)."""
        cdef fastvec_rows at
        cdef int i, rc, result = FASTVEC_OK
        for i in range(self.num_envs):
            self.current[0] = i
            self.carry_masks(i, action_slot, slot)
            at = self.rows(i, action_slot, slot)
            rc = self.c[i].step(self.c[i].self, &at)
            if rc < 0:
                return FASTVEC_ERROR
            self.has_info[i] = rc == FASTVEC_INFO
            result |= rc
        return result

    cdef int reset_compiled(self, int slot) noexcept nogil:
        """Likewise."""
        cdef fastvec_rows at
        cdef uint64_t seed
        cdef int i, rc, result = FASTVEC_OK
        for i in range(self.num_envs):
            self.has_info[i] = 0
            if self.what[i] == KEEP:
                continue
            self.current[0] = i
            at = self.rows(i, slot, slot)
            self.prepare_reset(i, &at)
            seed = <uint64_t>self.seed[i]
            rc = self.c[i].reset(self.c[i].self, &at, &seed if self.what[i] == RESEED else NULL)
            if rc < 0:
                return FASTVEC_ERROR
            self.has_info[i] = rc == FASTVEC_INFO
            result |= rc
        return result

    cdef finish_compiled(self, int rc):
        """What step_compiled and reset_compiled leave to Python: errors and infos."""
        cdef int i
        self.infos = {}
        if rc == FASTVEC_ERROR:
            (<CompiledEnv>self.envs[self.current[0]]).raise_error()
        for i in range(self.num_envs if rc == FASTVEC_INFO else 0):
            if self.has_info[i]:
                self.current[0] = i
                self.infos[self.first_env + i] = self.envs[i].env.take_infos()

    cdef step(self, int action_slot, int slot):
        """Steps every env once; what they say is in `infos`."""
        cdef int rc
        if self.compiled:
            with nogil:
                rc = self.step_compiled(action_slot, slot)
            self.finish_compiled(rc)
        else:
            self.step_python(action_slot, slot)
        if self.check is not None:
            self.check_rows(slot, True)

    cdef step_python(self, int action_slot, int slot):
        cdef int i
        if self.infos:
            self.infos = {}
        for i in range(self.num_envs):
            self.current[0] = i
            self.carry_masks(i, action_slot, slot)
            info = (<PyEnv>self.envs[i]).step(action_slot, slot)
            if info:
                self.infos[self.first_env + i] = info

    cdef reset(self, int slot, list options):
        """Resets the envs that are told to; what they say is in `infos`.

        Args:
            options: for each env, or None.  Compiled envs take none.
        """
        cdef int rc
        if self.compiled:
            with nogil:
                rc = self.reset_compiled(slot)
            self.finish_compiled(rc)
        else:
            self.reset_python(slot, options)
        if self.check is not None:
            self.check_rows(slot, False)

    cdef reset_python(self, int slot, list options):
        cdef fastvec_rows at
        cdef int i
        self.infos = {}
        for i in range(self.num_envs):
            if self.what[i] == KEEP:
                continue
            self.current[0] = i
            if not (<PyEnv>self.envs[i]).resets_rows:
                at = self.rows(i, slot, slot)
                self.prepare_reset(i, &at)
            seed = self.seed[i] if self.what[i] == RESEED else None
            info = (<PyEnv>self.envs[i]).reset(slot, seed, None if options is None else options[i])
            if info:
                self.infos[self.first_env + i] = info

    cdef check_rows(self, int slot, bint stepped):
        """What debug=True asks for: looks through the rows that the envs have just written, and raises of the first wrong one."""
        error = self.check(slot, stepped)
        if error is not None:
            self.current[0] = error.env - self.first_env
            raise error

    def call(self, what, tuple args, dict kwargs, envs=None):
        """A result for every env, or for those of the global indices in the set `envs`.

        Args:
            what: a function, called with the env and the arguments; or the name of an attribute of the env, which is
                called with the arguments if it can be called.
        """
        results = []
        for i, adapted in enumerate(self.envs):
            if envs is not None and self.first_env + i not in envs:
                continue
            self.current[0] = i
            if callable(what):
                results.append(what(adapted.env, *args, **kwargs))
                continue
            value = getattr(adapted.env, what)
            results.append(value(*args, **kwargs) if callable(value) else value)
        return results

    def close(self):
        """Closes every env, also after one of them raised; the first error is raised in the end."""
        error = None
        for i, env in enumerate(self.envs):
            self.current[0] = i
            try:
                env.close()
            except Exception as e:
                error = error or e
        if error is not None:
            raise error


cdef class WorkerLoop:
    """Waits for orders, has the host carry them out, announces that they are done.

    Args:
        conn: the pipe to the trainer, which carries what does not fit into the arena.
    """

    def __init__(self, Host host, Mailboxes boxes, int index, WaitPolicy policy, conn):
        self.host = host
        self.boxes = boxes
        self.index = index
        self.conn = conn
        self.ring = &boxes.ring[index]
        host.current = &boxes.box[index].current
        self.waiter.policy = policy.c
        self.now = fv_now()

    def run(self):
        """Serves until Python has something to do, and says what.

        Returns:
            "infos": the order is done and `host.infos` is not empty: announce it and send them.
            "call", "close": the trainer wants this.

        Raises:
            whatever an env raises in reset or step.
        """
        cdef uint32_t order
        cdef int rc
        cdef fv_mailbox *m = &self.boxes.box[self.index]
        while True:
            if self.host.compiled and self.host.check is None:
                with nogil:
                    order = self.serve_compiled(&rc)
                if order == FV_STEP or order == FV_RESET:
                    self.host.finish_compiled(rc)
                    return "infos"
            else:
                if fv_look_for_order(m, self.last, &self.waiter, &self.now):
                    order = fv_await_order(m, &self.last, &self.waiter, &self.now, self.ring, self.index)
                else:
                    with nogil:
                        order = fv_await_order(m, &self.last, &self.waiter, &self.now, self.ring, self.index)
                if order == FV_STEP:
                    self.host.step(m.action_slot, m.slot)
                elif order == FV_RESET:
                    self.host.reset(m.slot, self.conn.recv() if m.has_options else None)
            if order == FV_CALL or order == FV_CLOSE:
                return "call" if order == FV_CALL else "close"
            self.account(order)
            if self.host.infos:
                return "infos"
            self.announce(False)

    cdef uint32_t serve_compiled(self, int *rc) noexcept nogil:
        """Serves compiled envs until an order needs Python; *rc is what the host said of that order."""
        cdef fv_mailbox *m = &self.boxes.box[self.index]
        cdef uint32_t order
        while True:
            order = fv_await_order(m, &self.last, &self.waiter, &self.now, self.ring, self.index)
            if order == FV_STEP:
                rc[0] = self.host.step_compiled(m.action_slot, m.slot)
            elif order == FV_RESET:
                rc[0] = self.host.reset_compiled(m.slot)
            else:
                return order
            self.account(order)
            if rc[0] != FASTVEC_OK:
                return order
            fv_finish(m, self.last, self.now, self.ring, self.index)
            fv_announce(self.boxes.ready, self.index, False)

    cdef void account(self, uint32_t order) noexcept nogil:
        cdef int64_t began = self.now
        self.now = fv_now()
        if order == FV_STEP:
            fv_account(&self.boxes.box[self.index], began, self.now)

    def announce(self, bint message):
        """The order is done.  With `message`, something follows on the pipe: announced before it is sent, because the
        trainer reads the pipe only then, and a large message needs a reader to get through."""
        if message:
            self.now = fv_now()  # the answer, or the message, took its time
        fv_finish(&self.boxes.box[self.index], self.last, self.now, self.ring, self.index)
        fv_announce(self.boxes.ready, self.index, message)
