import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(__file__))  # for `api_envs` and `api_model`


@pytest.fixture(autouse=True)
def always(nothing_left_behind):
    pass
