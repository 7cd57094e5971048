"""ONNX graphs written down by hand, with the onnx helper: what other programs may write."""

import numpy as np
from onnx import helper, numpy_helper


class Graph:
    """An ONNX graph written down by hand."""

    def __init__(self, shape, seed=0):
        self.shape, self.nodes, self.weights = shape, [], []
        self.rng, self.inputs = np.random.default_rng(seed), []

    def weight(self, name, *shape, scale=None):
        scale = np.sqrt(2 / np.prod(shape[1:], initial=1)) if scale is None else scale
        return self.array(name, scale * self.rng.standard_normal(shape))

    def array(self, name, value, dtype=np.float32):
        self.weights.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def node(self, op, inputs, output, **attributes):
        made = helper.make_node(op, inputs.split(), output.split(), name=f"n_{output}", **attributes)
        self.nodes.append(made)

    def write(self, path, opset=13, ir=8, listed=False, batch="N"):
        """listed: the weights are inputs too, as in files of 2017."""
        inputs = [helper.make_tensor_value_info("data", 1, [batch, *self.shape])]
        if listed:
            inputs += [helper.make_tensor_value_info(w.name, w.data_type, w.dims) for w in self.weights]
        outputs = [helper.make_tensor_value_info(self.nodes[-1].output[0], 1, None)]
        graph = helper.make_graph(self.nodes, "by hand", inputs, outputs, self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)
        path.write_bytes(model.SerializeToString())
        return path


def bvlc(widths=(6, 16, 24, 24, 16), hidden=64, classes=32):
    """bvlc_alexnet as the model zoo has it: opset 8, weights among the inputs, LRN across the towers."""
    c1, c2, c3, c4, c5 = widths
    g = Graph((3, 99, 99))
    g.weight("w1", c1, 3, 11, 11), g.weight("b1", c1)
    g.node("Conv", "data w1 b1", "conv1", kernel_shape=[11, 11], strides=[4, 4], pads=[0, 0, 0, 0])
    g.node("Relu", "conv1", "relu1")
    g.node("LRN", "relu1", "norm1", size=5, alpha=0.2, beta=0.75, bias=1.0)
    g.node("MaxPool", "norm1", "pool1", kernel_shape=[3, 3], strides=[2, 2])
    g.weight("w2", c2, c1 // 2, 5, 5), g.weight("b2", c2)
    g.node("Conv", "pool1 w2 b2", "conv2", group=2, kernel_shape=[5, 5], pads=[2, 2, 2, 2])
    g.node("Relu", "conv2", "relu2")
    g.node("LRN", "relu2", "norm2", size=5, alpha=0.2, beta=0.75, bias=1.0)
    g.node("MaxPool", "norm2", "pool2", kernel_shape=[3, 3], strides=[2, 2])
    g.weight("w3", c3, c2, 3, 3), g.weight("b3", c3)
    g.node("Conv", "pool2 w3 b3", "conv3", kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    g.node("Relu", "conv3", "relu3")
    g.weight("w4", c4, c3 // 2, 3, 3), g.weight("b4", c4)
    g.node("Conv", "relu3 w4 b4", "conv4", group=2, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    g.node("Relu", "conv4", "relu4")
    g.weight("w5", c5, c4 // 2, 3, 3), g.weight("b5", c5)
    g.node("Conv", "relu4 w5 b5", "conv5", group=2, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    g.node("Relu", "conv5", "relu5")
    g.node("MaxPool", "relu5", "pool5", kernel_shape=[3, 3], strides=[2, 2])
    g.array("shape", [-1, c5 * 4], np.int64)
    g.node("Reshape", "pool5 shape", "flat")
    value, D = "flat", c5 * 4
    for k, F in ((6, hidden), (7, hidden), (8, classes)):
        g.weight(f"w{k}", F, D), g.weight(f"b{k}", F)
        g.node("Gemm", f"{value} w{k} b{k}", f"fc{k}", transB=1)
        value, D = f"fc{k}", F
        if k < 8:
            g.node("Relu", value, f"relu{k}")
            g.node("Dropout", f"relu{k}", f"drop{k} mask{k}", ratio=0.5)
            value = f"drop{k}"
    g.node("Softmax", value, "prob", axis=1)
    return g


def towers_2012():
    """Two towers all the way: Split, LRN, Concat; MatMul + Add; no biases; dropout as 2012 had it."""
    g = Graph((3, 33, 35))
    g.weight("w1", 8, 3, 5, 5)
    g.node("Conv", "data w1", "conv1", strides=[2, 2], pads=[1, 2, 3, 0])
    g.node("Split", "conv1", "left right", axis=1)
    for side in ("left", "right"):
        g.node("LRN", side, f"{side}.norm", size=3, alpha=0.5, beta=0.6, bias=2.0)
    g.node("Concat", "left.norm right.norm", "norm", axis=1)
    g.node("MaxPool", "norm", "pool", kernel_shape=[3, 3], strides=[2, 2], pads=[0, 1, 1, 0])
    g.node("Relu", "pool", "relu1")
    g.weight("w2", 12, 4, 3, 3), g.array("b2", np.linspace(-1, 1, 12))
    g.node("Conv", "relu1 w2 b2", "conv2", group=2, auto_pad="SAME_LOWER", strides=[2, 2])
    g.node("Tanh", "conv2", "tanh2")
    g.node("AveragePool", "tanh2", "pool2", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)
    g.array("half", 0.5)
    g.node("Flatten", "pool2", "flat")
    g.node("Mul", "half flat", "dropped")
    g.weight("w3", 12 * 4, 10), g.weight("b3", 10)
    g.node("MatMul", "dropped w3", "product")
    g.node("Add", "b3 product", "logits")
    return g


def within_a_map():
    """2012's normalization within a map, ConstantOfShape, Constant, tanh[a,b], sizes computed."""
    g = Graph((2, 20, 18))
    g.weight("w1", 6, 2, 3, 4)
    g.array("six", [6], np.int64)
    g.node("ConstantOfShape", "six", "b1", value=numpy_helper.from_array(np.array([0.25], np.float32)))
    g.node("Conv", "data w1 b1", "conv1", pads=[1, 1, 1, 2])
    g.node("Mul", "conv1 conv1", "square")
    g.node("AveragePool", "square", "mean", kernel_shape=[5, 5], pads=[2] * 4, count_include_pad=1)
    g.node("Constant", "", "alpha", value=numpy_helper.from_array(np.array(0.7, np.float32)))
    g.array("k", 1.5), g.array("beta", 0.75)
    g.node("Mul", "alpha mean", "scaled")
    g.node("Add", "scaled k", "bracket")
    g.node("Pow", "bracket beta", "power")
    g.node("Div", "conv1 power", "norm")
    g.array("b", 2 / 3), g.array("a", 1.7159)
    g.node("Mul", "norm b", "bx")
    g.node("Tanh", "bx", "tanh")
    g.node("Mul", "a tanh", "ax")
    g.node(
        "AveragePool",
        "ax",
        "pool",
        kernel_shape=[3, 3],
        strides=[3, 3],
        pads=[1, 0, 1, 1],
        count_include_pad=1,
    )
    g.node("Shape", "pool", "sizes")
    g.array("zero", 0, np.int64), g.array("axis", [0], np.int64), g.array("rest", [-1], np.int64)
    g.node("Gather", "sizes zero", "batch", axis=0)
    g.node("Unsqueeze", "batch axis", "batch1")
    g.node("Concat", "batch1 rest", "target", axis=0)
    g.node("Reshape", "pool target", "flat")
    g.weight("w2", 6 * 7 * 6, 7)
    g.node("Gemm", "flat w2", "fc")
    g.node("Identity", "fc", "out")
    return g
