"""NCCL for the stand-in for CuPy: calls in groups, of every rank of a job; ranks are threads."""

import itertools
import threading

import numpy as np
from cuda_machine import Memory, get_current_stream, local, lock, merge, work

NCCL_UINT8 = 1
available = False  # a test that wants it says so
numbers, jobs = itertools.count(), {}


def get_unique_id():
    return ("job", next(numbers))


def groupStart():
    local.group = []


def groupEnd():
    """Hand over what is sent, receive it, and let each stream wait for those it met."""
    calls, local.group = local.group, None
    job = calls[0][0].job
    stream = get_current_stream()
    for comm, kind, view, peer in calls:
        if kind == "send":
            job.sent[comm.rank, peer] = view, stream
    job.barrier.wait()
    met = []
    for comm, kind, (memory, data), peer in calls:
        if kind == "recv":
            (theirs, source), other = job.sent[peer, comm.rank]
            assert len(data) == len(source), "sizes differ"
            with lock:
                merge(stream.clock, other.clock)
            work([theirs], [memory], lambda data=data, source=source: np.copyto(data, source), [theirs])
            met.append(other)
    job.barrier.wait()
    with lock:
        for other in met:
            merge(other.clock, stream.clock)
    job.barrier.wait()


class Job:
    def __init__(self, size):
        self.sent, self.barrier = {}, threading.Barrier(size, timeout=20)


class NcclCommunicator:
    def __init__(self, ndev, commId, rank):
        with lock:
            self.job = jobs.setdefault(commId, Job(ndev))
        self.rank = rank
        self.job.barrier.wait()

    def send(self, sendbuf, count, datatype, peer, stream):
        self._call("send", sendbuf, count, datatype, peer)

    def recv(self, recvbuf, count, datatype, peer, stream):
        self._call("recv", recvbuf, count, datatype, peer)

    def _call(self, kind, address, count, datatype, peer):
        assert datatype == NCCL_UINT8
        memory = Memory.at(address)
        start = address - memory.bytes.ctypes.data
        local.group.append((self, kind, (memory, memory.bytes[start : start + count]), peer))
