//! The features of one horizon: the half hour around its time of day on the seven days before.

use super::{AHEAD, DAY, LAGS, PHASES, STEPS, View, calendar, log};

/// Steps either side of the time of day.
const CELL: usize = 3;
const DAYS: usize = 7;

/// What the days before were like around a horizon's time of day.
struct Habit {
    means: [f32; DAYS],
    seen: [f32; DAYS],
    all: f32,
    three: f32,
    spread: f32,
    low: f32,
    high: f32,
    /// The value at exactly that time, yesterday and a week ago.
    exact: [Option<f32>; 2],
}

pub(super) fn write(view: &View<'_>, steps: usize, to: &mut [f32]) {
    let Ok(to) = <&mut [f32; AHEAD]>::try_from(to) else {
        return;
    };
    let habit = habit(view, steps);
    let now = habit_now(view);
    let yesterday = if habit.seen[0] > 0.0 {
        habit.means[0]
    } else {
        habit.three
    };
    to[0] = habit.all;
    to[1] = habit.three;
    to[2] = yesterday;
    to[3] = habit.all - now + view.hour;
    to[4] = habit.exact[0].unwrap_or(yesterday);
    to[5] = habit.exact[1].unwrap_or(habit.all);
    to[6] = view.phase[(steps - 1) % PHASES];
    to[7] = view.last;
    to[8] = view.quarter;
    to[9] = view.hour;
    to[10] = view.day;
    to[11] = habit.low;
    to[12] = habit.high;
    to[13] = log(habit.spread);
    to[14] = log(between(&view.lag_day, steps));
    to[15] = log(between(&view.lag_week, steps));
    to[16] = log(view.season_day);
    to[17] = log(view.season_week);
    to[18] = log(view.mad_day);
    to[19] = log(view.mad_week);
    to[20..27].copy_from_slice(&habit.means);
    to[27..34].copy_from_slice(&habit.seen);
    to[34] = flag(habit.exact[0].is_some());
    to[35] = flag(habit.exact[1].is_some());
    to[36] = (steps as f32).ln() / (DAY as f32).ln();
    to[37] = steps as f32 / DAY as f32;
    to[38] = flag(steps <= 3);
    to[39..].fill(0.0);
    if let Some(seconds) = view.local_s.filter(|s| s.is_finite()) {
        let then = calendar(seconds + 300.0 * steps as f64);
        to[39..].copy_from_slice(&[then.sin, then.cos, then.weekend, 1.0]);
    }
}

const fn flag(set: bool) -> f32 {
    if set { 1.0 } else { 0.0 }
}

/// The places around a horizon's time of day, `days` days before.
fn cell(steps: usize, days: usize) -> std::ops::Range<usize> {
    // The newest is at STEPS - 1; the oldest day may begin before the history does.
    let centre = STEPS - 1 + steps - DAY * days;
    centre.saturating_sub(CELL)..(centre + CELL + 1).min(STEPS)
}

/// The mean of the days before at the present time of day.
fn habit_now(view: &View<'_>) -> f32 {
    let (mut total, mut count) = (0.0, 0.0);
    for days in 1..DAYS {
        add(view, cell(0, days), &mut total, &mut count);
    }
    // A week ago the history had not begun: only the half that follows is known.
    add(view, 0..CELL, &mut total, &mut count);
    if count > 0.0 {
        total / count
    } else {
        view.hour
    }
}

fn add(view: &View<'_>, range: std::ops::Range<usize>, total: &mut f32, count: &mut f32) {
    *total += view.z[range.clone()].iter().sum::<f32>();
    *count += view.known[range].iter().sum::<f32>();
}

fn habit(view: &View<'_>, steps: usize) -> Habit {
    let (mut means, mut seen) = ([0.0; DAYS], [0.0; DAYS]);
    let (mut all, mut three, mut squares) = ((0.0, 0.0), (0.0, 0.0), 0.0);
    let (mut low, mut high) = (f32::INFINITY, f32::NEG_INFINITY);
    for days in 1..=DAYS {
        let range = cell(steps, days);
        let (mut total, mut count) = (0.0_f32, 0.0_f32);
        for (&z, &known) in view.z[range.clone()].iter().zip(&view.known[range]) {
            total += z;
            count += known;
            squares += z * z;
            if known > 0.0 {
                low = low.min(z);
                high = high.max(z);
            }
        }
        means[days - 1] = total / count.max(1.0);
        seen[days - 1] = flag(count > 0.0);
        all = (all.0 + total, all.1 + count);
        if days <= 3 {
            three = (three.0 + total, three.1 + count);
        }
    }
    let mean = if all.1 > 0.0 {
        all.0 / all.1
    } else {
        view.hour
    };
    let spread = if all.1 > 1.0 {
        deviation(view, steps, mean, squares / all.1, all.1)
    } else {
        view.mad_week
    };
    let exact = |days: usize| {
        let at = STEPS - 1 + steps - DAY * days;
        (at < STEPS && view.known[at] > 0.0).then(|| view.z[at])
    };
    Habit {
        means,
        seen,
        all: mean,
        three: if three.1 > 0.0 {
            three.0 / three.1
        } else {
            mean
        },
        spread,
        low: if low.is_finite() { low } else { mean },
        high: if high.is_finite() { high } else { mean },
        exact: [exact(1), exact(DAYS)],
    }
}

/// Standard deviation within the cells. Where the mean square says too little, because the cells
/// lie far from the level, it is computed from the differences.
fn deviation(view: &View<'_>, steps: usize, mean: f32, mean_square: f32, count: f32) -> f32 {
    let variance = mean_square - mean * mean;
    if variance > 1e-2 * mean_square {
        return variance.sqrt();
    }
    let mut total = 0.0;
    for days in 1..=DAYS {
        let range = cell(steps, days);
        for (&z, &known) in view.z[range.clone()].iter().zip(&view.known[range]) {
            total += (z - mean) * (z - mean) * known;
        }
    }
    (total / count).sqrt()
}

/// Lagged changes at a horizon, linear in its logarithm between the lags.
fn between(values: &[f32; LAGS.len()], steps: usize) -> f32 {
    let steps = steps.clamp(LAGS[0], LAGS[LAGS.len() - 1]);
    let right = LAGS.partition_point(|&lag| lag < steps).max(1);
    let (a, b) = (LAGS[right - 1] as f32, LAGS[right] as f32);
    let share = (steps as f32 / a).ln() / (b / a).ln();
    values[right - 1] + (values[right] - values[right - 1]) * share
}
