"""The errors that a user can mend. The command line prints them without a traceback."""

import re


class TinyalexError(Exception):
    """Base of every error below: names the file or argument, what was expected, what was found."""


class ArgumentError(TinyalexError, ValueError):
    """An invalid argument: an impossible geometry, a number out of range, an unknown name."""


class DataError(TinyalexError, ValueError):
    """A data file, archive, picture or checkpoint is not what it should be."""


class DeviceError(TinyalexError, RuntimeError):
    """A device that was asked for does not exist, or arrays sit on different devices."""


class DeviceMemoryError(DeviceError):
    """A GPU's memory is full; ``available``: its bytes that are free or this process's own."""

    def __init__(self, device, asked, free, total, available):
        super().__init__(f"{device}: {asked.rstrip('.')}; {free / 1e9:.2f} of {total / 1e9:.2f} GB are free")
        self.available = available


class NonFiniteError(TinyalexError, ArithmeticError):
    """The loss became NaN or infinite: training stops here, naming the step and the first layer."""


def few(names):
    """At most five names, in words, for a message."""
    if len(names) > 5:
        return f"{', '.join(names[:5])} and {len(names) - 5} more"
    return ", ".join(names) or "none"


def reason(error):
    """What an error says, in one line: the system's words alone, and no object's address, which changes."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(re.sub(r" <[^<>]* at 0x\w+>", "", str(error)).split()) or type(error).__name__
