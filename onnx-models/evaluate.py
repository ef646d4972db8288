"""Scores the demand model against simple forecasts on data it was not trained on.

    python onnx-models/evaluate.py [--data ../shared/data]

Test origins: every third VM x (cpu_pct, mem_mib, net_rx_kbs) at six origins of the test range of
Bitbrains, and 12 servers x (m00, m03, m05, m07, m12) at six origins of ASD. WQL is the weighted
quantile loss, mean over the nine deciles, summed over a metric's series and averaged over metrics.
relCRPS is the geometric mean over series of the decile loss divided by the seasonal naive's.
Coverage is the share of known values inside the 80 % and 95 % interval.
The scores cover the model's horizons up to 1 h (seven) and up to 6 h (all twelve).
"""

import argparse
import pathlib
from statistics import NormalDist

import numpy as np
import onnxruntime

import data

HERE = pathlib.Path(__file__).resolve().parent
CONTEXT, DAY = 2016, 288
HORIZONS = np.array([1, 2, 3, 4, 6, 9, 12, 18, 24, 36, 48, 72])
LEVELS = np.array([0.01, 0.025, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.975, 0.99])
DECILES = slice(2, 11)
NORMAL = np.array([NormalDist().inv_cdf(level) for level in LEVELS])
SETS = {
    "bitbrains": (data.BITBRAINS, ["cpu_pct", "mem_mib", "net_rx_kbs"], 3, 6624, 47 * 7),
    "asd": (data.ASD, ["m00", "m03", "m05", "m07", "m12"], 1, 8640, 97 * 8),
}


def series(path, key, columns):
    """{name: {column: values in order of time, NaN = missing}} of a table with a row per step."""
    table = pq.read_table(path, columns=[key, "step", *columns])
    names, steps = table[key].to_numpy(), table["step"].to_numpy()
    order = np.lexsort((steps, names))
    found, begins = np.unique(names[order], return_index=True)
    parts = {column: np.split(table[column].to_numpy()[order], begins[1:]) for column in columns}
    return {int(name): {column: parts[column][i] for column in columns} for i, name in enumerate(found)}


def windows(folder, name):
    """Per metric: histories [n, CONTEXT], truths [n, horizons], the series each row belongs to."""
    source, metrics, every, first, stride = SETS[name]
    groups = [values for _, values in data.series(folder, source, metrics)][::every]
    for metric in metrics:
        x, y, owner = [], [], []
        for number, rows in enumerate(groups):
            values = rows[metric].astype(np.float32)
            for at in range(first, min(first + 6 * stride, len(values) - HORIZONS[-1]), stride):
                x.append(values[at - CONTEXT : at])
                y.append(values[at - 1 + HORIZONS])
                owner.append(number)
        yield np.array(x), np.array(y), np.array(owner)


def filled(x):
    """The last known value in place of a missing one."""
    at = np.maximum.accumulate(np.where(np.isnan(x), 0, np.arange(x.shape[1])), axis=1)
    return np.nan_to_num(np.take_along_axis(x, at, axis=1))


def seasonal_naive(x):
    """The value of a day ago with normal errors of the size seen in the context."""
    x = filled(x)
    spread = np.sqrt(np.mean((x[:, DAY:] - x[:, :-DAY]) ** 2, axis=1)) + 1e-6
    return x[:, CONTEXT - 1 + HORIZONS - DAY][:, :, None] + spread[:, None, None] * NORMAL


def last_value(x):
    """The last value plus the quantiles of how much it was off, over the context."""
    x = filled(x)
    out = np.empty((len(x), len(HORIZONS), len(LEVELS)))
    for i, h in enumerate(HORIZONS):
        out[:, i] = x[:, -1:] + np.quantile(x[:, h:] - x[:, :-h], LEVELS, axis=1).T
    return out


def profile(x):
    """Quantiles of the values at the same time of day, half an hour around it, on seven days."""
    x = filled(x)
    out = np.empty((len(x), len(HORIZONS), len(LEVELS)))
    for i, h in enumerate(HORIZONS):
        centres = CONTEXT - 1 + h - DAY * np.arange(1, 8)
        at = (centres[:, None] + np.arange(-3, 4)).ravel()
        out[:, i] = np.quantile(x[:, at[(at >= 0) & (at < CONTEXT)]], LEVELS, axis=1).T
    return out


def losses(q, y):
    """Decile loss per row and horizon; NaN where the truth is unknown."""
    error = y[:, :, None] - q[:, :, DECILES]
    levels = LEVELS[DECILES]
    return 2 * np.maximum(levels * error, (levels - 1) * error).mean(axis=2)


def inside(q, y, low, high):
    known = ~np.isnan(y)
    return ((y >= q[:, :, low]) & (y <= q[:, :, high]))[known]


def score(model, folder):
    """{set: {hours: {method: (WQL, relCRPS, coverage 80, coverage 95)}}}"""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options)
    methods = {
        "model": lambda x: session.run(None, {"history": x})[0],
        "seasonal naive": seasonal_naive,
        "conformal last value": last_value,
        "time-of-day profile": profile,
    }
    result = {}
    for name in SETS:
        cases = [(x, y, owner, {m: np.maximum(f(x), 0) for m, f in methods.items()}) for x, y, owner in windows(folder, name)]
        result[name] = {}
        for hours, count in ((1, 7), (6, 12)):
            result[name][hours] = {}
            for method in methods:
                wql, ratios, near, far = [], [], [], []
                for x, y, owner, forecasts in cases:
                    y, q, naive = y[:, :count], forecasts[method][:, :count], forecasts["seasonal naive"][:, :count]
                    loss, base = losses(q, y), losses(naive, y)
                    wql.append(np.nansum(loss) / (np.nansum(np.abs(y)) + 1e-9))
                    for one in np.unique(owner):
                        mine, theirs = np.nanmean(loss[owner == one]), np.nanmean(base[owner == one])
                        if theirs > 1e-9:
                            ratios.append(np.log(max(mine, 1e-3 * theirs) / theirs))
                    near.append(inside(q, y, 2, 10))
                    far.append(inside(q, y, 1, 11))
                result[name][hours][method] = (
                    float(np.mean(wql)),
                    float(np.exp(np.mean(ratios))),
                    float(np.mean(np.concatenate(near))),
                    float(np.mean(np.concatenate(far))),
                )
    return result


def measure(model, folder):
    """The scores as the manifest holds them."""
    names = ("wql", "rel_crps", "coverage_80", "coverage_95")
    return {
        f"{name}_{hours}h": {method: dict(zip(names, (round(v, 3) for v in scores))) for method, scores in methods.items()}
        for name, spans in score(model, folder).items()
        for hours, methods in spans.items()
    }


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--data", type=pathlib.Path, default=HERE.parent.parent / "shared" / "data")
    args.add_argument("--model", type=pathlib.Path, default=HERE / "artifacts" / "demand.onnx")
    args = args.parse_args()
    for needed in (args.data, args.model):
        if not needed.exists():
            raise SystemExit(f"{needed} does not exist; name it with --data or --model")
    print("| data, horizon | method | WQL | relCRPS | coverage 80 | coverage 95 |")
    print("|---|---|---|---|---|---|")
    for name, spans in score(args.model.read_bytes(), args.data).items():
        for hours, methods in spans.items():
            for method, (wql, ratio, near, far) in methods.items():
                print(f"| {name}, {hours} h | {method} | {wql:.3f} | {ratio:.3f} | {100 * near:.0f} % | {100 * far:.0f} % |")


if __name__ == "__main__":
    main()
