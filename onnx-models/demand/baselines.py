"""Simple forecasts that anybody could make: [n, k, 13] from histories [n, 2016], NaN forward-filled."""

from statistics import NormalDist

import numpy as np

from .features import DAY, N
from .net import LEVELS

NORMAL = np.array([NormalDist().inv_cdf(level) for level in LEVELS])


def filled(x):
    """The last known value in place of a missing one; the first known one before it."""
    at = np.maximum.accumulate(np.where(np.isnan(x), 0, np.arange(x.shape[1])), axis=1)
    x = np.take_along_axis(x, at, axis=1)
    first = np.take_along_axis(x, np.argmax(~np.isnan(x), axis=1)[:, None], 1)
    return np.nan_to_num(np.where(np.isnan(x), first, x))


def seasonal_naive(x, horizons):
    """The value of a day ago with normal errors of the size seen in the context."""
    x = filled(x)
    spread = np.sqrt(np.mean((x[:, DAY:] - x[:, :-DAY]) ** 2, axis=1)) + 1e-6
    return np.maximum(x[:, N - 1 + horizons - DAY][:, :, None] + spread[:, None, None] * NORMAL, 0)


def last_value(x, horizons):
    """The last value plus the quantiles of how much it was off, over the known context."""
    known = N - int(np.min(np.argmax(~np.isnan(x), axis=1)))
    x = filled(x)[:, -known:]
    out = np.empty((len(x), len(horizons), len(LEVELS)))
    for i, h in enumerate(horizons):
        out[:, i] = x[:, -1:] + np.quantile(x[:, h:] - x[:, :-h], LEVELS, axis=1).T
    return np.maximum(out, 0)


def profile(x, horizons):
    """Quantiles of the values at the same time of day, half an hour around it, on seven days."""
    x = filled(x)
    out = np.empty((len(x), len(horizons), len(LEVELS)))
    for i, h in enumerate(horizons):
        centres = N - 1 + h - DAY * np.arange(1, 8)
        at = (centres[:, None] + np.arange(-3, 4)).ravel()
        out[:, i] = np.quantile(x[:, at[(at >= 0) & (at < N)]], LEVELS, axis=1).T
    return np.maximum(out, 0)


ALL = {"seasonal naive": seasonal_naive, "conformal last value": last_value, "time-of-day profile": profile}
