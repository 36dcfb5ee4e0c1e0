"""fastvec's hot loop: Cython and C modules.  Users import `fastvec`; this package matters to who writes compiled envs."""
from pathlib import Path


def get_include():
    """The folder that holds `fastvec_env.h`, for the include path of a compiled env's build."""
    return str(Path(__file__).parent / "include")
