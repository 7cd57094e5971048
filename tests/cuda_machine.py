"""The machine that the stand-in for CuPy runs on: devices, streams with vector clocks, events, memory.

Work is done at once, in the thread that asks for it.  Clocks tell what is in order with what: each piece of
work is a tick of its stream, an event carries its stream's clock to those that wait for it, and the host's
clock has what the host has waited for.
"""

import contextlib
import itertools
import sys
import threading
import time
import types
import weakref
from collections import Counter, defaultdict

import numpy as np

GUARD = 4096  # bytes around each array: more than a block's threads can write

lock = threading.RLock()
local = threading.local()
waits = Counter()  # device → how often the host waited for it
transfers = Counter()  # "peer", "staged", "to host" → bytes
machine = types.SimpleNamespace(devices=3, peers={(0, 1), (1, 0)}, memory=2**33, cache=None)


class Unordered(RuntimeError):
    """Two streams touch the same memory, and nothing orders them."""


class CUDARuntimeError(RuntimeError):
    """An error of the CUDA runtime."""


class OutOfMemoryError(MemoryError):
    """Worded as CuPy's."""

    def __init__(self, size, total):
        super().__init__(f"Out of memory allocating {size:,} bytes (allocated so far: {total:,} bytes).")


# ---- devices, streams, events --------------------------------------------------------------------------


def current_device():
    return getattr(local, "device", 0)


class Device:
    def __init__(self, device=None):
        self.id = current_device() if device is None else device

    def __enter__(self):
        local.before = [*getattr(local, "before", []), current_device()]
        local.device = self.id
        return self

    def __exit__(self, *error):
        local.device = local.before.pop()


serial = itertools.count()
streams = defaultdict(list)  # device → its streams, the null stream first
host_clock = {}  # what the host has waited for
retired = set()  # ids of the streams that were left when the host had waited for all of their work


def merge(clock, other):
    for stream, tick in other.items():
        clock[stream] = max(tick, clock.get(stream, 0))


class Stream:
    def __init__(self, null=False, non_blocking=False):
        assert not null, "not used by tinyalex"
        if not streams[current_device()]:
            self.null()
        self._begin(non_blocking)

    def _begin(self, non_blocking):
        self.device, self.id, self.clock, self.non_blocking = current_device(), next(serial), {}, non_blocking
        self.ptr, self._graph = self.id, None  # the graph that is being recorded
        streams[self.device].append(self)

    @classmethod
    def null(cls):
        """The device's null stream, with which every stream that is not non_blocking is in order."""
        if not streams[current_device()]:
            cls._begin(cls.__new__(cls), False)
        return streams[current_device()][0]

    def __enter__(self):
        assert self.id not in retired, "a stream is entered once"
        local.streams = [*getattr(local, "streams", []), self]
        return self

    def __exit__(self, *error):
        local.streams.pop()
        with lock:
            if all(host_clock.get(stream, 0) >= tick for stream, tick in self.clock.items()):
                self._retire()

    def _retire(self):
        """Forget the stream: what is done later is in order with all that it did, as the host is."""
        retired.add(self.id)
        streams[self.device].remove(self)
        for clock in (host_clock, *(stream.clock for all_of in streams.values() for stream in all_of)):
            clock.pop(self.id, None)
        for key in [key for key in pools if key[1] == self.id]:
            del pools[key]

    def begin_capture(self, mode=None):
        assert self._graph is None, "recorded twice"
        self._graph = Graph()

    def end_capture(self):
        graph, self._graph = self._graph, None
        return graph

    def synchronize(self):
        self._not_recorded()
        with lock:
            waits[self.device] += 1
            merge(host_clock, self.clock)

    def _not_recorded(self):
        if self._graph is not None:
            raise CUDARuntimeError(
                "cudaErrorStreamCaptureUnsupported: operation not permitted when stream is capturing"
            )

    def wait_event(self, event):
        self._not_recorded()
        with lock:
            merge(self.clock, event.clock)

    def _tick(self):
        """Begin the stream's next piece of work."""
        merge(self.clock, host_clock)
        null, *others = streams[self.device]
        for stream in others if self is null else [null]:
            if not (self.non_blocking or stream.non_blocking):
                merge(self.clock, stream.clock)
        self.clock[self.id] = self.clock.get(self.id, 0) + 1
        return self.clock[self.id]


class Graph:
    """Work that was recorded, and is done when the graph is launched."""

    def __init__(self):
        self._nodes = []

    def launch(self, stream=None):
        for reads, writes, run in self._nodes:
            touch(*([memory for ref in refs if (memory := ref())] for refs in (reads, writes)))
            run()


def get_current_stream():
    mine = [s for s in getattr(local, "streams", []) if s.device == current_device()]
    return mine[-1] if mine else Stream.null()


class Event:
    def __init__(self, block=False, disable_timing=False, interprocess=False):
        self.clock = {}

    def record(self, stream=None):
        self.seconds = time.perf_counter()
        with lock:
            self.clock = dict((stream or get_current_stream()).clock)

    def synchronize(self):
        with lock:
            merge(host_clock, self.clock)


def get_elapsed_time(start_event, end_event):
    return 1e3 * (end_event.seconds - start_event.seconds)


# ---- memory --------------------------------------------------------------------------------------------


pools = defaultdict(list)  # (device, stream, bytes) → [(bytes, writer, readers)]
in_use = Counter()  # device → bytes


raw_memory = weakref.WeakValueDictionary()  # address → bytes


class RawMemory:
    """A piece of memory of no pool."""

    def __init__(self, size):
        self.bytes = Bytes(size, np.uint8)
        raw_memory[self.bytes.ctypes.data] = self.bytes

    @staticmethod
    def _has(address):
        """Whether an address lies in such memory, be there still an array or not."""
        pieces = ((ref.key, ref()) for ref in raw_memory.valuerefs())  # a list: threads make others
        return any(b is not None and start <= address < start + b.size for start, b in pieces)


class Bytes(np.ndarray):
    """Bytes that can be referred to weakly."""


class RawPointer:
    def __init__(self, mem, offset):
        self.mem = mem


def raw_pointer(size):
    return RawPointer(RawMemory(size), 0)


class MemoryPool:
    """The pool of all memory, or one of its own that is filled by an allocator."""

    def __init__(self, allocator=None):
        self._allocator, self._pools = allocator, defaultdict(list)

    def malloc(self, size):
        raise NotImplementedError("only to be passed to using_allocator")

    def used_bytes(self):
        return in_use[current_device()]

    def total_bytes(self):
        return in_use[current_device()]

    def free_all_blocks(self):
        with lock:
            for key in [key for key in pools if key[0] == current_device()]:
                del pools[key]


@contextlib.contextmanager
def using_allocator(allocator):
    pool = allocator.__self__
    before = local.__dict__.copy()
    local.pools, local.allocator = pool._pools, pool._allocator
    try:
        yield
    finally:
        del local.pools, local.allocator
        local.__dict__.update({name: before[name] for name in ("pools", "allocator") if name in before})


live = {}  # address → weak reference to the Memory


class Memory:
    """A piece of a device's memory; it goes back to the pool of the stream that it was made on.

    As in CuPy, the pool hands out pieces of multiples of 512 bytes, the last that came back first.
    """

    def __init__(self, nbytes):
        with lock:
            self.stream, self.device, self.nbytes = get_current_stream(), current_device(), nbytes
            self.pools = getattr(local, "pools", pools)
            if in_use[self.device] + nbytes > machine.memory:
                raise OutOfMemoryError(nbytes, in_use[self.device])
            in_use[self.device] += nbytes
            self.room = -(-nbytes // 512) * 512
            if self.pools is not pools:  # as a part of a larger piece, where none has its size
                where = self.device, self.stream.id
                larger = [k[2] for k, v in self.pools.items() if v and k[:2] == where and k[2] >= self.room]
                self.room = min(larger, default=self.room)
            pool = self.pools[self.device, self.stream.id, self.room]
            if pool:
                self.bytes, self.writer, self.readers = pool.pop()
            else:
                chunk = getattr(local, "allocator", raw_pointer)(self.room + 2 * GUARD)
                self.bytes, self.writer, self.readers = np.asarray(chunk.mem.bytes), None, {}
            self.address = self.bytes.ctypes.data + GUARD
            live[self.address] = weakref.ref(self)
        self.bytes.fill(0xFF)  # NaN, in float32 and float64

    def __del__(self):
        if hasattr(self, "address") and not sys.is_finalizing():
            live.pop(self.address, None)
            in_use[self.device] -= self.nbytes
            if self.stream.id not in retired:
                self.pools[self.device, self.stream.id, self.room].append(
                    (self.bytes, self.writer, self.readers)
                )

    @staticmethod
    def at(address):
        """The memory that an address lies in, or None."""
        for start in list(live):  # making pairs of items could collect garbage: __del__ would change live
            memory = live.get(start, lambda: None)()
            if memory and start <= address < start + memory.nbytes:
                return memory
        return None

    def check_guards(self, kernel):
        # in a recording's memory an array that was there before, and was longer, writes to it in each replay
        end = GUARD + (self.nbytes if self.pools is pools else self.room)
        around = self.bytes[:GUARD].tobytes() + self.bytes[end:].tobytes()
        if around != b"\xff" * len(around):
            raise IndexError(f"{kernel} wrote outside an array")


class PinnedMemory(bytearray):
    """Page-locked memory of the host's: a stream reads it when it comes to that, not at once."""

    free, live = defaultdict(list), {}  # bytes → readers of what is free; address → weak reference

    def __init__(self, size):
        super().__init__(b"\xa5" * size)
        self.readers, self.address = {}, np.frombuffer(self, np.uint8).ctypes.data
        PinnedMemory.live[self.address] = weakref.ref(self)

    def __del__(self):
        with lock:
            del PinnedMemory.live[self.address]
            PinnedMemory.free[len(self)].append(self.readers)

    @staticmethod
    def read(array, stream):
        """Record that the stream's newest piece of work copies from an array, if it lies in such memory."""
        with lock:
            for start, ref in list(PinnedMemory.live.items()):
                memory = ref()
                if memory is not None and start <= array.ctypes.data < start + len(memory):
                    memory.readers[stream.id] = stream.clock[stream.id]


def alloc_pinned_memory(size):
    """Memory of which some was used before: Unordered if a stream may yet be copying from that."""
    with lock:
        free = PinnedMemory.free[size]
        for stream, tick in (free.pop() if free else {}).items():
            if stream not in retired and host_clock.get(stream, 0) < tick:
                raise Unordered(f"stream {stream} may yet be copying from memory that is given out again")
        return PinnedMemory(size)


def work(reads, writes, run, foreign=()):
    """Let the current stream do a piece of work: run() reads and writes these memories."""
    graph = get_current_stream()._graph
    if graph is None:
        touch(reads, writes, foreign)
        run()
    else:
        graph._nodes.append((list(map(weakref.ref, reads)), list(map(weakref.ref, writes)), run))


def touch(reads, writes, foreign=(), stream=None):
    """Record a piece of work of a stream, by default the current one, and refuse one that it must not do."""
    with lock:
        stream, device = stream or get_current_stream(), current_device()
        tick = stream._tick()
        for memory in (*reads, *writes):
            if memory.device != device and memory not in foreign:
                raise ValueError(f"array of device {memory.device}, but device {device} is current")
            writer = memory.writer
            if writer and writer[0] not in retired and stream.clock.get(writer[0], 0) < writer[1]:
                raise Unordered(f"stream {stream.id} uses what stream {writer[0]} may yet be writing")
        for memory in writes:
            for reader, then in memory.readers.items():
                if reader not in retired and stream.clock.get(reader, 0) < then:
                    raise Unordered(f"stream {stream.id} writes what stream {reader} may yet be reading")
            memory.writer, memory.readers = (stream.id, tick), {}
        for memory in reads:
            memory.readers[stream.id] = tick
