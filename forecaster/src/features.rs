//! The features of a history: what the network reads instead of 2 016 raw values.
//!
//! The reference is `onnx-models/demand/features.py`; `tests/features.rs` holds both to the same
//! numbers. Everything is seen relative to the history's own level and scale, so units do not
//! matter. One pass over the raw values costs a few microseconds and keeps no state that could
//! drift; nothing is allocated.

mod ahead;
mod lanes;

use lanes::{sum, sum_wide};

/// Steps of history that are looked at: seven days of five minutes.
pub const STEPS: usize = 2_016;
/// Version of this contract; a model names the one it was trained with.
pub const VERSION: u32 = 2;
/// Features per history.
pub const CONTEXT: usize = 211;
/// Features per horizon.
pub const AHEAD: usize = 43;

/// Steps of a day.
pub(crate) const DAY: usize = 288;
const RAW: usize = 36;
const HALF: usize = 6;
const THREE: usize = 36;
const PHASES: usize = 12;
const LAGS: [usize; 5] = [1, 3, 12, 36, 144];
const EPSILON: f32 = 1e-3;
const DAY_S: f64 = 86_400.0;

/// What is known of a series when it is forecast.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// Its values, oldest first, `NaN` where nothing is known; only the newest [`STEPS`] count.
    pub history: &'a [f32],
    /// Values of what its users do (requests, network), on the same steps; empty if unknown.
    pub activity: &'a [f32],
    /// Local time of the newest step, in seconds since a Thursday's midnight.
    pub local_s: Option<f64>,
}

/// Turns the network's answers back into the history's units.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scaling {
    /// The level that everything is seen around.
    pub level: f64,
    /// The unit it is seen in.
    pub scale: f64,
}

impl Scaling {
    /// Of values that are in the history's units already.
    pub const NONE: Self = Self {
        level: 0.0,
        scale: 1.0,
    };

    /// A value in the history's units.
    pub fn restore(&self, z: f32) -> f64 {
        self.level + f64::from(z) * self.scale
    }
}

/// Working memory, made once and used again.
#[derive(Debug)]
pub struct Scratch {
    /// Values around level in units of scale; 0 where unknown.
    z: Vec<f32>,
    /// 1 where known, 0 where not.
    known: Vec<f32>,
    /// `z` with gaps filled by the value before.
    filled: Vec<f32>,
}

impl Default for Scratch {
    fn default() -> Self {
        Self {
            z: vec![0.0; STEPS],
            known: vec![0.0; STEPS],
            filled: vec![0.0; STEPS],
        }
    }
}

/// What both parts of the features need.
struct View<'a> {
    z: &'a [f32],
    known: &'a [f32],
    local_s: Option<f64>,
    phase: [f32; PHASES],
    hour: f32,
    quarter: f32,
    day: f32,
    last: f32,
    mad_day: f32,
    mad_week: f32,
    lag_day: [f32; LAGS.len()],
    lag_week: [f32; LAGS.len()],
    season_day: f32,
    season_week: f32,
}

/// Writes a history's features: `context` takes [`CONTEXT`] values, `ahead` takes [`AHEAD`] for
/// each of the horizons (in steps, 1 to a day). `None` when nothing is known of it.
pub fn extract(
    known: &Known<'_>,
    horizons: &[usize],
    scratch: &mut Scratch,
    context: &mut [f32],
    ahead: &mut [f32],
) -> Option<Scaling> {
    let scaling = scratch.scale(known.history)?;
    let view = scratch.view(known.local_s);
    let mut to = Writer { to: context, at: 0 };
    view.write(&mut to, scaling);
    activity(known.activity, &mut to);
    calendar_now(known.local_s, &mut to);
    for (&steps, to) in horizons.iter().zip(ahead.chunks_exact_mut(AHEAD)) {
        ahead::write(&view, steps.clamp(1, DAY), to);
    }
    Some(scaling)
}

struct Writer<'a> {
    to: &'a mut [f32],
    at: usize,
}

impl Writer<'_> {
    fn put(&mut self, value: f32) {
        if let Some(place) = self.to.get_mut(self.at) {
            *place = value;
        }
        self.at += 1;
    }

    fn put_all(&mut self, values: &[f32]) {
        for &value in values {
            self.put(value);
        }
    }
}

/// Mean, or 0 of nothing.
fn mean(total: f32, count: f32) -> f32 {
    total / count.max(1.0)
}

fn log(value: f32) -> f32 {
    (value + EPSILON).ln()
}

impl Scratch {
    /// Level and scale; fills in what is known. `None` when that is nothing.
    fn scale(&mut self, history: &[f32]) -> Option<Scaling> {
        let history = &history[history.len().saturating_sub(STEPS)..];
        let missing = STEPS - history.len();
        self.known[..missing].fill(0.0);
        self.filled[..missing].fill(0.0);
        let known = &mut self.known[missing..];
        let values = &mut self.filled[missing..];
        for ((&value, known), to) in history.iter().zip(known).zip(values) {
            *known = if value.is_finite() { 1.0 } else { 0.0 };
            *to = if value.is_finite() { value } else { 0.0 };
        }
        let (raw, known) = (&self.filled, &self.known);
        let count = sum(known);
        if count < 1.0 {
            return None;
        }
        let day = STEPS - DAY;
        let day_count = sum(&known[day..]);
        let level = if day_count > 0.0 {
            sum_wide(raw[day..].iter().map(|&v| f64::from(v))) / f64::from(day_count)
        } else {
            sum_wide(raw.iter().map(|&v| f64::from(v))) / f64::from(count)
        };
        for ((z, &value), &known) in self.z.iter_mut().zip(raw).zip(known) {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "the network computes in f32"
            )]
            let around = (f64::from(value) - level) as f32;
            *z = around * known;
        }
        let before = sum_wide(self.z[..day].iter().map(|&v| f64::from(v.abs())));
        let today = sum_wide(self.z[day..].iter().map(|&v| f64::from(v.abs())));
        let mad_week = (before + today) / f64::from(count);
        let mad_day = if day_count > 0.0 {
            today / f64::from(day_count)
        } else {
            mad_week
        };
        let scale = 0.5 * (mad_day + mad_week) + 0.002 * level.abs() + 1e-6;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the network computes in f32"
        )]
        let per = (1.0 / scale) as f32;
        self.z.iter_mut().for_each(|z| *z *= per);
        Some(Scaling { level, scale })
    }

    /// Sums that are needed more than once.
    fn view(&mut self, local_s: Option<f64>) -> View<'_> {
        self.fill();
        let (z, known) = (self.z.as_slice(), self.known.as_slice());
        let day = STEPS - DAY;
        let recent = |steps: usize| mean(sum(&z[STEPS - steps..]), sum(&known[STEPS - steps..]));
        let (hour, quarter) = (recent(12), recent(3));
        let last = if known[STEPS - 1] > 0.0 {
            z[STEPS - 1]
        } else if sum(&known[STEPS - 3..]) > 0.0 {
            quarter
        } else {
            hour
        };
        let mut phase = [0.0; PHASES];
        let mut count = [0.0; PHASES];
        for (z, known) in z[day..]
            .chunks_exact(PHASES)
            .zip(known[day..].chunks_exact(PHASES))
        {
            for p in 0..PHASES {
                phase[p] += z[p];
                count[p] += known[p];
            }
        }
        for p in 0..PHASES {
            phase[p] = if count[p] > 0.0 {
                phase[p] / count[p]
            } else {
                hour
            };
        }
        let absolute = |part: &[f32]| sum_wide(part.iter().map(|&v| f64::from(v.abs())));
        let today = absolute(&z[day..]);
        let (count, day_count) = (sum(known), sum(&known[day..]));
        let week = (today + absolute(&z[..day])) / f64::from(count.max(1.0));
        let today = if day_count > 0.0 {
            today / f64::from(day_count)
        } else {
            week
        };
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the network computes in f32"
        )]
        let (mad_day, mad_week) = (today as f32, week as f32);
        let first = known.iter().position(|&k| k > 0.0).unwrap_or(STEPS);
        let lagged =
            |lag: usize, otherwise: (f32, f32)| lagged(&self.filled, first + lag, lag, otherwise);
        let lags = LAGS.map(|lag| lagged(lag, (mad_day, mad_week)));
        let (season_day, season_week) = lagged(DAY, (2.0 * mad_day, 2.0 * mad_week));
        View {
            z,
            known,
            local_s,
            phase,
            hour,
            quarter,
            day: mean(sum(&z[day..]), day_count),
            last,
            mad_day,
            mad_week,
            lag_day: lags.map(|lag| lag.0),
            lag_week: lags.map(|lag| lag.1),
            season_day,
            season_week,
        }
    }

    fn fill(&mut self) {
        let mut last = self.z[0];
        for ((filled, &z), &known) in self.filled.iter_mut().zip(&self.z).zip(&self.known) {
            if known > 0.0 {
                last = z;
            }
            *filled = last;
        }
    }
}

/// Mean absolute change over `lag` steps from `begin` on: within the last day, and of all.
fn lagged(filled: &[f32], begin: usize, lag: usize, otherwise: (f32, f32)) -> (f32, f32) {
    let changes = |from: usize, to: usize| {
        if from >= to {
            return 0.0;
        }
        lanes::sum_changes(&filled[from..to], &filled[from - lag..to - lag])
    };
    let day = STEPS - DAY;
    let from = begin.max(day);
    let today = changes(from, STEPS);
    let before = changes(begin, day);
    let in_day = STEPS.saturating_sub(from) as f32;
    let in_all = STEPS.saturating_sub(begin) as f32;
    (
        if in_day > 0.0 {
            today / in_day
        } else {
            otherwise.0
        },
        if in_all > 0.0 {
            (today + before) / in_all
        } else {
            otherwise.1
        },
    )
}

impl View<'_> {
    fn write(&self, to: &mut Writer<'_>, scaling: Scaling) {
        let (z, known) = (self.z, self.known);
        to.put_all(&z[STEPS - RAW..]);
        let spans = |to: &mut Writer<'_>, from: usize, width: usize| {
            for (z, known) in z[from..]
                .chunks_exact(width)
                .zip(known[from..].chunks_exact(width))
            {
                to.put(mean(sum(z), sum(known)));
            }
        };
        spans(to, STEPS - 48 * HALF, HALF);
        spans(to, 0, THREE);
        to.put_all(&self.phase);
        to.put_all(&[self.quarter, self.hour, self.day, mean(sum(z), sum(known))]);
        to.put_all(&known[STEPS - 12..]);
        to.put(sum(&known[STEPS - RAW..]) / RAW as f32);
        to.put(sum(&known[STEPS - DAY..]) / DAY as f32);
        for day in known.chunks_exact(DAY) {
            to.put(sum(day) / DAY as f32);
        }
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the network computes in f32"
        )]
        let level = (scaling.level.abs() / scaling.scale) as f32;
        to.put_all(&[log(self.mad_day), log(self.mad_week), log(level)]);
        to.put_all(&self.lag_day.map(log));
        to.put_all(&self.lag_week.map(log));
        to.put_all(&[log(self.season_day), log(self.season_week)]);
        for steps in [12, DAY] {
            let (low, high) = lanes::extremes(&z[STEPS - steps..], &known[STEPS - steps..]);
            to.put_all(&[high, low]);
        }
    }
}

/// Nine features of what the users do; all 0 where it is not known.
fn activity(values: &[f32], to: &mut Writer<'_>) {
    let tail = &values[values.len().saturating_sub(DAY)..];
    let known = |value: f32| value.is_finite();
    let count = tail.iter().filter(|v| known(**v)).count();
    if count == 0 {
        to.put_all(&[0.0; 9]);
        return;
    }
    let finite = || tail.iter().copied().filter(|v| known(*v)).map(f64::from);
    let level = finite().sum::<f64>() / count as f64;
    let deviation = finite().map(|v| (v - level).abs()).sum::<f64>() / count as f64;
    let scale = deviation + 0.002 * level.abs() + 1e-6;
    // The tail's places are counted from the day's beginning: a short one begins late.
    let missing = DAY - tail.len();
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the network computes in f32"
    )]
    let z = |at: usize| {
        let value = at.checked_sub(missing).and_then(|i| tail.get(i)).copied();
        value
            .filter(|v| known(*v))
            .map(|v| ((f64::from(v) - level) / scale) as f32)
    };
    let over = |range: std::ops::Range<usize>| {
        let (total, count) = range
            .filter_map(z)
            .fold((0.0, 0.0), |(t, c), v| (t + v, c + 1.0));
        mean(total, count)
    };
    for at in DAY - 6..DAY {
        to.put(z(at).unwrap_or(0.0));
    }
    to.put_all(&[over(DAY - 12..DAY), over(0..4), 1.0]);
}

/// Time of day and weekday at a local time.
struct Calendar {
    sin: f32,
    cos: f32,
    weekday: f64,
    weekend: f32,
}

fn calendar(seconds: f64) -> Calendar {
    let day = std::f64::consts::TAU * seconds.rem_euclid(DAY_S) / DAY_S;
    let weekday = (seconds / DAY_S).floor().rem_euclid(7.0);
    // The epoch was a Thursday: Saturday is day 2.
    let weekend = if (2.0..4.0).contains(&weekday) {
        1.0
    } else {
        0.0
    };
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the network computes in f32"
    )]
    let [sin, cos] = [day.sin() as f32, day.cos() as f32];
    Calendar {
        sin,
        cos,
        weekday,
        weekend,
    }
}

fn calendar_now(local_s: Option<f64>, to: &mut Writer<'_>) {
    let Some(seconds) = local_s.filter(|s| s.is_finite()) else {
        to.put_all(&[0.0; 6]);
        return;
    };
    let now = calendar(seconds);
    let week = std::f64::consts::TAU * now.weekday / 7.0;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the network computes in f32"
    )]
    let [sin, cos] = [week.sin() as f32, week.cos() as f32];
    to.put_all(&[now.sin, now.cos, sin, cos, now.weekend, 1.0]);
}

#[cfg(test)]
mod tests;
