"""A process of its own for code that others wrote, and its limits: `judge` and `apart` use it.

    start, end    a process with an environment of its own, and its end with all that it has started
    limit         memory, processor time, and no file written: asked for by the process itself
    lock          nothing but computing: no file but those named, no network, no other process; for good

The lock is two of Linux's own, which need no rights: Landlock, for files, and a filter of system calls
(seccomp), which lets through what computing needs and answers all else with "Operation not permitted".
"""

import contextlib
import ctypes
import os
import platform
import signal
import struct
import subprocess
import sys
from pathlib import Path

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def start(command, env, **pipes):
    """Start a process in a session of its own; its standard streams go nowhere, but for those in `pipes`."""
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    return subprocess.Popen(
        command, env={**env, **ONE_THREAD}, start_new_session=True, **{**streams, **pipes}
    )


def end(process):
    """End a process and all that it has started."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


def limit(memory, seconds=None):
    """Limit this process to `memory` bytes beyond what it has.

    seconds: of processor time, too; and then it may write no file.  Nothing is limited but on Linux.
    """
    if sys.platform != "linux":
        return
    import resource

    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    most = {resource.RLIMIT_AS: pages * resource.getpagesize() + memory, resource.RLIMIT_CORE: 0}
    if seconds is not None:
        used = sum(os.times()[:2])
        most |= {resource.RLIMIT_FSIZE: 0, resource.RLIMIT_CPU: int(used + seconds + 0.999)}
    for what, value in most.items():
        resource.setrlimit(what, (value, value + (what == resource.RLIMIT_CPU)))  # SIGXCPU, and then SIGKILL


# ---- the lock

_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column of _CALLS, the kernel's number
_CALLS = {  # what computing needs: system call (its number on x86_64, on aarch64)
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67),
    "close": (3, 57), "lseek": (8, 62), "open": (2, None), "openat": (257, 56), "getdents64": (217, 61),
    "stat": (4, None), "lstat": (6, None), "fstat": (5, 80), "newfstatat": (262, 79), "statx": (332, 291),
    "access": (21, None), "faccessat": (269, 48), "faccessat2": (439, 439), "getcwd": (79, 17),
    "readlink": (89, None), "readlinkat": (267, 78), "fadvise64": (221, 223),
    "mmap": (9, 222), "mprotect": (10, 226), "munmap": (11, 215), "brk": (12, 214), "mremap": (25, 216),
    "madvise": (28, 233), "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132), "restart_syscall": (219, 128), "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123), "getpid": (39, 172), "gettid": (186, 178), "getuid": (102, 174),
    "geteuid": (107, 175), "getgid": (104, 176), "getegid": (108, 177), "uname": (63, 160),
    "sysinfo": (99, 179), "getrusage": (98, 165), "times": (100, 153), "futex": (202, 98),
    "set_robust_list": (273, 99), "rseq": (334, 293), "clock_gettime": (228, 113), "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115), "nanosleep": (35, 101), "gettimeofday": (96, 169), "time": (201, None),
    "getrandom": (318, 278), "exit": (60, 93), "exit_group": (231, 94),
}  # fmt: skip
_CLONE, _CLONE3 = (56, 220), 435  # a thread may be started, a process may not
_CLONE_THREAD = 0x10000
_PRCTL, _SECCOMP = (157, 167), (317, 277)
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_CAPSET = (126, 91)  # what root may do beyond others
_NO_NEW_PRIVS, _DEATH_SIGNAL, _DUMPABLE = 38, 1, 4  # of prctl
_ALLOW, _ERROR, _KILL = 0x7FFF0000, 0x00050000, 0x80000000  # of a filter
_NOT_PERMITTED, _NO_SUCH_CALL = 1, 38  # errno


def missing():
    """Say what the lock needs and this system has not; "" if nothing."""
    if sys.platform != "linux":
        return f"expected Linux, found {sys.platform}"
    if platform.machine() not in _MACHINES or struct.calcsize("P") != 8:
        return f"expected a processor x86_64 or aarch64, found {platform.machine()}"
    if _landlock_version() < 1:
        return f"expected a kernel with Landlock (Linux 5.13 and later), found {platform.release()} without"
    return ""


def _call(number, *args):
    """Do a system call; OSError if it fails."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    found = libc.syscall(
        ctypes.c_long(number), *(ctypes.c_void_p(a) if isinstance(a, int) else a for a in args)
    )
    if found < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return found


def _landlock_version():
    try:
        return _call(_LANDLOCK_CREATE, 0, 0, 1)
    except OSError:
        return 0


def lock(readable, parent):
    """Lock this process in, for good: it can compute, use its pipes, and read these files and folders.

    It can start threads, but no process; open no connection; send no signal; write no file.  It ends with
    its parent, the process of that number.  Raises OSError where the system has no such lock, RuntimeError
    where another thread runs, which would be left out.
    """
    if problem := missing():
        raise OSError(problem)
    if len(os.listdir("/proc/self/task")) > 1:
        raise RuntimeError("expected one thread, found more")
    column, kernel = _MACHINES[platform.machine()]
    Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")  # where memory ends, it goes first
    prctl = _PRCTL[column]
    _call(prctl, _DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it has ended before
        os._exit(1)
    _call(prctl, _NO_NEW_PRIVS, 1, 0, 0, 0)
    _call(prctl, _DUMPABLE, 0, 0, 0, 0)  # no other process looks into it, and a crash is not reported
    nothing = struct.pack("=6I", 0, 0, 0, 0, 0, 0)
    head = struct.pack("=Ii", 0x20080522, 0)
    _call(_CAPSET[column], ctypes.create_string_buffer(head), ctypes.create_string_buffer(nothing))
    _restrict_files(readable)
    _filter_calls(column, kernel)


def _restrict_files(readable):
    version = _landlock_version()
    handled = (1 << 13) - 1  # every way to touch a file that version 1 knows
    for since, bit in ((2, 13), (3, 14), (5, 15)):  # to link elsewhere, to truncate, a device's ioctl
        handled |= (version >= since) << bit
    network, scoped = (version >= 4) * 3, (version >= 6) * 3  # ports; signals, and sockets without a file
    rules = ctypes.create_string_buffer(struct.pack("=QQQ", handled, network, scoped))
    rule_set = _call(_LANDLOCK_CREATE, rules, 8 + 8 * (version >= 4) + 8 * (version >= 6), 0)
    for path in readable:
        there = os.open(path, os.O_PATH | os.O_CLOEXEC)
        may = _READ_FILE | (_READ_DIR if os.path.isdir(path) else 0)
        _call(_LANDLOCK_ADD, rule_set, 1, ctypes.create_string_buffer(struct.pack("=Qi", may, there)), 0)
        os.close(there)
    _call(_LANDLOCK_RESTRICT, rule_set, 0)
    os.close(rule_set)


def _filter_calls(column, kernel):
    """Install the filter: a program for the kernel that looks at each system call's number."""
    steps = []

    def step(code, k, if_true=0, if_false=0):
        steps.append(struct.pack("=HBBI", code, if_true, if_false, k))

    load, equal, any_bit, at_least, answer = 0x20, 0x15, 0x45, 0x35, 0x06
    step(load, 4)  # of which kind of processor
    step(equal, kernel, 1, 0)
    step(answer, _KILL)
    step(load, 0)  # the number
    step(at_least, 0x40000000, 0, 1)  # x86_64's other numbers for the same calls
    step(answer, _ERROR | _NOT_PERMITTED)
    step(equal, _CLONE3, 0, 1)  # its flags cannot be seen from here: the C library then takes clone
    step(answer, _ERROR | _NO_SUCH_CALL)
    step(equal, _CLONE[column], 0, 4)
    step(load, 16)  # the flags
    step(any_bit, _CLONE_THREAD, 0, 1)
    step(answer, _ALLOW)
    step(answer, _ERROR | _NOT_PERMITTED)
    for numbers in _CALLS.values():
        if numbers[column] is not None:
            step(equal, numbers[column], 0, 1)
            step(answer, _ALLOW)
    step(answer, _ERROR | _NOT_PERMITTED)
    program = ctypes.create_string_buffer(b"".join(steps))
    head = struct.pack("HxxxxxxP", len(steps), ctypes.addressof(program))
    _call(_SECCOMP[column], 1, 0, ctypes.create_string_buffer(head))
