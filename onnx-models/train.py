"""Trains the demand model and writes it as ONNX with its manifest.

    python onnx-models/train.py [--data ../shared/data] [--steps 18000]

One global quantile network (`net.py`) over all series of the training ranges: Bitbrains steps 0 to
5 759, ASD steps 0 to 7 775. Nothing later is read here; `evaluate.py` scores on what comes after.
Nothing is written unless the exported graph answers as the trained network does.
"""

import argparse
import hashlib
import json
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
import optax

import data
import net
from evaluate import measure
from net import CONTEXT, H, HORIZONS, LEVELS, Q
from ops import Jax

HERE = pathlib.Path(__file__).resolve().parent
SEED, BATCH, RATE, AVERAGED = 7, 128, 2e-3, 0.999
SOURCES = [
    (data.BITBRAINS, ["cpu_pct", "mem_mib", "net_rx_kbs", "net_tx_kbs"], 5760),
    (data.ASD, ["m00", "m03", "m05", "m07", "m12"], 7776),
]
POOL = net.season()


def load(folder):
    """The training part of every series, as float32 arrays with NaN."""
    return [
        values[metric][:end]
        for source, metrics, end in SOURCES
        for _, values in data.series(folder, source, metrics)
        for metric in metrics
    ]


def batch(rng, series, size):
    x, y = np.empty((size, CONTEXT), np.float32), np.empty((size, H), np.float32)
    ahead = np.array(HORIZONS) - 1
    for i in range(size):
        s = series[rng.integers(len(series))]
        t = int(rng.integers(CONTEXT, len(s) - HORIZONS[-1]))
        x[i], y[i] = s[t - CONTEXT : t], s[t + ahead]
        chance = rng.random()
        if chance < 0.15:  # cold start: most of the past is unknown
            x[i, : CONTEXT - int(np.exp(rng.uniform(np.log(3), np.log(CONTEXT))))] = np.nan
        elif chance < 0.25:  # holes
            length = int(np.exp(rng.uniform(0, np.log(600))))
            at = int(rng.integers(0, CONTEXT - length + 1))
            x[i, at : at + length] = np.nan
        factor = np.float32(np.exp(rng.normal(0, 1.5)))
        x[i] *= factor
        y[i] *= factor
    return x, y


def loss(p, x, y):
    """Pinball loss in units of the series' scale."""
    q, scale = net.forward(Jax, p, x, POOL)
    known = 1.0 - jnp.isnan(y).astype(jnp.float32)
    error = (jnp.where(jnp.isnan(y), 0.0, y)[:, :, None] - q) / scale[:, :, None]
    levels = jnp.asarray(LEVELS, jnp.float32)
    pinball = jnp.maximum(levels * error, (levels - 1) * error)
    # Far outliers must not rule the gradient: beyond 20 scales the loss grows as a logarithm.
    pinball = jnp.where(pinball > 20, 20 + 20 * jnp.log(jnp.maximum(pinball, 20) / 20), pinball)
    return jnp.sum(jnp.mean(pinball, axis=2) * known) / jnp.maximum(jnp.sum(known), 1.0)


def train(rng, series, steps):
    params = jax.tree.map(jnp.asarray, net.init(rng))
    rate = optax.warmup_cosine_decay_schedule(RATE / 20, RATE, min(500, steps // 4), steps, RATE / 100)
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))

    @jax.jit
    def update(params, smooth, state, x, y):
        value, gradient = jax.value_and_grad(loss)(params, x, y)
        changes, state = optimiser.update(gradient, state)
        params = optax.apply_updates(params, changes)
        smooth = jax.tree.map(lambda old, new: AVERAGED * old + (1 - AVERAGED) * new, smooth, params)
        return params, smooth, state, value

    smooth, state, began, shown = params, optimiser.init(params), time.monotonic(), 0.0
    for step in range(1, steps + 1):
        params, smooth, state, value = update(params, smooth, state, *batch(rng, series, BATCH))
        shown += float(value)
        if step % 500 == 0:
            print(f"{time.monotonic() - began:6.0f} s  step {step}  loss {shown / 500:.4f}", flush=True)
            shown = 0.0
    return jax.tree.map(np.asarray, smooth)


def verify(model, params, x):
    """Stops unless the graph answers as the network does and its quantiles never cross."""
    expected, scale = (np.asarray(part) for part in net.forward(Jax, params, x, POOL))
    found = onnxruntime.InferenceSession(model).run(None, {"history": x})[0]
    worst = float(np.max(np.abs(found - expected) / (np.abs(expected) + scale[:, :, None])))
    if not worst < 1e-3:
        raise SystemExit(f"the exported graph differs from the trained network by {worst}; nothing was written")
    if not (np.isfinite(found).all() and (np.diff(found, axis=2) >= 0).all()):
        raise SystemExit("the exported graph's quantiles cross or are not finite; nothing was written")
    print(f"exported graph and trained network differ by at most {worst:.1e} of value plus scale")


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--data", type=pathlib.Path, default=HERE.parent.parent / "shared" / "data")
    args.add_argument("--steps", type=int, default=18000, help="batches to train on")
    args = args.parse_args()
    if not args.data.is_dir():
        raise SystemExit(f"data folder {args.data} does not exist; name it with --data")
    rng = np.random.default_rng(SEED)
    series = load(args.data)
    params = train(rng, series, args.steps)
    model = net.export(params)
    unseen = np.stack([np.full(CONTEXT, np.nan), np.zeros(CONTEXT), np.full(CONTEXT, 1e9)]).astype(np.float32)
    verify(model, params, np.concatenate([batch(rng, series, 512)[0], unseen]))
    artifacts = HERE / "artifacts"
    artifacts.mkdir(exist_ok=True)
    path = artifacts / "demand.onnx"
    manifest = {
        "schema": 1,
        "id": f"demand-net-{net.HIDDEN}",
        "file": path.name,
        "sha256": hashlib.sha256(model).hexdigest(),
        "context_steps": CONTEXT,
        "input": {"name": "history", "dtype": "float32", "shape": ["batch", CONTEXT]},
        "output": {"name": "quantiles", "dtype": "float32", "shape": ["batch", H, Q]},
        "horizons": HORIZONS,
        "levels": LEVELS,
        "training": {
            "data": [
                "GWA-T-12 Bitbrains rnd 2013-08, 120 VMs, steps 0-5759 (Shen, van Beek, Iosup: Statistical "
                "Characterization of Business-Critical Workloads Hosted in Cloud Datacenters, CCGrid 2015)",
                "Application Server Dataset, 12 servers, steps 0-7775 (InterFusion, KDD 2021, MIT)",
            ],
            "seed": SEED,
            "steps": args.steps,
            "batch": BATCH,
        },
        "metrics": measure(model, args.data),
    }
    # Both or neither: a model beside another's manifest is refused by its reader.
    new = path.with_suffix(".new")
    new.write_bytes(model)
    new.replace(path)
    (artifacts / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    print(f"wrote {path.name}, {len(model)} bytes")


if __name__ == "__main__":
    main()
