"""Faults planted in the kernels and around them: each must be caught by a check of `test_cuda`."""

import numpy as np
import pytest
from backends import in_source
from cuda_machine import Unordered
from test_cuda import (
    check_batch_norm,
    check_conv,
    check_dropout,
    check_exchange,
    check_exchange_on_one_card,
    check_lrn,
    check_neuron,
    check_pool,
    check_sgd,
    check_softmax,
    check_towers,
)

from tinyalex.comm.threads import ThreadComm
from tinyalex.devices.cuda import GPU
from tinyalex.ops.cuda import implicit_gemm as cuda_conv
from tinyalex.ops.cuda import launch as cuda_launch
from tinyalex.ops.cuda import softmax as cuda_softmax


def no_device_switch(patch):
    import cupy

    patch.setattr(GPU, "context", lambda self: cupy.cuda.Stream())


def no_wait_before_reading(patch):
    patch.setattr(GPU, "wait", lambda self, event: None)


def no_wait_before_writing(patch):
    patch.setattr(ThreadComm, "_end", lambda self, out: self._wait() or out)


def implicit_host_copy(patch):
    patch.setattr(cuda_softmax, "_int64", lambda labels: np.asarray(labels, np.int64))


def host_array_in_a_kernel(patch):
    patch.setattr(cuda_conv, "empty", lambda xp, shape, dtype: np.empty(shape, dtype))


def one_device_for_all(patch):
    right = cuda_launch._function
    patch.setattr(cuda_launch, "_function", lambda xp, device, *how: right(xp, 0, *how))


FAULTS = {  # name: (what catches it, how to plant it, what is raised, AssertionError unless told)
    "bias: of the neighbouring map": (check_neuron, in_source("bias", "+= b[f];", "+= b[f ? f - 1 : 0];")),
    "max pooling: the last of equals wins": (
        check_pool, in_source("pool", "value > best", "value >= best"),
    ),
    "max pooling: a shared winner gets one gradient": (
        check_pool, in_source("pool", "sum.of[k] += gradient.of[k];", "sum.of[k] = gradient.of[k];"),
    ),
    "average pooling: cut-off windows divided by z*z": (
        check_pool, in_source("pool", "return (last < size ? last : size) - (first > 0 ? first : 0)",
                              "return (last < size ? last : last) - first"),
    ),
    "lrn: window off by one": (
        check_lrn, in_source("lrn", "int first = HALF - n / 2;", "int first = HALF - (n - 1) / 2;"),
    ),
    "lrn: window crosses the towers": (
        check_lrn, in_source("lrn", "channel(in, c + HALF + AHEAD, size, pixels)",
                             "channel(in, c + HALF + AHEAD, size * (int)(gridDim.z - blockIdx.z), pixels)"),
    ),
    "lrn: a walk begins with its own first ratio": (
        check_lrn, in_source("lrn", ": begin - 2 * HALF", ": begin - HALF"),
    ),
    "lrn: a gradient's window not turned round": (
        check_lrn, in_source("lrn", "first_ratio = HALF - (n - 1 - n / 2)", "first_ratio = first"),
    ),
    "batch norm: the last chunk counted as a whole one": (
        check_batch_norm, in_source("batch_norm", "(k + 1 < chunks ? CHUNK : n - k * CHUNK)", "CHUNK", 2),
    ),
    "batch norm: chunks joined without their means' distances": (
        check_batch_norm, in_source("batch_norm", "squares[row + k] + distance * distance *",
                                    "squares[row + k] + 0 * distance *"),
    ),
    "batch norm: the gradient through the mean left out": (
        check_batch_norm, in_source("batch_norm", "(g.of[m] - shift -", "(g.of[m] -"),
    ),
    "softmax: a thread's own largest logit": (
        check_softmax, in_source("softmax", "m = joined(", "joined("),
    ),
    "softmax: a sum written over a largest logit that is still read": (
        check_softmax, in_source("softmax", "    __syncthreads(); // nobody", "    // nobody"),
    ),
    "softmax: halves joined before all have shown theirs": (
        check_softmax, in_source("softmax", "half /= 2) {\n        __syncthreads();", "half /= 2) {"),
    ),
    "dropout: the stream begins at counter 0": (
        check_dropout, in_source("dropout", "c0 = block + 1", "c0 = block"),
    ),
    "sgd: the last numbers left out": (
        check_sgd, in_source("sgd", "t = count / many * many + threadIdx.x;", "t = count;"),
    ),
    "sgd: a chunk of the neighbouring parameter": (
        check_sgd, in_source("sgd", "rates + 3 * chunks[2 * blockIdx.x]", "rates"),
    ),
    "average pooling: one of a thread's images": (
        check_pool, in_source("pool", "k < V; k++)\n                sum.of[k] += pixel.of[k];",
                              "k < 1; k++)\n                sum.of[k] += pixel.of[k];"),
    ),
    "sgd: decay not multiplied by the weight": (
        check_sgd, in_source("sgd", "rates[2] * *w", "rates[2]"),
    ),
    "a missing device switch": (check_towers, no_device_switch, AssertionError),
    "an implicit host copy": (check_softmax, implicit_host_copy, TypeError),
    "a host array handed to a kernel": (check_conv, host_array_in_a_kernel, TypeError),
    "a kernel loaded on another device": (check_towers, one_device_for_all, ValueError),
    "an exchange read before it is written": (check_exchange, no_wait_before_reading, Unordered),
    "an exchange overwritten before it is read": (check_exchange, no_wait_before_writing, Unordered),
    "on one card, read before it is written": (
        check_exchange_on_one_card, no_wait_before_reading, Unordered,
    ),
    "on one card, overwritten before it is read": (
        check_exchange_on_one_card, no_wait_before_writing, Unordered,
    ),
    "a gathered array read before it is written": (check_towers, no_wait_before_reading, Unordered),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_caught(fault, standin, monkeypatch):
    check, plant, *rest = FAULTS[fault]
    error = rest[0] if rest else AssertionError
    caches = cuda_launch._function, cuda_launch._module
    for cache in caches:
        cache.cache_clear()
    plant(monkeypatch)
    try:
        with pytest.raises(error):
            check()
    finally:
        for cache in caches:
            cache.cache_clear()
