"""Times that users give."""
import numbers


def is_seconds(value) -> bool:
    """Whether `value` is a number, NaN excepted, of at least 0: of Python or NumPy."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and bool(value >= 0)


def check_seconds(argument, value):
    """Refuses what is no time to wait.

    Args:
        argument: how errors are to show it: "grace=%r".

    Raises:
        ValueError: it is no number, or negative.
    """
    if not is_seconds(value):
        raise ValueError(f"{argument % (value,)}; give a number of seconds, 0 or more")
