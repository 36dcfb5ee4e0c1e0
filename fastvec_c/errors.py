"""The errors that fastvec raises; users import them from `fastvec`."""


class FastvecError(Exception):
    """Base of the errors below."""


class StateError(FastvecError, RuntimeError):
    """A call that does not fit what was called before: step before reset, send twice, recv without send."""


class ClosedError(StateError):
    """The VecEnv has been closed, by the user or after an error."""


class RecvTimeout(FastvecError, TimeoutError):
    """The workers did not answer within the time limit.  Nothing is lost: `recv` may be called again."""


class RowError(FastvecError, ValueError):
    """With `make(debug=True)`: an env wrote a row that does not belong to what it declares.  The `__cause__` of a WorkerError.

    Attributes:
        env, agent, row: whose row; `row` counts all rows.
        field: "observations", "rewards", "terminations", "truncations", "masks", or one of the env's own.
        index: of the element in the row (in its part, of a structured one); () for a row of one number.
        value, low, high: what it is, and the bounds; None where it has none.
    """

    def __init__(self, message, *, env=None, agent=None, row=None, field=None, index=(), value=None, low=None, high=None):
        super().__init__(message)
        self.env, self.agent, self.row, self.field, self.index = env, agent, row, field, index
        self.value, self.low, self.high = value, low, high


class WorkerError(FastvecError, RuntimeError):
    """An env raised, or a worker died.

    Attributes:
        worker: the worker's index; None when the envs live in the calling process (`num_workers=0`).
        env: the global index of the env that raised, or was at work; None when that is not known.
        envs: range of all envs that the worker hosts.
        phase: what the worker was doing: "start", "reset", "step", "call" or "close".
        exitcode: the exit code of a worker that died, negative for the signal that killed it; else None.

    An env's own exception is `__cause__`, where it could be sent to this process.
    """

    def __init__(self, message, *, worker=None, env=None, envs=range(0), phase=None, exitcode=None):
        super().__init__(message)
        self.worker, self.env, self.envs, self.phase, self.exitcode = worker, env, envs, phase, exitcode


for _error in (FastvecError, StateError, ClosedError, RecvTimeout, WorkerError):
    _error.__module__ = "fastvec"  # where users know them from
