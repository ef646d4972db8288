"""The demand network: raw history in (NaN = missing), quantiles in raw units out.

1. Masked means of the history at several resolutions: the last 48 steps, 48 half hours, 56 spans of
   three hours, and the time of day of every horizon on each of the seven days before.
2. Level and scale of the series itself; everything is seen relative to them, so the units do not
   matter.
3. A small residual network that gates six simple experts per horizon (last value, last quarter of
   an hour, last hour, a day ago, mean of days, that mean moved to the present level) and adds
   offsets per quantile. The offsets are cumulated softplus values, so quantiles never cross, not
   even by rounding.
"""

import numpy as np
from onnx import TensorProto, helper

from ops import Node, Onnx

CONTEXT, DAY = 2016, 288
HORIZONS = [1, 2, 3, 4, 6, 9, 12, 18, 24, 36, 48, 72]
LEVELS = [0.01, 0.025, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.975, 0.99]
H, Q, MEDIAN = len(HORIZONS), len(LEVELS), LEVELS.index(0.5)
LAST, HALF, THREE, DAYS, RECENT = 48, 48, 56, 7, (3, 12, DAY, CONTEXT)
FEATURES = LAST + HALF + THREE + H * DAYS + len(RECENT)
SEASON = LAST + HALF + THREE  # where the seasonal means begin
EXPERTS, HIDDEN, BLOCKS = 6, 128, 2


def season():
    """[CONTEXT, H * DAYS] of 0 and 1: seven steps around the horizon's time of day, per day."""
    pool = np.zeros((CONTEXT, H * DAYS), np.float32)
    for h, ahead in enumerate(HORIZONS):
        for day in range(DAYS):
            centre = CONTEXT - 1 + ahead - DAY * (day + 1)
            pool[max(centre - 3, 0) : min(centre + 4, CONTEXT), h * DAYS + day] = 1
    return pool


def init(rng):
    def dense(rows, columns, gain=1.0):
        return (gain * rng.normal(0, 1 / np.sqrt(rows), (rows, columns))).astype(np.float32)

    def zeros(size, value=0.0):
        return np.full(size, value, np.float32)

    p = {"w": dense(2 * FEATURES + 3, HIDDEN), "b": zeros(HIDDEN)}
    for block in range(BLOCKS):
        p |= {f"u{block}": dense(HIDDEN, HIDDEN), f"c{block}": zeros(HIDDEN), f"v{block}": dense(HIDDEN, HIDDEN, 0.1)}
    p |= {"gate": dense(HIDDEN, H * EXPERTS, 0.1), "gate_b": zeros(H * EXPERTS)}
    p |= {"out": dense(HIDDEN, H * Q, 0.1), "out_b": zeros(H * Q, -1.5)}
    return p


def pooled(ops, x, pool):
    """Sums of x over every span that is a feature: [batch, FEATURES]."""
    half = ops.shape(ops.cut(x, CONTEXT - 6 * HALF, CONTEXT), HALF, 6)
    three = ops.shape(x, THREE, CONTEXT // THREE)
    recent = [ops.sum(ops.cut(x, CONTEXT - steps, CONTEXT), 1, keep=True) for steps in RECENT]
    return ops.join([ops.cut(x, CONTEXT - LAST, CONTEXT), ops.sum(half, 2), ops.sum(three, 2), x @ pool, *recent])


def forward(ops, p, x, pool):
    """Quantiles [batch, H, Q], and the scale [batch, 1] that the loss is measured in."""
    mask, filled = ops.known(x)
    count = pooled(ops, mask, pool)
    seen = ops.minimum(count, 1.0)
    mean = pooled(ops, filled, pool) / ops.maximum(count, 1.0)
    # Level: the last day, or the whole context where the last day is missing.
    day_seen = ops.cut(seen, FEATURES - 2, FEATURES - 1)
    level = ops.cut(mean, FEATURES - 2, FEATURES - 1) * day_seen
    level = level + ops.cut(mean, FEATURES - 1, FEATURES) * (1.0 - day_seen)
    deviation = ops.abs(filled - level) * mask
    day = ops.sum(ops.cut(deviation, CONTEXT - DAY, CONTEXT), 1, keep=True)
    spread = ops.join([day, ops.sum(deviation, 1, keep=True)])
    spread = spread / ops.maximum(ops.cut(count, FEATURES - 2, FEATURES), 1.0)
    scale = ops.sum(spread, 1, keep=True) * 0.5 + ops.abs(level) * 0.02 + 1e-4

    z = (mean - level) / scale * seen
    squashed = ops.log(ops.abs(z) + 1.0) * ops.sign(z)
    tempers = [ops.log(spread / scale + 0.01), ops.log(ops.abs(level) / scale + 0.01)]
    h = ops.join([squashed, seen, *tempers]) @ p["w"] + p["b"]
    h = h * ops.sigmoid(h)
    for block in range(BLOCKS):
        a = h @ p[f"u{block}"] + p[f"c{block}"]
        h = h + (a * ops.sigmoid(a)) @ p[f"v{block}"]

    gate = ops.softmax(ops.shape(h @ p["gate"] + p["gate_b"], H, EXPERTS), axis=2)
    centre = ops.sum(gate * experts(ops, z, seen), 2, keep=True)
    raw = ops.shape(h @ p["out"] + p["out_b"], H, Q)
    gaps = ops.log(ops.exp(ops.minimum(raw, 20.0)) + 1.0)
    # The median's own place in `raw` moves the centre; the others are gaps outwards from it.
    middle = centre + (ops.cut(raw, MEDIAN, MEDIAN + 1, axis=2) + 1.5) * 0.3
    below = -ops.cumulated(ops.cut(gaps, 0, MEDIAN, axis=2), 2, backwards=True)
    above = ops.cumulated(ops.cut(gaps, MEDIAN + 1, Q, axis=2), 2)
    q = ops.join([middle + below, middle, middle + above], axis=2)
    q = q * ops.shape(scale, 1, 1) + ops.shape(level, 1, 1)
    return ops.maximum(q, 0.0), scale


def experts(ops, z, seen):
    """Point forecasts [batch, H, EXPERTS], in units of scale around level."""
    quarter = ops.cut(z, FEATURES - 4, FEATURES - 3)
    hour = ops.cut(z, FEATURES - 3, FEATURES - 2)
    last = ops.cut(z, LAST - 1, LAST) + quarter * (1.0 - ops.cut(seen, LAST - 1, LAST))
    days = ops.shape(ops.cut(z, SEASON, SEASON + H * DAYS), H, DAYS)
    days_seen = ops.shape(ops.cut(seen, SEASON, SEASON + H * DAYS), H, DAYS)
    day_ago = ops.shape(ops.cut(days, 0, 1, axis=2), H)
    habit = ops.sum(days, 2) / ops.maximum(ops.sum(days_seen, 2), 1.0)
    moved = habit - ops.cut(habit, 0, 1) + hour
    still = day_ago * 0.0  # gives a single value the shape [batch, H]
    return ops.join([ops.shape(e, H, 1) for e in (still + last, still + quarter, still + hour, day_ago, habit, moved)], axis=2)


def export(p):
    """The trained network as the bytes of an ONNX model."""
    ops = Onnx()
    history = helper.make_tensor_value_info("history", TensorProto.FLOAT, ["batch", CONTEXT])
    quantiles = helper.make_tensor_value_info("quantiles", TensorProto.FLOAT, ["batch", H, Q])
    result, _ = forward(ops, {name: np.asarray(value) for name, value in p.items()}, Node(ops, "history"), ops.bytes(season()))
    return ops.finish(result, "quantiles", [history], [quantiles])
