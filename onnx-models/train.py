"""Trains the demand model and writes it as ONNX with its manifest.

    python onnx-models/train.py [--data ../shared/data] [--seconds 120]

One global quantile network over all series of the training ranges. Everything is inside the graph:
raw history in (NaN = missing), quantiles in raw units out. Features are masked means at several
resolutions, the same time of day on earlier days, and spreads, all relative to the series' own
level and scale; the output is a gated mixture of simple experts (last value, last hour, a day ago,
mean of days) plus non-crossing offsets by cumulated softplus.
"""

import argparse
import hashlib
import json
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import optax
import pyarrow.parquet as pq
from onnx import TensorProto, helper, numpy_helper

HERE = pathlib.Path(__file__).resolve().parent
CONTEXT = 2016
HORIZONS = [1, 2, 3, 4, 6, 9, 12, 18, 24, 36, 48, 72]
LEVELS = [0.01, 0.025, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.975, 0.99]
H, Q, DAY, HIDDEN = len(HORIZONS), len(LEVELS), 288, 96
SEED = 7


def load(folder):
    """Training part of every series, as float32 arrays with NaN."""
    series = []
    table = pq.read_table(folder / "bitbrains_rnd_2013-08_120vms.parquet").to_pandas()
    for _, vm in table.sort_values(["vm", "step"]).groupby("vm"):
        for column in ["cpu_pct", "mem_mib", "net_rx_kbs", "net_tx_kbs"]:
            series.append(vm[column].to_numpy(np.float32)[:5760])
    table = pq.read_table(folder / "asd_12servers.parquet").to_pandas()
    for _, server in table.sort_values(["server", "step"]).groupby("server"):
        for column in ["m00", "m03", "m05", "m07", "m12"]:
            series.append(server[column].to_numpy(np.float32)[:7776])
    return series


def matrices():
    """Constant pooling matrices [CONTEXT, k]: the graph's features are masked weighted means."""
    last = np.zeros((CONTEXT, 48), np.float32)
    for i in range(48):
        last[CONTEXT - 1 - i, i] = 1
    half = np.zeros((CONTEXT, 48), np.float32)
    for i in range(48):
        half[CONTEXT - 6 * (i + 1) : CONTEXT - 6 * i, i] = 1
    season = np.zeros((CONTEXT, H * 7), np.float32)
    for h, ahead in enumerate(HORIZONS):
        for d in range(7):
            centre = CONTEXT - 1 + ahead - DAY * (d + 1)
            for at in range(centre - 3, centre + 4):
                if 0 <= at < CONTEXT:
                    season[at, h * 7 + d] = 1
    recent = np.zeros((CONTEXT, 4), np.float32)
    for i, steps in enumerate([3, 12, DAY, CONTEXT]):
        recent[CONTEXT - steps :, i] = 1
    return np.concatenate([last, half, season, recent], axis=1)


POOL = matrices()
F = POOL.shape[1]
EXPERTS = 4


def init(rng):
    def dense(rows, columns):
        return rng.normal(0, 1 / np.sqrt(rows), (rows, columns)).astype(np.float32)

    inputs = F + F + 3
    p = {"w0": dense(inputs, HIDDEN), "b0": np.zeros(HIDDEN, np.float32)}
    for block in (1, 2):
        p[f"u{block}"] = dense(HIDDEN, HIDDEN)
        p[f"c{block}"] = np.zeros(HIDDEN, np.float32)
        p[f"v{block}"] = dense(HIDDEN, HIDDEN) * 0.1
    p["wg"], p["bg"] = dense(HIDDEN, H * EXPERTS) * 0.1, np.zeros(H * EXPERTS, np.float32)
    p["wq"] = dense(HIDDEN, H * Q) * 0.1
    p["bq"] = np.full(H * Q, -1.5, np.float32)
    return p


def forward(p, x):
    """x [B, CONTEXT] with NaN. Mirrored operation by operation in `export`."""
    mask = 1.0 - jnp.isnan(x).astype(jnp.float32)
    filled = jnp.where(jnp.isnan(x), 0.0, x)
    count = mask @ POOL
    sums = filled @ POOL
    seen = jnp.minimum(count, 1.0)
    mean = sums / jnp.maximum(count, 1.0)
    level = mean[:, F - 2 : F - 1] * seen[:, F - 2 : F - 1]  # last day
    deviation = jnp.abs(filled - level) * mask
    pooled = deviation @ POOL[:, F - 2 :] / jnp.maximum(count[:, F - 2 :], 1.0)
    scale = jnp.mean(pooled, axis=1, keepdims=True) + 0.02 * jnp.abs(level) + 1e-4
    z = (mean - level) / scale * seen
    squashed = jnp.log(jnp.abs(z) + 1.0) * jnp.sign(z)
    spread = jnp.log(pooled / scale + 0.01)
    relative = jnp.log(jnp.abs(level) / scale + 0.01)
    h = jnp.concatenate([squashed, seen, spread, relative], axis=1) @ p["w0"] + p["b0"]
    h = h * jax.nn.sigmoid(h)
    for block in (1, 2):
        a = h @ p[f"u{block}"] + p[f"c{block}"]
        h = h + (a * jax.nn.sigmoid(a)) @ p[f"v{block}"]
    # Experts, in units of scale around level: last quarter of an hour, last hour, a day ago, days.
    quarter, hour = z[:, F - 4 : F - 3], z[:, F - 3 : F - 2]
    days = z[:, 96 : 96 + H * 7].reshape(-1, H, 7)
    days_seen = seen[:, 96 : 96 + H * 7].reshape(-1, H, 7)
    day_ago = days[:, :, 0]
    all_days = jnp.sum(days, axis=2) / jnp.maximum(jnp.sum(days_seen, axis=2), 1.0)
    ones = jnp.ones((1, H), jnp.float32)
    experts = jnp.stack([quarter * ones, hour * ones, day_ago, all_days], axis=2)
    gate = jax.nn.softmax((h @ p["wg"] + p["bg"]).reshape(-1, H, EXPERTS), axis=2)
    centre = jnp.sum(gate * experts, axis=2, keepdims=True)
    raw = (h @ p["wq"] + p["bq"]).reshape(-1, H, Q)
    middle, gaps = raw[:, :, 6:7] + 1.5, jnp.log(jnp.exp(jnp.minimum(raw, 20.0)) + 1.0)
    offsets = gaps @ CUMULATE
    q = (centre + middle * 0.3 + offsets) * scale[:, :, None] + level[:, :, None]
    return jnp.maximum(q, 0.0), scale


def cumulate():
    """gaps @ CUMULATE: minus the gaps down to a level below the median, plus those up to it."""
    m = np.zeros((Q, Q), np.float32)
    for q in range(Q):
        for gap in range(min(q, 6), max(q, 6)):
            # Gap `gap` lies between levels gap and gap+1; its parameter skips the median's place.
            place = gap if gap < 6 else gap + 1
            m[place, q] = -1.0 if q < 6 else 1.0
    return m


CUMULATE = cumulate()


def loss(p, x, y):
    q, scale = forward(p, x)
    known = 1.0 - jnp.isnan(y).astype(jnp.float32)
    error = (jnp.where(jnp.isnan(y), 0.0, y)[:, :, None] - q) / scale[:, :, None]
    levels = jnp.asarray(LEVELS, jnp.float32)
    pinball = jnp.maximum(levels * error, (levels - 1) * error)
    # Far outliers must not rule the gradient; beyond 20 scales the loss grows as a root.
    pinball = jnp.where(pinball > 20, jnp.sqrt(jnp.maximum(pinball, 1e-6) * 20), pinball)
    return jnp.sum(jnp.mean(pinball, axis=2) * known) / jnp.maximum(jnp.sum(known), 1.0)


def batch(rng, series, size):
    x, y = np.empty((size, CONTEXT), np.float32), np.empty((size, H), np.float32)
    for i in range(size):
        s = series[rng.integers(len(series))]
        t = int(rng.integers(CONTEXT, len(s) - max(HORIZONS)))
        x[i], y[i] = s[t - CONTEXT : t], [s[t - 1 + h] for h in HORIZONS]
        if rng.random() < 0.15:  # cold start: most of the past is unknown
            x[i, : CONTEXT - int(rng.integers(6, CONTEXT))] = np.nan
        factor = np.float32(np.exp(rng.normal(0, 1.5)))
        x[i] *= factor
        y[i] *= factor
    return x, y


def export(p, path):
    """The same computation as `forward`, as an ONNX graph."""
    nodes, constants = [], []

    def const(value, dtype=np.float32):
        name = f"k{len(constants)}"
        constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def op(kind, *inputs, **attributes):
        name = f"t{len(nodes)}"
        nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def cut(tensor, start, stop):
        axis = const([1], np.int64)
        return op("Slice", tensor, const([start], np.int64), const([stop], np.int64), axis)

    one = const(1.0)
    missing = op("IsNaN", "history")
    mask = op("Sub", one, op("Cast", missing, to=TensorProto.FLOAT))
    filled = op("Where", missing, const(0.0), "history")
    pool = const(POOL)
    count, sums = op("MatMul", mask, pool), op("MatMul", filled, pool)
    seen = op("Min", count, one)
    mean = op("Div", sums, op("Max", count, one))
    level = op("Mul", cut(mean, F - 2, F - 1), cut(seen, F - 2, F - 1))
    deviation = op("Mul", op("Abs", op("Sub", filled, level)), mask)
    pooled = op("Div", op("MatMul", deviation, const(POOL[:, F - 2 :])), op("Max", cut(count, F - 2, F), one))
    scale = op(
        "Add",
        op("Add", op("ReduceMean", pooled, axes=[1], keepdims=1), op("Mul", op("Abs", level), const(0.02))),
        const(1e-4),
    )
    z = op("Mul", op("Div", op("Sub", mean, level), scale), seen)
    squashed = op("Mul", op("Log", op("Add", op("Abs", z), one)), op("Sign", z))
    spread = op("Log", op("Add", op("Div", pooled, scale), const(0.01)))
    relative = op("Log", op("Add", op("Div", op("Abs", level), scale), const(0.01)))
    h = op("Concat", squashed, seen, spread, relative, axis=1)
    h = op("Add", op("MatMul", h, const(p["w0"])), const(p["b0"]))
    h = op("Mul", h, op("Sigmoid", h))
    for block in (1, 2):
        a = op("Add", op("MatMul", h, const(p[f"u{block}"])), const(p[f"c{block}"]))
        h = op("Add", h, op("MatMul", op("Mul", a, op("Sigmoid", a)), const(p[f"v{block}"])))

    def shape(tensor, *dims):
        return op("Reshape", tensor, const([-1, *dims], np.int64))

    ones = const(np.ones((1, H)))
    days = shape(cut(z, 96, 96 + H * 7), H, 7)
    days_seen = shape(cut(seen, 96, 96 + H * 7), H, 7)
    axis2 = const([2], np.int64)
    all_days = op(
        "Div",
        op("ReduceSum", days, axis2, keepdims=0),
        op("Max", op("ReduceSum", days_seen, axis2, keepdims=0), one),
    )
    day_ago = op("Slice", days, const([0], np.int64), const([1], np.int64), axis2)
    experts = op(
        "Concat",
        shape(op("Mul", cut(z, F - 4, F - 3), ones), H, 1),
        shape(op("Mul", cut(z, F - 3, F - 2), ones), H, 1),
        day_ago,
        op("Unsqueeze", all_days, axis2),
        axis=2,
    )
    gate = op("Softmax", shape(op("Add", op("MatMul", h, const(p["wg"])), const(p["bg"])), H, EXPERTS), axis=2)
    centre = op("ReduceSum", op("Mul", gate, experts), axis2, keepdims=1)
    raw = shape(op("Add", op("MatMul", h, const(p["wq"])), const(p["bq"])), H, Q)
    middle = op("Slice", raw, const([6], np.int64), const([7], np.int64), axis2)
    middle = op("Mul", op("Add", middle, const(1.5)), const(0.3))
    gaps = op("Log", op("Add", op("Exp", op("Min", raw, const(20.0))), one))
    offsets = op("MatMul", gaps, const(CUMULATE))
    q = op("Add", op("Add", centre, middle), offsets)
    q = op("Add", op("Mul", q, op("Unsqueeze", scale, axis2)), op("Unsqueeze", level, axis2))
    nodes.append(helper.make_node("Max", [q, const(0.0)], ["quantiles"]))
    # Slices of rank 2 act on axis 1.
    graph = helper.make_graph(
        nodes,
        "demand",
        [helper.make_tensor_value_info("history", TensorProto.FLOAT, ["batch", CONTEXT])],
        [helper.make_tensor_value_info("quantiles", TensorProto.FLOAT, ["batch", H, Q])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("--data", type=pathlib.Path, default=HERE.parent.parent / "shared" / "data")
    args.add_argument("--seconds", type=float, default=120, help="time to train")
    args = args.parse_args()
    if not args.data.is_dir():
        raise SystemExit(f"data folder {args.data} does not exist; name it with --data")
    rng = np.random.default_rng(SEED)
    series = load(args.data)
    params = jax.tree.map(jnp.asarray, init(rng))
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(2e-3))
    state = optimiser.init(params)

    @jax.jit
    def update(params, state, x, y, rate):
        value, gradient = jax.value_and_grad(loss)(params, x, y)
        changes, state = optimiser.update(gradient, state)
        changes = jax.tree.map(lambda c: c * rate, changes)
        return optax.apply_updates(params, changes), state, value

    began, steps, average = time.monotonic(), 0, None
    while (passed := time.monotonic() - began) < args.seconds:
        x, y = batch(rng, series, 128)
        rate = max(0.02, 1 - passed / args.seconds)
        params, state, value = update(params, state, x, y, rate)
        average = float(value) if average is None else 0.98 * average + 0.02 * float(value)
        steps += 1
        if steps % 100 == 0:
            print(f"{passed:6.0f} s  step {steps}  loss {average:.4f}", flush=True)
    params = jax.tree.map(np.asarray, params)
    artifacts = HERE / "artifacts"
    artifacts.mkdir(exist_ok=True)
    path = artifacts / "demand.onnx"
    draft = artifacts / "demand.onnx.draft"
    export(params, draft)

    import onnxruntime

    x, _ = batch(rng, series, 64)
    expected = np.asarray(forward(params, x)[0])
    found = onnxruntime.InferenceSession(draft.read_bytes()).run(None, {"history": x})[0]
    worst = float(np.max(np.abs(found - expected) / (np.abs(expected) + 1e-2)))
    if worst > 1e-2 or not np.all(np.diff(found, axis=2) >= -1e-3 * np.abs(found[:, :, 1:])):
        draft.unlink()
        raise SystemExit(f"the exported graph differs from the trained one by {worst}")
    # Model and manifest change together, and only after the check.
    draft.replace(path)
    manifest = {
        "schema": 1,
        "id": f"demand-net-{HIDDEN}",
        "file": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "context_steps": CONTEXT,
        "input": {"name": "history", "dtype": "float32", "shape": ["batch", CONTEXT]},
        "output": {"name": "quantiles", "dtype": "float32", "shape": ["batch", H, Q]},
        "horizons": HORIZONS,
        "levels": LEVELS,
        "training": {
            "data": "GWA-T-12 Bitbrains rnd 2013-08, 120 VMs, steps 0-5759 (Shen, van Beek, Iosup, CCGrid 2015); "
            "Application Server Dataset, 12 servers, steps 0-7775 (InterFusion, KDD 2021, MIT)",
            "series": len(series),
            "seed": SEED,
            "steps": steps,
            "loss": round(average, 4),
        },
        "metrics": {},
    }
    (artifacts / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    print(f"wrote {path.name}, {path.stat().st_size} bytes, {steps} steps, loss {average:.4f}")


if __name__ == "__main__":
    main()
