"""gymnasium's own tests of its vector envs and their wrappers, run on ours: what passes on gymnasium's must pass on fastvec's.

Their files are not in this repository, nor in gymnasium's wheel: set FASTVEC_GYMNASIUM_SOURCE to a checkout of gymnasium (of
the version that is installed: `git clone --branch v1.3.0 https://github.com/Farama-Foundation/Gymnasium`).
"""
import functools
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

pytest.importorskip("gymnasium", minversion="1.1", reason="needs gymnasium 1.1 or later: pip install 'fastvec[gym]'")

SOURCE = os.environ.get("FASTVEC_GYMNASIUM_SOURCE")
ASYNC = ["test_async_vector_env", "test_autoreset_mode", "test_observation_mode", "test_vector_env", "test_vector_env_info"]
ASYNC = tuple(f"tests/vector/{name}.py" for name in ASYNC)
SYNC = ("tests/vector/test_sync_vector_env.py", "tests/vector/test_vector_wrapper.py", "tests/wrappers/vector")

# Those that fail, and why; docs/gymnasium.md has them, too.
LEFT_OUT = {
    "test_custom_space_async_vector_env_shared_memory": "demands that custom spaces are refused; ours takes them",
    "test_async_vector_subenv_error": "demands the log lines of AsyncVectorEnv's workers, and steps envs that were never reset",
    "test_step_timeout_async_vector_env": "its env takes float64 actions, though its action space is float32",
}
WITHOUT_WORKERS = {"test_reset_timeout_async_vector_env": "nothing can end a wait for an env of this very process"}
LEFT_OUT_SYNC = {
    "test_equivalence_with_wrapper": "looks into SyncVectorEnv's list of envs",
    "test_metadata_sync_vector_env": "looks into SyncVectorEnv's list of envs",
}

# Stands in for gymnasium's class before the tests are imported.
PLUGIN = '''
import gymnasium.vector, fastvec.gym
class Ours(fastvec.gym.VectorEnv):
    def __init__(self, env_fns, shared_memory=True, **kwargs):
        super().__init__(env_fns, WORKERS, **kwargs)
Ours.__name__ = "CLASS"
gymnasium.vector.CLASS = gymnasium.vector.MODULE.CLASS = Ours
'''


@pytest.mark.skipif(not SOURCE, reason="FASTVEC_GYMNASIUM_SOURCE names no checkout of gymnasium")
@pytest.mark.parametrize("kind, files, workers, left_out", [
    ("Async", ASYNC, "0", LEFT_OUT | WITHOUT_WORKERS),
    ("Async", ASYNC, "len(env_fns)", LEFT_OUT),
    ("Sync", SYNC, "0", LEFT_OUT_SYNC),
    ("Sync", SYNC, "1", LEFT_OUT_SYNC),
])
def test_gymnasium_own_tests(kind, files, workers, left_out):
    code = PLUGIN.replace("CLASS", f"{kind}VectorEnv").replace("MODULE", f"{kind.lower()}_vector_env").replace("WORKERS", workers)
    theirs, _ = passed("", files)
    ours, output = passed(code, files)
    failed = {re.search(r"::(\w+)(?:\[|$)", test)[1] for test in theirs - ours}
    assert len(ours) > 50 and failed == {name for name in left_out if any(f"::{name}" in test for test in theirs)}, output[-8000:]


@functools.cache
def passed(plugin, files):
    """(the set of tests that pass, what pytest printed)"""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "stand_in.py").write_text(plugin)
        paths = [folder, str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
        env = dict(os.environ, PYTHONPATH=os.pathsep.join(paths))
        files = [path for path in files if (Path(SOURCE) / path).exists()]
        assert files, f"FASTVEC_GYMNASIUM_SOURCE={SOURCE} has no tests/vector"
        options = ["-p", "stand_in", "--rootdir", SOURCE, "-q", "-rA", "--tb=short", "-p", "no:cacheprovider"]
        command = [sys.executable, "-m", "pytest", *options, *files]
        result = subprocess.run(command, cwd=SOURCE, env=env, capture_output=True, text=True, timeout=900)
    return set(re.findall(r"^PASSED (\S+::.*)$", result.stdout, re.M)), result.stdout + result.stderr
