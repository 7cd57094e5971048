"""Right answers to the lessons' holes, each in a style that is not the book's: none may be refused.

The name of a function is that of its hole, two underlines, and how it goes about it.
"""

import math

import numpy as np
from numpy.lib.stride_tricks import as_strided, sliding_window_view

from tinyalex.comm import launch
from tinyalex.lessons.holes.lesson12 import devices

# --- lesson 0


def best__sorted(scores):
    return np.argsort(-scores, axis=0)[0]


def best__compared(scores):
    return (scores == scores.max(axis=0)).argmax(axis=0)


def best__loops(scores):
    return np.array([max(range(len(column)), key=lambda k: column[k]) for column in scores.T])


# --- lesson 1


def to_batch__one_transpose(pictures):
    return pictures.transpose(3, 1, 2, 0)  # a view


def to_batch__stack(pictures):
    return np.stack([np.moveaxis(p, 2, 0) for p in pictures], axis=-1)


def to_batch__loops(pictures):
    N, H, W, C = pictures.shape
    batch = np.zeros((C, H, W, N), np.uint8)
    for n, h, w, c in np.ndindex(pictures.shape):
        batch[c, h, w, n] = pictures[n, h, w, c]
    return batch


def to_batch__einsum(pictures):
    return np.einsum("nhwc->chwn", pictures)


def place__ravel(c, h, w, n, shape):
    return np.ravel_multi_index((c, h, w, n), shape)


def place__sum_of_steps(c, h, w, n, shape):
    _C, H, W, N = shape
    return c * H * W * N + h * W * N + w * N + n


def place__strides(c, h, w, n, shape):
    steps = np.array(np.empty(shape, np.int8).strides)
    return int(steps @ [c, h, w, n])


def place__search(c, h, w, n, shape):
    return np.arange(math.prod(shape)).reshape(shape)[c, h, w, n]


def place__recursion(c, h, w, n, shape):
    def of(index, sizes):
        return of(index[:-1], sizes[:-1]) * sizes[-1] + index[-1] if index else 0

    return of((c, h, w, n), shape)


def centred__running_sum(images):
    x = images.astype("float32")
    total = np.zeros(x.shape[:3], np.float32)
    for n in range(x.shape[3]):
        total += x[..., n]
    mean = (total / x.shape[3])[..., None]
    return x - mean, mean


def centred__float64_inside(images):
    pixels = images.astype(np.float64)
    mean = pixels.mean(axis=-1, keepdims=True)
    return (pixels - mean).astype(np.float32), mean.astype(np.float32)


def centred__list(images):
    x = np.float32(images)
    mean = np.mean(x, axis=3)[:, :, :, np.newaxis]
    x -= mean
    return [x, mean]


# --- lesson 2


def softmax__columns(z):
    p = np.empty_like(z)
    for n in range(z.shape[1]):
        e = np.exp(z[:, n] - max(z[:, n]))
        p[:, n] = e / np.sum(e)
    return p


def softmax__logsumexp(z):
    m = z.max(0, keepdims=True)
    return np.exp(z - m - np.log(np.exp(z - m).sum(0, keepdims=True)))


def softmax__transposed(z):
    s = z.T - z.T.max(axis=1)[:, None]
    e = np.exp(s)
    return (e / e.sum(axis=1, keepdims=True)).T


def softmax__logaddexp(z):
    return np.exp(z - np.logaddexp.reduce(z, axis=0))


def softmax__recursion(z):
    if z.shape[1] > 1:
        return np.hstack([softmax__recursion(z[:, :1]), softmax__recursion(z[:, 1:])])
    e = np.exp(z - z.max())
    return e / e.sum()


def loss_and_gradient__fancy_index(z, labels):
    _K, N = z.shape
    shifted = z - z.max(0)
    log_p = shifted - np.log(np.exp(shifted).sum(0))
    loss = -log_p[labels, np.arange(N)].mean()
    dz = np.exp(log_p)
    dz[labels, range(N)] -= 1
    return loss, dz / N


def loss_and_gradient__loop(z, labels):
    loss, dz = 0.0, np.zeros_like(z)
    for n, label in enumerate(labels):
        log_sum = np.logaddexp.reduce(z[:, n])
        loss += float(log_sum - z[label, n]) / len(labels)
        dz[:, n] = np.exp(z[:, n] - log_sum) / len(labels)
        dz[label, n] -= 1 / len(labels)
    return loss, dz


def loss_and_gradient__probabilities(z, labels):
    e = np.exp(z - z.max(axis=0))
    p = e / e.sum(axis=0)
    own = p[labels, np.arange(len(labels))]
    onehot = (np.arange(len(z))[:, None] == labels).astype(float)
    return np.mean(-np.log(own)), (p - onehot) / z.shape[1]


def linear_gradients__einsum(dz, x, w):
    return np.einsum("kn,dn->kd", dz, x), np.einsum("kn->k", dz), np.einsum("kd,kn->dn", w, dz)


def linear_gradients__pictures(dz, x, w):
    dw, db, dx = np.zeros(w.shape), np.zeros(len(w)), np.zeros(x.shape)
    for n in range(x.shape[1]):
        dw += np.outer(dz[:, n], x[:, n])
        db += dz[:, n]
        dx[:, n] = dz[:, n] @ w
    return dw, db, dx


def linear_gradients__ones(dz, x, w):
    return np.dot(x, dz.T).T, dz @ np.ones(dz.shape[1]), np.tensordot(w, dz, axes=(0, 0))


# --- lesson 3


def numeric_gradient__put_back(f, x, h):
    slope = np.empty_like(x)
    for index in np.ndindex(x.shape):
        before = x[index]
        x[index] = before + h
        above = f(x)
        x[index] = before - h
        slope[index] = (above - f(x)) / (2 * h)
        x[index] = before
    return slope


def numeric_gradient__flat(f, x, h):
    slope = []
    for k in range(x.size):
        up, down = x.copy(), x.copy()
        up.flat[k] += h
        down.flat[k] -= h
        slope.append((f(up) - f(down)) / h / 2)
    return np.array(slope).reshape(x.shape)


def numeric_gradient__units(f, x, h):
    units = np.eye(x.size).reshape(x.size, *x.shape)
    slope = [f(x + h * e) - f(x - h * e) for e in units]
    return (np.array(slope) / (2 * h)).reshape(x.shape)


def numeric_gradient__list(f, x, h):
    x = x.astype(float)
    slope = np.empty(x.shape)
    it = np.nditer(x, flags=["multi_index"])
    for _ in it:
        kept = x[it.multi_index]
        x[it.multi_index] = kept + h
        right = f(x)
        x[it.multi_index] = kept - h
        slope[it.multi_index] = 0.5 * (right - f(x)) / h
        x[it.multi_index] = kept
    return slope


def slopes__vdot(forward, backward, x, dy, u, h):
    def loss(t):
        return np.vdot(dy, forward(x + t * u))

    return (loss(h) - loss(-h)) / 2 / h, np.vdot(backward(dy, x), u)


def slopes__python_floats(forward, backward, x, dy, u, h):
    apart = forward(x + h * u) - forward(x - h * u)
    measured = sum(float(d * a) for d, a in zip(dy.ravel(), apart.ravel(), strict=True)) / (2 * h)
    claimed = sum(float(g * v) for g, v in zip(backward(dy, x).ravel(), u.ravel(), strict=True))
    return [measured, claimed]


def slopes__einsum(forward, backward, x, dy, u, h):
    one = np.einsum("ij,ij->", dy, forward(x + h * u))
    other = np.einsum("ij,ij->", dy, forward(x - h * u))
    return (one - other) * 0.5 / h, np.einsum("ij,ij->", backward(dy, x), u)


# --- lesson 4


def conv_loops__sliding_windows(x, w, b, stride):
    windows = sliding_window_view(x, w.shape[2:], axis=(1, 2))[:, ::stride, ::stride]
    return np.einsum("cijnpq,fcpq->fijn", windows, w) + b[:, None, None, None]


def conv_loops__seven_loops(x, w, b, stride):
    (C, H, W, N), (F, _, KH, KW) = x.shape, w.shape
    y = np.zeros((F, (H - KH) // stride + 1, (W - KW) // stride + 1, N))
    y += b.reshape(F, 1, 1, 1)
    for i in range(y.shape[1]):
        for j in range(y.shape[2]):
            for c in range(C):
                for p in range(KH):
                    for q in range(KW):
                        y[:, i, j] += w[:, c, p, q][:, None] * x[c, i * stride + p, j * stride + q]
    return y


def conv_loops__tensordot(x, w, b, stride):
    KH, KW = w.shape[2:]
    rows = range(0, x.shape[1] - KH + 1, stride)
    columns = range(0, x.shape[2] - KW + 1, stride)
    y = [[np.tensordot(w, x[:, r : r + KH, c : c + KW], 3) for c in columns] for r in rows]
    return np.moveaxis(np.array(y), 2, 0) + b[:, None, None, None]


def output_size__recursion(size, kernel, stride, pad):
    size += 2 * pad
    return 0 if size < kernel else 1 + output_size__recursion(size - stride, kernel, stride, 0)


def output_size__count(size, kernel, stride, pad):
    return len(range(0, size + 2 * pad - kernel + 1, stride))


def output_size__ceil(size, kernel, stride, pad):
    return -((kernel - 1 - size - 2 * pad) // stride)


def output_size__divmod(size, kernel, stride, pad):
    gaps, _ = divmod(pad + size + pad - kernel, stride)
    return 1 + gaps


def output_size__while(size, kernel, stride, pad):
    windows, start = 0, -pad
    while start + kernel <= size + pad:
        windows, start = windows + 1, start + stride
    return windows


def im2col__windows(x, KH, KW, stride):
    windows = sliding_window_view(x, (KH, KW), axis=(1, 2))[:, ::stride, ::stride]  # c i j n p q
    return windows.transpose(0, 4, 5, 1, 2, 3).reshape(x.shape[0] * KH * KW, -1)


def im2col__as_strided(x, KH, KW, stride):
    (C, H, W, N), (sc, sh, sw, sn) = x.shape, x.strides
    shape = C, KH, KW, (H - KH) // stride + 1, (W - KW) // stride + 1, N
    cols = as_strided(x, shape, (sc, sh, sw, sh * stride, sw * stride, sn))
    return cols.reshape(C * KH * KW, -1)


def im2col__columns(x, KH, KW, stride):
    columns = []
    for i in range(0, x.shape[1] - KH + 1, stride):
        for j in range(0, x.shape[2] - KW + 1, stride):
            for n in range(x.shape[3]):
                columns.append(x[:, i : i + KH, j : j + KW, n].ravel())
    return np.stack(columns, axis=1)


# --- lesson 5


def add_back__add_at(dcols, W, stride):
    K, OW = dcols.shape
    dx = np.zeros(W)
    np.add.at(dx, np.arange(OW) * stride + np.arange(K)[:, None], dcols)
    return dx


def add_back__bincount(dcols, W, stride):
    K, OW = dcols.shape
    where = np.arange(K)[:, None] + stride * np.arange(OW)
    return np.bincount(where.ravel(), dcols.ravel(), minlength=W)


def add_back__places(dcols, W, stride):
    dx = np.zeros(W)
    for p, row in enumerate(dcols):
        dx[p : p + len(row) * stride : stride] += row
    return dx


def add_back__matrix(dcols, W, stride):
    K, OW = dcols.shape
    taken = np.zeros((K, OW, W))
    for p, o in np.ndindex(K, OW):
        taken[p, o, o * stride + p] = 1
    return np.einsum("po,pow->w", dcols, taken)


def three_products__einsum(dy, cols, w):
    W, g = w.reshape(w.shape[0], -1), dy.reshape(dy.shape[0], -1)
    dw = np.einsum("fk,ck->fc", g, cols).reshape(w.shape)
    return dw, dy.sum((1, 2, 3)), np.einsum("fc,fk->ck", W, g)


def three_products__filters(dy, cols, w):
    dw, db, dcols = np.empty_like(w), np.empty(len(w)), np.zeros(cols.shape)
    for f in range(len(w)):
        g = dy[f].ravel()
        dw[f] = (cols * g).sum(axis=1).reshape(w[f].shape)
        db[f] = g.sum()
        dcols += np.outer(w[f].ravel(), g)
    return dw, db, dcols


def three_products__transposed(dy, cols, w):
    g = dy.reshape(len(dy), cols.shape[1])
    dw = np.dot(cols, g.T).T.reshape(w.shape)
    return [dw, np.einsum("fijn->f", dy), (g.T @ w.reshape(len(w), -1)).T]


def col2im__windows(dcols, x_shape, KH, KW, stride, pad):
    C, H, W, N = x_shape
    OH, OW = (H + 2 * pad - KH) // stride + 1, (W + 2 * pad - KW) // stride + 1
    d = dcols.reshape(C, KH, KW, OH, OW, N)
    dx = np.zeros((C, H + 2 * pad, W + 2 * pad, N))
    for i in range(OH):
        for j in range(OW):
            dx[:, i * stride : i * stride + KH, j * stride : j * stride + KW] += d[:, :, :, i, j]
    return dx[:, pad : H + pad, pad : W + pad]


def col2im__pixel_by_pixel(dcols, x_shape, KH, KW, stride, pad):
    C, H, W, N = x_shape
    OH, OW = (H + 2 * pad - KH) // stride + 1, (W + 2 * pad - KW) // stride + 1
    d, dx = dcols.reshape(C, KH, KW, OH, OW, N), np.zeros(x_shape)
    for p, q, i, j in np.ndindex(KH, KW, OH, OW):
        h, w = i * stride + p - pad, j * stride + q - pad
        if 0 <= h < H and 0 <= w < W:
            dx[:, h, w] += d[:, p, q, i, j]
    return dx


def col2im__add_at(dcols, x_shape, KH, KW, stride, pad):
    C, H, W, N = x_shape
    index = np.pad(np.arange(1, C * H * W * N + 1).reshape(x_shape), ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    windows = sliding_window_view(index, (KH, KW), axis=(1, 2))[:, ::stride, ::stride]
    where = windows.transpose(0, 4, 5, 1, 2, 3).ravel()
    return np.bincount(where, dcols.ravel(), minlength=index.max() + 1)[1:].reshape(x_shape)


# --- lesson 6


def tanh_backward__two_factors(dy, y):
    return (1 - y) * (1 + y) * dy


def tanh_backward__minus(dy, y):
    return dy - dy * y * y


def tanh_backward__numbers(dy, y):
    slope = [1 - float(v) ** 2 for v in y.flat]
    return (dy.ravel() * np.array(slope, dtype=dy.dtype)).reshape(dy.shape)


def tanh_backward__float64_inside(dy, y):
    return (dy.astype(np.float64) * (1.0 - np.square(y, dtype=np.float64))).astype(dy.dtype)


def relu_backward__where(dy, y):
    return np.where(y > 0, dy, np.zeros_like(dy))


def relu_backward__copy_and_clear(dy, y):
    dx = dy.copy()
    dx[y == 0] = 0
    return dx


def relu_backward__sign(dy, y):
    return np.sign(y) * dy


def relu_backward__filled(dy, y):
    dx = np.zeros_like(dy)
    np.copyto(dx, dy, where=y > 0)
    return dx


# --- lesson 7


def max_pool__windows(x, z, s):
    return sliding_window_view(x, (z, z), axis=(1, 2))[:, ::s, ::s].max(axis=(-1, -2))


def max_pool__places(x, z, s):
    C, H, W, N = x.shape
    OH, OW = (H - z) // s + 1, (W - z) // s + 1
    y = np.full((C, OH, OW, N), -np.inf)
    for p in range(z):
        for q in range(z):
            y = np.maximum(y, x[:, p : p + s * OH : s, q : q + s * OW : s])
    return y


def max_pool__python(x, z, s):
    C, H, W, N = x.shape
    y = np.zeros((C, (H - z) // s + 1, (W - z) // s + 1, N))
    for c, i, j, n in np.ndindex(y.shape):
        y[c, i, j, n] = max(x[c, i * s + p, j * s + q, n] for p in range(z) for q in range(z))
    return y


def give_to_winners__strictly_larger(dy, x, z, s):
    dx = np.zeros_like(x)
    for o, d in enumerate(dy):
        best = o * s
        for k in range(o * s, o * s + z):
            if x[k] > x[best]:
                best = k
        dx[best] += d
    return dx


def give_to_winners__add_at(dy, x, z, s):
    winners = sliding_window_view(x, z)[::s].argmax(axis=1) + s * np.arange(len(dy))
    dx = np.zeros(x.shape)
    np.add.at(dx, winners, dy)
    return dx


def give_to_winners__index_of(dy, x, z, s):
    dx, pixels = np.zeros(len(x)), list(x)
    for o, gradient in enumerate(dy):
        start = o * s
        dx[pixels.index(max(pixels[start : start + z]), start)] += gradient
    return dx


def give_to_winners__list(dy, x, z, s):
    dx = [0.0] * len(x)
    for o in range(len(dy)):
        window = list(x[o * s : o * s + z])
        dx[o * s + window.index(max(window))] += dy[o]
    return np.array(dx)


def max_pool_backward__unravel(dy, x, z, s):
    dx = np.zeros(x.shape)
    for c, i, j, n in np.ndindex(dy.shape):
        window = x[c, i * s : i * s + z, j * s : j * s + z, n]
        p, q = np.unravel_index(np.argmax(window), window.shape)
        dx[c, p + i * s, q + j * s, n] = dx[c, p + i * s, q + j * s, n] + dy[c, i, j, n]
    return dx


def max_pool_backward__places(dy, x, z, s):
    OH, OW = dy.shape[1:3]
    windows = sliding_window_view(x, (z, z), axis=(1, 2))[:, ::s, ::s].reshape(*dy.shape, z * z)
    first, dx = windows.argmax(axis=-1), np.zeros(x.shape)
    for k in range(z * z):
        p, q = k // z, k % z
        dx[:, p : p + OH * s : s, q : q + OW * s : s] += dy * (first == k)
    return dx


def max_pool_backward__view(dy, x, z, s):
    dx = np.zeros_like(x)
    for c, i, j, n in np.ndindex(*dy.shape):
        mine = dx[c, i * s : i * s + z, j * s : j * s + z, n]
        window = x[c, i * s : i * s + z, j * s : j * s + z, n]
        rows, columns = np.nonzero(window == window.max())
        mine[rows[0], columns[0]] += dy[c, i, j, n]
    return dx


# --- lesson 8


def lrn__band_matrix(x, n, k, alpha, beta):
    C = len(x)
    band = (np.abs(np.arange(C)[:, None] - np.arange(C)) <= n // 2).astype(x.dtype)
    s = (k + alpha * np.tensordot(band, x * x, 1)).astype(x.dtype)
    return x * s**-beta, s


def lrn__padded(x, n, k, alpha, beta):
    half = n // 2
    squares = np.pad(x**2, ((half, half), (0, 0), (0, 0), (0, 0)))
    s = k + alpha * sum(squares[d : d + len(x)] for d in range(n))
    return x / np.power(s, beta), s


def lrn__channels(x, n, k, alpha, beta):
    s = np.zeros_like(x)
    for i in range(len(x)):
        for j in range(len(x)):
            if abs(i - j) <= (n - 1) / 2:
                s[i] += x[j] * x[j]
    s = s * alpha + k
    return x / s**beta, s


def lrn_backward__band_matrix(dy, x, s, n, alpha, beta):
    C = len(x)
    band = np.array([[float(abs(i - j) <= n // 2) for j in range(C)] for i in range(C)], x.dtype)
    heard = np.einsum("ij,jhwn->ihwn", band, dy * x * s ** (-beta - 1))
    return dy * s**-beta - 2 * alpha * beta * x * heard


def lrn_backward__scatter(dy, x, s, n, alpha, beta):
    dx = dy / s**beta
    for j in range(len(x)):
        share = -2 * alpha * beta * dy[j] * x[j] / s[j] ** (beta + 1)
        for i in range(max(j - n // 2, 0), min(j + n // 2, len(x) - 1) + 1):
            dx[i] += share * x[i]
    return dx


def lrn_backward__running_sum(dy, x, s, n, alpha, beta):
    ratio = (dy * x / s / s**beta).astype(np.float64)
    sums = np.concatenate([0 * ratio[:1], np.cumsum(ratio, axis=0)])
    i = np.arange(len(x))
    heard = sums[np.minimum(i + n // 2 + 1, len(x))] - sums[np.maximum(i - n // 2, 0)]
    return (dy / s**beta - 2 * alpha * beta * x * heard).astype(x.dtype)


# --- lesson 9


def dropout__factor(x, mask, keep, train, inverted):
    factor = np.ones_like(x)
    if train:
        factor = mask.astype(x.dtype)
    if train and inverted:
        factor = factor / keep
    if not train and not inverted:
        factor = factor * keep
    return x * factor


def dropout__four_cases(x, mask, keep, train, inverted):
    if train and inverted:
        return np.where(mask, x / keep, x.dtype.type(0))
    if train:
        y = x.copy()
        y[~mask] = 0
        return y
    if inverted:
        return x.copy()
    return keep * x


def dropout__bool_arithmetic(x, mask, keep, train, inverted):
    y = x * mask if train else x * 1
    return y * keep ** (-1 if train else 1) if train == inverted else y


def dropout_backward__where(dy, mask, keep, inverted):
    dx = np.where(mask, dy, np.zeros_like(dy))
    return dx / keep if inverted else dx


def dropout_backward__clear(dy, mask, keep, inverted):
    dx = dy / (keep if inverted else 1)
    dx[np.logical_not(mask)] = 0
    return dx


def dropout_backward__factor(dy, mask, keep, inverted):
    scale = 1 / keep if inverted else 1.0
    return (dy.astype(np.float64) * (scale * mask)).astype(dy.dtype)


# --- lesson 10


def sgd_step__other_order(w, v, grad, rate, momentum, decay):
    v = v * momentum - rate * (grad + decay * w)
    return v + w, v


def sgd_step__in_copies(w, v, grad, rate, momentum, decay):
    w, v = w.copy(), v.copy()
    v *= momentum
    v -= rate * decay * w
    v -= rate * grad
    w += v
    return w, v


def sgd_step__elements(w, v, grad, rate, momentum, decay):
    new_v = np.empty_like(v)
    for at in np.ndindex(v.shape):
        new_v[at] = momentum * v[at] - decay * rate * w[at] - rate * grad[at]
    return [w + new_v, new_v]


def relu_gain__math(D, std):
    return std * math.sqrt(D / 2), math.sqrt(2 / D)


def relu_gain__powers(D, std):
    return (0.5 * D * std**2) ** 0.5, (D / 2) ** -0.5


def relu_gain__one_from_the_other(D, std):
    one = np.sqrt(2.0) / np.sqrt(D)
    return [std / one, one]


# --- lesson 11


def cut__mirrored_corner(image, y, x, crop, flip):
    if flip:
        image, x = np.flip(image, 2), image.shape[2] - x - crop
    return image[:, y : y + crop, x : x + crop]


def cut__fliplr(image, y, x, crop, flip):
    rows = image[:, y:][:, :crop]
    window = rows[:, :, x : x + crop]
    return np.flip(window, axis=2) if flip else window.copy()


def cut__take(image, y, x, crop, flip):
    columns = np.arange(x, x + crop)
    if flip:
        columns = columns[::-1]
    return image[:, np.arange(y, y + crop)[:, None], columns]


def cut__loops(image, y, x, crop, flip):
    window = np.zeros((len(image), crop, crop), image.dtype)
    for i in range(crop):
        for j in range(crop):
            window[:, i, j] = image[:, y + i, x + (crop - 1 - j if flip else j)]
    return window


def covariance__cov(images):
    return np.cov(images.reshape(len(images), -1).astype(float), bias=True)


def covariance__moments(images):
    x = images.reshape(3, -1).astype(np.float64)
    mean = x.mean(1)
    return x @ x.T / x.shape[1] - np.outer(mean, mean)


def covariance__pixels(images):
    x = np.moveaxis(images, 0, -1).reshape(-1, len(images)).astype(float)
    x -= x.mean(axis=0)
    return np.einsum("pi,pj->ij", x, x) / len(x)


def colour_shift__loop(alpha, values, vectors, reading):
    scale = np.sqrt(values) if reading == "code2012" else values / 255
    shift = np.zeros(alpha.shape)
    for j in range(3):
        shift += np.outer(vectors[:, j], alpha[j] * scale[j])
    return shift


def colour_shift__diagonal(alpha, values, vectors, reading):
    scale = {"code2012": values**0.5, "paper": values / 255}[reading]
    return vectors @ np.diag(scale) @ alpha


def colour_shift__einsum(alpha, values, vectors, reading):
    scale = values / 255 if reading == "paper" else np.sqrt(values)
    return np.einsum("cj,jn,j->cn", vectors, alpha, scale)


# --- lesson 12


def grouped__block_diagonal(x, w, groups):
    (F, d), f = w.shape, len(w) // groups
    whole = np.zeros((F, d * groups))
    for g in range(groups):
        whole[g * f : (g + 1) * f, g * d : (g + 1) * d] = w[g * f : (g + 1) * f]
    return whole @ x


def grouped__batched(x, w, groups):
    y = w.reshape(groups, -1, w.shape[1]) @ x.reshape(groups, -1, x.shape[1])
    return y.reshape(len(w), -1)


def grouped__rows(x, w, groups):
    y = np.empty((len(w), x.shape[1]))
    for f, row in enumerate(w):
        g = f // (len(w) // groups)
        y[f] = row @ x[g * len(row) : (g + 1) * len(row)]
    return y


def all_gather__concatenate(h):
    joined = np.concatenate(list(h))
    return np.array([joined for _ in h])


def all_gather__broadcast(h):
    R, c, N = h.shape
    return np.broadcast_to(h.reshape(1, R * c, N), (R, R * c, N))  # a view


def all_gather__slices(h):
    R, c, N = h.shape
    whole = np.zeros((R, R * c, N))
    for r in range(R):
        for other in range(R):
            whole[r, other * c : (other + 1) * c] = h[other]
    return whole


def reduce_scatter__split(dy):
    return np.stack(np.split(sum(dy), len(dy)))


def reduce_scatter__einsum(dy):
    R, C, N = dy.shape
    return np.einsum("srcn->rcn", dy.reshape(R, R, C // R, N))


def reduce_scatter__ranks(dy):
    R, C, _ = dy.shape
    c = C // R
    return np.array([dy[:, r * c : (r + 1) * c].sum(0) for r in range(R)])


def on_two_ranks__reduced_whole(x, w1, w2, dy):
    def program(comm):
        mine1, mine2 = comm.part(len(w1)), comm.part(len(w2))
        h = np.maximum(w1[mine1] @ x, 0)
        whole = comm.all_gather(h)
        dh = comm.all_reduce(w2[mine2].T @ dy[mine2])[mine1]
        return w2[mine2] @ whole, (dh * (h > 0)) @ x.T, dy[mine2] @ whole.T

    (y0, a0, b0), (y1, a1, b1) = launch(program, devices)
    return np.concatenate([y0, y1]), np.concatenate([a0, a1]), np.concatenate([b0, b1])


def on_two_ranks__by_rank_number(x, w1, w2, dy):
    def program(comm):
        half1, half2 = len(w1) // 2, len(w2) // 2
        one = slice(comm.rank * half1, (comm.rank + 1) * half1)
        two = slice(comm.rank * half2, (comm.rank + 1) * half2)
        z = w1[one] @ x
        whole = comm.all_gather(np.where(z > 0, z, 0))
        dh = comm.reduce_scatter(np.dot(w2[two].T, dy[two]))
        return w2[two] @ whole, np.einsum("hn,dn->hd", np.where(z > 0, dh, 0), x), dy[two] @ whole.T

    return tuple(np.concatenate(p) for p in zip(*launch(program, devices), strict=True))


def on_two_ranks__gathers_the_words(x, w1, w2, dy):
    def program(comm):
        mine1, mine2 = comm.part(len(w1)), comm.part(len(w2))
        h = (w1[mine1] @ x).clip(0)
        whole = comm.all_gather(h, axis=0)
        words = comm.all_gather((w2[mine2].T @ dy[mine2])[None])  # (2, H, N)
        dh = sum(words)[mine1]
        return w2[mine2] @ whole, (dh * np.sign(h)) @ x.T, dy[mine2] @ whole.T

    parts = launch(program, devices)
    return [np.vstack([part[k] for part in parts]) for k in range(3)]


# --- lesson 13


def count__products(F, C, K, side, groups):
    weights = F * C * K * K // groups
    return weights + F, F * side * side, weights * side * side


def count__groups(F, C, K, side, groups):
    weights = sum((F // groups) * (C // groups) * K**2 for _ in range(groups))
    return [weights + F, side**2 * F, weights * side**2]


def count__arrays(F, C, K, side, groups):
    w, b, y = (np.empty(s, np.int8) for s in ((F, C // groups, K, K), (F,), (F, side, side)))
    return w.size + b.size, y.size, w[0].size * y.size


def ten_view_prediction__views(logits):
    p = np.zeros(logits.shape[1:])
    for z in logits:
        e = np.exp(z - z.max(axis=0))
        p += e / e.sum(axis=0)
    return p / len(logits)


def ten_view_prediction__logaddexp(logits):
    return np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)).mean(0)


def ten_view_prediction__einsum(logits):
    e = np.exp(logits - np.amax(logits, 1)[:, None])
    return np.einsum("vkn,vn->kn", e, 1 / e.sum(1)) / len(e)


# --- lesson 14


def kernel_pictures__kernels(w):
    pictures = np.empty(w.shape, np.uint8)
    for f, kernel in enumerate(w):
        full = max(kernel.max(), -kernel.min())
        pictures[f] = np.rint((kernel / full + 1) * 127.5)
    return pictures


def kernel_pictures__flat(w):
    flat = w.reshape(len(w), -1)
    scale = np.abs(flat).max(axis=1)[:, None]
    return (255 * (flat / scale + 1) / 2).round().astype("uint8").reshape(w.shape)


def kernel_pictures__norm(w):
    scale = np.linalg.norm(w.reshape(len(w), -1), np.inf, axis=1).reshape(-1, 1, 1, 1)
    return np.rint(127.5 * (1 + w / scale)).astype(np.uint8)


def top_k_error__argsort(scores, labels, k):
    best = np.argsort(-scores, axis=0)[:k]
    return 1 - (best == labels).any(axis=0).mean()


def top_k_error__loop(scores, labels, k):
    wrong = 0
    for n, label in enumerate(labels):
        ranking = sorted(range(len(scores)), key=lambda c: -scores[c, n])
        wrong += label not in ranking[:k]
    return wrong / len(labels)


def top_k_error__partition(scores, labels, k):
    bound = np.sort(scores, axis=0)[-k]
    return np.mean(scores[labels, np.arange(scores.shape[1])] < bound)


def nearest__differences(queries, database, k):
    gaps = database[:, :, None] - queries[:, None, :]
    return np.argsort((gaps**2).sum(0), axis=0)[:k]


def nearest__queries(queries, database, k):
    found = [np.linalg.norm(database - q[:, None], axis=0).argsort()[:k] for q in queries.T]
    return np.stack(found, axis=1)


def nearest__without_the_query(queries, database, k):
    order = ((database * database).sum(0)[:, None] / 2 - database.T @ queries).argsort(0)
    return order[0:k, :].astype(np.int32)


# --- lesson 15


def row_columns__minus_one(strips, i, KH, stride):
    first = i * stride
    cols = strips[first : first + KH].reshape(-1, strips.shape[3] * strips.shape[4])
    return cols, not np.shares_memory(cols, strips)


def row_columns__flat(strips, i, KH, stride):
    _, C, KW, OW, N = strips.shape
    row = C * KW * OW * N
    cols = strips.reshape(-1)[i * stride * row : (i * stride + KH) * row].reshape(KH * C * KW, OW * N)
    return cols, cols.base is None


def row_columns__matrix(strips, i, KH, stride):
    H, C, KW, OW, N = strips.shape
    whole = strips.reshape(H * C * KW, OW * N)
    return [whole[C * KW * i * stride :][: KH * C * KW], False]


def four_products__direct(d, w):
    return np.array([w[0] * d[0] + w[1] * d[1] + w[2] * d[2], w[0] * d[1] + w[1] * d[2] + w[2] * d[3]])


def four_products__matrices(d, w):
    B = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, -1, 0, 1]])
    G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
    A = np.array([[1, 0], [1, 1], [1, -1], [0, 1]])
    return A.T @ ((G @ w)[:, None] * (B @ d))


def four_products__rows(d, w):
    y = np.empty((2, d.shape[1]))
    total, apart = (w[0] + w[2]) / 2, w[1] / 2
    m1, m2 = (total + apart) * (d[1] + d[2]), (total - apart) * (d[2] - d[1])
    y[0] = w[0] * (d[0] - d[2]) + (m1 + m2)
    y[1] = (m1 - m2) + w[2] * (d[3] - d[1])
    return y


# --- lesson 16


def bias_relu__if_inside(run, memory, b, columns):
    memory = memory.copy()

    def kernel(blockIdx, blockDim, threadIdx):
        t = threadIdx.x + blockDim.x * blockIdx.x
        if t < columns:
            y = memory[columns * blockIdx.y + t] + b[blockIdx.y]
            memory[columns * blockIdx.y + t] = y if y > 0 else 0

    run(kernel)
    return memory


def bias_relu__rows(run, memory, b, columns):
    out = np.array(memory)
    rows = out[: len(b) * columns].reshape(len(b), columns)  # a view

    def kernel(blockIdx, blockDim, threadIdx):
        t = blockIdx.x * blockDim.x + threadIdx.x
        if t >= columns:
            return
        rows[blockIdx.y, t] = np.maximum(rows[blockIdx.y, t] + b[blockIdx.y], 0)

    run(kernel)
    return out


def bias_relu__no_kernel(run, memory, b, columns):
    maps = memory[: len(b) * columns].reshape(-1, columns)
    return np.concatenate([(maps + b[:, None]).clip(0).ravel(), memory[maps.size :]])


def max_pool_bytes__itemsizes(x_shape, y_shape):
    x, y = math.prod(x_shape), math.prod(y_shape)
    nbytes = np.dtype("f4").itemsize * (x + y) + np.dtype("u2").itemsize * y
    return nbytes, nbytes / 3e9


def max_pool_bytes__loops(x_shape, y_shape):
    numbers = []
    for shape in (x_shape, y_shape):
        n = 1
        for size in shape:
            n *= size
        numbers.append(n)
    total = 4 * numbers[0] + 6 * numbers[1]
    return [total, total / 3e12 * 1000]


def max_pool_bytes__numpy(x_shape, y_shape):
    nbytes = int(np.prod(x_shape)) * 4 + int(np.prod(y_shape)) * 4 + int(np.prod(y_shape)) * 2
    return nbytes, 1000 * (nbytes / 3e12)


def col2im_row__all_windows(run, dcols, W, stride, pad):
    K, OW = dcols.shape
    dx = np.empty(W)

    def kernel(blockIdx, blockDim, threadIdx):
        u = blockIdx.x * blockDim.x + threadIdx.x
        if u < W:
            dx[u] = sum(dcols[u + pad - j * stride, j] for j in range(OW) if 0 <= u + pad - j * stride < K)

    run(kernel)
    return dx


def col2im_row__places(run, dcols, W, stride, pad):
    K, OW = dcols.shape
    dx = np.zeros(W)

    def kernel(blockIdx, blockDim, threadIdx):
        u = threadIdx.x + blockIdx.x * blockDim.x
        if u >= W:
            return
        for p in range(K):
            j, rest = divmod(u + pad - p, stride)
            if rest == 0 and 0 <= j < OW:
                dx[u] += dcols[p, j]

    run(kernel)
    return dx


def col2im_row__windows_backwards(run, dcols, W, stride, pad):
    K, OW = dcols.shape
    dx = np.full(W, 0.0)

    def kernel(blockIdx, blockDim, threadIdx):
        u = blockIdx.x * blockDim.x + threadIdx.x
        if not u < W:
            return
        j = min((u + pad) // stride, OW - 1)
        while j >= 0 and u + pad - j * stride < K:
            dx[u] = dx[u] + dcols[u + pad - j * stride, j]
            j -= 1

    run(kernel)
    return dx


# --- lesson 17


def receptive_field__from_the_output_down(kernels, strides):
    side = 1
    for k, s in list(zip(kernels, strides, strict=True))[::-1]:
        side = (side - 1) * s + k
    return side


def receptive_field__recursion(kernels, strides):
    if not len(kernels):
        return 1
    return kernels[0] + strides[0] * (receptive_field__recursion(kernels[1:], strides[1:]) - 1)


def receptive_field__products(kernels, strides):
    steps = np.concatenate([[1], np.cumprod(strides)[:-1]])
    return 1 + int((np.array(kernels) - 1) @ steps)


def receptive_field__sets(kernels, strides):
    seen = {0}
    for k, s in list(zip(kernels, strides, strict=True))[::-1]:
        seen = {s * i + u for i in seen for u in range(k)}
    return max(seen) + 1


def slide__loops(maps, w, window):
    (_, H, W), (h, v) = maps.shape, window
    scores = np.empty((len(w), H - h + 1, W - v + 1))
    for y in range(H - h + 1):
        for x in range(W - v + 1):
            scores[:, y, x] = w @ maps[:, y : y + h, x : x + v].ravel()
    return scores


def slide__columns(maps, w, window):
    windows = sliding_window_view(maps, window, axis=(1, 2))
    C, OH, OW, h, v = windows.shape
    columns = windows.transpose(0, 3, 4, 1, 2).reshape(C * h * v, OH * OW)
    return (w @ columns).reshape(-1, OH, OW)


def slide__library(maps, w, window):
    from tinyalex.ops import conv2d_forward

    kernels = w.reshape(len(w), len(maps), *window)
    return conv2d_forward(maps[..., None], kernels, np.zeros(len(w)))[0][..., 0]


def in_parts__strided(x, t, w, parts):
    error = (w @ x - t) / x.shape[1]
    return sum(error[:, k::parts] @ x[:, k::parts].T for k in range(parts))


def in_parts__weighted_means(x, t, w, parts):
    size, dw = x.shape[1] // parts, 0
    for k in range(parts):
        part = slice(k * size, (k + 1) * size)
        dw += (w @ x[:, part] - t[:, part]) @ x[:, part].T / size / parts
    return dw


def in_parts__one_by_one(x, t, w, parts):
    return np.mean([np.outer(w @ a - b, a) for a, b in zip(x.T, t.T, strict=True)], axis=0)


def data_parallel__gathers_and_adds(x, t, w):
    N = x.shape[1]

    def program(comm):
        mine = comm.part(N)
        words = comm.all_gather(((w @ x[:, mine] - t[:, mine]) @ x[:, mine].T)[None])
        return words.sum(axis=0) / N

    return np.stack(launch(program, devices))


def data_parallel__mean_of_means(x, t, w):
    def program(comm):
        xs, ts = (np.split(a, comm.size, axis=1)[comm.rank] for a in (x, t))
        return comm.all_reduce((w @ xs - ts) @ xs.T / xs.shape[1]) / comm.size

    return np.array(launch(program, devices))


def data_parallel__picture_by_picture(x, t, w):
    N = x.shape[1]

    def program(comm):
        dw = np.zeros_like(w)
        for n in range(N)[comm.part(N)]:
            dw += np.outer(w @ x[:, n] - t[:, n], x[:, n])
        return comm.all_reduce(dw / N)

    return np.stack(launch(program, devices))


def hybrid__all_reduce_and_take(x, w1, w2, dy):
    def program(comm):
        images, rows = comm.part(x.shape[1]), comm.part(len(w2))
        h = np.maximum(w1 @ x[:, images], 0)
        whole = comm.all_gather(h.T).T
        dh = comm.all_reduce(w2[rows].T @ dy[rows])[:, images]
        dw1 = comm.all_gather(((dh * (h > 0)) @ x[:, images].T)[None]).sum(axis=0)
        return w2[rows] @ whole, dw1, dy[rows] @ whole.T

    parts = launch(program, devices)
    return np.concatenate([p[0] for p in parts]), parts[1][1], np.concatenate([p[2] for p in parts])


def hybrid__alone(x, w1, w2, dy):
    h = np.maximum(w1 @ x, 0)
    return w2 @ h, ((w2.T @ dy) * (h > 0)) @ x.T, dy @ h.T


def hybrid__images_one_by_one(x, w1, w2, dy):
    def program(comm):
        mine, rows = range(x.shape[1])[comm.part(x.shape[1])], comm.part(len(w2))
        h = np.stack([np.maximum(w1 @ x[:, n], 0) for n in mine], axis=1)
        whole = comm.all_gather(h, axis=1)
        dh = comm.reduce_scatter(np.einsum("fh,fn->hn", w2[rows], dy[rows]), axis=1)
        dw1 = comm.all_reduce(sum(np.outer(dh[:, k] * (h[:, k] > 0), x[:, n]) for k, n in enumerate(mine)))
        return w2[rows] @ whole, dw1, np.einsum("fn,hn->fh", dy[rows], whole)

    (y0, dw1, dw2_0), (y1, _, dw2_1) = launch(program, devices)
    return np.vstack([y0, y1]), dw1, np.vstack([dw2_0, dw2_1])
