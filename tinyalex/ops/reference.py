"""Every operation as plain loops in float64: slow, and meant to be obviously right.

This file is the specification: the fast operations beside it must give these numbers. It knows no
block, no matrix product and no closed form of a gradient. Each operation is a list that says which
output looks at which inputs; forward walks the list once and adds up, backward walks the same list
and applies the chain rule to one term at a time.

Sizes: N images, C channels, H rows, W columns; F filters of KH x KW; OH x OW output positions.
Arrays: maps (C, H, W, N), filters (F, C/groups, KH, KW), features (D, N), biases (F,).
Gradients: dy is the loss's derivative by y, so `dx[j] += dy[i] * (dy_i/dx_j)`, summed over every i.
Sources: the paper (NIPS 2012) by section, the 2012 code by file. All results are float64, and the
arguments are taken to fit together: the fast operations check that.
"""

import math

import numpy as np


def _float64(array):
    return np.asarray(array, dtype=np.float64)


def _all(value, count):
    """(vertical, horizontal), or (top, bottom, left, right), from one int for all of them or from all."""
    return (value,) * count if isinstance(value, int) else tuple(value)


# --- convolution ---------------------------------------------------------------------------------


def _seen(place, stride, before, window, size):
    """[(k, pixel), ...]: the places k of a window, 0 ... window-1, that lie on real pixels, 0 ... size-1."""
    pixels = [(k, place * stride + k - before) for k in range(window)]
    return [(k, pixel) for k, pixel in pixels if 0 <= pixel < size]


def _products(x_shape, w_shape, stride, pad, groups):
    """A convolution as a list: which output gets which weight times which pixel.

    Returns (y_shape, [(output, weight, pixel), ...]), three index tuples a product. Pixels in the
    padding are zero and would add nothing: they are left out. Filters come in `groups` equal parts,
    and each part sees its own part of the channels (paper, section 3.5: the kernels of a layer "are
    connected only to those kernel maps in the previous layer which reside on the same GPU").
    """
    _, H, W, N = x_shape
    F, CG, KH, KW = w_shape  # CG channels a group
    (SH, SW), (top, bottom, left, right) = _all(stride, 2), _all(pad, 4)
    OH = (H + top + bottom - KH) // SH + 1
    OW = (W + left + right - KW) // SW + 1

    rows = [_seen(oh, SH, top, KH, H) for oh in range(OH)]
    columns = [_seen(ow, SW, left, KW, W) for ow in range(OW)]
    products = []
    for f, oh, ow, n in np.ndindex(F, OH, OW, N):
        first = f // (F // groups) * CG  # channel that the filter sees
        for c in range(CG):
            for kh, h in rows[oh]:
                for kw, w in columns[ow]:
                    products.append(((f, oh, ow, n), (f, c, kh, kw), (first + c, h, w, n)))
    return (F, OH, OW, N), products


def conv2d(x, w, b, stride=1, pad=0, groups=1):
    """y[f,oh,ow,n] = b[f] + sum over c,kh,kw of w[f,c,kh,kw] x[c,h,w,n].

    Row h = oh*stride + kh - top and column w = ow*stride + kw - left of x; c counts within the group.
    x (C,H,W,N), w (F,C/groups,KH,KW), b (F,), stride an int or (vertical, horizontal), pad an int or (top,
    bottom, left, right) zeros.
    Returns y (F,OH,OW,N), OH = floor((H + top + bottom - KH) / stride) + 1, OW likewise.
    The kernel is not flipped (it is a cross-correlation), as in the 2012 code. Paper, section 3.5.
    """
    x, w, b = _float64(x), _float64(w), _float64(b)
    y_shape, products = _products(x.shape, w.shape, stride, pad, groups)
    y = np.zeros(y_shape) + b[:, None, None, None]
    for output, weight, pixel in products:
        y[output] += w[weight] * x[pixel]
    return y


def conv2d_backward(dy, x, w, stride=1, pad=0, groups=1):
    """Gradients (dx, dw, db) of conv2d, shaped like x, w and b.

    Each product w*x added to y[output] passes dy[output] on: times w to its pixel, times x to its
    weight. A pixel or a weight takes part in many products, so its gradient is a sum.
    """
    dy, x, w = _float64(dy), _float64(x), _float64(w)
    y_shape, products = _products(x.shape, w.shape, stride, pad, groups)
    dx, dw, db = np.zeros(x.shape), np.zeros(w.shape), np.zeros(len(w))
    for f, oh, ow, n in np.ndindex(y_shape):
        db[f] += dy[f, oh, ow, n]  # y has b[f] in it once
    for output, weight, pixel in products:
        dx[pixel] += dy[output] * w[weight]
        dw[weight] += dy[output] * x[pixel]
    return dx, dw, db


# --- pooling -------------------------------------------------------------------------------------


def _pooled_size(size, before, after, z, s, ceil):
    """Number of windows along one side.

    ceil lets the last window hang over the end (2012 layer.py:1164: 55 -> 27 -> 13 -> 6), but not
    start beyond the last pixel, where it would hold nothing (the rule of Caffe's pooling_layer.cpp).
    """
    steps = (size + before + after - z) / s
    count = (math.ceil(steps) if ceil else math.floor(steps)) + 1
    if ceil and (count - 1) * s >= before + size:
        count -= 1
    return count


def _pool_windows(x_shape, z, s, pad, ceil):
    """Pooling as a list: the real pixels under each output, row by row.

    Returns (y_shape, [(output, [pixel, ...]), ...]). Windows are z wide and s apart: for s < z they
    overlap and a pixel is listed under several outputs (paper, section 3.4). Padding is not listed.
    z and s may be two numbers, (vertical, horizontal).
    """
    C, H, W, N = x_shape
    (ZH, ZW), (SH, SW), (top, bottom, left, right) = _all(z, 2), _all(s, 2), _all(pad, 4)
    OH = _pooled_size(H, top, bottom, ZH, SH, ceil)
    OW = _pooled_size(W, left, right, ZW, SW, ceil)

    windows = []
    for c, oh, ow, n in np.ndindex(C, OH, OW, N):
        rows, columns = _seen(oh, SH, top, ZH, H), _seen(ow, SW, left, ZW, W)
        windows.append(((c, oh, ow, n), [(c, h, w, n) for _, h in rows for _, w in columns]))
    return (C, OH, OW, N), windows


def _pooled(of, x, *geometry):
    """y = a function of each window's real pixels."""
    x = _float64(x)
    y_shape, windows = _pool_windows(x.shape, *geometry)
    y = np.zeros(y_shape)
    for output, pixels in windows:
        y[output] = of([x[pixel] for pixel in pixels])
    return y


def max_pool(x, z, s, pad=0, ceil=True):
    """y = the largest pixel of each z x z window, windows s apart (paper, section 3.4: z=3, s=2).

    x (C,H,W,N); returns y (C,OH,OW,N). Padding counts as -infinity: it is never the largest.  NaN is.
    """
    return _pooled(np.max, x, z, s, pad, ceil)


def max_pool_backward(dy, x, z, s, pad=0, ceil=True):
    """dx, shaped like x: each output's dy goes to the pixel that won.

    Among equals the first, row by row, wins (as in PyTorch; cuda-convnet's kLocalMaxUndo paid all of
    them in full). A pixel that won in two windows gets both: hence +=.
    """
    dy, x = _float64(dy), _float64(x)
    dx = np.zeros(x.shape)
    for output, pixels in _pool_windows(x.shape, z, s, pad, ceil)[1]:
        winner = pixels[np.argmax([x[pixel] for pixel in pixels])]  # the first of equal ones, or of NaNs
        dx[winner] += dy[output]
    return dx


def avg_pool(x, z, s, pad=0, ceil=True):
    """y = the mean of the real pixels of each z x z window: padding is not counted.

    x (C,H,W,N); returns y (C,OH,OW,N). As cuda-convnet's conv_util.cu, kLocalAvgUndo.
    """
    return _pooled(lambda pixels: sum(pixels) / len(pixels), x, z, s, pad, ceil)


def avg_pool_backward(dy, x, z, s, pad=0, ceil=True):
    """dx, shaped like x: each output's dy, in equal shares, to the pixels of its window."""
    dy, x = _float64(dy), _float64(x)
    dx = np.zeros(x.shape)
    for output, pixels in _pool_windows(x.shape, z, s, pad, ceil)[1]:
        for pixel in pixels:
            dx[pixel] += dy[output] / len(pixels)
    return dx


# --- response normalization ----------------------------------------------------------------------


def _across_maps(x_shape, n, groups):
    """[(i, [j, ...]), ...]: the n maps around map i at one position, cut off at the group's ends.

    Maps i - n//2 up to, not including, i - n//2 + n. For odd n these are the paper's i - n/2 ... i + n/2;
    for even n there is one more below than above (2012: kFCNorm). In the two-tower net a group is
    what one GPU holds: windows do not reach over to the other.
    """
    size = x_shape[0] // groups
    windows = []
    for c, *place in np.ndindex(x_shape):
        first = c // size * size  # of the group that c is in
        maps = [first + j for _, j in _seen(c - first, 1, n // 2, n, size)]
        windows.append(((c, *place), [(j, *place) for j in maps]))
    return windows


def _within_map(x_shape, n):
    """[(i, [j, ...]), ...]: the n x n pixels around pixel i in its own map, cut off at the border."""
    before, after = n // 2, n - 1 - n // 2
    return _pool_windows(x_shape, n, 1, (before, after, before, after), ceil=False)[1]


def _normalize(x, windows, k, a, beta):
    """y_i = x_i / s_i^beta with s_i = k + a * (sum over j in window i of x_j^2)."""
    x = _float64(x)
    y = np.zeros(x.shape)
    for i, window in windows:
        s = k + a * sum(x[j] ** 2 for j in window)
        y[i] = x[i] / s**beta
    return y


def _normalize_backward(dy, x, windows, k, a, beta):
    """dx by the quotient rule, one pair (output i, input j) at a time.

    y_i = u / v with u = x_i and v = s_i^beta, so dy_i/dx_j = (du v - u dv) / v^2, where du = 1 if
    i is j, else 0, and dv = beta s_i^(beta-1) ds with ds = 2 a x_j.
    """
    dy, x = _float64(dy), _float64(x)
    dx = np.zeros(x.shape)
    for i, window in windows:
        s = k + a * sum(x[j] ** 2 for j in window)
        u, v = x[i], s**beta
        for j in window:
            du = 1.0 if i == j else 0.0
            dv = beta * s ** (beta - 1) * 2 * a * x[j]
            dx[j] += dy[i] * (du * v - u * dv) / v**2
    return dx


def lrn(x, n=5, k=2.0, alpha=1e-4, beta=0.75, alpha_over_n=False, groups=1):
    """Local response normalization across maps: y_i = x_i / (k + a * sum_j x_j^2)^beta.

    x (C,H,W,N); the sum runs over the n maps around i (see _across_maps). a = alpha is what the paper
    prints (section 3.3); a = alpha/n, alpha_over_n=True, is what the 2012 code did (layer.py:1183).
    """
    return _normalize(x, _across_maps(x.shape, n, groups), k, alpha / n if alpha_over_n else alpha, beta)


def lrn_backward(dy, x, n=5, k=2.0, alpha=1e-4, beta=0.75, alpha_over_n=False, groups=1):
    """dx of lrn, shaped like x."""
    a = alpha / n if alpha_over_n else alpha
    return _normalize_backward(dy, x, _across_maps(x.shape, n, groups), k, a, beta)


def same_map_norm(x, n=5, k=1.0, alpha=1e-3, beta=0.75):
    """y_i = x_i / (k + alpha/n^2 * sum_j x_j^2)^beta over the n x n pixels j around i in the same map.

    x (C,H,W,N). Not in the paper: the 2012 layer `rnorm` (layer.py:1183; layers-145.cfg, cnorm2).
    """
    return _normalize(x, _within_map(x.shape, n), k, alpha / n**2, beta)


def same_map_norm_backward(dy, x, n=5, k=1.0, alpha=1e-3, beta=0.75):
    """dx of same_map_norm, shaped like x."""
    return _normalize_backward(dy, x, _within_map(x.shape, n), k, alpha / n**2, beta)


# --- activations ---------------------------------------------------------------------------------


def _each(function, x):
    """Function of one number, applied to every number of x."""
    x = _float64(x)
    y = np.zeros(x.shape)
    for i in np.ndindex(x.shape):
        y[i] = function(float(x[i]))
    return y


def relu(x):
    """y = max(0, x), any shape (paper, section 3.1)."""
    return _each(lambda v: max(0.0, v), x)


def relu_backward(dy, x):
    """dx = dy where x > 0, else 0. At x = 0, the kink, 0."""
    return _float64(dy) * _each(lambda v: 1.0 if v > 0 else 0.0, x)


def tanh(x, a=1.0, b=1.0):
    """y = a tanh(b x), any shape (the 2012 neuron tanh[a,b]; paper, section 3.1, with a = b = 1)."""
    return _each(lambda v: a * math.tanh(b * v), x)


def tanh_backward(dy, x, a=1.0, b=1.0):
    """dx = dy * a b (1 - tanh(b x)^2)."""
    return _float64(dy) * _each(lambda v: a * b * (1 - math.tanh(b * v) ** 2), x)


def _logistic(v):
    # the two forms are equal; each is used where its exponential cannot overflow
    return 1 / (1 + math.exp(-v)) if v >= 0 else math.exp(v) / (1 + math.exp(v))


def logistic(x):
    """y = 1 / (1 + exp(-x)), any shape (paper, section 3.1)."""
    return _each(_logistic, x)


def logistic_backward(dy, x):
    """dx = dy * y(x) y(-x), since 1 - y(x) = y(-x)."""
    return _float64(dy) * _each(lambda v: _logistic(v) * _logistic(-v), x)


# --- fully connected, dropout --------------------------------------------------------------------


def linear(x, w, b):
    """y[f,n] = b[f] + sum over d of w[f,d] x[d,n].  x (D,N), w (F,D), b (F,); returns y (F,N)."""
    x, w, b = _float64(x), _float64(w), _float64(b)
    (F, D), N = w.shape, x.shape[1]
    y = np.zeros((F, N))
    for f, n in np.ndindex(F, N):
        y[f, n] = b[f] + sum(w[f, d] * x[d, n] for d in range(D))
    return y


def linear_backward(dy, x, w):
    """Gradients (dx, dw, db) of linear, shaped like x, w and b."""
    dy, x, w = _float64(dy), _float64(x), _float64(w)
    F, D = w.shape
    dx, dw, db = np.zeros(x.shape), np.zeros(w.shape), np.zeros(F)
    for f, n in np.ndindex(dy.shape):
        db[f] += dy[f, n]
        for d in range(D):
            dx[d, n] += dy[f, n] * w[f, d]
            dw[f, d] += dy[f, n] * x[d, n]
    return dx, dw, db


def _dropout_factor(kept, keep, train, inverted):
    """What one number is multiplied by. Its mean over masks (kept with chance keep) is the test's."""
    if train:
        scale = 1 / keep if inverted else 1.0
        return scale if kept else 0.0
    return 1.0 if inverted else keep


def dropout(x, mask, keep=0.5, train=True, inverted=False):
    """Training: numbers whose mask is False become 0. Test: every number, times keep.

    x any shape, mask bool like x (or None in test). inverted moves the scale to training: x / keep
    where kept, and x itself in test. Paper, section 4.2; 2012: src/layer.cu:1121-1133 (not inverted).
    """
    x = _float64(x)
    y = np.zeros(x.shape)
    for i in np.ndindex(x.shape):
        y[i] = x[i] * _dropout_factor(train and mask[i], keep, train, inverted)
    return y


def dropout_backward(dy, mask, keep=0.5, train=True, inverted=False):
    """dx = dy times the factor that x was multiplied by."""
    return dropout(dy, mask, keep, train, inverted)


# --- softmax, loss, error ------------------------------------------------------------------------


def softmax(logits):
    """p[k,n] = exp(z[k,n]) / sum over j of exp(z[j,n]).  logits z (K,N); returns probabilities (K,N).

    The largest logit is subtracted first: that changes no quotient, and no exponential overflows.
    """
    z = _float64(logits)
    K, N = z.shape
    p = np.zeros((K, N))
    for n in range(N):
        largest = max(z[k, n] for k in range(K))
        total = sum(math.exp(z[k, n] - largest) for k in range(K))
        for k in range(K):
            p[k, n] = math.exp(z[k, n] - largest) / total
    return p


def softmax_loss(logits, labels, total=None):
    """Loss = (1/total) * sum over n of -log p[label_n, n], total = N unless given (paper, section 3.5).

    logits (K,N), labels (N,) ints in 0..K-1. -log p is written log(sum_j exp(z_j)) - z_label, which
    stays finite where p itself is too small for a float.
    """
    z = _float64(logits)
    K, N = z.shape
    loss = 0.0
    for n in range(N):
        largest = max(z[k, n] for k in range(K))
        log_sum = largest + math.log(sum(math.exp(z[k, n] - largest) for k in range(K)))
        loss += log_sum - z[labels[n], n]
    return loss / (N if total is None else total)


def softmax_loss_backward(logits, labels, total=None):
    """dlogits[k,n] = (p[k,n] - [k is the label of n]) / total.

    For the loss above is log(sum_j exp(z_j)) - z_label: the first part's derivative by z_k is p_k.
    """
    p = softmax(logits)
    K, N = p.shape
    dlogits = np.zeros((K, N))
    for k, n in np.ndindex(K, N):
        hot = 1.0 if k == labels[n] else 0.0
        dlogits[k, n] = (p[k, n] - hot) / (N if total is None else total)
    return dlogits


def topk_error(scores, labels, k):
    """Per image: the chance that the label is not among the k best, ties being broken at random.

    scores (K,N), labels (N,); returns (N,) numbers in [0, 1]. With m scores above the label's and e
    equal to it (itself included), the label's place is any of m, m+1, ..., m+e-1, all as likely;
    places below k are hits. 2012: src/layer_kernels.cu, kMultiSoftmaxCost.
    """
    scores = _float64(scores)
    K, N = scores.shape
    error = np.zeros(N)
    for n in range(N):
        own = scores[labels[n], n]
        above = sum(1 for j in range(K) if scores[j, n] > own)
        equal = sum(1 for j in range(K) if scores[j, n] == own)
        misses = sum(1 for place in range(above, above + equal) if place >= k)
        error[n] = misses / equal
    return error
