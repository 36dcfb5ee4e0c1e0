"""How a running rollout shows itself: a live display on a terminal, else a plain line now and then.  Needs rich."""
from __future__ import annotations

import time

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

LIVE_SECONDS, PLAIN_SECONDS = 0.125, 1.0  # between two updates
RATE_SECONDS = 1.0  # the least time over which the rate of the moment is taken


class Progress:
    """Shows a `Tally` while it grows; a context manager.

    On a terminal a display that is redrawn in place, otherwise (pipes, files, CI) a line every second or so without
    control characters.

    Args:
        console: a rich.console.Console.
        num_worlds: shown.
        seconds, steps: when the rollout ends; one of them is None.
    """

    def __init__(self, console, num_worlds, seconds=None, steps=None):
        self._console, self._num_worlds, self._seconds, self._steps = console, num_worlds, seconds, steps
        # Drawn from the rollout's own loop: a thread that redraws would take turns with it at unforeseen moments.
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._period = LIVE_SECONDS if self._live else PLAIN_SECONDS
        self._next = 0.0
        self._rate, self._mark = 0.0, (0.0, 0)

    def __enter__(self):
        if self._live:
            self._live.start()
        self._next = time.monotonic() + self._period
        return self

    def __exit__(self, *_):
        if self._live:
            self._live.stop()

    def __call__(self, tally):
        """Shows the tally, if it is time to."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + self._period
        self._take_rate(tally)
        if self._live:
            self._live.update(self._picture(tally), refresh=True)
        else:
            self._console.print(self._line(tally), soft_wrap=True, highlight=False)

    def _take_rate(self, tally):
        seconds, agent_steps = tally.seconds - self._mark[0], tally.agent_steps - self._mark[1]
        if seconds >= RATE_SECONDS or not self._rate:
            self._rate = agent_steps / seconds if seconds else 0.0
        if seconds >= RATE_SECONDS:
            self._mark = tally.seconds, tally.agent_steps

    def _done(self, tally):
        return tally.steps / self._steps if self._steps else min(1.0, tally.seconds / self._seconds)

    def _picture(self, tally):
        first = Table.grid(padding=(0, 1), expand=False)
        first.add_row(
            ProgressBar(total=1.0, completed=self._done(tally), width=24), f"{tally.seconds:5.1f} s",
            Text(f"{self._rate:,.0f} agent-steps/s", style="bold green"), f"{self._num_worlds} worlds",
        )
        return Group(first, Text(f"{_shares(tally)} | {_outcomes(tally)}", no_wrap=True, overflow="ellipsis"))

    def _line(self, tally):
        return (f"{tally.seconds:6.1f} s | {self._rate:,.0f} agent-steps/s | {self._num_worlds} worlds | "
                f"{_shares(tally)} | {_outcomes(tally)}")


def _shares(tally):
    return " ".join(f"{name} {share:.0%}" for name, share in tally.shares().items())


def _outcomes(tally):
    text = f"goals {tally.goals:,}"
    if tally.agents:
        text += f" collided {tally.rate(tally.collided):.0%} off-road {tally.rate(tally.off_road):.0%}"
    return text
