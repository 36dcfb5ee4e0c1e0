import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(__file__))  # for `envs`, in this process and in spawned workers


@pytest.fixture(autouse=True)
def always(nothing_left_behind):
    pass
