"""The table of faults: how often each was tried, and how often work survived it."""

import contextlib
from collections import Counter

import pytest

TRIED, SURVIVED = Counter(), Counter()


@pytest.fixture
def fault():
    """A context manager around a try of a fault, from the fault to the proof that nothing is lost."""

    @contextlib.contextmanager
    def one(name, times=1):
        TRIED[name] += times
        yield
        SURVIVED[name] += times

    return one


def pytest_terminal_summary(terminalreporter):
    if not TRIED:
        return
    terminalreporter.section("faults")
    width = max(map(len, TRIED))
    terminalreporter.line(f"{'fault':{width}}  tried  survived  lost")
    for name, tried in TRIED.items():
        lost = tried - SURVIVED[name]
        terminalreporter.line(f"{name:{width}}  {tried:5}  {SURVIVED[name]:8}  {lost:4}")
