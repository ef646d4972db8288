//! What comes in beside the drivers' readings: samples that are pushed, scraped or exported.
//!
//! # Flow
//! ```text
//! JSON, gRPC ──────────────────────────┐
//! remote write, OTLP ─▶ Sieve (rules) ─┴▶ Intake ─▶ history
//! ```
//! # Guarantees
//! - A series has one source. What drivers read of it is not mixed with what others say: their
//!   samples are turned away and counted ([`Taken::owned`]).
//! - What is odd (repeated, late, from the future, no number) is counted and never a drop to zero.
//! - A series that has been silent for as long as its history reaches is forgotten.
//!
//! # Caveats
//! Samples go into this process's history, not into the store. Control planes that share a store
//! are each given them.

mod meter;
mod rules;
mod sieve;

use std::collections::BTreeMap;
use std::ops::AddAssign;
use std::sync::{Arc, Mutex, PoisonError};

use domain::{InstanceId, Resource, Timestamp};
use store::Clock;

use crate::book::Book;
use crate::history::Counters;

pub use meter::{Meter, Read};
pub use rules::{Rule, RuleError, Rules};
pub use sieve::{Point, Sieve, Sieved};

/// What a sample says something about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Quantity {
    /// The demand for a resource.
    Demand(Resource),
    /// What users do: requests a second, or sessions. Helps to forecast the demand.
    Activity,
}

impl Quantity {
    /// All quantities.
    pub const ALL: [Self; 5] = [
        Self::Demand(Resource::Cpu),
        Self::Demand(Resource::Memory),
        Self::Demand(Resource::NetRx),
        Self::Demand(Resource::NetTx),
        Self::Activity,
    ];

    /// The name used on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Demand(resource) => resource.name(),
            Self::Activity => "activity",
        }
    }

    /// The most that can be meant: a million processors, an exabyte, a terabyte a second.
    pub const fn most(self) -> f64 {
        match self {
            Self::Demand(Resource::Cpu) => 1e9,
            Self::Demand(Resource::Memory) => 1.2e18,
            Self::Demand(Resource::NetRx | Resource::NetTx) | Self::Activity => 1e12,
        }
    }
}

/// One value at one time.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Whose.
    pub instance: InstanceId,
    /// Of what.
    pub quantity: Quantity,
    /// When the measured interval ended.
    pub at: Timestamp,
    /// Millicores, bytes, bytes per second; of activity any unit that stays the same.
    pub value: f64,
}

/// Where samples come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// JSON at the control API.
    Http,
    /// `foreshadow.v1.Forecasting/Push`.
    Grpc,
    /// Prometheus remote write.
    RemoteWrite,
    /// OpenTelemetry metrics.
    Otlp,
    /// A file.
    File,
}

impl Source {
    /// All sources.
    pub const ALL: [Self; 5] = [
        Self::Http,
        Self::Grpc,
        Self::RemoteWrite,
        Self::Otlp,
        Self::File,
    ];

    /// The name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
            Self::RemoteWrite => "remote_write",
            Self::Otlp => "otlp",
            Self::File => "file",
        }
    }
}

/// What became of samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Taken {
    /// In the history, also those that were averaged into a step that had one.
    pub taken: u64,
    /// Of a time that was known already; left out.
    pub duplicates: u64,
    /// Older than the newest; left out.
    pub late: u64,
    /// Later than now and a step; left out.
    pub future: u64,
    /// Not finite, negative, or more than can be meant; left out.
    pub refused: u64,
    /// Of series that drivers read; left out.
    pub owned: u64,
    /// Of new series, when there was no room for more; left out.
    pub no_room: u64,
}

impl Taken {
    /// Every outcome with its name in metrics.
    pub const fn outcomes(&self) -> [(&'static str, u64); 7] {
        [
            ("taken", self.taken),
            ("duplicate", self.duplicates),
            ("late", self.late),
            ("future", self.future),
            ("refused", self.refused),
            ("owned", self.owned),
            ("no_room", self.no_room),
        ]
    }

    /// What a series' counters tell of a sample.
    pub(crate) const fn of(before: Counters, after: Counters) -> Self {
        let duplicates = after.duplicates - before.duplicates;
        let late = after.late - before.late;
        let future = after.future - before.future;
        let refused = after.refused - before.refused;
        Self {
            taken: if duplicates + late + future + refused == 0 {
                1
            } else {
                0
            },
            duplicates,
            late,
            future,
            refused,
            owned: 0,
            no_room: 0,
        }
    }
}

impl AddAssign for Taken {
    fn add_assign(&mut self, more: Self) {
        self.taken += more.taken;
        self.duplicates += more.duplicates;
        self.late += more.late;
        self.future += more.future;
        self.refused += more.refused;
        self.owned += more.owned;
        self.no_room += more.no_room;
    }
}

/// The way into the history of a running forecaster.
#[derive(Clone)]
pub struct Intake {
    book: Arc<Mutex<Book>>,
    clock: Arc<dyn Clock>,
    counted: Arc<Mutex<BTreeMap<Source, Taken>>>,
}

impl Intake {
    pub(crate) fn new(book: Arc<Mutex<Book>>, clock: Arc<dyn Clock>) -> Self {
        Self {
            book,
            clock,
            counted: Arc::default(),
        }
    }

    /// The time by which samples are early or late.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Takes samples in, in the order of their times whatever order they came in.
    pub fn push(&self, source: Source, mut samples: Vec<Sample>) -> Taken {
        samples.sort_by_key(|sample| sample.at);
        let now = self.clock.now();
        let mut taken = Taken::default();
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        for sample in &samples {
            taken += book.push(sample, now);
        }
        drop(book);
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        *counted.entry(source).or_default() += taken;
        taken
    }

    /// Forgets what was pushed of an instance; gives whether anything was known.
    pub fn forget(&self, instance: &InstanceId) -> bool {
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        book.forget_pushed(instance)
    }

    /// What became of all samples so far, by source.
    pub fn counted(&self) -> BTreeMap<Source, Taken> {
        let counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |source| (source, counted.get(&source).copied().unwrap_or_default());
        Source::ALL.map(of).into()
    }
}

#[cfg(test)]
mod tests;
