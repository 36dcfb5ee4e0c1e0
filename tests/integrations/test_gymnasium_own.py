"""gymnasium's own tests of its vector envs, run on ours.  docs/gymnasium.md lists those that cannot be, and why.

Their files are not in this repository, nor in gymnasium's wheel: set FASTVEC_GYMNASIUM_SOURCE to a checkout of gymnasium (of
the version that is installed: `git clone --branch v1.3.0 https://github.com/Farama-Foundation/Gymnasium`).
"""
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("gymnasium", minversion="1.1", reason="needs gymnasium 1.1 or later: pip install 'fastvec[gym]'")

SOURCE = os.environ.get("FASTVEC_GYMNASIUM_SOURCE")
FILES = ["async_vector_env", "autoreset_mode", "vector_env", "vector_env_info", "observation_mode"]

# Tests that cannot hold for fastvec.gym, and why.
LEFT_OUT = {
    "test_custom_space_async_vector_env and not shared_memory": "samples of a custom space have no fixed size in memory",
    "test_async_vector_subenv_error": "demands the log lines of AsyncVectorEnv's worker processes",
    "TestVectorEnvObservationModes": "fastvec has no observation_mode: envs of one pool have equal spaces",
    "test_vector_obs_action_spaces": "runs over spaces without a fixed size, too",
    "test_same_step_final_obs": "makes SyncVectorEnv itself, over spaces without a fixed size, too",
    "test_make_vec_autoreset": "asks gymnasium.make_vec for its modes 'sync' and 'async'",
    "test_vector_add_info": "tests gymnasium's base class alone",
}

# Stands in for AsyncVectorEnv before the tests are imported.
PLUGIN = '''
import functools, gymnasium.vector, fastvec.gym
class AsyncVectorEnv(fastvec.gym.VectorEnv):
    def __init__(self, env_fns, shared_memory=True, **kwargs):
        super().__init__(env_fns, WORKERS, **kwargs)
gymnasium.vector.AsyncVectorEnv = AsyncVectorEnv
gymnasium.vector.async_vector_env.AsyncVectorEnv = AsyncVectorEnv
'''


@pytest.mark.skipif(not SOURCE, reason="FASTVEC_GYMNASIUM_SOURCE names no checkout of gymnasium")
@pytest.mark.parametrize("workers", ["0", "len(env_fns)"])
def test_gymnasium_own_tests(tmp_path, workers):
    source = Path(SOURCE)
    files = [source / "tests" / "vector" / f"test_{name}.py" for name in FILES]
    files = [str(path) for path in files if path.exists()]
    assert files, f"FASTVEC_GYMNASIUM_SOURCE={SOURCE}: there is no tests/vector/test_*.py"
    (tmp_path / "stand_in.py").write_text(PLUGIN.replace("WORKERS", workers))
    ours = Path(__file__).parents[2]
    env = dict(os.environ, PYTHONPATH=os.pathsep.join([str(tmp_path), str(ours), *filter(None, [os.environ.get("PYTHONPATH")])]))
    command = [sys.executable, "-m", "pytest", "-p", "stand_in", "--rootdir", SOURCE, "-q", "-rA", "-p", "no:cacheprovider",
               "-k", " and ".join(f"not ({name})" for name in LEFT_OUT), *files]
    result = subprocess.run(command, cwd=SOURCE, env=env, capture_output=True, text=True, timeout=900)
    failed = re.findall(r"^(?:FAILED|ERROR) tests/vector/([^\s\[]+)", result.stdout, re.M)
    passed = len(re.findall(r"^PASSED", result.stdout, re.M))
    assert result.returncode == 0 and passed > 20, f"{passed} passed; failed: {failed}\n{(result.stdout + result.stderr)[-6000:]}"
