"""Accuracy beside the peers, and the same graph served by Python: `make bench-forecast`.

    python -m demand.bench [--data ../../shared/data] [--sample 40]

Peers: seasonal naive, conformal last value, time-of-day profile (`baselines.py`); LightGBM quantile
trees on this project's own features; statsforecast's SeasonalNaive and AutoETS on a sample of the
windows (they take long). A peer that is not installed is named and left out. The serving part runs
the shipped graph, with these features in numpy, in Python's onnxruntime on one thread; the Rust
side prints its own figures (`forecaster/examples/serving.rs`).
"""

import argparse
import importlib.metadata
import json
import pathlib
import resource
import time

import numpy as np

from . import baselines
from .evaluate import HERE, SETS, STEPS, cases, score, table, windows
from .features import features
from .net import LEVELS
from .predict import quantiles
from .train import load, session


def version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def lightgbm_peer(folder, knots=(1, 3, 6, 12, 24, 48, 72), count=12_000):
    """Quantile trees per level on the same features, one horizon a row; trained on the same range."""
    import lightgbm

    rng = np.random.default_rng(7)
    series = load(folder)
    rows, targets = [], []
    for begin in range(0, count, 500):
        x, h, y = [], [], []
        for _ in range(500):
            _, values, _ = series[rng.integers(len(series))]
            t = int(rng.integers(2016, len(values) - 72))
            step = int(rng.choice(knots))
            x.append(values[t - 2016 : t])
            h.append([step])
            y.append(values[t - 1 + step])
        context, ahead, level, scale = features(np.array(x), np.array(h))
        rows.append(np.hstack([context[:, :175], ahead[:, 0]]))
        targets.append((np.array(y) - level) / scale)
    x, y = np.vstack(rows), np.concatenate(targets)
    known = np.isfinite(y)
    models = []
    for level in LEVELS:
        parameters = {
            "objective": "quantile", "alpha": level, "num_leaves": 31, "learning_rate": 0.08, "num_threads": 1, "verbose": -1, "seed": 7,
        }
        models.append(lightgbm.train(parameters, lightgbm.Dataset(x[known], y[known]), 120))

    def forecast(histories, steps):
        knot = np.array(knots)
        context, ahead, level, scale = features(histories, np.tile(knot, (len(histories), 1)))
        out = np.empty((len(histories), len(knot), len(LEVELS)))
        for place in range(len(knot)):
            x = np.hstack([context[:, :175], ahead[:, place]])
            out[:, place] = np.sort(np.column_stack([m.predict(x, num_threads=1) for m in models]), axis=1)
        q = np.empty((len(histories), len(steps), len(LEVELS)))
        for level_at in range(len(LEVELS)):
            for row in range(len(histories)):
                q[row, :, level_at] = np.interp(steps, knot, out[row, :, level_at])
        return np.maximum(q * scale[:, None, None] + level[:, None, None], 0)

    return forecast


def statsforecast_peers():
    """{name: model} of statsforecast: its fastest and one of its best."""
    from statsforecast.models import AutoETS, SeasonalNaive

    return {"statsforecast SeasonalNaive": SeasonalNaive(288), "statsforecast AutoETS": AutoETS(season_length=1)}


def by_statsforecast(model, histories):
    """Quantiles [n, 72, 13] and seconds per forecast."""
    widths = [98, 95, 80, 60, 40, 20]
    x = baselines.filled(histories)
    out, began = np.empty((len(x), 72, 13)), time.monotonic()
    for row, values in enumerate(x):
        found = model.forecast(values.astype(np.float64), 72, level=widths)
        for place, width in enumerate(widths):
            out[row, :, place], out[row, :, 12 - place] = found[f"lo-{width}"], found[f"hi-{width}"]
        out[row, :, 6] = found["mean"]
    return np.maximum(out, 0), (time.monotonic() - began) / len(x)


def accuracy(args, models):
    results = {}
    forecast = None
    if version("lightgbm"):
        began = time.monotonic()
        forecast = lightgbm_peer(args.data)
        print(f"LightGBM {version('lightgbm')}: trained in {time.monotonic() - began:.0f} s")
    else:
        print("LightGBM is not installed: left out (deploy/setup --training)")
    for name in [*SETS, "planetlab"]:
        file = "planetlab_cpu.parquet" if name == "planetlab" else SETS[name][0][0]
        if not (args.data / file).exists():
            print(f"{name}: {file} is not there; left out")
            continue
        rows = cases(args.data, name, models)
        if forecast and name != "planetlab":
            for (metric, y, owner, found), (_, x, *_rest) in zip(rows, windows(args.data, name)):
                found["LightGBM quantile"] = forecast(x, STEPS)
        base = "conformal last value" if name == "planetlab" else "seasonal naive"
        results[name] = score(rows, base)
    print("\n".join(table(results)))
    return results


def sampled(args, models):
    """statsforecast on a sample, the model on the same windows."""
    if not version("statsforecast"):
        print("statsforecast is not installed: left out (deploy/setup --training)")
        return {}
    peers, seconds, results = statsforecast_peers(), {}, {}
    for name in SETS:
        rows = []
        for metric, x, a, now, y, owner in windows(args.data, name):
            pick = np.random.default_rng(3).choice(len(x), min(args.sample, len(x)), replace=False)
            found = {m: quantiles(s, x[pick], STEPS, a[pick], now[pick], c) for m, (s, c) in models.items()}
            found["seasonal naive"] = baselines.seasonal_naive(x[pick], STEPS)
            for peer, model in peers.items():
                found[peer], seconds[peer] = by_statsforecast(model, x[pick])
            rows.append((metric, y[pick], owner[pick], found))
        results[name] = score(rows, "seasonal naive")
    print(f"\nstatsforecast {version('statsforecast')}, {args.sample} windows per metric:")
    print("\n".join(table(results)))
    return seconds


def serving(graph, folder):
    """Microseconds per series of the same graph in Python, features included."""
    _, x, *_ = next(windows(folder, "asd"))
    x = np.repeat(x, 4, axis=0)[:256]
    steps = np.tile([1, 2, 3, 4, 6, 9, 12, 18, 24, 36, 48, 72, 108, 144, 216, 288], (len(x), 1))
    best = {}
    for _ in range(5):
        began = time.perf_counter()
        context, ahead, _, _ = features(x, steps)
        middle = time.perf_counter()
        graph.run(None, {"context": context, "ahead": ahead})
        end = time.perf_counter()
        for part, took in (("features", middle - began), ("graph", end - middle), ("all", end - began)):
            best[part] = min(best.get(part, 1e9), took / len(x) * 1e6)
    return best


def promise(name, measured, unit, op, target):
    met = measured <= target if op == "<=" else measured >= target
    print(f"promise {name} {measured:.3f} {unit} target {op} {target} {'ok' if met else 'short'}")


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--data", type=pathlib.Path, default=HERE.parent.parent / "shared" / "data")
    args.add_argument("--manifest", type=pathlib.Path, default=HERE / "artifacts" / "manifest.json")
    args.add_argument("--sample", type=int, default=20, help="windows per metric for statsforecast; 0 leaves it out")
    args = args.parse_args()
    manifest = json.loads(args.manifest.read_text())
    graph = session((args.manifest.parent / manifest["file"]).read_bytes())
    models = {manifest["id"]: (graph, manifest.get("calibration"))}
    results = accuracy(args, models)
    seconds = sampled(args, models) if args.sample else {}
    if all((args.data / SETS[name][0][0]).exists() for name in SETS):
        best = serving(graph, args.data)
        print(f"\nPython onnxruntime {version('onnxruntime')}, one thread, batch 256, the same graph: features {best['features']:.0f} us, graph {best['graph']:.1f} us, together {best['all']:.0f} us per series")
        print(f"resident {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB at most")
    for peer, took in seconds.items():
        print(f"{peer}: {took * 1e6:.0f} us per series")
    mine = manifest["id"]
    for number, name, hours, target in ((10, "bitbrains", 1, 0.30), (11, "bitbrains", 6, 0.46), (12, "asd", 1, 0.47), (13, "asd", 6, 0.50), (14, "planetlab", 1, 0.85), (15, "planetlab", 6, 0.85)):
        if name in results:
            promise(f"FC{number}", results[name][hours][mine]["rel_crps"], f"relCRPS_{name}_{hours}h", "<=", target)


if __name__ == "__main__":
    main()
