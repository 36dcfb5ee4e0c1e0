"""Worker processes: how they start, what they run, how they end, and what is known of their death."""
from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import logging
import multiprocessing.process
import os
import pickle
import signal
import struct
import sys
import termios
import threading
import time
import traceback
import warnings
from dataclasses import dataclass
from multiprocessing import connection, popen_fork, reduction
from typing import Any

from fastvec_c import mailbox, stderr_tail, watchdog
from fastvec_c.arena import Arena, memory_file
from fastvec_c.errors import WorkerError
from fastvec_c.fields import Fields
from fastvec_c.sync import WaitPolicy
from fastvec_c.worker import Host, WorkerLoop

from fastvec import resources
from fastvec.debug import RowCheck
from fastvec.hosting import Description, Hosting, build_envs, check_alike, describe

_log = logging.getLogger("fastvec")
_CRASH_LOG_BYTES = 1 << 16  # of which the first stderr_tail.SIZE are stderr's tail, the rest faulthandler's
_LAST_LINES = 20  # of stderr, in an error
# Asks a worker for its stack.  A signal that nobody has a use for: of the real-time ones, but not the first, which libraries take.
_ASK_STACK = getattr(signal, "SIGRTMAX", 64) - 7
_LONGEST = 2e6  # seconds that poll(2) can wait: 23 days
GRACE = 5.0  # seconds for a worker to close its envs before it is killed
_SHORT = 40_000  # bytes that a pipe takes in without a reader


@dataclass
class Task:
    """What a worker is started with."""

    index: int
    creators: Any  # its creators: a list, or pickled bytes where they must cross a spawn
    first_env: int
    hosted: int  # envs of this worker
    num_envs: int  # of all workers together
    autoreset: str
    policy: WaitPolicy
    cpus: tuple[int, ...] | None
    trainer: int  # its process id
    debug: bool = False  # look through what the envs write
    replaceable: bool = False  # the trainer goes on without it: an env that raises ends the worker
    place: "Place | None" = None  # of the worker whose place it takes; else the trainer tells when the envs are built


@dataclass
class Place:
    """What a worker needs to take the place of one that died."""

    hosting: Hosting
    description: Description  # of env 0
    arena: "SharedFd"


class SharedFd:
    """A descriptor that reaches the worker by whatever way the worker is started."""

    def __init__(self, fd: int):
        self.fd = fd

    def __getstate__(self):
        return reduction.DupFd(self.fd)

    def __setstate__(self, dup):
        self.fd = dup.detach()


# ---- the trainer's side ----------------------------------------------------------------------------------------------


class Worker:
    """The trainer's handle on one worker process.

    Raises:
        OSError: the system cannot start another process.
    """

    def __init__(self, context, task: Task, siblings: list["Worker"]):
        self.index = task.index
        self.envs = range(task.first_env, task.first_env + task.hosted)
        self.started = time.monotonic()
        self.conn = self.process = None
        self.crash_log = self.stderr = self.pidfd = -1
        self.mourned = False  # its death has been told
        self.released = False
        self._rest = b""  # of stderr, what it had not copied when it ended
        try:
            self._start(context, task, [sibling.conn for sibling in siblings])
        except BaseException as error:
            refused = isinstance(error, (OSError, EOFError)) and not isinstance(error, TimeoutError)  # that is of a signal handler
            if refused:
                _close_pipes_of_failed_fork(error)
            if self.process is not None and self.process.pid is not None:
                self.kill()
                self.ended(GRACE)
            self.release()
            if refused:
                raise resources.cannot_start(error, task.index, context.get_start_method()) from error
            raise

    def _start(self, context, task: Task, foreign: list):
        with contextlib.ExitStack() as theirs:  # ends that only the worker is to hold: the pipes end when it does
            self.conn, conn = context.Pipe(duplex=True)
            theirs.callback(conn.close)
            self.crash_log = memory_file(b"fastvec-crash", _CRASH_LOG_BYTES)
            os.lseek(self.crash_log, stderr_tail.SIZE, os.SEEK_SET)  # where faulthandler is to write: the offset is shared
            self.stderr, to_stderr = os.pipe()
            theirs.callback(os.close, to_stderr)
            ours = [self.conn, *foreign] if context.get_start_method() == "fork" else []
            args = (task, conn, SharedFd(self.crash_log), SharedFd(self.stderr), SharedFd(to_stderr), ours)
            # Not a daemon: envs may start processes of their own.
            self.process = context.Process(target=_worker_main, args=args, name=f"fastvec-worker-{task.index}")
            with warnings.catch_warnings():
                # Python 3.12 warns of forking a process with threads; the child runs nothing but the worker.
                warnings.filterwarnings("ignore", message=".*fork.*", category=DeprecationWarning)
                with _signals_afterwards():
                    self.process.start()
            # multiprocessing would wait for it when the interpreter ends, perhaps before we have told it to end; and in a forked child
            # of the trainer complain that it is not the child's.
            multiprocessing.process._children.discard(self.process)
            self.pidfd = watchdog.open_pidfd(self.process.pid)

    @property
    def life_fd(self) -> int:
        """A descriptor that becomes readable when the worker has died."""
        return self.pidfd if self.pidfd >= 0 else self.process.sentinel

    def hear(self, deadline: float | None):
        """The next message of a worker that is starting.

        Raises:
            WorkerError: it reports a failure, or dies.
            OSError: the system refuses it something.
            TimeoutError: nothing came before `deadline` (of time.monotonic).
        """
        limit = None if deadline is None else min(_LONGEST, max(0.0, deadline - time.monotonic()))
        if not connection.wait([self.conn, self.life_fd], limit):
            raise TimeoutError
        try:
            kind, content = self.conn.recv()
        except (EOFError, OSError):
            raise self.death("start") from None
        if kind == "failed":
            raise failure(self.index, content, "start", self.envs)
        if kind == "refused":
            raise resources.cannot_start(content, self.index)
        return content

    def death(self, phase: str, env: int | None = None) -> WorkerError:
        """The error that says how this worker died."""
        self.mourned = True
        self.ended(GRACE)  # its pipe may break a moment before it has
        code = self._exitcode()
        log = self._faults(stderr_tail.SIZE)
        doing = {"start": "building its envs"}.get(phase, f"in {phase}()" if phase else "waiting for orders")
        where = "" if env is None else f", at env {env}"
        message = f"worker {self.index} (process {self.process.pid}) {_how_it_ended(code)} while {doing}{where}."
        if log:
            message += f"\nIts last words:\n{log}"
        return WorkerError(message + self.last_lines(), worker=self.index, env=env, envs=self.envs, phase=phase, exitcode=code)

    def last_lines(self) -> str:
        """What it wrote to stderr at last, for an error's text; nothing if it wrote nothing."""
        if self.ended(0):
            self._take_rest()
        text = (stderr_tail.kept(self.crash_log) + self._rest).decode("utf-8", "replace").strip()
        lines = text.splitlines()[-_LAST_LINES:]
        return "\nThe end of its stderr:\n" + "\n".join(lines) if lines else ""

    def _take_rest(self):
        """Copies to stderr what a worker that has ended had not copied itself."""
        if self.stderr < 0:
            return
        left, = struct.unpack("i", fcntl.ioctl(self.stderr, termios.FIONREAD, bytes(4)))
        rest = os.read(self.stderr, left) if left else b""
        self._rest += rest
        os.close(self.stderr)
        self.stderr = -1
        with contextlib.suppress(OSError):
            while rest:
                rest = rest[os.write(2, rest):]

    def stack(self, patience: float = 0.3) -> str:
        """Where a living worker is, as faulthandler tells it, also while an env keeps the GIL; "" if it does not answer."""
        if not (self.pidfd >= 0 and _catches(self.process.pid, _ASK_STACK)):
            return ""
        before = os.lseek(self.crash_log, 0, os.SEEK_CUR)
        try:
            signal.pidfd_send_signal(self.pidfd, _ASK_STACK)
        except ProcessLookupError:
            return ""
        deadline, told = time.monotonic() + patience, None
        while time.monotonic() < deadline:
            time.sleep(0.01)
            told, previous = self._faults(before), told
            if told and told == previous:
                break
        os.lseek(self.crash_log, before, os.SEEK_SET)  # the next one overwrites it
        os.pwrite(self.crash_log, bytes(_CRASH_LOG_BYTES - before), before)
        return told or ""

    def _faults(self, start: int) -> str:
        """What faulthandler has written from `start` on."""
        return os.pread(self.crash_log, _CRASH_LOG_BYTES - start, start).rstrip(b"\0").decode("utf-8", "replace").strip()

    def last_report(self) -> dict | None:
        """What a worker that has ended reported of an exception that ended it, if anything did."""
        found = None
        with contextlib.suppress(EOFError, OSError):
            while self.conn.poll():
                kind, content = self.conn.recv()
                found = content if kind == "failed" else found
        return found

    def ended(self, timeout: float) -> bool:
        """Whether the worker has ended, after `timeout` seconds at most."""
        return self.released or bool(connection.wait([self.life_fd], min(_LONGEST, timeout)))

    def kill(self):
        if self.released:
            return
        if self.pidfd < 0:
            self.process.kill()
            return
        with contextlib.suppress(ProcessLookupError):  # by descriptor: the number may be another's by now, if somebody else reaped ours
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def exitcode_now(self) -> int | None:
        """Of a worker that has ended, so far as it is known."""
        return self.process.exitcode

    def _exitcode(self) -> int | None:
        """Of a worker that has ended.  A fork server takes a moment to pass it on; None if somebody else reaped it."""
        deadline = time.monotonic() + 0.5
        while (code := self.process.exitcode) is None and time.monotonic() < deadline:
            time.sleep(0.001)
        return code

    def release(self):
        """Reaps the process and gives up the descriptors.  May be called again."""
        if self.released:
            return
        if self.process is not None and self.process.pid is not None and self.ended(0):
            self.process.join()
            with contextlib.suppress(ValueError):  # somebody else has reaped it
                self.process.close()
        self.released = True
        if self.conn is not None:
            self.conn.close()
        self._take_rest()
        for fd in (self.crash_log, self.pidfd):
            if fd >= 0:
                os.close(fd)
        self.crash_log = self.pidfd = -1


@contextlib.contextmanager
def _signals_afterwards():
    """A Ctrl-C or SIGTERM that Python code handles is handled at the end of the block.  Amid a fork it would strike in what modules have
    registered to run there (logging, say), whose exceptions Python swallows: Ctrl-C would be lost, and a lock not be given back."""
    handlers, struck = {}, []
    if threading.current_thread() is threading.main_thread():  # in which alone signals are handled
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        handlers = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in handlers:
        signal.signal(number, lambda *signal_and_frame: struck.append(signal_and_frame))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number, frame in struck[:1]:
            handlers[number](number, frame)


def _how_it_ended(code: int | None) -> str:
    if code is None:
        return "ended (and somebody else reaped it)"
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = " (kill -9, or the kernel was out of memory)" if name == "SIGKILL" else ""
    return f"was killed by {name}{hint}"


def _catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal, which would end it otherwise."""
    with contextlib.suppress(OSError, StopIteration):
        with open(f"/proc/{pid}/status") as status:
            caught = next(line for line in status if line.startswith("SigCgt"))
        return bool(int(caught.split()[1], 16) >> (number - 1) & 1)
    return False


def failure(worker: int | None, report: dict, phase: str, envs: range) -> WorkerError:
    """The error for an exception that an env raised in a worker, which hosts `envs`."""
    env = report["env"]
    which = "an env" if env is None else f"env {env}"
    place = "" if worker is None else f" (worker {worker})"
    doing = "when it was built" if phase == "start" else f"in {phase}()"
    error = WorkerError(
        f"{which}{place} raised {report['what']} {doing}:\n\n{report['traceback']}", worker=worker, env=env, envs=envs,
        phase=phase,
    )
    try:
        error.__cause__ = pickle.loads(report["exception"])
    except Exception:
        pass  # some exceptions cannot be pickled; the traceback in the message says it all
    return error


def stop(workers: list[Worker], boxes, grace: float = GRACE):
    """Ends all workers: asks them to close their envs, then kills those that take longer than `grace` seconds.  Interrupted, by a
    second Ctrl-C say, it kills them at once."""
    try:
        _ask_to_leave(workers, boxes, grace)
    except BaseException:
        for worker in workers:
            worker.kill()
        raise
    finally:
        for worker in workers:
            worker.ended(GRACE)  # at once, unless the kernel has it in its hands
            worker.release()
        workers.clear()


def _ask_to_leave(workers, boxes, grace):
    for worker in workers:
        if boxes is not None:
            boxes.close(worker.index)
        worker.conn.close()  # one that waits to be read, or has not begun to serve, is told by this
    deadline = time.monotonic() + grace
    for worker in workers:
        if not worker.ended(max(0.0, deadline - time.monotonic())):
            worker.kill()
        elif not worker.released and worker.exitcode_now() and not worker.mourned:
            _log.warning("%s", worker.death("close"))


def _close_pipes_of_failed_fork(error: Exception):
    """multiprocessing leaves them open (CPython 3.10 to 3.13)."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code is popen_fork.Popen._launch.__code__:
            for name in ("parent_r", "child_w", "child_r", "parent_w"):
                if name in frame.f_locals:
                    os.close(frame.f_locals[name])


# ---- the worker's side -----------------------------------------------------------------------------------------------


def _worker_main(task: Task, conn, crash_log: SharedFd, stderr: SharedFd, to_stderr: SharedFd, foreign: list):
    """What a worker process runs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the trainer, which then tells us
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.register_at_fork(after_in_child=conn.close)  # a process that an env forks must not keep the pipe open when we have died
    for other in foreign:  # a forked worker holds copies of its siblings' pipes: they would never end
        other.close()
    try:
        try:
            watchdog.watch_trainer(task.trainer)
            stderr_tail.keep(stderr.fd, to_stderr.fd, crash_log.fd)
            faulthandler.enable(crash_log.fd)
            faulthandler.register(_ASK_STACK, crash_log.fd)
            if task.cpus is not None:
                os.sched_setaffinity(0, task.cpus)
        except OSError as error:
            _refused(task, conn, error)
            return
        if "torch" in sys.modules:  # over a fork; its pool of threads did not come along, and would be waited for
            sys.modules["torch"].set_num_threads(1)
        loop = _start(task, conn)
        if loop is not None:
            _serve(loop, conn, task.replaceable)
    except (BrokenPipeError, ConnectionResetError, EOFError):
        pass  # the trainer has closed us


def _refused(task: Task, conn, error: OSError):
    """The system has refused this worker what it needs."""
    if task.place is not None:
        raise error  # who takes another's place is not listened to, but the end of its stderr is told
    conn.send(("refused", error))


def _start(task: Task, conn) -> WorkerLoop | None:
    """Builds the envs, tells the trainer what they are, and takes the arena from it."""
    building = [task.first_env]
    try:
        creators = pickle.loads(task.creators) if isinstance(task.creators, bytes) else task.creators
        envs = build_envs(creators, task.first_env, task.num_envs, task.autoreset, building)
        host = Host(envs, task.first_env)
        if task.place is None:
            conn.send(("built", describe(envs)))
        else:
            check_alike([task.place.description, *describe(envs)])
    except Exception as error:
        conn.send(("failed", _shortened(report(error, building[0]))))
        return None
    if task.place is None:
        hosting, fd = conn.recv(), reduction.recv_handle(conn)
    else:
        hosting, fd = task.place.hosting, task.place.arena.fd
    try:
        arena = Arena(fd, hosting.nbytes)
    except OSError as error:
        _refused(task, conn, error)
        return None
    arena.close_fd()  # the mapping is enough
    try:
        fields = Fields(arena, hosting.placed, hosting.slots, hosting.rows)
        first_row = task.index * len(envs) * hosting.rows_per_env
        host.bind(fields, hosting.seeds_at, hosting.whats_at, first_row, hosting.rows_per_env, task.place is None)
        if task.debug:
            host.check = RowCheck(fields.views, describe(envs)[0], task.first_env, len(envs), hosting.rows_per_env)
        boxes = mailbox.Mailboxes(arena, hosting.num_workers)
        loop = WorkerLoop(host, boxes, task.index, task.policy, conn)
        if task.place is None:
            conn.send(("ready", None))
    except Exception as error:
        conn.send(("failed", _shortened(report(error, host.env_at_work))))
        return None
    return loop


def _serve(loop: WorkerLoop, conn, replaceable: bool):
    """Obeys until told to close, then closes the envs."""
    try:
        while _obey(loop, conn, replaceable):
            pass
    except (BrokenPipeError, ConnectionResetError, EOFError):
        pass  # the trainer has closed the pipe: it wants no more answers
    try:
        loop.host.close()
    except Exception:
        traceback.print_exc()
        sys.exit(1)


def _obey(loop: WorkerLoop, conn, replaceable: bool) -> bool:
    """Serves until Python is needed, and does what it is needed for; False at the end."""
    host = loop.host
    try:
        what = loop.run()
    except Exception as error:
        answer = ("failed", report(error, host.env_at_work))
        if replaceable:
            # Not announced: the trainer finds us dead, as if we had crashed, and reads it then.  Whatever our envs do when
            # they are closed, or leave running, the kernel sees to it that we end.
            conn.send(("failed", _shortened(answer[1])))
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(int(GRACE))
            return False
    else:
        if what == "close":
            return False
        answer = ("infos", host.infos) if what == "infos" else _call(host, conn.recv())
    message = _pickled(answer, host)  # before it is announced: what hangs here runs into the trainer's time limits
    loop.announce(True)
    conn.send_bytes(message)
    return True


def _call(host: Host, request: tuple) -> tuple:
    try:
        return "answer", host.call(*request)
    except Exception as error:
        return "failed", report(error, host.env_at_work)


def _pickled(answer, host):
    try:
        return reduction.ForkingPickler.dumps(answer)
    except Exception as error:  # an info or an attribute that cannot be pickled
        return reduction.ForkingPickler.dumps(("failed", report(error, host.env_at_work)))


def _shortened(report: dict) -> dict:
    """A report that goes into the pipe while nobody reads it."""
    exception = report["exception"]
    return {**report, "what": report["what"][:_SHORT // 8], "traceback": report["traceback"][-_SHORT // 4:],
            "exception": exception if len(exception) < _SHORT else b""}


def report(error: BaseException, env: int | None) -> dict:
    """An exception, in a form that reaches the trainer whatever it is."""
    try:
        pickled = pickle.dumps(error)
    except Exception:
        pickled = b""
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    what = type(error).__name__ + (f" ({error})" if str(error) else "")
    return {"env": env, "what": what, "traceback": text, "exception": pickled}
