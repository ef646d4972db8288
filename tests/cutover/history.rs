//! What clients saw, and whether one register or one counter could have shown it.
//!
//! Linearizability is local, so keys are judged one by one. A register by Wing and Gong's search with
//! the memory of Lowe, from one moment at which nothing was under way to the next. A counter by a
//! rule, because additions of one are all alike: each is done as late as it may be, or when a
//! read that is about to be answered needs it, and then the one that must be done first goes first.
//! Doing one later, or another one instead, never makes a read impossible that was possible.

use std::collections::{BTreeMap, BTreeSet, HashSet};

/// What a client did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Did {
    /// Set the register.
    Wrote(u64),
    /// Saw it; 0 before the first write.
    Read(u64),
    /// Added one to the counter.
    Added,
    /// Saw it.
    Counted(u64),
}

impl Did {
    /// The key of a world that has one register and one counter.
    pub(crate) fn key(self) -> u64 {
        u64::from(self.counts())
    }

    fn counts(self) -> bool {
        matches!(self, Self::Added | Self::Counted(_))
    }

    /// What the object holds afterwards, if this can be done now.
    fn after(self, value: u64) -> Option<u64> {
        match self {
            Self::Wrote(new) => Some(new),
            Self::Added => Some(value + 1),
            Self::Read(seen) | Self::Counted(seen) => (seen == value).then_some(value),
        }
    }
}

/// One operation of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Op {
    /// The object.
    pub(crate) key: u64,
    /// What was done.
    pub(crate) did: Did,
    /// When it was asked for.
    pub(crate) begun: u64,
    /// When it was answered; never, if nobody knows whether it was done.
    pub(crate) ended: Option<u64>,
}

impl Op {
    fn end(&self) -> u64 {
        self.ended.unwrap_or(u64::MAX)
    }
}

/// Whether the operations on every key could have been those of one register, or one counter.
pub(crate) fn is_linearizable(history: &[Op]) -> Result<(), String> {
    let mut keys: BTreeMap<u64, Vec<Op>> = BTreeMap::new();
    for op in history {
        keys.entry(op.key).or_default().push(*op);
    }
    for (key, mut ops) in keys {
        let counters = ops.iter().filter(|op| op.did.counts()).count();
        if counters == ops.len() {
            one_counter(&ops).map_err(|wrong| format!("counter {key}: {wrong}"))?;
        } else if counters == 0 {
            ops.sort_by_key(|op| (op.begun, op.ended));
            one_register(&ops).map_err(|wrong| format!("register {key}: {wrong}"))?;
        } else {
            return Err(format!("key {key} is a register and a counter"));
        }
    }
    Ok(())
}

fn one_register(ops: &[Op]) -> Result<(), String> {
    let seen: BTreeSet<u64> = ops
        .iter()
        .filter_map(|op| match op.did {
            Did::Read(value) => Some(value),
            Did::Wrote(_) | Did::Added | Did::Counted(_) => None,
        })
        .collect();
    // What was never answered says something only if it was a write that somebody saw.
    let tells = |op: &&Op| {
        op.ended.is_some() || matches!(op.did, Did::Wrote(value) if seen.contains(&value))
    };
    let ops: Vec<Op> = ops.iter().filter(tells).copied().collect();
    let mut values = BTreeSet::from([0]);
    let mut start = 0;
    while start < ops.len() {
        let mut end = start + 1;
        let mut busy_until = ops[start].end();
        while end < ops.len() && ops[end].begun <= busy_until {
            busy_until = busy_until.max(ops[end].end());
            end += 1;
        }
        let part = &ops[start..end];
        values = values
            .iter()
            .flat_map(|&value| finals(part, value))
            .collect();
        if values.is_empty() {
            let (from, many) = (part[0].begun, part.len());
            return Err(format!("no order of the {many} operations from {from} on"));
        }
        start = end;
    }
    Ok(())
}

/// What the object may hold after these operations. Depth first: any operation that nothing
/// unfinished precedes may come next. `done` and the value say all that matters, so each pair is
/// tried once.
fn finals(ops: &[Op], value: u64) -> BTreeSet<u64> {
    let words = ops.len().div_ceil(64);
    let mut tried: HashSet<(Vec<u64>, u64)> = HashSet::new();
    let mut found = BTreeSet::new();
    let mut stack = vec![(vec![0_u64; words], value)];
    while let Some((done, value)) = stack.pop() {
        if !tried.insert((done.clone(), value)) {
            continue;
        }
        let is_done = |index: usize| done[index / 64] & (1 << (index % 64)) != 0;
        let open = (0..ops.len()).filter(|&index| !is_done(index));
        // The earliest answer among those that are open: whatever begins later must come later.
        let limit = open.clone().map(|index| ops[index].end()).min();
        let Some(limit) = limit.filter(|&limit| limit < u64::MAX) else {
            found.insert(value);
            continue;
        };
        for index in open.take_while(|&index| ops[index].begun <= limit) {
            if let Some(next) = ops[index].did.after(value) {
                let mut with = done.clone();
                with[index / 64] |= 1 << (index % 64);
                stack.push((with, next));
            }
        }
    }
    found
}

/// A counter as the additions go on.
#[derive(Default)]
struct Counter {
    value: u64,
    /// Additions that may be done, by when they must be.
    open: BTreeSet<(u64, usize)>,
    /// Reads that have not been possible yet, by what they saw.
    waiting: BTreeSet<(u64, usize)>,
}

impl Counter {
    fn add(&mut self) {
        self.value += 1;
        let value = self.value;
        self.waiting.retain(|(seen, _)| *seen != value);
    }
}

fn one_counter(ops: &[Op]) -> Result<(), String> {
    // At one time what begins comes before what ends: they were under way together.
    let mut moments: Vec<(u64, u8, usize)> = Vec::new();
    for (index, op) in ops.iter().enumerate() {
        moments.push((op.begun, 0, index));
        moments.extend(op.ended.map(|ended| (ended, 1, index)));
    }
    moments.sort_unstable();
    let mut counter = Counter::default();
    for (at, kind, index) in moments {
        let op = &ops[index];
        match (op.did, kind) {
            (Did::Added, 0) => {
                counter.open.insert((op.end(), index));
            }
            (Did::Added, _) => {
                if counter.open.remove(&(at, index)) {
                    counter.add();
                }
            }
            (Did::Counted(seen), 0) => {
                if seen != counter.value {
                    counter.waiting.insert((seen, index));
                }
            }
            (Did::Counted(seen), _) => {
                while counter.waiting.contains(&(seen, index)) {
                    let value = counter.value;
                    if value > seen || counter.open.pop_first().is_none() {
                        return Err(format!("{seen} seen at {at} beside {value}"));
                    }
                    counter.add();
                }
            }
            (Did::Wrote(_) | Did::Read(_), _) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::world::Dice;
    use super::*;

    fn op(did: Did, begun: u64, ended: u64) -> Op {
        Op {
            key: 1,
            did,
            begun,
            ended: (ended > 0).then_some(ended),
        }
    }

    #[test]
    fn what_one_register_or_counter_can_show_is_told_from_what_it_cannot() {
        use Did::{Added, Counted, Read, Wrote};
        let good: [&[Op]; 6] = [
            &[op(Wrote(1), 0, 1), op(Read(1), 2, 3), op(Wrote(2), 4, 5)],
            // At the same time: either order.
            &[op(Wrote(1), 0, 9), op(Read(0), 1, 2), op(Read(1), 3, 4)],
            // Nobody knows whether it was done; it was, later.
            &[op(Wrote(7), 0, 0), op(Read(0), 1, 2), op(Read(7), 3, 4)],
            &[op(Wrote(7), 0, 0), op(Read(0), 1, 2), op(Read(0), 3, 4)],
            &[op(Added, 0, 9), op(Counted(0), 1, 2), op(Counted(1), 3, 4)],
            &[op(Added, 0, 0), op(Counted(0), 1, 2), op(Counted(1), 3, 4)],
        ];
        for history in good {
            assert_eq!(is_linearizable(history), Ok(()), "{history:?}");
        }
        let bad: [&[Op]; 8] = [
            // Lost: acknowledged, and not there.
            &[op(Wrote(1), 0, 1), op(Read(0), 2, 3)],
            // Stale after it had been seen.
            &[op(Wrote(1), 0, 9), op(Read(1), 1, 2), op(Read(0), 3, 4)],
            // Never written.
            &[op(Read(5), 0, 1)],
            // Done twice: it comes back after it was overwritten.
            &[
                op(Wrote(1), 0, 1),
                op(Wrote(2), 2, 3),
                op(Read(2), 4, 5),
                op(Read(1), 6, 7),
            ],
            &[op(Added, 0, 1), op(Counted(0), 2, 3)],
            &[op(Added, 0, 9), op(Counted(1), 1, 2), op(Counted(0), 3, 4)],
            // Done twice, which a register would not show.
            &[op(Added, 0, 1), op(Counted(2), 2, 3)],
            &[op(Added, 0, 1), op(Wrote(2), 2, 3)],
        ];
        for history in bad {
            assert!(is_linearizable(history).is_err(), "{history:?}");
        }
    }

    #[test]
    fn the_rule_for_counters_says_what_a_search_through_all_orders_says() {
        let mut dice = Dice(7);
        let (mut fine, mut wrong) = (0, 0);
        for _ in 0..4_000 {
            let mut ops: Vec<Op> = (0..7)
                .map(|_| {
                    let begun = u64::try_from(dice.below(12)).unwrap();
                    let took = u64::try_from(dice.below(8)).unwrap() + 1;
                    let did = match dice.below(2) {
                        0 => Did::Added,
                        _ => Did::Counted(u64::try_from(dice.below(4)).unwrap()),
                    };
                    let lost = did == Did::Added && dice.one_in(4);
                    op(did, begun, if lost { 0 } else { begun + took })
                })
                .collect();
            ops.sort_by_key(|op| (op.begun, op.ended));
            let possible = !finals(&ops, 0).is_empty();
            assert_eq!(one_counter(&ops).is_ok(), possible, "{ops:?}");
            *(if possible { &mut fine } else { &mut wrong }) += 1;
        }
        assert!(fine > 200 && wrong > 200, "{fine} {wrong}");
    }
}
