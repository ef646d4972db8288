"""The features of a history, in numpy: the reference that the forecaster's Rust code is tested against.

A history is 2 016 steps of five minutes (seven days), oldest first, NaN = missing. Everything is
seen relative to the history's own level and scale, so units do not matter. Two parts come out:
`context`, once per history, and `ahead`, once per horizon. The first EXPERTS columns of `ahead` are
simple point forecasts, the next SPREADS are logarithms of simple estimates of how far they miss.

Optional groups (activity, calendar) have a flag of their own and are 0 where they are unknown.
"""

import numpy as np

N, DAY, HALF, THREE, HOUR = 2016, 288, 6, 36, 12
RAW, PHASES, CELL, DAYS = 36, 12, 3, 7
LAGS = (1, 3, 12, 36, 144)
SHORT = (12, DAY)
EXPERTS, SPREADS = 13, 7
ACTIVITY, CALENDAR_NOW, CALENDAR_AHEAD = 9, 6, 4
CONTEXT = RAW + 48 + 56 + PHASES + 4 + 12 + 9 + 3 + 2 * len(LAGS) + 2 + 4 + ACTIVITY + CALENDAR_NOW
AHEAD = EXPERTS + SPREADS + DAYS + DAYS + 2 + 3 + CALENDAR_AHEAD
DAY_S, WEEK_S = 86_400, 604_800
EPSILON = 1e-3


def sums(x0, m, start, width):
    """Sums and counts of consecutive spans of `width` from `start` to the end."""
    shape = (len(x0), (N - start) // width, width)
    return x0[:, start:].reshape(shape).sum(2), m[:, start:].reshape(shape).sum(2)


def mean(total, count):
    return total / np.maximum(count, 1)


def calendar(seconds):
    """Hour and weekday of local times (seconds since a Thursday's midnight); NaN = unknown."""
    known = ~np.isnan(seconds)
    s = np.nan_to_num(seconds)
    day, weekday = 2 * np.pi * (s % DAY_S) / DAY_S, np.floor(s / DAY_S) % 7
    weekend = (weekday == 2) | (weekday == 3)  # the epoch was a Thursday
    return np.sin(day), np.cos(day), weekday, weekend.astype(float), known.astype(float)


def activity_features(a):
    """What another series of the same instance (requests, network) has done in the last day."""
    if a is None:
        return None
    tail = a[:, -DAY:]
    m = ~np.isnan(tail)
    x0 = np.where(m, tail, 0)
    count = m.sum(1)
    level = mean(x0.sum(1), count)
    scale = mean((np.abs(x0 - level[:, None]) * m).sum(1), count) + 0.002 * np.abs(level) + 1e-6
    z = np.where(m, (x0 - level[:, None]) / scale[:, None], 0)
    hour = mean((z[:, -12:] * m[:, -12:]).sum(1), m[:, -12:].sum(1))
    begin = z[:, :4].sum(1) / np.maximum(m[:, :4].sum(1), 1)
    return np.column_stack([z[:, -6:], hour, begin, count > 0])


def features(x, horizons, activity=None, now=None):
    """(context [n, CONTEXT], ahead [n, k, AHEAD], level [n], scale [n]) of histories x [n, N].

    `horizons` [n, k] in steps; `activity` [n, N] or None; `now` [n] local seconds or NaN.
    """
    x = np.asarray(x, np.float64)
    n, k = horizons.shape
    m = ~np.isnan(x)
    x0 = np.where(m, x, 0)
    day_total, day_count = x0[:, -DAY:].sum(1), m[:, -DAY:].sum(1)
    all_count = m.sum(1)
    level = np.where(day_count > 0, mean(day_total, day_count), mean(x0.sum(1), all_count))
    deviation = np.abs(x0 - level[:, None]) * m
    mad7 = mean(deviation.sum(1), all_count)
    mad1 = np.where(day_count > 0, mean(deviation[:, -DAY:].sum(1), day_count), mad7)
    scale = 0.5 * (mad1 + mad7) + 0.002 * np.abs(level) + 1e-6
    z = np.where(m, (x0 - level[:, None]) / scale[:, None], 0)

    def recent(steps):
        return mean(z[:, -steps:].sum(1), m[:, -steps:].sum(1))

    half, half_count = sums(z, m, N - 48 * HALF, HALF)
    three, three_count = sums(z, m, 0, THREE)
    fold, fold_count = z[:, -DAY:].reshape(n, 24, 12).sum(1), m[:, -DAY:].reshape(n, 24, 12).sum(1)
    hour, quarter = recent(12), recent(3)
    last = np.where(m[:, -1], z[:, -1], np.where(m[:, -3:].any(1), quarter, hour))
    phase = np.where(fold_count > 0, mean(fold, fold_count), hour[:, None])
    shares = np.column_stack([m[:, -36:].mean(1), day_count / DAY, *(m[:, DAY * d : DAY * (d + 1)].mean(1) for d in range(7))])

    first = np.where(m.any(1), m.argmax(1), N)
    at = np.maximum.accumulate(np.where(m, np.arange(N), 0), axis=1)
    filled = np.take_along_axis(z, at, axis=1)

    def lagged(lag, begin, otherwise):
        """Mean absolute change over `lag` steps, of the known part from `begin` on."""
        known = np.arange(lag, N)[None, :] >= np.maximum(first + lag, begin)[:, None]
        change = np.abs(filled[:, lag:] - filled[:, :-lag]) * known
        count = known.sum(1)
        return np.where(count > 0, mean(change.sum(1), count), otherwise)

    s1, s7 = mad1 / scale, mad7 / scale
    lag_day = np.column_stack([lagged(lag, N - DAY, s1) for lag in LAGS])
    lag_week = np.column_stack([lagged(lag, 0, s7) for lag in LAGS])
    season_day, season_week = lagged(DAY, N - DAY, 2 * s1), lagged(DAY, 0, 2 * s7)

    def log(value):
        return np.log(value + EPSILON)

    low, high = np.where(m, z, np.inf), np.where(m, z, -np.inf)
    extremes = [np.where(m[:, -s:].any(1), v, 0) for s in SHORT for v in (high[:, -s:].max(1), low[:, -s:].min(1))]
    parts = [z[:, -RAW:], mean(half, half_count), mean(three, three_count), phase]
    parts += [quarter, hour, recent(DAY), recent(N), m[:, -12:], shares]
    parts += [log(s1), log(s7), log(np.abs(level) / scale), log(lag_day), log(lag_week), log(season_day), log(season_week)]
    act = activity_features(activity)
    parts += [*extremes, act if act is not None else np.zeros((n, ACTIVITY))]
    now = np.full(n, np.nan) if now is None else now
    sin, cos, weekday, weekend, known = calendar(now)
    week = 2 * np.pi * weekday / 7
    parts += [np.column_stack([sin, cos, np.sin(week), np.cos(week), weekend, np.ones(n)]) * known[:, None]]
    context = np.column_stack([p.astype(np.float32) for p in parts])

    # Per horizon: the half hour around its time of day on each of the seven days before.
    days = np.arange(1, DAYS + 1)
    offsets = np.arange(-CELL, CELL + 1)
    ahead_steps = np.concatenate([np.zeros((n, 1), horizons.dtype), horizons], axis=1)  # 0: now
    index = N - 1 + ahead_steps[:, :, None, None] - DAY * days[:, None] + offsets
    inside = (index >= 0) & (index < N)
    row = np.arange(n)[:, None, None, None]
    index = np.clip(index, 0, N - 1)
    cell_m = m[row, index] & inside
    cell_z = z[row, index] * cell_m
    day_m, day_sum = cell_m.sum(3), cell_z.sum(3)
    day_mean = mean(day_sum, day_m)
    total, count = day_sum.sum(2), day_m.sum(2)
    habit = np.where(count > 0, mean(total, count), hour[:, None])
    count3 = day_m[:, :, :3].sum(2)
    habit3 = np.where(count3 > 0, mean(day_sum[:, :, :3].sum(2), count3), habit)
    yesterday = np.where(day_m[:, :, 0] > 0, day_mean[:, :, 0], habit3)
    moved = habit - habit[:, :1] + hour[:, None]
    variance = mean((((cell_z - habit[:, :, None, None]) * cell_m) ** 2).sum((2, 3)), count)
    spread = np.where(count > 1, np.sqrt(variance), s7[:, None])
    cell_min = np.where(count > 0, np.where(cell_m, cell_z, np.inf).min((2, 3)), habit)
    cell_max = np.where(count > 0, np.where(cell_m, cell_z, -np.inf).max((2, 3)), habit)
    exact1_m, exact7_m = cell_m[:, :, 0, CELL], cell_m[:, :, 6, CELL]
    exact1 = np.where(exact1_m, cell_z[:, :, 0, CELL], yesterday)
    exact7 = np.where(exact7_m, cell_z[:, :, 6, CELL], habit)

    h = horizons.astype(np.float64)
    phase_h = np.take_along_axis(phase, (horizons - 1) % 12, axis=1)

    def wide(v):
        return np.broadcast_to(v[:, None], (n, k))

    def between(values):
        """Lagged changes at the horizon, linear in its logarithm between the lags."""
        knots = np.log(np.array(LAGS, np.float64))
        place = np.clip(np.log(h), knots[0], knots[-1])
        right = np.clip(np.searchsorted(knots, place), 1, len(LAGS) - 1)
        share = (place - knots[right - 1]) / (knots[right] - knots[right - 1])
        a, b = np.take_along_axis(values, right - 1, 1), np.take_along_axis(values, right, 1)
        return a + (b - a) * share

    a_cal = calendar(now[:, None] + 300 * h)
    columns = [habit[:, 1:], habit3[:, 1:], yesterday[:, 1:], moved[:, 1:], exact1[:, 1:], exact7[:, 1:], phase_h]
    columns += [wide(last), wide(quarter), wide(hour), wide(recent(DAY)), cell_min[:, 1:], cell_max[:, 1:]]
    columns += [log(spread[:, 1:]), log(between(lag_day)), log(between(lag_week)), wide(log(season_day))]
    columns += [wide(log(season_week)), wide(log(s1)), wide(log(s7))]
    columns += [day_mean[:, 1:, d] for d in range(DAYS)] + [(day_m[:, 1:, d] > 0) for d in range(DAYS)]
    columns += [exact1_m[:, 1:], exact7_m[:, 1:], np.log(h) / np.log(288), h / 288, h <= 3]
    columns += [c * a_cal[4] for c in (a_cal[0], a_cal[1], a_cal[3], np.ones_like(h))]
    ahead = np.stack([np.asarray(c, np.float32) for c in columns], axis=2)
    return context, ahead, level, scale
