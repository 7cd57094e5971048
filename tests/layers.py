"""Layers as they are written elsewhere, (N,C,H,W): functions with a cache, through im2col."""

import numpy as np


def im2col(x, KH, KW, stride, pad):
    """Every window as a row: (N·OH·OW, C·KH·KW)."""
    N, C, H, W = x.shape
    OH, OW = (H + 2 * pad - KH) // stride + 1, (W + 2 * pad - KW) // stride + 1
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    cols = np.zeros((N, C, KH, KW, OH, OW))
    for p in range(KH):
        for q in range(KW):
            cols[:, :, p, q] = x[:, :, p : p + stride * OH : stride, q : q + stride * OW : stride]
    return cols.transpose(0, 4, 5, 1, 2, 3).reshape(N * OH * OW, -1)


def col2im(cols, x_shape, KH, KW, stride, pad):
    """Transpose of im2col."""
    N, C, H, W = x_shape
    OH, OW = (H + 2 * pad - KH) // stride + 1, (W + 2 * pad - KW) // stride + 1
    cols = cols.reshape(N, OH, OW, C, KH, KW).transpose(0, 3, 4, 5, 1, 2)
    x = np.zeros((N, C, H + 2 * pad, W + 2 * pad))
    for p in range(KH):
        for q in range(KW):
            x[:, :, p : p + stride * OH : stride, q : q + stride * OW : stride] += cols[:, :, p, q]
    return x[:, :, pad : H + pad, pad : W + pad]


def conv_forward_im2col(x, w, b, conv_param):
    """Convolution."""
    stride, pad = conv_param["stride"], conv_param["pad"]
    N, _, H, W = x.shape
    F, _, KH, KW = w.shape
    OH, OW = (H + 2 * pad - KH) // stride + 1, (W + 2 * pad - KW) // stride + 1
    cols = im2col(x, KH, KW, stride, pad)
    out = cols @ w.reshape(F, -1).T + b
    out = out.reshape(N, OH, OW, F).transpose(0, 3, 1, 2)
    return out, (x, w, b, conv_param, cols)


def conv_backward_im2col(dout, cache):
    """Backward of convolution."""
    x, w, _, conv_param, cols = cache
    stride, pad = conv_param["stride"], conv_param["pad"]
    F, _, KH, KW = w.shape
    db = dout.sum(axis=(0, 2, 3))
    g = dout.transpose(0, 2, 3, 1).reshape(-1, F)
    dw = (g.T @ cols).reshape(w.shape)
    dx = col2im(g @ w.reshape(F, -1), x.shape, KH, KW, stride, pad)
    return dx, dw, db


def max_pool_forward_naive(x, pool_param):
    """Max pooling."""
    N, C, H, W = x.shape
    KH, KW, stride = pool_param["pool_height"], pool_param["pool_width"], pool_param["stride"]
    OH, OW = (H - KH) // stride + 1, (W - KW) // stride + 1
    out = np.zeros((N, C, OH, OW))
    for i in range(OH):
        for j in range(OW):
            out[:, :, i, j] = x[:, :, i * stride : i * stride + KH, j * stride : j * stride + KW].max(
                axis=(2, 3)
            )
    return out, (x, pool_param)


def max_pool_backward_naive(dout, cache):
    """Backward of max pooling."""
    x, pool_param = cache
    KH, KW, stride = pool_param["pool_height"], pool_param["pool_width"], pool_param["stride"]
    dx = np.zeros_like(x)
    for n, c, i, j in np.ndindex(dout.shape):
        window = x[n, c, i * stride : i * stride + KH, j * stride : j * stride + KW]
        p, q = np.unravel_index(window.argmax(), window.shape)
        dx[n, c, i * stride + p, j * stride + q] += dout[n, c, i, j]
    return dx


def relu_forward(x):
    """ReLU."""
    return np.maximum(0, x), x


def relu_backward(dout, cache):
    """Backward of ReLU."""
    return dout * (cache > 0)


def affine_forward(x, w, b):
    """Linear layer."""
    return x.reshape(len(x), -1) @ w + b, (x, w, b)


def affine_backward(dout, cache):
    """Backward of the linear layer."""
    x, w, _ = cache
    dx = (dout @ w.T).reshape(x.shape)
    dw = x.reshape(len(x), -1).T @ dout
    db = dout.sum(axis=0)
    return dx, dw, db


def dropout_forward(x, dropout_param):
    """Inverted dropout; p: the share that is kept."""
    p, mode = dropout_param["p"], dropout_param["mode"]
    if "seed" in dropout_param:
        np.random.seed(dropout_param["seed"])  # noqa: NPY002
    mask = None
    if mode == "train":
        mask = (np.random.rand(*x.shape) < p) / p  # noqa: NPY002
        out = x * mask
    else:
        out = x
    return out, (dropout_param, mask)


def dropout_backward(dout, cache):
    """Backward of dropout."""
    dropout_param, mask = cache
    return dout * mask if dropout_param["mode"] == "train" else dout
