"""Matrix products of few rows, cut into pieces that BLAS multiplies as they lie.

A BLAS first copies its operands into an order of its own.  A large product gains by that; where one side has
a few dozen rows, the copies take half of the time.  So OpenBLAS multiplies small operands in place, on a CPU
with AVX-512: up to a million multiply-adds, and a · bᵀ into few sums only.  A long product of few rows is as
many small ones as one likes, and `np.matmul` does them all in one call.  On other CPUs a product stays whole:
in pieces it took up to a quarter longer.
"""

import functools

import numpy as np

from tinyalex.devices import blas_limits
from tinyalex.memory import empty

LEAST_ROWS, LEAST_COLUMNS = 8, 64  # of a piece: with fewer, calling BLAS takes longer than what it does


def product(a, b, out):
    """out = a · b.  a: (…,M,K).  b: (…,K,n).  out: (…,M,n)."""
    pieces = _pieces(b.shape[-1], a.shape[-2] * a.shape[-1])
    np.matmul(a[..., None, :, :], _cut(b, pieces), out=_cut(out, pieces))


def product_of_transposed(a, b):
    """Return a · bᵀ, (…,M,N).  a: (…,M,n).  b: (…,N,n)."""
    (*leading, M, n), N = a.shape, b.shape[-2]
    rows = next((r for r in range(min(M, _most()[1] // N), LEAST_ROWS - 1, -1) if M % r == 0), M)
    pieces = _pieces(n, rows * N) if rows < M else 1
    a = _cut(a, pieces).reshape(*leading, pieces, M // rows, rows, n // pieces)
    found = empty(np, (*a.shape[:-1], N), a.dtype)
    np.matmul(a, _cut(b, pieces)[..., None, :, :].swapaxes(-1, -2), out=found)
    found = found.reshape(*leading, pieces, M, N)
    return found.sum(axis=-3) if pieces > 1 else found[..., 0, :, :]


@functools.cache
def _most():
    """Return how many multiply-adds a piece may have, and how many sums if it is one of a · bᵀ."""
    kinds = {library.get("architecture") for library in blas_limits().info()}  # OpenBLAS's names of CPUs
    return (10**6, 1200) if kinds & {"SkylakeX", "Cooperlake", "SapphireRapids"} else (1 << 60, 0)


def _pieces(n, multiply_adds):
    """Into how many equal pieces to cut n columns, of so many multiply-adds each; 1 if that is no help."""
    pieces = next((p for p in range(-(-n * multiply_adds // _most()[0]), n) if n % p == 0), 1)
    return pieces if n // pieces >= LEAST_COLUMNS else 1


def _cut(x, pieces):
    """View x (…,K,n) as (…,pieces,K,n/pieces)."""
    return x.reshape(*x.shape[:-1], pieces, -1).swapaxes(-2, -3)
