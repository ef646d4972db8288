use domain::{ModelRef, QUANTILE_LEVELS, Reading, Resources};

use super::*;
use crate::intake::{Quantity, Sample};

fn instance() -> InstanceId {
    InstanceId::new("a1").unwrap()
}

fn readings(samples: &[(u64, f64)]) -> Readings {
    let reading = |&(at, cpu): &(u64, f64)| Reading {
        at: Timestamp(at),
        demand: Resources {
            cpu: Some(cpu),
            ..Resources::default()
        },
    };
    Readings {
        instance: instance(),
        readings: samples.iter().map(reading).collect(),
    }
}

fn narrow() -> Answer {
    let values = QUANTILE_LEVELS.map(|level| 100.0 + level);
    Answer {
        model: ModelRef {
            id: "test".to_owned(),
            version: "1".to_owned(),
            fallback: None,
        },
        horizons: vec![1, 3],
        curves: vec![QuantileCurve::new(values).unwrap(); 2],
    }
}

fn run(calibrating: Calibrating, steps: u64) -> (Book, Forecast) {
    let mut book = Book::new(1_000, calibrating);
    let key = (instance(), Resource::Cpu);
    let mut last = None;
    for step in 1..=steps {
        let now = Timestamp(step * 1_000);
        // Always outside the curves' interval.
        book.take_in(&readings(&[(step * 1_000, 300.0)]), now);
        last = book.publish(&key, narrow(), now);
    }
    (book, last.unwrap())
}

#[test]
fn readings_published_again_are_counted_once_and_a_step_takes_all_its_samples_in() {
    let mut book = Book::new(1_000, Calibrating::Observe);
    book.take_in(&readings(&[(1_000, 10.0)]), Timestamp(9_000));
    book.take_in(&readings(&[(1_000, 10.0), (1_500, 20.0)]), Timestamp(9_000));
    book.take_in(&readings(&[(1_500, 20.0), (2_000, 5.0)]), Timestamp(9_000));
    let mut asking = Asking::default();
    assert_eq!(book.ask(None, 9, 2, &mut asking).len(), 1);
    assert_eq!(asking.known(0).history, [15.0, 5.0]);
    let counters = book.counters(&instance(), Resource::Cpu).unwrap();
    assert_eq!(
        (counters.merged, counters.duplicates, counters.late),
        (1, 0, 0)
    );
}

#[test]
fn coverage_is_learnt_per_horizon_from_what_came_true() {
    let (book, _) = run(Calibrating::Observe, 10);
    let coverage = book.coverage(&instance(), Resource::Cpu);
    // Ten steps, of which the newest is open: nine less the horizon.
    let seen: Vec<_> = coverage.iter().map(|c| (c.steps, c.seen)).collect();
    assert_eq!(seen, [(1, 8), (3, 6)]);
    assert!(coverage.iter().all(|c| c.inside == 0.0 && c.factor > 1.0));
}

#[test]
fn curves_are_widened_only_when_asked() {
    let width = |calibrating| {
        let (_, forecast) = run(calibrating, 40);
        let curve = forecast.horizons[0].demand;
        curve.at(0.9) - curve.at(0.1)
    };
    assert!((width(Calibrating::Observe) - 0.8).abs() < 1e-9);
    assert!(width(Calibrating::Adapt) > 1.0);
}

#[test]
fn the_group_learns_from_every_series_of_its_resource() {
    let (book, _) = run(Calibrating::Observe, 10);
    let groups = book.group_coverage();
    let seen: Vec<_> = groups.iter().map(|(r, c)| (*r, c.steps, c.seen)).collect();
    assert_eq!(seen, [(Resource::Cpu, 1, 8), (Resource::Cpu, 3, 6)]);
}

#[test]
fn forecasts_that_never_come_true_are_a_drift_that_is_told_once() {
    let (mut book, _) = run(Calibrating::Observe, 16);
    let drifts = book.take_drifts();
    assert_eq!(drifts.len(), 1, "{drifts:?}");
    assert_eq!(drifts[0].instance, instance());
    assert_eq!(book.take_drifts(), []);
}

#[test]
fn series_are_asked_about_in_pieces_each_once() {
    let mut book = Book::new(1_000, Calibrating::Observe);
    for name in ["a", "b", "c"] {
        let mut one = readings(&[(1_000, 10.0)]);
        one.instance = InstanceId::new(name).unwrap();
        book.take_in(&one, Timestamp(9_000));
    }
    let mut asking = Asking::default();
    let first = book.ask(None, 2, 8, &mut asking);
    let second = book.ask(first.last(), 2, 8, &mut asking);
    let names: Vec<_> = first.iter().chain(&second).map(|k| k.0.as_str()).collect();
    assert_eq!(names, ["a", "b", "c"]);
    assert_eq!(asking.len(), 3);
}

#[test]
fn the_model_is_told_the_local_time_where_a_calendar_is_kept_and_what_users_do() {
    let mut book = Book::new(1_000, Calibrating::Observe);
    book.take_in(&readings(&[(1_000, 10.0)]), Timestamp(9_000));
    let asked = |book: &Book| {
        let mut asking = Asking::default();
        book.ask(None, 9, 8, &mut asking);
        let known = asking.known(0);
        (known.local_s, known.activity.to_vec())
    };
    assert_eq!(asked(&book), (None, Vec::new()));
    book.keep_calendar(Calendar::new("+01:00", &[]).ok());
    let activity = Sample {
        instance: instance(),
        quantity: Quantity::Activity,
        at: Timestamp(1_500),
        value: 7.0,
    };
    book.push(&activity, Timestamp(9_000));
    assert_eq!(asked(&book), (Some(3_601.0), vec![7.0]));
    // Activity that is older than the demand says nothing of it.
    book.take_in(&readings(&[(2_000, 10.0)]), Timestamp(9_000));
    assert_eq!(asked(&book).1, Vec::<f32>::new());
}

#[test]
fn an_instance_that_is_gone_is_forgotten() {
    let (mut book, _) = run(Calibrating::Observe, 3);
    book.forget("a1");
    assert_eq!(book.ask(None, 9, 1, &mut Asking::default()), []);
    assert!(
        book.publish(&(instance(), Resource::Cpu), narrow(), Timestamp(1))
            .is_none()
    );
}
