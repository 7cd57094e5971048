"""Lesson 12: two GPUs."""

import numpy as np

from tinyalex.comm import launch
from tinyalex.devices import Device
from tinyalex.lessons.cases import sizes
from tinyalex.lessons.checks import hole

devices = [Device("cpu:0"), Device("cpu:1")]


def _grouped_cases(rng):
    cases = []
    for groups, N in ((2, 5), (3, 1), (1, 3)):
        d, f = sizes(rng, (2, 4), (2, 4))
        cases.append((rng.standard_normal((groups * d, N)), rng.standard_normal((groups * f, d)), groups))
    return cases


@hole(
    cases=_grouped_cases,
    hints=[
        """xs and ws are lists with one array a group.  Which of ws reads which of xs?""",
        """`ws[0] @ xs[0]` is (F/groups, N), the outputs of group 0.  One such product for each group, and
        then one under the other: np.concatenate.""",
        """np.concatenate([a @ b for a, b in zip(ws, xs)])""",
    ],
    wrong=[
        (
            "zip(ws, xs, strict=True)",
            "zip(ws, xs[::-1], strict=True)",
            """each group reads the maps of the other tower: group 0 of w belongs to group 0 of x.""",
        ),
        (
            "zip(ws, xs, strict=True)",
            "zip(ws, [xs[0]] * groups, strict=True)",
            """all groups read the first group of x; every kernel reads the maps of its own tower.""",
        ),
        (
            "np.concatenate([a @ b for a, b in zip(ws, xs, strict=True)])",
            "sum(a @ b for a, b in zip(ws, xs, strict=True))",
            """the groups' products are added.  Each group makes outputs of its own: F in all, so put them
            one under the other.""",
        ),
        (
            "np.concatenate([a @ b for a, b in zip(ws, xs, strict=True)])",
            "np.stack([a @ b for a, b in zip(ws, xs, strict=True)], axis=1).reshape(len(w), -1)",
            """the outputs of the groups alternate: output f must be row f of w, all of group 0 first.""",
        ),
    ],
)
def grouped(x, w, groups):
    """Rows of w read their own group of x only.  x (D,N), w (F, D/groups) → y (F,N)."""
    xs, ws = np.split(x, groups), np.split(w, groups)
    y = np.concatenate([a @ b for a, b in zip(ws, xs, strict=True)])
    return y


@hole(
    cases=lambda rng: [
        (rng.standard_normal((2, *sizes(rng, (3, 5), (3, 5)))),),
        (rng.standard_normal((3, 2, int(rng.integers(4, 7)))),),
        (rng.standard_normal((4, 3, 1)),),
    ],
    hints=[
        """h[0] are the channels of rank 0, h[1] those of rank 1: the order in which they have to stand one
        under the other.""",
        """(R, c, N) lies in memory in just that order: a reshape joins them.""",
        """joined = h.reshape(R * c, N), and whole = np.stack([joined] * R).""",
    ],
    wrong=[
        (
            "h.reshape(R * c, N)",
            "h.swapaxes(0, 1).reshape(R * c, N)",
            """the channels alternate between the ranks.  A rank's channels stay together: rank 0's first,
            then rank 1's; else the next layer's weights meet the wrong maps.""",
        ),
        (
            "np.stack([joined] * R)",
            "joined",
            """that is one copy.  In an all-gather every rank receives it: R copies, whole[r] for rank r.""",
        ),
        (
            "h.reshape(R * c, N)",
            "np.concatenate([h.sum(axis=0)] * R)",
            """the ranks' channels are added.  A gather adds nothing, it puts them one under the other.""",
        ),
        (
            "h.reshape(R * c, N)",
            "h[::-1].reshape(R * c, N)",
            """the ranks stand in the wrong order: rank 0's channels come first.""",
        ),
        (
            "np.stack([joined] * R)",
            "np.stack([np.concatenate([h[(r + k) % R] for k in range(R)]) for r in range(R)])",
            """each rank has its own channels first and then goes round the ring: on rank 1 the next layer's
            weights meet the wrong maps.  The order is rank 0's, rank 1's, … everywhere.""",
        ),
        (
            "np.stack([joined] * R)",
            "np.stack([np.concatenate([h[r]] * R) for r in range(R)])",
            """every rank has its own channels R times, and nothing of the others: nothing has crossed.""",
        ),
    ],
)
def all_gather(h):
    """Leave all channels with every rank.  h (R, c, N) → whole (R, R·c, N)."""
    R, c, N = h.shape
    joined = h.reshape(R * c, N)
    whole = np.stack([joined] * R)
    return whole


def _own_word(dy):
    R, C, _ = dy.shape
    c = C // R
    return np.stack([dy[r, r * c : (r + 1) * c] for r in range(R)])


@hole(
    cases=lambda rng: [
        (rng.standard_normal((2, 6, int(rng.integers(4, 6)))),),
        (rng.standard_normal((3, 6, int(rng.integers(4, 6)))),),
        (rng.standard_normal((4, 12, 1)),),
    ],
    hints=[
        """Two steps, as the name says: reduce (sum over the ranks), then scatter (deal out).""",
        """The ranks are axis 0 of dy.  After the sum you have (C, N); rank 0 gets the first C/R channels,
        rank 1 the next.""",
        """total = dy.sum(axis=0), and dx = total.reshape(R, C // R, N).""",
    ],
    wrong=[
        (
            _own_word,
            """each rank keeps its own word about its own channels, and nothing is added.  The other ranks
            have used copies of these channels too: their gradients belong to the sum.""",
        ),
        (
            "dy.sum(axis=0)",
            "dy.mean(axis=0)",
            """you take the mean over the ranks; the chain rule sums over all paths from a channel to the
            loss.""",
        ),
        (
            "total.reshape(R, C // R, N)",
            "np.stack([total] * R)",
            """every rank holds the whole sum: that is an all-reduce.  Each needs its own C/R channels only,
            and only those should cross.""",
        ),
        (
            "dy.sum(axis=0)",
            "dy[0]",
            """only rank 0 is heard.""",
        ),
        (
            "total.reshape(R, C // R, N)",
            "total.reshape(C // R, R, N).swapaxes(0, 1)",
            """the channels are dealt out in turn, like cards.  Rank 0's are the first C/R, in one piece, as
            the gather had joined them.""",
        ),
    ],
)
def reduce_scatter(dy):
    """Sum over the ranks, and leave each its channels.  dy (R, C, N) → dx (R, C/R, N)."""
    R, C, N = dy.shape
    total = dy.sum(axis=0)
    dx = total.reshape(R, C // R, N)
    return dx


def _two_layers(rng, D, H, F, N):
    shapes = (D, N), (H, D), (F, H), (F, N)
    return tuple(rng.standard_normal(shape) for shape in shapes)


@hole(
    cases=lambda rng: [
        _two_layers(rng, int(rng.integers(2, 4)), 4, 6, 7),
        _two_layers(rng, 5, 8, 2, 1),
    ],
    hints=[
        """Where does this rank need something that it does not have? Once forward, before the second layer;
        once backward, before the first.""",
        """h holds H/2 units and w2 reads H: gather.  partial is about H units and is this rank's word alone;
        dh is about H/2 units and everybody's word: sum, and keep your own.""",
        """whole = comm.all_gather(h), and dh = comm.reduce_scatter(partial).""",
    ],
    wrong=[
        (
            "comm.reduce_scatter(partial)",
            "partial[mine1]",
            """dw1 lacks the other rank: `partial` is what this rank's kernels say about the units, and the
            other rank's kernels have read copies of them.  The gather was a copy, so its backward is a
            sum.""",
        ),
        (
            "comm.all_gather(h)",
            "np.concatenate([h, h])",
            """every rank joins its own units with themselves; nothing crosses.  Only comm knows what the
            other rank has.""",
        ),
        (
            "comm.reduce_scatter(partial)",
            "comm.reduce_scatter(partial) / comm.size",
            """dw1 is divided by the number of ranks.  Gradients over two paths are added, not averaged; a
            mean is taken over pictures, and both ranks see the same ones.""",
        ),
        (
            "comm.reduce_scatter(partial)",
            "comm.all_gather(partial)[mine1]",
            """a gather puts the ranks' words one under the other, and adds nothing; these rows are what rank
            0 says, on both ranks.""",
        ),
    ],
)
def on_two_ranks(x, w1, w2, dy):
    """h = max(0, W1 x), y = W2 h and the gradients, each rank with half of the rows."""

    def program(comm):
        mine1, mine2 = comm.part(len(w1)), comm.part(len(w2))
        h = np.maximum(w1[mine1] @ x, 0)  # (H/2, N): this rank's units
        whole = comm.all_gather(h)
        y = w2[mine2] @ whole  # (F/2, N)

        dw2 = dy[mine2] @ whole.T  # (F/2, H)
        partial = w2[mine2].T @ dy[mine2]  # (H, N): what this rank's kernels say
        dh = comm.reduce_scatter(partial)
        dw1 = (dh * (h > 0)) @ x.T  # (H/2, D)
        return y, dw1, dw2

    parts = zip(*launch(program, devices), strict=True)  # y of each rank, dw1 of each, …
    y, dw1, dw2 = (np.concatenate(part) for part in parts)
    return y, dw1, dw2
