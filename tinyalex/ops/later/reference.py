"""The operations of later networks as plain loops in float64: see `tinyalex.ops.reference`."""

import math

import numpy as np


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
    x = np.asarray(x, np.float64)
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
    dy, x = np.asarray(dy, np.float64), np.asarray(x, np.float64)
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
