"""Writes the features of a few histories for the forecaster's tests.

    python -m demand.golden ../forecaster/tests/golden/features.json
"""

import json
import pathlib
import sys

import numpy as np

from .features import N, features

HORIZONS = [1, 5, 12, 72, 200, 288]


def cases():
    rng = np.random.default_rng(11)
    t = np.arange(N)
    daily = 40 + 25 * np.sin(2 * np.pi * t / 288) + rng.gamma(2, 2, N)
    bursts = np.where(rng.random(N) < 0.03, 90, 5) + rng.random(N)
    holes = daily.copy()
    holes[300:800] = np.nan
    holes[-2:] = np.nan
    holes[rng.random(N) < 0.2] = np.nan
    cold = daily.copy()
    cold[:-50] = np.nan
    old = daily.copy()
    old[-400:] = np.nan
    large = 8e9 + 3e7 * np.sin(2 * np.pi * t / 288) + 1e6 * rng.random(N)
    one = np.full(N, np.nan)
    one[-1] = 7
    yield "daily", daily, bursts, 1_375_315_200.0 + 300 * N
    yield "bursts", bursts, daily, None
    yield "holes", holes, None, 1_700_000_000.0
    yield "cold start", cold, None, None
    yield "nothing since a day", old, holes, None
    yield "bytes", large, None, None
    yield "one sample", one, None, None
    yield "zeros", np.zeros(N), None, None


def short(values):
    return [None if np.isnan(v) else float(np.float32(v)) for v in values]


def main():
    found = []
    for name, x, activity, now in cases():
        x = x.astype(np.float32)
        a = None if activity is None else activity.astype(np.float32)
        steps = np.array([HORIZONS])
        context, ahead, level, scale = features(
            x[None], steps, None if a is None else a[None], np.array([np.nan if now is None else now])
        )
        begin = int(np.argmax(~np.isnan(x)))
        found.append(
            {
                "name": name,
                "history": short(x[begin:]),
                "activity": [] if a is None else short(a[-288:]),
                "local_s": now,
                "horizons": HORIZONS,
                "level": float(level[0]),
                "scale": float(scale[0]),
                "context": [float(f"{v:.7g}") for v in context[0]],
                "ahead": [float(f"{v:.7g}") for v in ahead[0].ravel()],
            }
        )
    path = pathlib.Path(sys.argv[1])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found).replace("}, ", "},\n") + "\n")


if __name__ == "__main__":
    main()
