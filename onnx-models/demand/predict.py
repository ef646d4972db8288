"""Forecasts of a shipped model from Python: what the forecaster does, for evaluation and research."""

import numpy as np

from .features import features


def widened(q, horizons, calibration):
    """Quantiles drawn wider or narrower around their median, by the manifest's `calibration`."""
    place = np.log(horizons)
    at = np.log(calibration["horizons"])

    def factor(name):
        return np.exp(np.interp(place, at, calibration[name]))[:, None]

    middle = q[:, :, 6:7]
    parts = [("low", "far_low", slice(0, 2)), ("low", None, slice(2, 7)), ("high", None, slice(7, 11)), ("high", "far_high", slice(11, 13))]
    out = [middle + (q[:, :, part] - middle) * factor(a) * (factor(b) if b else 1) for a, b, part in parts]
    return np.maximum(np.sort(np.concatenate(out, axis=2), axis=2), 0)


def quantiles(session, x, horizons, activity=None, now=None, calibration=None):
    """[n, k, 13] in the history's own units, from histories [n, 2016] and horizons (steps)."""
    parts = []
    for begin in range(0, len(x), 256):
        part = slice(begin, begin + 256)
        steps = np.tile(horizons, (len(x[part]), 1))
        context, ahead, level, scale = features(
            x[part], steps, None if activity is None else activity[part], None if now is None else now[part]
        )
        z = session.run(None, {"context": context, "ahead": ahead})[0].astype(np.float64)
        parts.append(np.maximum(np.sort(z, axis=2) * scale[:, None, None] + level[:, None, None], 0))
    q = np.concatenate(parts)
    return widened(q, horizons, calibration) if calibration else q
