use domain::{Reading, Readings, Resources};
use store::ManualClock;

use super::*;
use crate::book::Calibrating;

const NOW: u64 = 1_000_000;

fn intake() -> Intake {
    let book = Book::new(1_000, Calibrating::Observe);
    let clock = ManualClock::at(Timestamp(NOW));
    Intake::new(Arc::new(Mutex::new(book)), Arc::new(clock))
}

fn sample(name: &str, quantity: Quantity, at: u64, value: f64) -> Sample {
    Sample {
        instance: InstanceId::new(name).unwrap(),
        quantity,
        at: Timestamp(at),
        value,
    }
}

fn cpu(at: u64, value: f64) -> Sample {
    sample("vm", Quantity::Demand(Resource::Cpu), at, value)
}

#[test]
fn samples_come_in_any_order_and_what_is_odd_is_counted_and_never_a_drop() {
    let intake = intake();
    let taken = intake.push(
        Source::Http,
        vec![
            cpu(5_000, 50.0),
            cpu(3_000, 30.0),
            cpu(5_500, 70.0),
            cpu(5_500, 1.0),
            cpu(6_000, -1.0),
            cpu(6_000, f64::NAN),
            cpu(6_000, f64::INFINITY),
            cpu(6_000, 1e10),
            cpu(NOW + 1_001, 9.0),
        ],
    );
    let expected = Taken {
        taken: 3,
        duplicates: 1,
        refused: 4,
        future: 1,
        ..Taken::default()
    };
    assert_eq!(taken, expected);
    assert_eq!(intake.push(Source::Http, vec![cpu(4_000, 1.0)]).late, 1);
    let book = intake.book.lock().unwrap();
    let (_, series) = book.series().next().unwrap();
    let values: Vec<f64> = series.values().collect();
    assert!(values[1].is_nan(), "a gap is no drop: {values:?}");
    assert_eq!((values[0], values[2]), (30.0, 60.0));
    drop(book);
    assert_eq!(intake.counted()[&Source::Http].taken, 3);
    assert_eq!(intake.counted()[&Source::Otlp], Taken::default());
}

#[test]
fn what_a_driver_reads_is_not_mixed_with_what_others_say() {
    let intake = intake();
    assert_eq!(intake.push(Source::Grpc, vec![cpu(1_000, 1.0)]).taken, 1);
    let readings = Readings {
        instance: InstanceId::new("vm").unwrap(),
        readings: vec![Reading {
            at: Timestamp(2_000),
            demand: Resources {
                cpu: Some(5.0),
                ..Resources::default()
            },
        }],
    };
    intake
        .book
        .lock()
        .unwrap()
        .take_in(&readings, Timestamp(NOW));
    assert_eq!(intake.push(Source::Grpc, vec![cpu(3_000, 9.0)]).owned, 1);
    // What it does not read may be told.
    let memory = sample("vm", Quantity::Demand(Resource::Memory), 3_000, 9.0);
    assert_eq!(intake.push(Source::Grpc, vec![memory]).taken, 1);
}

#[test]
fn what_is_silent_for_as_long_as_the_history_reaches_is_forgotten() {
    let intake = intake();
    let activity = sample("vm", Quantity::Activity, 1_000, 3.0);
    intake.push(Source::Http, vec![cpu(1_000, 1.0), activity]);
    let mut book = intake.book.lock().unwrap();
    let reach = crate::history::KEPT as u64 * 1_000;
    assert_eq!(book.expire(Timestamp(1_000 + reach)), []);
    let gone = book.expire(Timestamp(2_001 + reach));
    assert_eq!(gone, [InstanceId::new("vm").unwrap()]);
    assert_eq!(book.series().count(), 0);
}

#[test]
fn forgetting_takes_what_was_pushed_and_nothing_else() {
    let intake = intake();
    intake.push(Source::Http, vec![cpu(1_000, 1.0)]);
    let vm = InstanceId::new("vm").unwrap();
    assert!(intake.forget(&vm));
    assert!(!intake.forget(&vm));
}
