"""How far a long command is, and how long it will still take."""

import time

from rich.live import Live
from rich.text import Text

from tinyalex.cli.common import console, error_console

FIRST, EVERY = 5.0, 10.0  # seconds until the first line and between lines, where there is no terminal
LATER = 60.0  # between lines after the first ten minutes
SHORTEST, LONGEST = 8, 40  # characters of the bar


class Progress:
    """A bar on a terminal; elsewhere, where the output goes to a file, a line on stderr now and then.

    Use as a context manager. The bar is on stdout if that is a terminal, else on stderr if that is one, and
    is gone at the end. At any width the count and the time left are shown whole: the bar gives way to them.
    """

    def __init__(self):
        self._now = None  # doing, done, total, state, at most
        self._began = None  # when, done, total, at the first call with this total
        self._start = time.monotonic()
        self._next = self._start + FIRST
        screens = (c for c in (console, error_console) if c.is_terminal and not c.is_dumb_terminal)
        self._screen = next(screens, None)
        self._live = None
        if self._screen:
            self._live = Live(
                console=self._screen,
                get_renderable=self._drawn,
                transient=True,
                redirect_stdout=self._screen is console,  # never from a file to the terminal
                redirect_stderr=error_console.is_terminal,
            )

    def __enter__(self):
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_):
        if self._live:
            self._live.stop()

    def update(self, doing, done, total=None, state="", at_most=False):
        """Show that `done` of `total` things are done (None: nobody knows of how many).

        doing: what is being done, "preparing". state: more words, "loss 0.693". at_most: it may end before.
        The time left is foreseen from the time since the first call with this total.
        """
        now = time.monotonic()
        if self._began is None or total != self._began[2] or done < self._began[1]:
            self._began = now, done, total
        self._now = doing, done, total, state, at_most
        if not self._live and now >= self._next:
            self._next = now + (EVERY if now - self._start < 10 * LATER else LATER)
            error_console.print(", ".join(filter(None, self._parts())), soft_wrap=True)

    def print(self, line=""):
        """Write a line to stdout, above the bar."""
        console.print(line)

    def _parts(self):
        """What is done and how much of it, the time left, and the state."""
        doing, done, total, state, at_most = self._now
        began, first, _ = self._began
        seconds, left = time.monotonic() - began, ""
        if total is not None and done > first and seconds >= 1:
            left = f"{duration(seconds * (total - done) / (done - first))} left"
            left = f"at most {left}" if at_most else left
        return f"{doing} {done:,}" + ("" if total is None else f"/{total:,}"), left, state

    def _drawn(self):
        if self._now is None:
            return Text()
        count, left, state = self._parts()
        _, done, total, *_ = self._now
        room = self._screen.width - len(count) - (len(left) + 1 if left else 0) - 1
        beside = bool(state) and room - len(state) - 2 >= SHORTEST
        room = min(room - len(state) - 2 if beside else room, LONGEST)
        line = Text(count)
        if total and room >= SHORTEST:
            full = min(room * done // total, room)
            whole, rest = "#." if self._screen.options.ascii_only else "━─"
            line = Text.assemble(count, " ", (whole * full, "bar.complete"), (rest * (room - full), "dim"))
        if left:
            line.append(f" {left}")
        if state:
            line.append(("  " if beside else "\n") + state)
        return line


def duration(seconds):
    """Seconds as 0:07, 12:30 or 3:05:00."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
