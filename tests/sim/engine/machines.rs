//! The machines behind the driver: what runs, what is being prepared, and who was seen to lead.

use std::collections::BTreeMap;

use domain::{Endpoint, Epoch, HostId, Replica};

/// A replica, running or not.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    pub(crate) replica: Replica,
    /// Tells it from an earlier one at the same address.
    pub(crate) number: u64,
    pub(crate) alive: bool,
    /// It was killed by injection, or answers with errors by injection.
    pub(crate) bad: bool,
    pub(crate) identity: bool,
    pub(crate) verified: bool,
    /// The operation that made it; empty for one that was there from the beginning.
    pub(crate) forked_by: String,
}

/// Room for a shadow.
#[derive(Debug, Clone)]
pub(crate) struct Room {
    pub(crate) endpoint: Endpoint,
    pub(crate) host: HostId,
    pub(crate) rounds: u32,
}

/// What an operation gave; repeating it gives the same.
#[derive(Debug, Clone)]
pub(crate) enum Gave {
    Nothing,
    Endpoint(Endpoint),
    Lag(u64),
    Replica(Replica),
}

/// All machines.
#[derive(Debug, Default)]
pub(crate) struct Machines {
    pub(crate) running: BTreeMap<Endpoint, Machine>,
    /// By tag.
    pub(crate) rooms: BTreeMap<String, Room>,
    /// The highest epoch that the driver has seen.
    pub(crate) seen: Epoch0,
    /// The newest operation by migration.
    pub(crate) newest: BTreeMap<String, u64>,
    pub(crate) done: BTreeMap<String, Gave>,
    next_number: u64,
    next_port: u16,
}

/// An epoch that begins at 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Epoch0(pub(crate) Epoch);

impl Default for Epoch0 {
    fn default() -> Self {
        Self(Epoch(0))
    }
}

impl Machines {
    pub(crate) fn fresh_endpoint(&mut self) -> Endpoint {
        self.next_port += 1;
        Endpoint(([10, 0, 0, 1], 1_000 + self.next_port).into())
    }

    /// Starts a replica.
    pub(crate) fn start(&mut self, replica: Replica, forked_by: &str, bad: bool) {
        self.next_number += 1;
        let original = forked_by.is_empty();
        let machine = Machine {
            number: self.next_number,
            alive: true,
            bad,
            identity: original,
            verified: original,
            forked_by: forked_by.to_owned(),
            replica,
        };
        self.running.insert(machine.replica.endpoint, machine);
    }

    pub(crate) fn tagged(&mut self, tag: &str) -> Option<&mut Machine> {
        self.running
            .values_mut()
            .find(|machine| machine.replica.tag == tag)
    }

    pub(crate) fn serves(&self, endpoint: Endpoint) -> bool {
        self.running
            .get(&endpoint)
            .is_some_and(|machine| machine.alive)
    }
}
