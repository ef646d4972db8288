"""Offline calibration: how much wider the intervals have to be on steps the network has not seen.

Fitted on the calibration range (Bitbrains steps 5 760 to 6 623, ASD 7 776 to 8 639), which lies
after the training range and before the test range. Per horizon and side, the factor on the distance
from the median at which one truth in ten lies beyond the 80 % interval's end (one in forty beyond
the 95 % interval's), as in conformalised quantile regression, all series pooled: each set counts
the same. Smoothed over neighbouring horizons.
"""

import numpy as np

from . import data
from .features import N
from .net import HORIZONS
from .predict import quantiles

RANGES = {
    "bitbrains": (data.BITBRAINS, ["cpu_pct", "mem_mib", "net_rx_kbs", "net_tx_kbs"], 5760, 6624),
    "asd": (data.ASD, [f"m{i:02}" for i in range(0, 19, 2)], 7776, 8640),
}


def windows(folder, name, stride=41):
    source, metrics, first, end = RANGES[name]
    x, a, now, y = [], [], [], []
    steps = np.array(HORIZONS)
    for number, (_, rows) in enumerate(data.series(folder, source, data.BITBRAINS_METRICS if name == "bitbrains" else metrics)):
        for metric in metrics:
            values, companion = rows[metric], rows.get(data.COMPANION.get(metric))
            # Every second series has its activity and time known, as in training.
            full = companion is not None and number % 2 == 0
            for at in range(first + number % stride, end - 1, stride):
                x.append(values[at - N : at])
                a.append(companion[at - N : at] if full else np.full(N, np.nan))
                now.append(data.BITBRAINS_START + 300 * (at - 1) if full else np.nan)
                then = at - 1 + steps
                y.append(np.where(then < end, values[np.minimum(then, end - 1)], np.nan))
    return np.array(x, np.float32), np.array(a, np.float32), np.array(now), np.array(y)


def fit(session, folder):
    """The manifest's `calibration`: logarithms of factors per horizon."""
    scores = {name: [[] for _ in HORIZONS] for name in ("low", "high", "far_low", "far_high")}
    weights = [[] for _ in HORIZONS]
    for name in RANGES:
        x, a, now, y = windows(folder, name)
        q = quantiles(session, x, np.array(HORIZONS), a, now)
        middle = q[:, :, 6]
        for side, level, sign in (("low", 2, -1), ("high", 10, 1), ("far_low", 1, -1), ("far_high", 11, 1)):
            width = np.maximum(np.abs(q[:, :, level] - middle), 1e-9 * (1 + np.abs(middle)))
            score = sign * (y - middle) / width
            for h in range(len(HORIZONS)):
                scores[side][h].append(score[:, h])
        for h in range(len(HORIZONS)):
            known = ~np.isnan(y[:, h])
            weights[h].append(known / max(known.sum(), 1))
    found = {"horizons": HORIZONS}
    for side, beyond in (("low", 0.1), ("high", 0.1), ("far_low", 0.025), ("far_high", 0.025)):
        logs = [np.log(np.clip(weighted(np.concatenate(scores[side][h]), np.concatenate(weights[h]), 1 - beyond), 0.5, 3)) for h in range(len(HORIZONS))]
        padded = np.concatenate([logs[:1], logs, logs[-1:]])
        found[side] = [round(float(v), 4) for v in (padded[:-2] + padded[1:-1] + padded[2:]) / 3]
    # The outer levels' factors are on top of the inner ones.
    for far, near in (("far_low", "low"), ("far_high", "high")):
        found[far] = [round(f - n, 4) for f, n in zip(found[far], found[near])]
    return found


def weighted(values, weights, level):
    """Quantile of weighted values; unknown ones have weight 0."""
    known = weights > 0
    values, weights = values[known], weights[known]
    order = np.argsort(values)
    cumulated = np.cumsum(weights[order]) / weights.sum()
    return values[order][min(np.searchsorted(cumulated, level), len(values) - 1)]
