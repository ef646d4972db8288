"""Scores a demand model against simple forecasts on steps it was not trained on.

    python -m demand.evaluate [--data ../../shared/data] [--manifest artifacts/manifest.json]

Bitbrains: every third VM x (cpu_pct, mem_mib, net_rx_kbs) at six origins from step 6 624; ASD: 12
servers x (m00, m03, m05, m07, m12) at six origins from 8 640; every step of the next 1 h (12) and
6 h (72). PlanetLab (never trained on, read where it is): every eighth VM-day, 18 h of history, the
6 h after. WQL: weighted quantile loss, mean over nine deciles, averaged over metrics. relCRPS:
geometric mean over series of the decile loss divided by the seasonal naive's (PlanetLab: by the
conformal last value's), with a 90 % interval from 500 bootstraps over series.
"""

import argparse
import json
import pathlib

import numpy as np

from . import baselines, data
from .features import N
from .net import LEVELS
from .predict import quantiles

HERE = pathlib.Path(__file__).resolve().parent.parent
STEPS = np.arange(1, 73)
DECILES = slice(2, 11)
SETS = {
    "bitbrains": (data.BITBRAINS, ["cpu_pct", "mem_mib", "net_rx_kbs"], 3, 6624, 47 * 7),
    "asd": (data.ASD, ["m00", "m03", "m05", "m07", "m12"], 1, 8640, 97 * 8),
}
VALIDATION = {
    "bitbrains": {"first": 5760, "stride": 79, "count": 10},
    "asd": {"first": 7776, "stride": 79, "count": 10},
}


def windows(folder, name, first=None, count=6, stride=None, every=None):
    """Per metric: histories, activity, local time, truths [n, 72], the series each row belongs to."""
    source, metrics, every_, first_, stride_ = SETS[name]
    first, stride, every = first or first_, stride or stride_, every or every_
    read = data.BITBRAINS_METRICS if name == "bitbrains" else metrics
    groups = [values for _, values in data.series(folder, source, read)][::every]
    for metric in metrics:
        x, a, now, y, owner = [], [], [], [], []
        for number, rows in enumerate(groups):
            companion = rows.get(data.COMPANION.get(metric))
            for at in range(first, min(first + count * stride, len(rows[metric]) - 72), stride):
                x.append(rows[metric][at - N : at])
                a.append(np.full(N, np.nan) if companion is None else companion[at - N : at])
                now.append(data.BITBRAINS_START + 300 * (at - 1) if name == "bitbrains" else np.nan)
                y.append(rows[metric][at - 1 + STEPS])
                owner.append(number)
        yield metric, np.array(x), np.array(a), np.array(now), np.array(y), np.array(owner)


def planetlab(folder):
    values = data.planetlab(folder)[::8]
    x = np.full((len(values), N), np.nan, np.float32)
    x[:, -216:] = values[:, :216]
    nothing = np.full(len(values), np.nan)
    yield "cpu", x, np.full(x.shape, np.nan), nothing, values[:, 216:], np.arange(len(values))


def losses(q, y):
    """Decile loss per row and step; NaN where the truth is unknown."""
    error = y[:, :, None] - q[:, :, DECILES]
    levels = np.array(LEVELS[DECILES])
    return 2 * np.maximum(levels * error, (levels - 1) * error).mean(axis=2)


def inside(q, y, low, high):
    known = ~np.isnan(y)
    return ((y >= q[:, :, low] - 1e-9) & (y <= q[:, :, high] + 1e-9))[known]


def ratios(loss, base, owner):
    """Logarithm of every series' loss over the base's."""
    found = []
    for one in np.unique(owner):
        mine, theirs = np.nanmean(loss[owner == one]), np.nanmean(base[owner == one])
        if theirs > 1e-9:
            found.append(np.log(max(mine, 1e-3 * theirs) / theirs))
    return found


def score(cases, base, spans=((1, 12), (6, 72))):
    """{hours: {method: {wql, rel_crps, low, high, coverage_80, coverage_95}}} of
    [(metric, truths, owners, {method: quantiles})]."""
    result = {}
    for hours, count in spans:
        result[hours] = {}
        for method in cases[0][3]:
            wql, logs, near, far = [], [], [], []
            for _, y, owner, forecasts in cases:
                y, q, naive = y[:, :count], forecasts[method][:, :count], forecasts[base][:, :count]
                loss = losses(q, y)
                wql.append(np.nansum(loss) / (np.nansum(np.abs(y)) + 1e-9))
                logs += ratios(loss, losses(naive, y), owner)
                near.append(inside(q, y, 2, 10))
                far.append(inside(q, y, 1, 11))
            logs = np.array(logs)
            draws = np.random.default_rng(1).choice(logs, (500, len(logs))).mean(axis=1)
            result[hours][method] = {
                "wql": float(np.mean(wql)),
                "rel_crps": float(np.exp(logs.mean())),
                "low": float(np.exp(np.quantile(draws, 0.05))),
                "high": float(np.exp(np.quantile(draws, 0.95))),
                "coverage_80": float(np.mean(np.concatenate(near))),
                "coverage_95": float(np.mean(np.concatenate(far))),
            }
    return result


def cases(folder, name, models, bare=False, validate=False):
    """`score`'s input: the models' and the baselines' forecasts of a set."""
    rows = []
    for metric, x, a, now, y, owner in planetlab(folder) if name == "planetlab" else windows(folder, name, **(VALIDATION[name] if validate else {})):
        found = {m: quantiles(s, x, STEPS, None if bare else a, None if bare else now, c) for m, (s, c) in models.items()}
        for method, f in baselines.ALL.items():
            if name != "planetlab" or method == "conformal last value":
                found[method] = f(x, STEPS)
        rows.append((metric, y, owner, found))
    return rows


def table(results):
    yield "| data, horizon | method | WQL | relCRPS | 90 % interval | coverage 80 | coverage 95 |"
    yield "|---|---|---|---|---|---|---|"
    for name, spans in results.items():
        for hours, methods in spans.items():
            for method, s in methods.items():
                yield (
                    f"| {name}, {hours} h | {method} | {s['wql']:.3f} | {s['rel_crps']:.3f} | {s['low']:.3f}-{s['high']:.3f} "
                    f"| {100 * s['coverage_80']:.1f} % | {100 * s['coverage_95']:.1f} % |"
                )


def main():
    from .train import session

    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--data", type=pathlib.Path, default=HERE.parent.parent / "shared" / "data")
    args.add_argument("--manifest", type=pathlib.Path, nargs="*", default=[HERE / "artifacts" / "manifest.json"])
    args.add_argument("--bare", action="store_true", help="without calendar and activity")
    args.add_argument("--raw", action="store_true", help="without the manifest's calibration")
    args.add_argument("--validate", action="store_true", help="score on the calibration range instead, for choices")
    args.add_argument("--write", action="store_true", help="put the scores into the first manifest")
    args = args.parse_args()
    models = {}
    for path in args.manifest:
        if not path.exists():
            raise SystemExit(f"{path} does not exist; name it with --manifest")
        manifest = json.loads(path.read_text())
        name = manifest["id"] if manifest["id"] not in models else str(path)
        calibration = None if args.raw else manifest.get("calibration")
        models[name] = (session((path.parent / manifest["file"]).read_bytes()), calibration)
    results = {}
    for name in SETS if args.validate else [*SETS, "planetlab"]:
        file = {"planetlab": "planetlab_cpu.parquet"}.get(name) or SETS[name][0][0]
        if not (args.data / file).exists():
            print(f"{name}: {file} is not in {args.data}; skipped")
            continue
        base = "conformal last value" if name == "planetlab" else "seasonal naive"
        results[name] = score(cases(args.data, name, models, args.bare, args.validate), base)
    print("\n".join(table(results)))
    if args.write:
        path = args.manifest[0]
        manifest = json.loads(path.read_text())
        mine = next(iter(models))
        manifest["metrics"] = {
            f"{name}_{hours}h": {k: round(v, 3) for k, v in methods[mine].items()}
            for name, spans in results.items()
            for hours, methods in spans.items()
        }
        path.write_text(json.dumps(manifest, indent=2) + "\n")


if __name__ == "__main__":
    main()
