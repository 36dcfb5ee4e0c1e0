import pytest


@pytest.fixture(autouse=True)
def always(nothing_left_behind):
    pass
