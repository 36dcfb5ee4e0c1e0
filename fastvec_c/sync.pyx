"""Waiting: how long to spin and to yield before a process parks."""

cdef class WaitPolicy:
    """How long to wait awake: spin, then yield, then park (see sync.h).

    Args:
        spin_us: spin for at most this many microseconds.  0 where there are more runnable processes than CPUs: a
            spinner keeps the CPU that the process it waits for needs.
        yields: then call `sched_yield` at least this often.
        yield_us: and go on yielding until the wait has lasted twice as long as usual, but at most this many
            microseconds; 0 stops after `yields`.

    Raises:
        ValueError: a negative number.
    """

    def __init__(self, double spin_us=0, int64_t yields=0, double yield_us=0):
        for name, value in (("spin_us", spin_us), ("yields", yields), ("yield_us", yield_us)):
            if not 0 <= value <= 1e9:
                raise ValueError(f"WaitPolicy: {name}={value}; give a number from 0 to 1e9")
        self.c.spin_ns = <int64_t>(spin_us * 1000)
        self.c.yields = yields
        self.c.yield_ns = <int64_t>(yield_us * 1000)

    @property
    def spin_us(self):
        return self.c.spin_ns / 1000

    @property
    def yields(self):
        return self.c.yields

    @property
    def yield_us(self):
        return self.c.yield_ns / 1000

    def __reduce__(self):
        return WaitPolicy, (self.spin_us, self.yields, self.yield_us)

    def __eq__(self, other):
        return isinstance(other, WaitPolicy) and self.__reduce__() == other.__reduce__()

    def __repr__(self):
        return f"WaitPolicy(spin_us={self.spin_us:g}, yields={self.yields}, yield_us={self.yield_us:g})"
