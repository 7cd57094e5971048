"""Lesson 14: looking inside."""

import numpy as np

from tinyalex.lessons.cases import sizes
from tinyalex.lessons.checks import hole


def _kernel_cases(rng):
    scales = np.array([1, 9, 0.1, 3])[:, None, None, None]
    return [
        (rng.standard_normal((4, 3, *sizes(rng, (2, 5), (2, 5)))) * scales,),
        (rng.standard_normal((2, 3, *sizes(rng, (3, 5), (3, 5)))).astype(np.float32),),
    ]


def _top_k_cases(rng):
    cases = []
    for k in (3, 1, 2):
        K, N = sizes(rng, (5, 8), (25, 40))
        cases.append((rng.standard_normal((K, N)), rng.integers(0, K, N), k))
    return [*cases, (rng.standard_normal((6, 1)), rng.integers(0, 6, 1), 5)]


def _nearest_cases(rng):
    cases = []
    # of some hundred, most: NumPy's argpartition, which promises no order, sorts fewer on some processors
    for k, N, least in ((5, 4, 9), (4, 3, 9), (3, 1, 9), (280, 1, 290)):
        D, M = sizes(rng, (2, 3), (least, least + 11))
        database = rng.standard_normal((D, M)) * rng.uniform(0.1, 3, M)  # some vectors long, some short
        cases.append((rng.standard_normal((D, N)), database, k))
    return cases


@hole(
    cases=_kernel_cases,
    hints=[
        """max |w| of each kernel is a maximum over its channels, rows and columns: all axes but the
        first.""",
        """np.abs(w).max(axis=(1, 2, 3), keepdims=True) is (F, 1, 1, 1), so that w / scale divides each
        kernel by its own number.""",
        """pictures = 127.5 + 127.5 * w / scale.""",
    ],
    wrong=[
        (
            "np.abs(w).max(axis=(1, 2, 3), keepdims=True)",
            "np.abs(w).max()",
            """all kernels share one scale: those with small weights come out all grey. Scale each by its
            own.""",
        ),
        (
            "np.abs(w).max(axis=(1, 2, 3), keepdims=True)",
            "np.abs(w).max(axis=(2, 3), keepdims=True)",
            """each channel has a scale of its own, and that changes the colours: a kernel that is blind to
            red would show red.""",
        ),
        (
            "127.5 + 127.5 * w / scale",
            "255 * (w - w.min(axis=(1, 2, 3), keepdims=True)) / np.ptp(w, axis=(1, 2, 3), keepdims=True)",
            """smallest weight black, largest white: then 0 is another grey in each kernel. Put 0 at
            127.5.""",
        ),
        (
            "127.5 + 127.5 * w / scale",
            "255 * np.abs(w) / scale",
            """the sign is lost: a kernel that looks for dark would look like one for light.""",
        ),
        (
            "127.5 + 127.5 * w / scale",
            "255 * w.clip(0) / scale",
            """negative weights are cut to black; they are half of what a kernel looks for.""",
        ),
    ],
)
def kernel_pictures(w):
    """Kernels as pictures: 0 is grey, max |w| of each kernel full.  (F,3,KH,KW) → uint8."""
    scale = np.abs(w).max(axis=(1, 2, 3), keepdims=True)
    pictures = 127.5 + 127.5 * w / scale
    return np.rint(pictures).astype(np.uint8)


@hole(
    cases=_top_k_cases,
    hints=[
        """`scores > own` compares all classes of a picture with its label's score: (K, N). What do you
        count?""",
        """above = (scores > own).sum(axis=0). The label is among the best k if fewer than k are above
        it.""",
        """error = (above >= k).mean().""",
    ],
    wrong=[
        (
            "(above >= k).mean()",
            "(above < k).mean()",
            """that is the share of pictures that are right; asked is the error.""",
        ),
        (
            "(above >= k).mean()",
            "(above > k).mean()",
            """off by one: with exactly k classes above it the label is the (k+1)-th.""",
        ),
        (
            "scores > own",
            "scores >= own",
            """the label counts as being above itself, so every label is one place too low.""",
        ),
        (
            "sum(axis=0)",
            "sum(axis=1)",
            """you count along the pictures, for each class.  Asked is how many classes are above, for each
            picture: axis 0.""",
        ),
        (
            "(above >= k).mean()",
            "(above >= 1).mean()",
            """that is the top-1 error whatever k is.""",
        ),
        (
            "scores > own",
            "scores < own",
            """you count the classes *below* the label: the best k are those with the highest scores.""",
        ),
        (
            "(above >= k).mean()",
            "(above >= k).sum()",
            """that is how many are wrong; the error is their share.""",
        ),
    ],
)
def top_k_error(scores, labels, k):
    """Share of pictures whose label is not among the k best.  scores (K,N), labels (N,)."""
    own = scores[labels, np.arange(len(labels))]  # (N,): the label's score
    above = (scores > own).sum(axis=0)
    error = (above >= k).mean()
    return error


@hole(
    cases=_nearest_cases,
    hints=[
        """Three terms: one number for each picture of the database, a matrix, one number for each query.""",
        """(database**2).sum(axis=0) is (M,), and has to stand along axis 0 of (M, N): add [:, None].
        database.T @ queries is (M, N) already.""",
        """squares = (database**2).sum(axis=0)[:, None] - 2 * database.T @ queries +
        (queries**2).sum(axis=0).""",
    ],
    wrong=[
        (
            "(database**2).sum(axis=0)[:, None] - 2 * database.T @ queries",
            "-2 * database.T @ queries",
            """‖b‖² is missing: then long vectors of the database win, near or not.""",
        ),
        (
            "- 2 * database.T @ queries",
            "+ 2 * database.T @ queries",
            """the sign of the product is wrong: ‖a + b‖². You find the pictures nearest to −a.""",
        ),
        (
            "- 2 * database.T @ queries",
            "- database.T @ queries",
            """the 2 is missing before the product.""",
        ),
        (
            "squares = (",
            "squares = -((database.T @ queries) / np.sqrt((database**2).sum(axis=0))[:, None]) + 0 * (",
            """that is the angle between the vectors; the paper's measure is the Euclidean distance.""",
        ),
    ],
)
def nearest(queries, database, k):
    """Indices of the k nearest columns, nearest first.  (D,N), (D,M) → (k,N)."""
    squares = (database**2).sum(axis=0)[:, None] - 2 * database.T @ queries + (queries**2).sum(axis=0)
    order = np.argsort(squares, axis=0)
    return order[:k]
