"""Files written whole or not at all, even if the process is killed, and folders that one process writes into.

What a killed process was writing is left beside its place, as NAME.PID.part: whoever next holds the folder
sweeps it away.
"""

import codecs
import contextlib
import errno
import os
from pathlib import Path

import numpy as np

from tinyalex.errors import DataError, reason

JOINER = "\N{ZERO WIDTH JOINER}"  # of emoji


def read_text(path):
    """Read a text file: UTF-8, or UTF-16 by its byte order mark, without the mark.  Raises DataError."""
    try:
        data = Path(path).read_bytes()
        is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        return data.decode("utf-16" if is_utf16 else "utf-8-sig")
    except (OSError, UnicodeError) as error:
        raise DataError(f"{path}: expected a text file: {reason(error)}") from error


def printable(name):
    """A file's name in characters that every terminal shows: the others, and bytes that are none, escaped."""
    return "".join(c if c.isprintable() or c == JOINER else ascii(c)[1:-1] for c in name)


def write_bytes(path, data, what="the file"):
    """Write a file, whole or not at all.  Raises OSError, naming the file."""
    with replacing(path, what) as file:
        file.write(data)


def write_text(path, text):
    """Write a small text file, whole or not at all.  Raises OSError, naming the file."""
    write_bytes(path, text.encode())


def write_array(path, array):
    """Write a .npy file, whole or not at all.  Raises OSError, naming the file."""
    with replacing(path) as file:
        np.save(file, array)


@contextlib.contextmanager
def replacing(path, what="the file"):
    """Yield a binary file that lies beside its place, is flushed to the disk and then renamed.

    Whatever happens, path holds the old contents or the new.  OSError where it is no regular file, for a
    device would be one afterwards.
    """
    path = Path(path)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")  # of this process: two may write one file
    try:
        if path.exists() and not path.is_file():
            raise OSError(errno.EINVAL, "expected a regular file, found another kind")
        with open(part, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            part.unlink()
        if isinstance(error, OSError):
            message = f"{error.strerror or error}; {what} was not written"
            raise OSError(error.errno, message, str(path)) from error
        raise


@contextlib.contextmanager
def lock(folder, doing):
    """Hold a folder, by its file "lock"; DataError if another process does.  It ends with the process.

    doing: what the holder does there, for the message.
    """
    from filelock import FileLock, Timeout  # a browser has none, and shows names all the same

    held = FileLock(Path(folder) / "lock")
    try:
        held.acquire(timeout=0)
    except Timeout as error:
        raise DataError(f"{folder}: another process is {doing} in this folder") from error
    try:
        yield
    finally:
        held.release()


def sweep(folder):
    """Remove what killed processes were writing into a folder: for the process that holds it."""
    for part in Path(folder).glob("*.part"):
        part.unlink()
