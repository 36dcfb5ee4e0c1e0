"""Times that users give."""
import numbers

FOREVER = 1e9  # seconds, more than 30 years; more need not fit into the clocks and counters that times are added to


def is_seconds(value) -> bool:
    """Whether `value` is a number, NaN excepted, of at least 0: of Python or NumPy."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and bool(value >= 0)


def check_seconds(argument, value):
    """A time to wait, at most FOREVER.

    Args:
        argument: how errors are to show it: "grace=%r".

    Raises:
        ValueError: it is no number, or negative.
    """
    if not is_seconds(value):
        raise ValueError(f"{argument % (value,)}; give a number of seconds, 0 or more")
    return float(min(value, FOREVER))
