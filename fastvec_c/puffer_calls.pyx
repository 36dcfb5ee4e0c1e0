"""send and recv in PufferLib's words: what every step of its trainer passes through."""
from cpython.object cimport PyObject

from fastvec_c.pool cimport Pool

from fastvec_c.errors import StateError


cdef class Calls:
    """The base of fastvec.puffer.Multiprocessing, which hands over its VecEnv in `_drive` and has three methods for what is
    seldom: `_parts`, `_check_first` and `_misuse`."""
    cdef Pool vec
    cdef PyObject *last  # the batch that `recv` had last and `known` has, which lives as long as the VecEnv; NULL: none,
    cdef tuple last_before, last_after  # and what `_parts` made of it
    cdef dict known  # {id of a batch in place, which lives as long as the VecEnv: what `_parts` made of it}
    cdef public bint initialized  # a first send has been checked
    cdef public object batch_mask

    def _drive(self, Pool vec not None):
        self.vec = vec
        self.known = {}

    def _keep(self, batch, tuple before, tuple after):
        """Whenever `recv` has this very batch again, these are its parts before and after the infos, which are empty."""
        self.known[id(batch)] = before, after

    def recv(self):
        """The next batch, n = agents_per_batch rows.  In zero-copy mode they are views on the envs' own rows.

        Either way they are yours until you send the actions that answer them.

        Returns:
            (observations [n, ...], rewards float32 [n], terminals bool [n], truncations bool [n], infos, agent ids int64
            [n], masks bool [n]); where this PufferLib has teacher actions, [n, ...], they come after the truncations.
            Infos are a list of dicts.

        Raises:
            pufferlib.APIUsageError: nothing is under way.
            WorkerError: an env raised or a worker died; the workers are gone then.
        """
        cdef tuple before, after
        try:
            batch = self.vec.receive(None)
        except StateError as error:
            raise self._misuse(f"Call reset before stepping: {error}") from error
        if <PyObject *>batch != self.last:  # as it is where batches take turns, or are not in place, or have infos
            known = self.known.get(id(batch))
            if known is None:
                before, infos, after = self._parts(batch)
                self.batch_mask = after[1]
                return before + (infos, after[0], after[1])
            self.last = <PyObject *>batch
            self.last_before, self.last_after = known
        after = self.last_after
        self.batch_mask = after[1]
        return self.last_before + ([], after[0], after[1])

    def send(self, actions):
        """Gives the actions for the batch that `recv` returned; returns at once.

        Args:
            actions: [agents_per_batch, *action shape].

        Raises:
            pufferlib.APIUsageError: there is no batch to answer, or the actions' shape, dtype or range is wrong.
        """
        if not self.initialized:
            self._check_first(actions)
        try:
            self.vec.give(actions, None)
        except StateError as error:
            raise self._misuse(f"Call (async) reset + recv before sending: {error}") from error
        except (ValueError, TypeError) as error:
            raise self._misuse(f"Actions do not match action space: {error}") from error
