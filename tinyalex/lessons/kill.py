"""Kill the mutant: exercises of the other direction.

A broken function is given, and the learner writes the input that exposes it, or the check, or says which of
five is broken and where.  An answer is right if it kills the broken function and spares the right ones, of
which there are always at least two.
"""

import ast
import inspect
import itertools
from typing import NamedTuple

import numpy as np

from tinyalex.lessons import checks
from tinyalex.lessons.holes.lesson04 import conv_loops
from tinyalex.lessons.holes.lesson05 import add_back, col2im, three_products
from tinyalex.lessons.holes.lesson07 import give_to_winners
from tinyalex.lessons.holes.lesson08 import lrn, lrn_backward
from tinyalex.lessons.holes.lesson10 import sgd_step
from tinyalex.lessons.holes.lesson12 import reduce_scatter

TOLERANCE = 1e-3  # of the largest number: what a usual check in float32 lets pass


class Exercise(NamedTuple):
    """A function to complete that exposes another; used as a `checks.Hole` is, but it judges for itself."""

    solution: callable
    lesson: int
    hints: tuple
    blind: tuple  # (does the answer not see it for this reason?, what to say, such an answer as (old, new))
    right: tuple
    broken: tuple
    kind: callable

    @property
    def name(self):
        """The function's name."""
        return self.solution.__name__

    @property
    def source(self):
        """The solution's text, without its decorator."""
        return checks.source_of(self.solution)

    @property
    def wrong(self):
        """[(text of the solution, what stands there instead, what to say)]."""
        return tuple((*example, message) for _, message, example in self.blind)

    def mistakes(self):
        """[(function, message)]: the typical wrong answers."""
        return [(self.compiled(self.source.replace(old, new)), text) for old, new, text in self.wrong]

    def compiled(self, source):
        """Return the function that a text of it defines, among the names of this file."""
        scope = dict(globals())
        exec(source, scope)
        return scope[self.name]

    def judge(self, answer):
        """Return (PASSED, NOT_YET or WRONG, what to say)."""
        return self.kind(self, answer)


def kill(lesson, hints, blind, right=(), broken=(), kind=None):
    """Mark a function as the solution of an exercise of a lesson."""

    def mark(solution):
        rules = tuple((sees, " ".join(text.split()), example) for sees, text, example in blind)
        lines = tuple(" ".join(text.split()) for text in hints)
        solution.exercise = Exercise(
            solution, lesson, lines, rules, tuple(right), tuple(broken), kind or by_case
        )
        return solution

    return mark


def exercises_of(number):
    """{name: Exercise} of a lesson, in the order of this file."""
    found = [value.exercise for value in globals().values() if hasattr(value, "exercise")]
    return {exercise.name: exercise for exercise in found if exercise.lesson == number}


def show(*functions):
    """Print the functions' text."""
    print("\n\n".join(inspect.getsource(function).rstrip() for function in functions))


@np.errstate(all="ignore")
def by_case(exercise, answer):
    """Judge an answer that returns the arguments of a case."""
    try:
        case = answer()
    except Exception as error:
        return checks.WRONG, f"it raised {type(error).__name__}: {error}"
    if case is None:
        return checks.NOT_YET, "it returns nothing."
    names = list(inspect.signature(exercise.right[0]).parameters)
    wanted = len(names)
    if isinstance(case, list):
        case = tuple(case)
    if not isinstance(case, tuple) or len(case) != wanted:
        found = f"{len(case)} of them" if isinstance(case, tuple) else type(case).__name__
        return checks.WRONG, f"expected a tuple of {wanted} arguments, found {found}."
    try:
        case = tuple(map(_floats, names, case))
    except ValueError:
        return checks.WRONG, "a list is no array: its rows are of different lengths."
    results = []
    for function in exercise.right:
        try:
            results.append(_flat(function(*_copies(case))))
        except Exception as error:
            text = f"the right function cannot take it: {type(error).__name__}: {error}"
            return checks.WRONG, f"{text}.  A case must spare the right."
    if not all(np.isfinite(part).all() for part in results[0]):
        return (
            checks.WRONG,
            "the right function gives a NaN or an infinity: with those nothing can be compared.",
        )
    if not all(_same(result, results[0]) for result in results[1:]):
        text = "two functions that are both right give different numbers on it (is there a tie?)."
        return checks.WRONG, f"{text}  A case must spare both."
    if all(_killed(function, case, results[0]) for function in exercise.broken):
        return checks.PASSED, ""
    return checks.WRONG, _reason(exercise, case)


@np.errstate(all="ignore")
def by_check(exercise, answer):
    """Judge an answer that is itself a check: it takes a function and returns whether that is broken."""
    for functions, wanted, text in (
        (exercise.right, False, "it accuses a right one"),
        (exercise.broken, True, "it lets a broken one pass"),
    ):
        for function in functions:
            try:
                found = answer(function)
            except Exception as error:
                return checks.WRONG, f"for {function.__name__} it raised {type(error).__name__}: {error}"
            if found is None:
                return checks.NOT_YET, "it returns nothing."
            if np.size(found) != 1:
                said = f"for {function.__name__} it returns {np.size(found)} numbers"
                return checks.WRONG, f"{said}: one True or False is expected, as np.allclose or .any() gives."
            if bool(found) != wanted:
                known = [said for names, said, _ in exercise.blind if function.__name__ in names]
                return checks.WRONG, (known or [f"{text}: {function.__name__}, {function.__doc__}"])[0]
    return checks.PASSED, ""


def by_place(exercise, answer):
    """Judge an answer that says which of five is broken, and in which line."""
    found, expected = answer(), exercise.solution()
    if found is None:
        return checks.NOT_YET, "it returns nothing."
    found = tuple(found) if isinstance(found, list | np.ndarray) else found
    if found == expected:
        return checks.PASSED, ""
    if isinstance(found, tuple) and len(found) == 2 and found[0] not in range(5):
        return checks.WRONG, f"the five are counted from 0 to 4; found {found[0]!r}."
    return checks.WRONG, _reason(exercise, (found,))


def _floats(name, value):
    """A list or an array of whole numbers as one of floats, which the functions expect."""
    numbers = isinstance(value, list) or (isinstance(value, np.ndarray) and value.dtype.kind in "iub")
    return np.asarray(value, float) if numbers and name != "x_shape" else value


def _reason(exercise, case):
    for sees, text, _ in exercise.blind:
        if sees(*case):
            return text
    return "the broken function and the right one give the same numbers: the case does not notice."


def _copies(case):
    return [a.copy() if isinstance(a, np.ndarray) else a for a in case]


def _flat(result):
    return [np.asarray(part, float) for part in (result if isinstance(result, tuple) else (result,))]


def _same(found, expected):
    return len(found) == len(expected) and all(
        a.shape == b.shape and np.abs(a - b).max(initial=0) <= TOLERANCE * (np.abs(b).max(initial=0) or 1)
        for a, b in zip(found, expected, strict=True)
    )


def _killed(function, case, expected):
    try:
        return not _same(_flat(function(*_copies(case))), expected)
    except Exception:
        return True


# Lesson 3


def square_backward(dy, x):
    """Backward of y = x²: dx = 2 x dy."""
    return 2 * x * dy


def _square_by_sum(dy, x):
    return dy * x + x * dy


def forgets_dy(dy, x):
    """Backward of y = x², but dy is forgotten."""
    return 2 * x


@kill(
    3,
    hints=[
        """What does the usual test have as dy, so that both are the same?""",
        """Any dy that is not 1 everywhere shows it, where x is not 0.""",
    ],
    blind=[
        (
            lambda dy, x: np.all(np.asarray(dy) == 1),
            """dy is 1 everywhere: the loss is the plain sum of y.  Nobody sees then whether dy is used.""",
            ("np.array([2.0, -1, 3])", "np.ones(3)"),
        ),
        (
            lambda dy, x: not np.any(x),
            """x is 0 everywhere, and so is dx, with dy and without it.""",
            ("np.array([1.0, 4, -2])", "np.zeros(3)"),
        ),
    ],
    right=[square_backward, _square_by_sum],
    broken=[forgets_dy],
)
def expose_forgotten_dy():
    """Return (dy, x), both (3,), on which `forgets_dy` is found out."""
    dy = np.array([2.0, -1, 3])
    x = np.array([1.0, 4, -2])
    return dy, x


# Lesson 4


def _conv_by_product(x, w, b, stride):
    (_, H, W, N), (F, C, KH, KW) = x.shape, w.shape
    OH, OW = (H - KH) // stride + 1, (W - KW) // stride + 1
    y = np.zeros((F, OH, OW, N)) + b[:, None, None, None]
    for c, p, q in np.ndindex(C, KH, KW):
        seen = x[c, p : p + OH * stride : stride, q : q + OW * stride : stride]
        y += w[:, c, p, q][:, None, None, None] * seen
    return y


def turns_the_kernel(x, w, b, stride):
    """A convolution whose kernel is turned by 180°."""
    return conv_loops(x, w[:, :, ::-1, ::-1], b, stride)


def assumes_squares(x, w, b, stride):
    """A convolution that takes the map's height for its width."""
    y = conv_loops(x, w, b, stride)
    return y[:, :, : y.shape[1]] if y.shape[1] <= y.shape[2] else np.pad(
        y, [(0, 0), (0, 0), (0, y.shape[1] - y.shape[2]), (0, 0)]
    )  # fmt: skip


def _symmetric(x, w, b, stride):
    return np.allclose(w, w[:, :, ::-1, ::-1])


@kill(
    4,
    hints=[
        """Lesson 4's four filters: which of them looked the same after the turn?""",
        """A kernel that no turn leaves as it is: its first weight and its last must differ.""",
    ],
    blind=[
        (
            _symmetric,
            """the kernel looks the same when it is turned: so do all outputs.""",
            ("np.arange(4.0)", "np.ones(4)"),
        ),
        (
            lambda x, w, b, stride: np.ptp(x) == 0,
            """the picture is the same everywhere: a window's sum does not depend on the order of the
            weights.""",
            ("np.arange(12.0)", "np.ones(12)"),
        ),
    ],
    right=[conv_loops, _conv_by_product],
    broken=[turns_the_kernel],
)
def expose_turned_kernel():
    """Return (x, w, b, stride), x (1,3,4,1), w (1,1,2,2), b (1,), that exposes `turns_the_kernel`."""
    x = np.arange(12.0).reshape(1, 3, 4, 1)
    w = np.arange(4.0).reshape(1, 1, 2, 2)
    b = np.zeros(1)
    stride = 1
    return x, w, b, stride


@kill(
    4,
    hints=[
        """What do nearly all pictures in tests have in common?""",
        """Two sizes H and W that make another number of windows along each axis, at your stride.""",
    ],
    blind=[
        (
            lambda x, w, b, stride: x.shape[1] == x.shape[2] and w.shape[2] == w.shape[3],
            """picture and kernel are square: rows and columns can be exchanged without a trace.""",
            ("(1, 5, 7, 1)", "(1, 5, 5, 1)"),
        ),
        (
            lambda x, w, b, stride: (
                (x.shape[1] - w.shape[2]) // stride == (x.shape[2] - w.shape[3]) // stride
            ),
            """H and W differ, but there are as many windows down as across: the stride passes over the
            difference.""",
            ("(1, 5, 7, 1)", "(1, 5, 6, 1)"),
        ),
    ],
    right=[conv_loops, _conv_by_product],
    broken=[assumes_squares],
)
def expose_square_maps():
    """Return (x, w, b, stride), w (1,1,3,3), stride 2, on which `assumes_squares` is found out."""
    x = np.ones((1, 5, 7, 1))
    w = np.ones((1, 1, 3, 3))
    b, stride = np.zeros(1), 2
    return x, w, b, stride


# Lesson 5


def _add_back_by_pixel(dcols, W, stride):
    K, OW = dcols.shape
    dx = np.zeros(W)
    for p, o in itertools.product(range(K), range(OW)):
        dx[o * stride + p] += dcols[p, o]
    return dx


def keeps_the_last(dcols, W, stride):
    """add_back with = for +=."""
    K, OW = dcols.shape
    dx = np.zeros(W)
    for o in range(OW):
        dx[o * stride : o * stride + K] = dcols[:, o]
    return dx


@kill(
    5,
    hints=[
        """When is there nothing to lose, because nothing was there?""",
        """Two windows that share a pixel, and a first one that says something other than 0 about it.""",
    ],
    blind=[
        (
            lambda dcols, W, stride: stride >= len(dcols),
            """the windows do not overlap: no pixel has two copies, and nothing is overwritten.""",
            ("W, stride = 5, 2", "W, stride = 6, 3"),
        ),
        (
            lambda dcols, W, stride: dcols.shape[1] < 2,
            """there is one window, and nothing to add to it.""",
            ("np.ones((3, 2))", "np.ones((3, 1))"),
        ),
        (
            lambda dcols, W, stride: True,
            """the windows overlap, but what the earlier one puts into the shared pixel is 0: it is not
            missed.""",
            ("np.ones((3, 2))", "np.array([[1.0, 1], [1, 1], [0, 1]])"),
        ),
    ],
    right=[add_back, _add_back_by_pixel],
    broken=[keeps_the_last],
)
def expose_overwriting():
    """Return (dcols, W, stride), dcols (3, OW), on which `keeps_the_last` is found out."""
    dcols = np.ones((3, 2))
    W, stride = 5, 2
    return dcols, W, stride


def _col2im_by_window(dcols, x_shape, KH, KW, stride, pad):
    C, H, W, N = x_shape
    OH, OW = (H + 2 * pad - KH) // stride + 1, (W + 2 * pad - KW) // stride + 1
    dcols = dcols.reshape(C, KH, KW, OH, OW, N)
    dx = np.zeros((C, H + 2 * pad, W + 2 * pad, N))
    for i, j in np.ndindex(OH, OW):
        dx[:, i * stride : i * stride + KH, j * stride : j * stride + KW] += dcols[:, :, :, i, j]
    return dx[:, pad : H + pad, pad : W + pad]


def cuts_to_minus_pad(dcols, x_shape, KH, KW, stride, pad):
    """col2im that cuts the margin off with dx[:, pad:-pad, pad:-pad]."""
    _, H, W, _ = x_shape
    padded = (x_shape[0], H + 2 * pad, W + 2 * pad, x_shape[3])
    return col2im(dcols, padded, KH, KW, stride, 0)[:, pad:-pad, pad:-pad]


@kill(
    5,
    hints=[
        """In Python, what is a[2:-2]?  And a[0:-0]?""",
        """The case that every other padding hides: none at all.""",
    ],
    blind=[
        (
            lambda dcols, x_shape, KH, KW, stride, pad: pad > 0,
            """with a margin of 1 or more, pad:-pad cuts off what it should.  There is a padding with which it
            cuts off everything.""",
            ("KH, KW, stride, pad = 2, 2, 1, 0", "KH, KW, stride, pad = 4, 4, 1, 1"),
        ),
    ],
    right=[col2im, _col2im_by_window],
    broken=[cuts_to_minus_pad],
)
def expose_minus_pad():
    """Return (dcols, x_shape, KH, KW, stride, pad), one picture of 3×3, that exposes `cuts_to_minus_pad`."""
    x_shape = (1, 3, 3, 1)
    KH, KW, stride, pad = 2, 2, 1, 0
    dcols = np.ones((KH * KW, 2 * 2))
    return dcols, x_shape, KH, KW, stride, pad


THREE = """
def suspect_0(dy, cols, w):
    g = dy.reshape(len(w), -1)
    dw = (g @ cols.T).reshape(w.shape)
    db = g.sum(axis=1)
    dcols = w.reshape(len(w), -1).T @ g
    return dw, db, dcols

def suspect_1(dy, cols, w):
    g = dy.reshape(len(w), -1)
    dw = (cols @ g.T).T.reshape(w.shape)
    db = dy.sum(axis=(1, 2, 3))
    dcols = (g.T @ w.reshape(len(w), -1)).T
    return dw, db, dcols

def suspect_2(dy, cols, w):
    g = dy.reshape(dy.shape[0], -1)
    dw = np.einsum("fm,km->fk", g, cols).reshape(w.shape)
    db = np.einsum("fm->f", g)
    dcols = np.einsum("fk,fm->km", w.reshape(len(w), -1), g)
    return dw, db, dcols

def suspect_3(dy, cols, w):
    g = dy.reshape(len(w), -1)
    dw = (g @ cols.T).reshape(w.shape)
    db = g @ np.ones(g.shape[1])
    dcols = w.reshape(-1, len(w)) @ g
    return dw, db, dcols

def suspect_4(dy, cols, w):
    g = np.ascontiguousarray(dy).reshape(len(dy), -1)
    dw = np.tensordot(g, cols, axes=(1, 1)).reshape(w.shape)
    db = g.sum(axis=-1)
    dcols = np.matmul(w.reshape(len(w), -1).T, g)
    return dw, db, dcols
"""
LRN = """
def suspect_0(dy, x, s, n, alpha, beta):
    ratio = dy * x * s ** (-beta - 1)
    dx = dy / s**beta
    for i in range(len(x)):
        near = slice(max(0, i - n // 2), i + n // 2 + 1)
        dx[i] -= 2 * alpha * beta * x[i] * ratio[near].sum(axis=0)
    return dx

def suspect_1(dy, x, s, n, alpha, beta):
    y = x * s**-beta
    dx = dy * s**-beta
    for i in range(len(x)):
        for j in range(max(0, i - n // 2), min(len(x), i + n // 2 + 1)):
            dx[i] -= 2 * alpha * beta * x[i] * dy[j] * y[j] / s[j]
    return dx

def suspect_2(dy, x, s, n, alpha, beta):
    ratio = dy * x * s ** (-beta - 1)
    total = np.zeros_like(x)
    for j in range(len(x)):
        total[max(0, j - n // 2) : j + n // 2 + 1] += ratio[j]
    return dy * s**-beta - 2 * alpha * beta * x * total

def suspect_3(dy, x, s, n, alpha, beta):
    ratio = dy * x * s ** (-beta - 1)
    dx = dy * s**-beta
    for i in range(len(x)):
        near = range(max(0, i - n // 2), min(len(x), i + n // 2 + 1))
        dx[i] -= 2 * alpha * beta * x[i] * sum(ratio[j] for j in near if j != i)
    return dx

def suspect_4(dy, x, s, n, alpha, beta):
    near = np.abs(np.subtract.outer(np.arange(len(x)), np.arange(len(x)))) <= n // 2
    ratio = dy * x / s / s**beta
    total = np.tensordot(near.astype(float), ratio, axes=(1, 0))
    return dy / s**beta - 2 * alpha * beta * x * total
"""


def suspects(text):
    """Return the five functions of a text (`THREE`, `LRN`), to be called; print(text) to read them."""
    scope = {"np": np}
    exec(text, scope)
    return [scope[node.name] for node in ast.parse(text).body]


@kill(
    5,
    hints=[
        """Call all five on the same random arrays and compare: four agree.""",
        """`reshape` deals out the numbers in their order; it never transposes.""",
        """It is in dcols.  Which of the five makes a matrix with a row for each k by `reshape` alone?""",
    ],
    blind=[
        (
            lambda found: not (isinstance(found, tuple) and len(found) == 2),
            """expected two numbers: which of the five, 0 to 4, and which of its lines, 1 for its `def`.""",
            ("which, line = 3, 5", "return 3"),
        ),
        (
            lambda found: found[0] == 3,
            """that is the one; but not that line.  Compare its dw, db and dcols with the others', one by
            one.""",
            ("which, line = 3, 5", "which, line = 3, 4"),
        ),
        (
            lambda found: True,
            """that one is right, if unusual.  Run all five on the same random arrays.""",
            ("which, line = 3, 5", "which, line = 2, 3"),
        ),
    ],
    right=[three_products],
    kind=by_place,
)
def which_of_five_products():
    """Return (which, line): the broken one of `THREE`, 0 to 4, and its line, counted from 1 at its `def`."""
    which, line = 3, 5
    return which, line


# Lesson 7


def _give_by_pixel(dy, x, z, s):
    dx = np.zeros(len(x))
    for o, gradient in enumerate(dy):
        places = sorted(range(o * s, o * s + z), key=lambda u: x[u])
        dx[places[-1]] += gradient  # of equal ones the last: a rule as good as the first
    return dx


def pays_one_window(dy, x, z, s):
    """Backward of max pooling along a row with = for +=."""
    dx = np.zeros(len(x))
    for o in range(len(dy)):
        dx[o * s + x[o * s : o * s + z].argmax()] = dy[o]
    return dx


def _winners(x, z, s, count):
    return [o * s + int(np.argmax(x[o * s : o * s + z])) for o in range(count)]


@kill(
    7,
    hints=[
        """The bug only shows where one pixel gets two gradients.""",
        """s < z, and the largest pixel of two windows in what they share.""",
    ],
    blind=[
        (
            lambda dy, x, z, s: s >= z,
            """the windows do not overlap: no pixel can win twice.""",
            ("z, s = 3, 2", "z, s = 2, 2"),
        ),
        (
            lambda dy, x, z, s: len(set(_winners(x, z, s, len(dy)))) == len(dy),
            """the windows overlap, but each has a winner of its own.""",
            ("[1.0, 2, 9, 3, 4]", "[9.0, 2, 1, 3, 4]"),
        ),
        (
            lambda dy, x, z, s: True,
            """a pixel wins twice, but the gradient that is lost is 0.""",
            ("[2.0, 3]", "[0.0, 3]"),
        ),
    ],
    right=[give_to_winners, _give_by_pixel],
    broken=[pays_one_window],
)
def expose_shared_winner():
    """Return (dy, x, z, s), dy (2,), x (5,), on which `pays_one_window` is found out."""
    x = np.array([1.0, 2, 9, 3, 4])
    dy = np.array([2.0, 3])
    z, s = 3, 2
    return dy, x, z, s


def pool_padded(x, z, s, pad):
    """Max pooling of a row with `pad` pixels beyond each end that never win."""
    padded = np.pad(np.asarray(x, float), pad, constant_values=-np.inf)
    return np.array([padded[o : o + z].max() for o in range(0, len(padded) - z + 1, s)])


def _pool_inside(x, z, s, pad):
    starts = range(-pad, len(x) + pad - z + 1, s)
    return np.array([max(x[u] for u in range(o, o + z) if 0 <= u < len(x)) for o in starts], float)


def pads_with_zeros(x, z, s, pad):
    """Max pooling of a row with zeros beyond its ends."""
    padded = np.pad(np.asarray(x, float), pad)
    return np.array([padded[o : o + z].max() for o in range(0, len(padded) - z + 1, s)])


@kill(
    7,
    hints=[
        """When does a zero win a window?""",
        """At an end of the row, all real pixels of the window must be below 0.""",
    ],
    blind=[
        (
            lambda x, z, s, pad: pad == 0,
            """there is no padding, and nothing beyond the ends that could win.""",
            ("z, s, pad = 3, 2, 1", "z, s, pad = 3, 1, 0"),
        ),
        (
            lambda x, z, s, pad: np.min(x) >= 0,
            """no pixel is below 0, as after a ReLU: a zero never wins.""",
            ("[-2.0, -1, 4, -3, -5]", "[2.0, 1, 4, 3, 5]"),
        ),
        (
            lambda x, z, s, pad: True,
            """some pixels are below 0, but no window at an end has only such.""",
            ("[-2.0, -1, 4, -3, -5]", "[-2.0, 1, -4, 3, -5]"),
        ),
    ],
    right=[pool_padded, _pool_inside],
    broken=[pads_with_zeros],
)
def expose_zero_padding():
    """Return (x, z, s, pad), x (5,), on which `pads_with_zeros` is found out."""
    x = np.array([-2.0, -1, 4, -3, -5])
    z, s, pad = 3, 2, 1
    return x, z, s, pad


# Lesson 8


def lrn_gradient(dy, x, alpha):
    """dx of local response normalization with n = 5, k = 2, β = 3/4."""
    _, s = lrn(x, 5, 2.0, alpha, 0.75)
    return lrn_backward(dy, x, s, 5, alpha, 0.75)


def _lrn_gradient_by_matrix(dy, x, alpha):
    return suspects(LRN)[4](dy, x, lrn(x, 5, 2.0, alpha, 0.75)[1], 5, alpha, 0.75)


def forgets_the_sum(dy, x, alpha):
    """dx of local response normalization as if s were a constant."""
    return dy * lrn(x, 5, 2.0, alpha, 0.75)[1] ** -0.75


@kill(
    8,
    hints=[
        """How large is the forgotten term?  Only α x² counts, beside k = 2.""",
        """The constants are not what is being tested: take α near 1, or activities of 100.""",
    ],
    blind=[
        (
            lambda dy, x, alpha: alpha * np.max(np.square(x)) < 0.05,
            """α x² is so small beside k = 2 that a check in float32, with its tolerance of a thousandth, does
            not see the forgotten term.""",
            ("alpha = 0.9", "alpha = 1e-5"),
        ),
        (
            lambda dy, x, alpha: not np.any(dy * x),
            """where x is not 0 dy is 0: then the forgotten term is 0, too.""",
            ("dy = np.ones((6, 1, 1, 1))", "dy = np.zeros((6, 1, 1, 1))"),
        ),
    ],
    right=[lrn_gradient, _lrn_gradient_by_matrix],
    broken=[forgets_the_sum],
)
def expose_forgotten_sum():
    """Return (dy, x, alpha), dy and x (6,1,1,1), that exposes `forgets_the_sum` in float32."""
    dy = np.ones((6, 1, 1, 1))
    x = np.arange(6.0).reshape(6, 1, 1, 1)
    alpha = 0.9
    return dy, x, alpha


@kill(
    8,
    hints=[
        """Call all five on the same arrays, α near 1: four agree.""",
        """Which windows hold channel i?  Its own is one of them.""",
    ],
    blind=[
        (
            lambda found: not (isinstance(found, tuple) and len(found) == 2),
            """expected two numbers: which of the five, 0 to 4, and which of its lines, 1 for its `def`.""",
            ("which, line = 3, 6", "return 3"),
        ),
        (
            lambda found: found[0] == 3,
            """that is the one; but not that line.  Every j that is near i counts: where is one left out?""",
            ("which, line = 3, 6", "which, line = 3, 5"),
        ),
        (
            lambda found: True,
            """that one is right, if unusual.  Run all five on the same random arrays, with α near 1.""",
            ("which, line = 3, 6", "which, line = 2, 5"),
        ),
    ],
    right=[lrn_backward],
    kind=by_place,
)
def which_of_five_lrn():
    """Return (which, line): the broken one of `LRN`, 0 to 4, and its line, counted from 1 at its `def`."""
    which, line = 3, 6
    return which, line


# Lesson 9


def scales_in_training(x, mask, keep, train):
    """inverted dropout"""
    return x * mask / keep if train else x


def scales_in_test(x, mask, keep, train):
    """the paper's dropout"""
    return x * mask if train else x * keep


def scales_twice(x, mask, keep, train):
    """scaled in training and in test"""
    return x * mask / keep if train else x * keep


def never_scales(x, mask, keep, train):
    """scaled nowhere"""
    return x * mask if train else x


@kill(
    9,
    hints=[
        """Two scalings are right.  What do they have in common, that the two broken ones have not?""",
        """On average over the masks, training and test must give the same.""",
        """With keep = 1/2 and two units, the masks (1, 0) and (0, 1) are as good as all of them.""",
    ],
    blind=[
        (
            {"scales_in_test"},
            """it accuses the paper's dropout, which scales in test and is as right as the inverted one.""",
            ("not np.allclose(training, test)", "not np.allclose(test, x)"),
        ),
        (
            {"scales_twice"},
            """it lets the one pass that is scaled in training and in test.""",
            ("not np.allclose(training, test)", "training.mean() < test.mean()"),
        ),
        (
            {"never_scales"},
            """it lets the one pass that is scaled nowhere: in test twice as much arrives as in training.""",
            ("not np.allclose(training, test)", "training.mean() > test.mean()"),
        ),
    ],
    right=[scales_in_training, scales_in_test],
    broken=[scales_twice, never_scales],
    kind=by_check,
)
def mixed_up(dropout):
    """Is dropout(x, mask, keep, train) broken?  Both scalings of the lesson are right."""
    x, keep = np.array([2.0, 6.0]), 0.5
    masks = np.array([[1.0, 0], [0, 1]])
    training = np.mean([dropout(x, mask, keep, True) for mask in masks], axis=0)
    test = dropout(x, masks[0], keep, False)
    broken = not np.allclose(training, test)
    return broken


# Lesson 10


def _step_by_parts(w, v, grad, rate, momentum, decay):
    v = momentum * v - decay * rate * w - rate * grad
    return w + v, v


def forgets_decay(w, v, grad, rate, momentum, decay):
    """An update without weight decay."""
    return sgd_step(w, v, grad, rate, momentum, 0.0)


@kill(
    10,
    hints=[
        """Of what size is the forgotten term, beside the others?""",
        """It is ε λ w: none of the three may be 0, and the paper's λ is too small to be seen in a test.""",
    ],
    blind=[
        (
            lambda w, v, grad, rate, momentum, decay: decay == 0,
            """the decay is 0: there is nothing to forget.""",
            ("rate, momentum, decay = 0.1, 0.9, 0.5", "rate, momentum, decay = 0.1, 0.9, 0.0"),
        ),
        (
            lambda w, v, grad, rate, momentum, decay: not np.any(w),
            """the weights are 0, and nothing of them decays.""",
            ("w = np.array([1.0, -2])", "w = np.zeros(2)"),
        ),
        (
            lambda w, v, grad, rate, momentum, decay: True,
            """the decay is there, but so small beside gradient and momentum that the tolerance hides it.""",
            ("0.1, 0.9, 0.5", "0.1, 0.9, 0.0005"),
        ),
    ],
    right=[sgd_step, _step_by_parts],
    broken=[forgets_decay],
)
def expose_forgotten_decay():
    """Return (w, v, grad, rate, momentum, decay), arrays (2,), on which `forgets_decay` is found out."""
    w = np.array([1.0, -2])
    v = np.array([0.5, 0.25])
    grad = np.array([3.0, 1])
    rate, momentum, decay = 0.1, 0.9, 0.5
    return w, v, grad, rate, momentum, decay


# Lesson 12


def _reduce_by_rank(dy):
    R = len(dy)
    c = dy.shape[1] // R
    return np.stack([sum(dy[q, r * c : (r + 1) * c] for q in range(R)) for r in range(R)])


def multiplies_its_own(dy):
    """reduce_scatter in which each rank multiplies its own words by the number of ranks."""
    R = len(dy)
    c = dy.shape[1] // R
    return np.stack([R * dy[r, r * c : (r + 1) * c] for r in range(R)])


@kill(
    12,
    hints=[
        """When is R times my own the same as the sum over all?""",
        """The ranks must say different things, and about the other's units.""",
    ],
    blind=[
        (
            lambda dy: np.ndim(dy) == 3 and len(dy) == 1,
            """one rank is alone: its own words are the sum.""",
            ("np.arange(8.0).reshape(2, 4, 1)", "np.ones((1, 4, 1))"),
        ),
        (
            lambda dy: np.allclose(dy, dy[:1]),
            """both ranks say the same: then a sum is the number of ranks times either.""",
            ("np.arange(8.0).reshape(2, 4, 1)", "np.ones((2, 4, 1))"),
        ),
    ],
    right=[reduce_scatter, _reduce_by_rank],
    broken=[multiplies_its_own],
)
def expose_own_words():
    """Return (dy,), dy (ranks, 4, 1), on which `multiplies_its_own` is found out."""
    dy = np.arange(8.0).reshape(2, 4, 1)
    return (dy,)
