"""The operations of the network, twice: computed by jax for training, written as ONNX for export.

`net.py` is written once against these names, so the exported graph cannot drift from the trained
one. Jax arrays bring their own operators; `Node` gives an ONNX value the same ones.
"""

import jax
import jax.numpy as jnp
import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper

OPSET = 17


class Jax:
    """Computes."""

    exp, log, abs, sign, sigmoid = jnp.exp, jnp.log, jnp.abs, jnp.sign, jax.nn.sigmoid
    maximum, minimum = jnp.maximum, jnp.minimum

    @staticmethod
    def known(x):
        """1 where a value is known, 0 where it is NaN; and the values with 0 for NaN."""
        return 1.0 - jnp.isnan(x).astype(jnp.float32), jnp.where(jnp.isnan(x), 0.0, x)

    @staticmethod
    def dropped(x, share, key):
        """A share of the units set to 0, the others raised to make up for it."""
        kept = jax.random.bernoulli(key, 1 - share, x.shape)
        return jnp.where(kept, x / (1 - share), 0.0)

    @staticmethod
    def cut(x, start, stop, axis=1):
        return jax.lax.slice_in_dim(x, start, stop, axis=axis)

    @staticmethod
    def shape(x, *dims):
        return x.reshape(-1, *dims)

    @staticmethod
    def join(parts, axis=1):
        return jnp.concatenate(parts, axis=axis)

    @staticmethod
    def sum(x, axis, keep=False):
        return jnp.sum(x, axis=axis, keepdims=keep)

    @staticmethod
    def cumulated(x, axis, backwards=False):
        return jax.lax.cumsum(x, axis=axis, reverse=backwards)

    @staticmethod
    def softmax(x, axis):
        return jax.nn.softmax(x, axis=axis)


class Node:
    """A value of the graph that is being written."""

    def __init__(self, graph, name):
        self.graph, self.name = graph, name

    def __add__(self, other):
        return self.graph.op("Add", self, other)

    def __sub__(self, other):
        return self.graph.op("Sub", self, other)

    def __rsub__(self, other):
        return self.graph.op("Sub", other, self)

    def __mul__(self, other):
        return self.graph.op("Mul", self, other)

    def __truediv__(self, other):
        return self.graph.op("Div", self, other)

    def __matmul__(self, other):
        return self.graph.op("MatMul", self, other)

    def __neg__(self):
        return self.graph.op("Neg", self)


class Onnx:
    """Writes down."""

    def __init__(self):
        self.nodes, self.constants, self.named = [], [], {}

    def constant(self, value):
        value = np.asarray(value, np.float32) if not isinstance(value, np.ndarray) else value
        key = (value.dtype.str, value.shape, value.tobytes())
        if key not in self.named:
            self.named[key] = f"k{len(self.constants)}"
            self.constants.append(numpy_helper.from_array(value, self.named[key]))
        return self.named[key]

    def op(self, kind, *inputs, **attributes):
        names = [i.name if isinstance(i, Node) else self.constant(i) for i in inputs]
        out = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, names, [out], **attributes))
        return Node(self, out)

    def whole(self, *numbers):
        return np.array(numbers, np.int64)

    def known(self, x):
        missing = self.op("IsNaN", x)
        return 1.0 - self.op("Cast", missing, to=TensorProto.FLOAT), self.op("Where", missing, 0.0, x)

    def bytes(self, zeros_and_ones):
        """A constant of zeros and ones, one byte each in the file."""
        return self.op("Cast", zeros_and_ones.astype(np.uint8), to=TensorProto.FLOAT)

    def exp(self, x):
        return self.op("Exp", x)

    def log(self, x):
        return self.op("Log", x)

    def abs(self, x):
        return self.op("Abs", x)

    def sign(self, x):
        return self.op("Sign", x)

    def sigmoid(self, x):
        return self.op("Sigmoid", x)

    def maximum(self, x, y):
        return self.op("Max", x, y)

    def minimum(self, x, y):
        return self.op("Min", x, y)

    def cut(self, x, start, stop, axis=1):
        return self.op("Slice", x, self.whole(start), self.whole(stop), self.whole(axis))

    def shape(self, x, *dims):
        return self.op("Reshape", x, self.whole(-1, *dims))

    def join(self, parts, axis=1):
        return self.op("Concat", *parts, axis=axis)

    def sum(self, x, axis, keep=False):
        return self.op("ReduceSum", x, self.whole(axis), keepdims=int(keep))

    def cumulated(self, x, axis, backwards=False):
        return self.op("CumSum", x, np.array(axis, np.int64), reverse=int(backwards))

    def softmax(self, x, axis):
        return self.op("Softmax", x, axis=axis)

    def finish(self, result, name, inputs, outputs):
        """The model's bytes."""
        self.nodes.append(helper.make_node("Identity", [result.name], [name]))
        graph = helper.make_graph(self.nodes, "demand", inputs, outputs, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
        checker.check_model(model, full_check=True)
        return model.SerializeToString()
