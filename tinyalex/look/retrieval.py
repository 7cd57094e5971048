"""Nearest neighbours among feature vectors (paper, section 6.1; 2012: findsimilar.py)."""

import numpy as np

from tinyalex.errors import ArgumentError

BLOCK = 2**23  # float64 numbers in a block of the database, and in its table of distances: 64 MiB each


def nearest(queries, database, k=6):
    """Find each query's k nearest columns of the database by Euclidean distance ‖a − b‖.

    queries: (D, N).  database: (D, M), M at least k; the paper's are the last hidden layer's 4096 features.
    Returns (indices, distances), both (k, N), nearest first, the lower index first among equal distances.
    Raises ValueError for shapes that do not fit, k outside 1 … M, or values whose squares are not finite.

    All pairs are measured by one product per block, ‖a‖² − 2ab + ‖b‖² in float64.  That loses the digits that
    large, close vectors have in common, so it only leaves out pairs that its rounding error cannot bring
    among the k nearest; the others are measured again by Σ (a − b)².  The result is that of Σ (a − b)² over
    all pairs; memory beyond the arguments is a few blocks, whatever M.
    """
    if queries.ndim != 2 or database.ndim != 2 or queries.shape[0] != database.shape[0]:
        raise ArgumentError(
            "nearest: expected queries (D, N) and database (D, M), "
            f"found {queries.shape} and {database.shape}"
        )
    (D, N), M = queries.shape, database.shape[1]
    if not 1 <= k <= M:
        raise ArgumentError(f"nearest: k is 1 … {M}, the size of the database; found {k}")
    queries = np.ascontiguousarray(queries.T, np.float64)  # (N, D)
    norms = _squares("queries", queries)[:, None]  # (N, 1)
    indices, squares = np.zeros((N, k), np.int64), np.full((N, k), np.inf)

    size = max(1, BLOCK // max(D, N))
    for start in range(0, M, size):
        block = np.ascontiguousarray(database[:, start : start + size].T, np.float64)  # (m, D)
        block_norms = _squares("database", block)
        rough = norms - 2 * (queries @ block.T) + block_norms  # (N, m)
        # The sums err by at most D eps (‖a‖² + ‖b‖²) together, Σ (a − b)² by as much again: twice both.
        slack = 4 * (D + 4) * np.finfo(np.float64).eps * (norms + block_norms)
        limit = np.partition(np.hstack([squares, rough + slack]), k - 1)[:, k - 1 : k]  # the k-th, at most
        for n, near in enumerate(rough - slack <= limit):
            near = np.flatnonzero(near)
            exact = ((block[near] - queries[n]) ** 2).sum(axis=1)
            both = np.hstack([squares[n], exact])
            order = np.argsort(both, kind="stable")[:k]  # stable: earlier columns first
            indices[n] = np.hstack([indices[n], start + near])[order]
            squares[n] = both[order]
    return indices.T, np.sqrt(squares.T)


def _squares(argument, rows):
    squares = np.einsum("nd,nd->n", rows, rows)
    if not np.isfinite(squares).all():
        raise ArgumentError(f"nearest: expected finite {argument}, found {rows[~np.isfinite(squares)][0]}")
    return squares
