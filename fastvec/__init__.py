"""fastvec: many CPU simulators behind one policy.

>>> import fastvec, gymnasium
>>> with fastvec.make(lambda: gymnasium.make("CartPole-v1"), num_workers=2) as vec:
...     observations, infos = vec.reset(seed=0)
...     observations, rewards, terminations, truncations, infos = vec.step([0, 1])
"""
from fastvec_c.batch import Batch
from fastvec_c.errors import ClosedError, FastvecError, RecvTimeout, RowError, StateError, WorkerError
from fastvec_c.sync import WaitPolicy

from fastvec.advantages import gae
from fastvec.env import Env
from fastvec.factory import make
from fastvec.rollout import Rollout
from fastvec.spaces import Spec
from fastvec.step_times import StepTimes
from fastvec.tuning import Tuning, tune
from fastvec.vec_env import Stats, VecEnv, WorkerStats

__all__ = [
    "Batch", "ClosedError", "Env", "FastvecError", "RecvTimeout", "Rollout", "RowError", "Spec", "Stats", "StateError",
    "StepTimes", "Tuning", "VecEnv", "WaitPolicy", "WorkerError", "WorkerStats", "gae", "make", "tune",
]
__version__ = "0.1.0"
