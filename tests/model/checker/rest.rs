//! The way to rest: what a healthy world answers.

use domain::migration::{Event, Undo, What};
use domain::{Epoch, Migration, Phase, Timestamp, step};

use super::config::Config;
use super::record::{forget, small_op, succeeded};
use super::words::{Eff, Proof, Said, Told};

/// Whether a leader in a healthy world, and a person who says "again", bring a record to rest.
pub(super) fn comes_to_rest(config: &Config, mut record: Migration) -> bool {
    let epoch = Epoch(record.epoch.0 + 1);
    let mut whats = vec![What::TakenOver { epoch }];
    for _ in 0..64 {
        for what in whats {
            let event = Event {
                at: Timestamp(0),
                what,
            };
            let Ok((next, _)) = step(&record, event) else {
                return false;
            };
            record = forget(next);
        }
        whats = match (record.phase, &record.pending) {
            (Phase::Done | Phase::RolledBack, _) => return true,
            (Phase::Parked, _) => vec![What::RetryParked],
            (_, Some(pending)) => {
                let op = small_op(&record);
                vec![succeeded(config, op, healthy(Eff::of(&pending.kind)))]
            }
            (_, None) => return false,
        };
    }
    false
}

/// The answer of a healthy world.
pub(super) fn healthy(eff: Eff) -> Told {
    match eff {
        Eff::Prepare => Told::Prepared,
        Eff::Sync => Told::Synced { near: true },
        Eff::Fork => Told::Forked,
        Eff::Judge(_) => Told::Judged(Said::Promote),
        Eff::Drain => Told::Drained(Proof {
            revision: 1,
            forced: false,
        }),
        Eff::Freeze | Eff::Undo(Undo::WritesBack) => Told::Frozen,
        Eff::CatchUp
        | Eff::Open
        | Eff::Reserve
        | Eff::Reidentify
        | Eff::Verify
        | Eff::Route(_)
        | Eff::Adopt
        | Eff::Terminate
        | Eff::Release
        | Eff::Undo(_) => Told::Done,
    }
}
