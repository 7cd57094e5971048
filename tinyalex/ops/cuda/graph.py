"""A step recorded once and then replayed: one call of the host in place of hundreds of launches.

A launch costs the host some microseconds, however small its arrays; a small network's step takes longer to
ask for than to do.  A CUDA graph is a list of launches that the device has been given beforehand.  `Captured`
makes one of a function:

    step = Captured(lambda images, labels: …, device)
    loss = step(images, labels)  # the first call is done as it stands, the second recorded, all replayed

What the launches were recorded with stays as it was: the places of arrays, the sizes, the numbers passed as
arguments.  What changes from step to step therefore lies in the device's memory, and is written there before
each replay: the inputs, by `Captured`; a rate of learning, the key of a mask, by what the step hands to
`host`, in memory of their `own`.  cuBLAS through CuPy cannot be recorded: `outside` ends one graph before
such a call and begins the next after it.
"""

import threading

import numpy as np

from tinyalex.memory import empty
from tinyalex.ops.checks import xp_of

_state = threading.local()


def recording():
    """Return whether this thread's launches are recorded, not done."""
    return getattr(_state, "recording", None) is not None


def host(fn):
    """Let the host call fn() in each step: at once, or while a step is recorded, before each replay.

    fn draws random numbers, say, and writes them to the device's memory with `upload`.
    """
    if recording():
        _state.recording.before.append(fn)
    else:
        fn()


def outside(fn):
    """Call fn(), which queues work that cannot be recorded; in a replay, in its place among the launches."""
    if recording():
        _state.recording.cut(fn)
    else:
        fn()


def own(xp, shape, dtype):
    """Return memory for what the host writes before each replay: an array that shares it with no other.

    A recording uses the memory of arrays that are gone for those that come after; in a replay the kernels
    that wrote to the former write there again, over what lies there already.
    """
    if not recording():
        return empty(xp, shape, dtype)
    with xp.cuda.using_allocator(xp.cuda.MemoryPool(_state.recording.allocate).malloc):
        return empty(xp, shape, dtype)


def upload(array, values):
    """Write the host's numbers to a contiguous array of the device, in the order of the stream."""
    stream = xp_of(array).cuda.get_current_stream()
    array.set(np.asarray(values, array.dtype).reshape(array.shape), stream)


class Captured:
    """A function of a GPU's arrays that makes the same launches each time, replayed from its second call on.

    function(*arrays) → an array, or a tuple of them, which the next call overwrites.  Each shape of arrays
    has a recording of its own.  The function must not wait for the device, nor exchange with other ranks; its
    parameters must stay in the arrays that they are in.  A recording has memory of its own, as much as the
    function needs at once.  On the CPU the function is called.
    """

    def __init__(self, function, device):
        self.function, self.device = function, device
        self.recordings = {}  # by the arrays' shapes and dtypes: None after the first call

    def __call__(self, *arrays):
        """Return function(*arrays)."""
        if self.device.kind == "cpu":
            return self.function(*arrays)
        kind = tuple((a.shape, a.dtype.str) for a in arrays)
        if kind not in self.recordings:  # kernels are compiled, and what cannot be computed is said
            self.recordings[kind] = None
            return self.function(*arrays)
        if self.recordings[kind] is None:
            self.recordings[kind] = _Recording(self.function, self.device.xp, arrays)
        return self.recordings[kind].replay(arrays)


class _Recording:
    """Graphs, and the calls between them, of one function for inputs of one shape."""

    def __init__(self, function, xp, arrays):
        self.before, self.parts = [], []
        self.memory = memory = []
        self.stream = xp.cuda.get_current_stream()
        xp.get_default_memory_pool().free_all_blocks()  # what the first call left: it is needed here

        def allocate(nbytes):
            memory.append(xp.cuda.Memory(nbytes))  # the graphs refer to it, whoever else has let it go
            return xp.cuda.MemoryPointer(memory[-1], 0)

        self.allocate = allocate
        with xp.cuda.using_allocator(xp.cuda.MemoryPool(allocate).malloc):
            self.inputs = [a.copy() for a in arrays]
            _state.recording = self
            self.stream.begin_capture()
            try:
                self.outputs = function(*self.inputs)
            finally:
                _state.recording = None
                graph = self.stream.end_capture()
            self.parts.append(graph.launch)

    def cut(self, fn):
        """End a graph; fn() comes after it, and then the next."""
        self.parts += [self.stream.end_capture().launch, fn]
        self.stream.begin_capture()

    def replay(self, arrays):
        for fn in self.before:
            fn()
        for mine, array in zip(self.inputs, arrays, strict=True):
            mine[...] = array
        for part in self.parts:
            part()
        return self.outputs
