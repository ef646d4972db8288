"""The demand network: features in (`features.py`), quantiles around level in units of scale out.

1. A residual network reads the context once and hands a short code on.
2. One decoder, shared by all horizons, reads that code beside the horizon's own features: the same
   weights serve every horizon from one step to a day, so that what is learnt of the daily season at
   one of them serves all.
3. It mixes simple point forecasts (softmax) to a centre and simple spreads (softmax of their
   logarithms) to a width, and adds cumulated softplus gaps times that width: quantiles never cross.
"""

import numpy as np
from onnx import TensorProto, helper

from .features import AHEAD, CONTEXT, EXPERTS, SPREADS
from .ops import Node, Onnx

LEVELS = [0.01, 0.025, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.975, 0.99]
Q, MEDIAN = len(LEVELS), LEVELS.index(0.5)
HORIZONS = [1, 2, 3, 4, 6, 9, 12, 18, 24, 36, 48, 72, 108, 144, 216, 288]
# Width of the reader, of the code and of the decoder, and the reader's residual blocks.
TIERS = {"full": (128, 64, 48, 2), "small": (64, 32, 24, 1)}
# Seed and share of dropped units of the networks whose mean is a tier.
MEMBERS = {"full": [(7, 0.15), (8, 0.25)], "small": [(7, 0.25)]}
STEPS = {"full": 6000, "small": 4000}
SQUASHED = CONTEXT - 12 - 9 - 3 - 10 - 2 - 4 - 9 - 6  # the context's values; the rest are flags, logs, groups
DEGREE = EXPERTS + Q + SPREADS


def init(rng, tier):
    width, code, decoder, blocks = TIERS[tier]

    def dense(rows, columns, gain=1.0):
        return (gain * rng.normal(0, 1 / np.sqrt(rows), (rows, columns))).astype(np.float32)

    def zeros(size, value=0.0):
        return np.full(size, value, np.float32)

    p = {"w": dense(CONTEXT, width), "b": zeros(width)}
    for block in range(blocks):
        p |= {f"u{block}": dense(width, width), f"c{block}": zeros(width), f"v{block}": dense(width, width, 0.1)}
    p |= {"code": dense(width, decoder), "x": dense(AHEAD, decoder), "x_b": zeros(decoder)}
    p |= {"du": dense(decoder, decoder), "dc": zeros(decoder), "dv": dense(decoder, decoder, 0.1)}
    p |= {"out": dense(decoder, DEGREE, 0.1)}
    p |= {"out_b": np.concatenate([zeros(EXPERTS), zeros(Q, -1.0), zeros(SPREADS)])}
    return p


def squash(ops, z):
    return ops.log(ops.abs(z) + 1.0) * ops.sign(z)


def silu(ops, x):
    return x * ops.sigmoid(x)


def forward(ops, p, context, ahead, keys=None, dropped=0.0):
    """Quantiles [batch, horizons, Q] in units of scale around level. `keys`: drop units, for training."""
    values, rest = ops.cut(context, 0, SQUASHED), ops.cut(context, SQUASHED, CONTEXT)
    # Logs, flags and shares are small already; the extremes and the activity are not.
    h = ops.join([squash(ops, values), squash(ops, rest)]) @ p["w"] + p["b"]
    h = silu(ops, h)
    if keys is not None:
        h = ops.dropped(h, dropped, keys[0])
    block = 0
    while f"u{block}" in p:
        h = h + silu(ops, h @ p[f"u{block}"] + p[f"c{block}"]) @ p[f"v{block}"]
        block += 1
    experts = ops.cut(ahead, 0, EXPERTS, axis=2)
    spreads = ops.cut(ahead, EXPERTS, EXPERTS + SPREADS, axis=2)
    if keys is not None:
        h = ops.dropped(h, dropped, keys[1])
    code = ops.shape(h @ p["code"] + p["x_b"], 1, p["x_b"].shape[0])
    d = silu(ops, squash(ops, ahead) @ p["x"] + code)
    d = d + silu(ops, d @ p["du"] + p["dc"]) @ p["dv"]
    out = d @ p["out"] + p["out_b"]
    gate = ops.softmax(ops.cut(out, 0, EXPERTS, axis=2), axis=2)
    centre = ops.sum(gate * experts, 2, keep=True)
    mix = ops.softmax(ops.cut(out, EXPERTS + Q, DEGREE, axis=2), axis=2)
    width = ops.exp(ops.sum(mix * spreads, 2, keep=True))
    raw = ops.cut(out, EXPERTS, EXPERTS + Q, axis=2)
    gaps = ops.log(ops.exp(ops.minimum(raw, 20.0)) + 1.0) * width
    middle = centre + (ops.cut(raw, MEDIAN, MEDIAN + 1, axis=2) + 1.0) * width * 0.5
    ones = np.triu(np.ones((MEDIAN, MEDIAN), np.float32))
    below = ops.cut(gaps, 0, MEDIAN, axis=2) @ ones.T
    above = ops.cut(gaps, MEDIAN + 1, Q, axis=2) @ ones
    return ops.join([middle - below, middle, middle + above], axis=2)


def export(members):
    """The mean of the trained networks as the bytes of an ONNX model."""
    ops = Onnx()
    inputs = [
        helper.make_tensor_value_info("context", TensorProto.FLOAT, ["batch", CONTEXT]),
        helper.make_tensor_value_info("ahead", TensorProto.FLOAT, ["batch", "horizons", AHEAD]),
    ]
    output = helper.make_tensor_value_info("quantiles", TensorProto.FLOAT, ["batch", "horizons", Q])
    results = [
        forward(ops, {name: np.asarray(value) for name, value in p.items()}, Node(ops, "context"), Node(ops, "ahead"))
        for p in members
    ]
    total = results[0]
    for result in results[1:]:
        total = total + result
    if len(results) > 1:
        total = total * (1.0 / len(results))
    return ops.finish(total, "quantiles", inputs, [output])
