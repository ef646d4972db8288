//! What is drawn: a forecast's bands with the truth, and how honest quantiles are.

use domain::QUANTILE_LEVELS;
use forecaster::backtest::Row;

use super::Horizon;
use super::png::{Canvas, Colour, whole};

const SIZE: (usize, usize) = (960, 480);
/// Left, right, top, bottom.
const EDGES: (f64, f64, f64, f64) = (80.0, 940.0, 20.0, 440.0);
const PAST: Colour = [40, 40, 40];
const OUTER: Colour = [205, 222, 245];
const INNER: Colour = [150, 185, 230];
const MEDIAN: Colour = [25, 80, 170];
const TRUTH: Colour = [200, 60, 30];
const GRID: Colour = [225, 225, 225];
/// Steps of the past that are shown.
const SHOWN: usize = 144;

/// Places values on the canvas.
struct Frame {
    x: (f64, f64),
    y: (f64, f64),
}

impl Frame {
    fn at(&self, x: f64, y: f64) -> (f64, f64) {
        let (left, right, top, bottom) = EDGES;
        let share = |value: f64, (from, to): (f64, f64)| (value - from) / (to - from).max(1e-12);
        (
            left + share(x, self.x) * (right - left),
            bottom - share(y, self.y) * (bottom - top),
        )
    }

    fn grid(&self, canvas: &mut Canvas) {
        for part in 0..=4 {
            let share = f64::from(part) / 4.0;
            let y = self.y.0 + (self.y.1 - self.y.0) * share;
            let x = self.x.0 + (self.x.1 - self.x.0) * share;
            canvas.line(self.at(self.x.0, y), self.at(self.x.1, y), GRID);
            canvas.line(self.at(x, self.y.0), self.at(x, self.y.1), GRID);
            canvas.text(4, whole(self.at(x, y).1).saturating_sub(5), &short(y));
            canvas.text(whole(self.at(x, y).0).saturating_sub(16), 454, &short(x));
        }
    }
}

/// A number in at most nine characters.
fn short(value: f64) -> String {
    if value == 0.0 || (1e-2..1e6).contains(&value.abs()) {
        let text = format!("{value:.2}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        format!("{value:.2e}")
    }
}

/// The last of what is known, the 80 % and 95 % bands, the median, and what came.
pub(super) fn forecast(known: &[f32], horizons: &[Horizon]) -> Vec<u8> {
    let past = &known[known.len().saturating_sub(SHOWN)..];
    let highest = horizons
        .iter()
        .flat_map(|h| h.truth.into_iter().chain([h.quantiles[11]]))
        .chain(
            past.iter()
                .copied()
                .filter(|v| v.is_finite())
                .map(f64::from),
        )
        .fold(0.0, f64::max);
    let frame = Frame {
        x: (-(past.len() as f64), horizons.len() as f64),
        y: (0.0, if highest > 0.0 { highest * 1.05 } else { 1.0 }),
    };
    let mut canvas = Canvas::new(SIZE.0, SIZE.1);
    frame.grid(&mut canvas);
    for pair in horizons.windows(2) {
        let (from, to) = (&pair[0], &pair[1]);
        let begin = frame.at(from.ahead as f64, 0.0).0;
        let end = frame.at(to.ahead as f64, 0.0).0;
        let mut x = begin;
        while x <= end {
            let share = (x - begin) / (end - begin).max(1e-9);
            let value = |place: usize| {
                let (a, b) = (from.quantiles[place], to.quantiles[place]);
                frame.at(0.0, a + (b - a) * share).1
            };
            canvas.column(x, value(1), value(11), OUTER);
            canvas.column(x, value(2), value(10), INNER);
            x += 1.0;
        }
    }
    let begin = -(past.len() as f64) + 1.0;
    let known = past
        .iter()
        .enumerate()
        .map(|(i, v)| (begin + i as f64, f64::from(*v)));
    path(&mut canvas, &frame, known, PAST);
    let median = horizons.iter().map(|h| (h.ahead as f64, h.quantiles[6]));
    path(&mut canvas, &frame, median, MEDIAN);
    let truth = horizons
        .iter()
        .map(|h| (h.ahead as f64, h.truth.unwrap_or(f64::NAN)));
    path(&mut canvas, &frame, truth, TRUTH);
    canvas.png()
}

/// Lines through points; a point that is no number interrupts them.
fn path(
    canvas: &mut Canvas,
    frame: &Frame,
    points: impl Iterator<Item = (f64, f64)>,
    colour: Colour,
) {
    let mut before: Option<(f64, f64)> = None;
    for (x, y) in points {
        let now = y.is_finite().then(|| frame.at(x, y));
        if let (Some(from), Some(to)) = (before, now) {
            canvas.line(from, to, colour);
        }
        before = now;
    }
}

/// The share of truths below each quantile over its level, for the longest span: the model, the
/// model calibrated online, and the last value. Honest is the diagonal.
pub(super) fn reliability(rows: &[Row]) -> Vec<u8> {
    let frame = Frame {
        x: (0.0, 1.0),
        y: (0.0, 1.0),
    };
    let mut canvas = Canvas::new(SIZE.0, SIZE.1);
    frame.grid(&mut canvas);
    canvas.line(frame.at(0.0, 0.0), frame.at(1.0, 1.0), PAST);
    let longest = rows.iter().map(|row| row.steps).max().unwrap_or(0);
    let colours = [INNER, MEDIAN, TRUTH];
    for (row, colour) in rows.iter().filter(|row| row.steps == longest).zip(colours) {
        let points = QUANTILE_LEVELS
            .into_iter()
            .zip(row.reliability.iter().copied());
        path(&mut canvas, &frame, points, colour);
    }
    canvas.png()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_short() {
        for (value, wanted) in [
            (0.0, "0"),
            (0.5, "0.5"),
            (1234.5, "1234.5"),
            (8e9, "8.00e9"),
        ] {
            assert_eq!(short(value), wanted);
        }
    }

    #[test]
    fn bands_truth_and_past_are_drawn_also_with_gaps() {
        let horizon = |ahead: usize| Horizon {
            ahead,
            quantiles: std::array::from_fn(|i| 10.0 + i as f64),
            truth: (ahead != 3).then_some(16.0),
        };
        let horizons: Vec<_> = (1..=6).map(horizon).collect();
        let drawn = forecast(&[f32::NAN, 1.0, 2.0], &horizons);
        for colour in [PAST, OUTER, INNER, MEDIAN, TRUTH] {
            assert!(drawn.windows(3).any(|pixel| pixel == colour), "{colour:?}");
        }
    }
}
