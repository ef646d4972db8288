//! What an earlier build has written must be readable, and go on. `records/` holds one record of
//! every kind, and of a migration one in every phase with every pending effect, as a run of
//! `make faults` of that build left them in the store.

use std::collections::BTreeSet;

use domain::migration::{Event, What};
use domain::{Epoch, Instance, Migration, Reservation, Routing, RoutingStatus, Timestamp, step};
use serde_json::Value;

/// Records of the build that first kept them.
const FIRST: &str = include_str!("records/0.1.0.jsonl");

fn each(records: &str) -> Vec<(String, Value)> {
    let parse = |line: &str| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        let kind = line["kind"].as_str().unwrap().to_owned();
        (kind, line["value"].take())
    };
    records.lines().map(parse).collect()
}

fn reads<T: serde::de::DeserializeOwned>(value: Value) -> T {
    let text = value.to_string();
    serde_json::from_value(value).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn what_an_earlier_build_has_stored_is_read_and_its_migrations_go_on() {
    let mut phases = BTreeSet::new();
    for (kind, value) in each(FIRST) {
        match kind.as_str() {
            "migration" => {
                let record: Migration = reads(value);
                phases.insert(record.phase.name());
                goes_on(&record);
            }
            "routing" => drop(reads::<Routing>(value)),
            "reservation" => drop(reads::<Reservation>(value)),
            "instance" => drop(reads::<Instance>(value)),
            "routing-status" => drop(reads::<RoutingStatus>(value)),
            other => panic!("nobody reads {other}"),
        }
    }
    assert!(phases.len() >= 15, "only {phases:?}");
}

/// The next leader takes it over, and has the same effect to carry out.
fn goes_on(record: &Migration) {
    let epoch = Epoch(record.epoch.0 + 1);
    let event = Event {
        at: Timestamp(record.entered_at().0 + 1),
        what: What::TakenOver { epoch },
    };
    let (next, effects) = step(record, event).unwrap();
    assert_eq!(next.phase, record.phase);
    if record.phase.is_final() {
        assert!(effects.is_empty());
        return;
    }
    let [effect] = effects.as_slice() else {
        panic!("{effects:?} follow from {record:#?}");
    };
    assert_eq!(effect.epoch, epoch);
    if let Some(pending) = &record.pending {
        assert_eq!((effect.op, &effect.kind), (pending.op, &pending.kind));
    }
}
