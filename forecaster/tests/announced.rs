//! Announced load on real traces: the demo's, with jobs injected.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests say what they expect by failing"
)]
#![expect(clippy::cast_possible_truncation, reason = "the model computes in f32")]

use domain::{Announcement, InstanceId, Resource, Resources, Timestamp, When};
use foreshadow_forecaster::announced::{Announced, Grid, Job};
use foreshadow_forecaster::{Asking, Model, Negative, read_trace};

const STEP: u64 = 300_000;
const HISTORY: usize = 2_016;
/// Steps ahead at which the job begins, and how long it takes.
const BEGINS: usize = 6;
const LASTS: u64 = 6;

/// Mean absolute error of the median at the job's first step, without and with the announcement.
/// `recurring`: the job has run every day before at the same time, and is announced as a schedule;
/// else it comes once. What it adds in truth is 20 % off what is announced, up or down.
fn errors(recurring: bool) -> (f64, f64) {
    let text = include_str!("../../deploy/demo/trace.csv");
    let trace = read_trace(text.as_bytes(), Negative::Refuse).unwrap();
    let mut model = Model::shipped(None).unwrap();
    let (mut without, mut with) = (0.0, 0.0);
    for ((instance, _), values) in &trace {
        let values: Vec<f32> = values
            .iter()
            .map(|v| v.map_or(f32::NAN, |v| v as f32))
            .collect();
        let known = values.iter().filter(|v| v.is_finite());
        let level = known.clone().sum::<f32>() / known.count() as f32;
        for origin in (HISTORY..HISTORY + 72).step_by(9) {
            // Five-minute steps since the epoch, so that step 0 is midnight.
            let newest_ms = (origin as u64 - 1) * STEP;
            let start = newest_ms + BEGINS as u64 * STEP;
            let announced_cpu = 2.0 * level;
            let off = if origin % 2 == 0 { 0.8 } else { 1.2 };
            let mut history = values[..origin].to_vec();
            let mut truth = values[origin - 1 + BEGINS];
            if !truth.is_finite() {
                continue;
            }
            truth += announced_cpu * off;
            let of_day = start / STEP % 288;
            if recurring {
                for (place, value) in history.iter_mut().enumerate() {
                    let since = (place as u64 + 288 - of_day) % 288;
                    // Only on every third day: no habit of the days shows it.
                    if since < LASTS && (place as u64 / 288) % 3 == start / STEP / 288 % 3 {
                        *value += announced_cpu * off;
                    }
                }
            }
            let when = if recurring {
                let minute = of_day * 5;
                let days = (0..31_u64).filter(|d| d % 3 == start / STEP / 288 % 3);
                let days: Vec<_> = days.map(|d| (d + 1).to_string()).collect();
                When::Cron {
                    expression: format!("{} {} {} 1 *", minute % 60, minute / 60, days.join(",")),
                    offset_min: 0,
                    until: None,
                }
            } else {
                When::At(Timestamp(start))
            };
            let job = Job::new(Announcement {
                id: InstanceId::new("job").unwrap(),
                instances: vec![instance.clone()],
                when,
                duration_ms: LASTS * STEP,
                adds: Resources {
                    cpu: Some(f64::from(announced_cpu)),
                    ..Resources::default()
                },
                times: None,
                spread: 0.25,
            })
            .unwrap();
            let mut median = |history: &[f32]| {
                let mut asking = Asking::default();
                asking.push(history, &[], None);
                model
                    .predict_at(&asking, &[BEGINS])
                    .unwrap()
                    .remove(0)
                    .unwrap()[0]
            };
            without += (median(&history).median() - f64::from(truth)).abs();
            let grid = Grid {
                step_ms: STEP,
                newest_ms,
            };
            let jobs = std::iter::once(&job);
            let announced = Announced::new(jobs, Resource::Cpu, grid, &history, 288).unwrap();
            announced.strip(&mut history);
            let curve = announced.add(&median(&history), BEGINS);
            with += (curve.median() - f64::from(truth)).abs();
        }
    }
    println!(
        "{} jobs: the error at the start falls by {:.1} %",
        if recurring { "scheduled" } else { "announced" },
        100.0 * (1.0 - with / without)
    );
    (without, with)
}

#[test]
fn an_announced_job_takes_away_most_of_the_error_at_its_start() {
    let (without, with) = errors(false);
    assert!(with <= 0.4 * without, "{with} of {without}");
}

#[test]
fn so_does_a_schedule_whose_past_runs_are_in_the_history() {
    let (without, with) = errors(true);
    assert!(with <= 0.4 * without, "{with} of {without}");
}
