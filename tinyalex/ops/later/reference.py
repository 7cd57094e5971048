"""Every operation as loops in float64: those of later networks, and all of `tinyalex.ops.reference`."""

import math

import numpy as np

from tinyalex.ops.reference import *  # noqa: F403
from tinyalex.ops.reference import _each, _float64, _products, avg_pool, avg_pool_backward


def _channel(x, c, mean, var):
    """The places of channel c in x, and its mean and variance: the given ones, or else those of x."""
    places = [(c, *place) for place in np.ndindex(x.shape[1:])]
    if mean is not None:
        return places, float(mean[c]), float(var[c])
    mu = sum(x[i] for i in places) / len(places)
    return places, mu, sum((x[i] - mu) ** 2 for i in places) / len(places)


def batch_norm(x, w, b, mean=None, var=None, eps=1e-5):
    """Batch normalization: y_i = w_c (x_i - mean_c) / sqrt(var_c + eps) + b_c.  Ioffe, Szegedy 2015.

    x (C,H,W,N) or (D,N): the mean and variance of channel c are over its numbers, where none are given.
    """
    x = _float64(x)
    y = np.zeros(x.shape)
    for c in range(len(x)):
        places, mu, variance = _channel(x, c, mean, var)
        for i in places:
            y[i] = w[c] * (x[i] - mu) / math.sqrt(variance + eps) + b[c]
    return y


def batch_norm_backward(dy, x, w, mean=None, var=None, eps=1e-5):
    """dx, dw, db; dx by the quotient rule, one pair (output i, input j) of a channel at a time.

    y_i = w u / v + b with u = x_i - mu and v = sqrt(var + eps), so dy_i/dx_j = w (du v - u dv) / v^2. Given
    mean and var are constants: du = 1 if i is j, else 0, and dv = 0. Those of x move with x_j:
    du = [i is j] - 1/n, and dv = dvar / 2v, where dvar = 2 (x_j - mu) / n.
    """
    dy, x = _float64(dy), _float64(x)
    dx, dw, db = np.zeros(x.shape), np.zeros(len(x)), np.zeros(len(x))
    for c in range(len(x)):
        places, mu, variance = _channel(x, c, mean, var)
        n, v = len(places), math.sqrt(variance + eps)
        for i in places:
            u = x[i] - mu
            dw[c] += dy[i] * u / v
            db[c] += dy[i]
            for j in places:
                du, dv = (1.0 if i == j else 0.0), 0.0
                if mean is None:
                    du -= 1 / n
                    dv = 2 * (x[j] - mu) / n / (2 * v)
                dx[j] += dy[i] * w[c] * (du * v - u * dv) / v**2
    return dx, dw, db


def global_avg_pool(x):
    """y = the mean of all H x W pixels of a map.  x (C,H,W,N); returns y (C,1,1,N).  Lin, Chen, Yan 2013."""
    return avg_pool(x, x.shape[1:3], 1)


def global_avg_pool_backward(dy, x):
    """dx, shaped like x: each map's dy, in equal shares, to its pixels."""
    return avg_pool_backward(dy, x, x.shape[1:3], 1)


def relu6(x):
    """y = min(max(0, x), 6), any shape."""
    return _each(lambda v: min(max(0.0, v), 6.0), x)


def relu6_backward(dy, x):
    """dx = dy where 0 < x < 6, else 0, at both kinks too."""
    return _float64(dy) * _each(lambda v: 1.0 if 0 < v < 6 else 0.0, x)


def leaky_relu(x, slope=0.01):
    """y = x where x > 0, else slope x, any shape."""
    return _each(lambda v: v if v > 0 else slope * v, x)


def leaky_relu_backward(dy, x, slope=0.01):
    """dx = dy where x > 0, else slope dy."""
    return _float64(dy) * _each(lambda v: 1.0 if v > 0 else slope, x)


def _own_products(x_shape, w_shape, stride, pad):
    """An unshared convolution as a list: as `_products`, with weights of its own for each place."""
    F, OH, OW, *kernel = w_shape
    y_shape, products = _products(x_shape, (F, *kernel), stride, pad, groups=1)
    assert y_shape[1:3] == (OH, OW)
    return y_shape, [((f, oh, ow, n), (f, oh, ow, *w), pixel) for (f, oh, ow, n), (_, *w), pixel in products]


def local2d(x, w, b, stride=1, pad=0):
    """y[f,oh,ow,n] = b[f,oh,ow] + sum over c,kh,kw of w[f,oh,ow,c,kh,kw] x[c,h,w,n]; h and w as in conv2d.

    x (C,H,W,N), w (F,OH,OW,C,KH,KW), b (F,OH,OW).  cuda-convnet 2011: layer.py, LocalUnsharedLayerParser.
    """
    x, w, b = _float64(x), _float64(w), _float64(b)
    y_shape, products = _own_products(x.shape, w.shape, stride, pad)
    y = np.zeros(y_shape)
    for f, oh, ow, n in np.ndindex(y.shape):
        y[f, oh, ow, n] = b[f, oh, ow]
    for output, weight, pixel in products:
        y[output] += w[weight] * x[pixel]
    return y


def local2d_backward(dy, x, w, stride=1, pad=0):
    """Gradients (dx, dw, db) of local2d, shaped like x, w and b."""
    dy, x, w = _float64(dy), _float64(x), _float64(w)
    y_shape, products = _own_products(x.shape, w.shape, stride, pad)
    dx, dw, db = np.zeros(x.shape), np.zeros(w.shape), np.zeros(w.shape[:3])
    for f, oh, ow, n in np.ndindex(y_shape):
        db[f, oh, ow] += dy[f, oh, ow, n]
    for output, weight, pixel in products:
        dx[pixel] += dy[output] * w[weight]
        dw[weight] += dy[output] * x[pixel]
    return dx, dw, db
