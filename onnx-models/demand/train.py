"""Trains the demand models and writes them as ONNX with their manifest.

    python -m demand.train [--data ../../shared/data] [--tier full|small|all] [--members 2]

Global quantile networks (`net.py`) over all series of the training ranges: Bitbrains steps 0 to
5 759, ASD steps 0 to 7 775. Nothing later is read here; `evaluate.py` scores on what comes after.

A fixed number of windows is drawn once, their features computed once (the features have no
parameters), and the networks trained on them. The loss of a window is divided by a running mean of
the loss of its series and span of horizons: its gradient is that of the mean *logarithm* of every
series' loss, so that calm series count as much as wild ones. Nothing is written unless the exported
graph answers as the trained network does.
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

from . import calibrate, data, net
from .features import CONTEXT, AHEAD, N, features
from .ops import Jax

HERE = pathlib.Path(__file__).resolve().parent.parent
SEED, BATCH, RATE, AVERAGED = 7, 512, 3e-3, 0.998
SPANS = ((1, 12, 4), (13, 72, 4), (73, 288, 2))  # first, last, how many drawn per window
DECAY = 1e-2
K = sum(count for _, _, count in SPANS)
SPAN = np.concatenate([[i] * count for i, (_, _, count) in enumerate(SPANS)])
SHARES = {"bitbrains": 0.68, "asd": 0.32}
ENDS = {"bitbrains": 5760, "asd": 7776}


def load(folder, without_instances=False, without_sets=()):
    """[(set, values, companion or None)] of the training ranges, constant series left out."""
    found = []
    for name, source, metrics in (
        ("bitbrains", data.BITBRAINS, data.BITBRAINS_METRICS),
        ("asd", data.ASD, data.ASD_METRICS),
    ):
        if name in without_sets:
            continue
        for number, (_, rows) in enumerate(data.series(folder, source, metrics)):
            if without_instances and number % 3 == 0:
                continue
            rows = {metric: values[: ENDS[name]] for metric, values in rows.items()}
            for metric, values in rows.items():
                if np.nanmean(np.abs(values[288:] - values[:-288])) > 0:
                    found.append((name, values, rows.get(data.COMPANION.get(metric))))
    return found


def windows(rng, series, count):
    """Features, truths and owners of `count` random windows."""
    by_set = {name: [i for i, s in enumerate(series) if s[0] == name] for name in SHARES}
    naive = np.array([np.nanmean(np.abs(s[288:] - s[:-288])) for _, s, _ in series])
    shares = {name: share for name, share in SHARES.items() if by_set[name]}
    names, weights = list(shares), np.array(list(shares.values())) / sum(shares.values())
    out = {
        "context": np.empty((count, CONTEXT), np.float32),
        "ahead": np.empty((count, K, AHEAD), np.float32),
        "y": np.empty((count, K), np.float32),  # in units of scale around level
        "unit": np.empty(count, np.float32),  # scale in units of the series' naive error
        "owner": np.empty(count, np.int32),
    }
    began = time.monotonic()
    for begin in range(0, count, 512):
        size = min(512, count - begin)
        x, a = np.empty((size, N), np.float32), np.full((size, N), np.nan, np.float32)
        h, y = np.empty((size, K), np.int64), np.empty((size, K), np.float32)
        now, owner = np.full(size, np.nan), np.empty(size, np.int64)
        for i in range(size):
            name = names[rng.choice(len(names), p=weights)]
            owner[i] = by_set[name][rng.integers(len(by_set[name]))]
            _, values, companion = series[owner[i]]
            t = int(rng.integers(N, len(values) - 288))
            h[i] = np.concatenate([rng.integers(low, high + 1, count) for low, high, count in SPANS])
            x[i], y[i] = values[t - N : t], values[t - 1 + h[i]]
            if companion is not None and rng.random() < 0.5:
                a[i] = companion[t - N : t]
            if name == "bitbrains" and rng.random() < 0.5:
                now[i] = data.BITBRAINS_START + 300 * (t - 1)
            spoil(rng, x[i])
        known = ~np.isnan(x).all(axis=1)
        context, ahead, level, scale = features(x, h, a, now)
        part = slice(begin, begin + size)
        out["context"][part], out["ahead"][part] = context, ahead
        y = (y - level[:, None]) / scale[:, None]
        out["y"][part] = np.where(known[:, None], y, np.nan)
        out["unit"][part], out["owner"][part] = scale / naive[owner], owner
        if begin // 512 % 100 == 0:
            print(f"{time.monotonic() - began:6.0f} s  windows {begin}", flush=True)
    return out


def spoil(rng, x):
    """Cold starts (most of the past unknown) and holes, so that neither is news to the network."""
    chance = rng.random()
    if chance < 0.15:
        x[: N - int(np.exp(rng.uniform(np.log(3), np.log(N))))] = np.nan
    elif chance < 0.25:
        length = int(np.exp(rng.uniform(0, np.log(600))))
        at = int(rng.integers(0, N - length + 1))
        x[at : at + length] = np.nan


def pinball(q, y):
    """Quantile loss per row and horizon; 0 where the truth is unknown."""
    error = jnp.where(jnp.isnan(y), 0.0, y)[:, :, None] - jnp.where(jnp.isnan(y)[:, :, None], 0.0, q)
    levels = jnp.asarray(net.LEVELS, jnp.float32)
    return jnp.mean(jnp.maximum(levels * error, (levels - 1) * error), axis=2)


def fit(seed, dropped, tier, pool, steps):
    """Trained parameters (a running mean over the last steps)."""
    rng = np.random.default_rng(seed)
    params = jax.tree.map(jnp.asarray, net.init(rng, tier))
    rate = optax.warmup_cosine_decay_schedule(RATE / 20, RATE, min(300, steps // 4), steps, RATE / 100)
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=DECAY))
    span = jnp.asarray(SPAN)

    def loss(p, batch, table, key):
        q = net.forward(Jax, p, batch["context"], batch["ahead"], jax.random.split(key), dropped)
        each = pinball(q, batch["y"]) * batch["unit"][:, None]
        weight = jnp.minimum(1.0 / jnp.maximum(table[batch["owner"]][:, span], 0.02), 20.0)
        # Far outliers must not rule the gradient: beyond 20 typical losses it grows as a logarithm.
        weighed = each * weight
        weighed = jnp.where(weighed > 20, 20 + 20 * jnp.log(jnp.maximum(weighed, 20) / 20), weighed)
        return jnp.mean(weighed), each

    def update(carry, batch):
        params, smooth, state, table, key = carry
        key, now = jax.random.split(key)
        (value, each), gradient = jax.value_and_grad(loss, has_aux=True)(params, batch, table, now)
        changes, state = optimiser.update(gradient, state, params)
        params = optax.apply_updates(params, changes)
        smooth = jax.tree.map(lambda old, new: AVERAGED * old + (1 - AVERAGED) * new, smooth, params)
        for i in range(len(SPANS)):
            seen = jnp.mean(each[:, SPAN == i], axis=1)
            table = table.at[batch["owner"], i].add(0.02 * (seen - table[batch["owner"], i]))
        return (params, smooth, state, jnp.clip(table, 1e-3, 10.0), key), value

    run = jax.jit(lambda carry, batches: jax.lax.scan(update, carry, batches), donate_argnums=0)
    count, per_call = len(pool["owner"]), 50
    owners = int(pool["owner"].max()) + 1
    copy = jax.tree.map(jnp.array, params)
    table = jnp.full((owners, len(SPANS)), 0.35, jnp.float32)
    carry = (params, copy, optimiser.init(params), table, jax.random.key(seed))
    order, began, done = np.array([], np.int64), time.monotonic(), 0
    while done < steps:
        now = min(per_call, steps - done)
        while len(order) < now * BATCH:
            order = np.concatenate([order, rng.permutation(count)])
        chosen, order = order[: now * BATCH].reshape(now, BATCH), order[now * BATCH :]
        carry, values = run(carry, {name: values[chosen] for name, values in pool.items()})
        done += now
        if done % 500 < per_call:
            print(f"{time.monotonic() - began:6.0f} s  {tier} seed {seed}  step {done}/{steps}  loss {float(values.mean()):.4f}", flush=True)
    return jax.tree.map(np.asarray, carry[1])


def session(model):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options)


def verify(model, members, context, ahead):
    """Stops unless the graph answers as the network does and its quantiles never cross."""
    expected = np.mean([np.asarray(net.forward(Jax, p, context, ahead)) for p in members], axis=0)
    found = session(model).run(None, {"context": context, "ahead": ahead})[0]
    worst = float(np.max(np.abs(found - expected) / (np.abs(expected) + 1)))
    if not worst < 1e-3:
        raise SystemExit(f"the exported graph differs from the trained network by {worst}; nothing was written")
    slack = 1e-5 * (1 + np.abs(found).max(axis=2, keepdims=True))
    if not (np.isfinite(found).all() and (np.diff(found, axis=2) >= -slack).all()):
        raise SystemExit("the exported graph's quantiles cross or are not finite; nothing was written")
    print(f"exported graph and trained network differ by at most {worst:.1e}")


def odd():
    """Histories at the edges: nothing, zeros, huge, one sample."""
    x = np.stack([np.full(N, np.nan), np.zeros(N), np.full(N, 1e9), np.r_[np.full(N - 1, np.nan), 5.0]])
    context, ahead, _, _ = features(x, np.tile(net.HORIZONS, (4, 1)))
    return context, ahead


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--data", type=pathlib.Path, default=HERE.parent.parent / "shared" / "data")
    args.add_argument("--out", type=pathlib.Path, default=HERE / "artifacts")
    args.add_argument("--tier", choices=[*net.TIERS, "all"], default="all")
    args.add_argument("--windows", type=int, default=393_216, help="windows to draw")
    args.add_argument("--pool", type=pathlib.Path, help="keep the windows in this folder, or take them from it")
    args.add_argument("--steps", type=int, help="batches to train on; by default those of the tier")
    args.add_argument("--resume", action="store_true", help="take trained members from --out where they are")
    args.add_argument("--without-instances", action="store_true", help="leave every third instance out")
    args.add_argument("--without-set", action="append", default=[], choices=list(SHARES))
    args = args.parse_args()
    if not args.data.is_dir():
        raise SystemExit(f"data folder {args.data} does not exist; name it with --data")
    pool = pooled(args)
    args.out.mkdir(parents=True, exist_ok=True)
    for tier in net.TIERS if args.tier == "all" else [args.tier]:
        began = time.monotonic()
        steps = args.steps or net.STEPS[tier]
        members = [member(args, tier, seed, dropped, pool, steps) for seed, dropped in net.MEMBERS[tier]]
        model = net.export(members)
        verify(model, members, pool["context"][:256], pool["ahead"][:256])
        verify(model, members, *odd())
        write(args, tier, steps, model, time.monotonic() - began)


def member(args, tier, seed, dropped, pool, steps):
    path = args.out / f"{tier}-{seed}.npz"
    if args.resume and path.exists():
        return dict(np.load(path))
    params = fit(seed, dropped, tier, pool, steps)
    np.savez(path, **params)
    return params


def pooled(args):
    """The windows to train on."""
    if args.pool and (args.pool / "y.npy").exists():
        return {file.stem: np.load(file) for file in args.pool.glob("*.npy")}
    series = load(args.data, args.without_instances, args.without_set)
    pool = windows(np.random.default_rng(SEED), series, args.windows)
    if args.pool:
        args.pool.mkdir(parents=True, exist_ok=True)
        for name, values in pool.items():
            np.save(args.pool / name, values)
    return pool


def write(args, tier, steps, model, seconds):
    name = "demand" if tier == "full" else f"demand-{tier}"
    path = args.out / f"{name}.onnx"
    manifest = {
        "schema": 2,
        "id": f"demand-{tier}",
        "tier": tier,
        "file": path.name,
        "sha256": hashlib.sha256(model).hexdigest(),
        "context_steps": N,
        "features": {"name": "foreshadow-features", "version": 2, "context": CONTEXT, "ahead": AHEAD},
        "output": {"name": "quantiles", "dtype": "float32", "shape": ["batch", "horizons", net.Q]},
        "horizons": net.HORIZONS,
        "levels": net.LEVELS,
        "training": {
            "data": [
                "GWA-T-12 Bitbrains rnd 2013-08, 120 VMs, steps 0-5759 (Shen, van Beek, Iosup: Statistical "
                "Characterization of Business-Critical Workloads Hosted in Cloud Datacenters, CCGrid 2015)",
                "Application Server Dataset, 12 servers, steps 0-7775 (InterFusion, KDD 2021, MIT)",
            ],
            "fingerprint": fingerprint(args.data),
            "seed": SEED,
            "members": [{"seed": seed, "dropped": dropped} for seed, dropped in net.MEMBERS[tier]],
            "windows": args.windows,
            "steps": steps,
            "batch": BATCH,
            "without": [*(["every third instance"] if args.without_instances else []), *args.without_set],
        },
        "calibration": calibrate.fit(session(model), args.data),
        "metrics": {},
    }
    # Both or neither: a model beside another's manifest is refused by its reader.
    new = path.with_suffix(".new")
    new.write_bytes(model)
    new.replace(path)
    manifest_name = "manifest.json" if tier == "full" else f"manifest-{tier}.json"
    (args.out / manifest_name).write_text(json.dumps(manifest, indent=2) + "\n")
    print(f"wrote {path.name}, {len(model)} bytes, trained in {seconds:.0f} s")


def fingerprint(folder):
    """SHA-256 over the training files."""
    digest = hashlib.sha256()
    for file, _ in (data.BITBRAINS, data.ASD):
        digest.update((folder / file).read_bytes())
    return digest.hexdigest()


if __name__ == "__main__":
    main()
