//! What clients saw, and whether one register could have shown it: Wing and Gong's search with the
//! memory of Lowe, on one key (linearizability is local, so keys are judged one by one).

use std::collections::{BTreeMap, HashSet};

/// What a client did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Did {
    /// Set the register.
    Wrote(u64),
    /// Saw it; 0 before the first write.
    Read(u64),
}

/// One operation of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Op {
    /// The register.
    pub(crate) key: u64,
    /// What was done.
    pub(crate) did: Did,
    /// When it was asked for.
    pub(crate) begun: u64,
    /// When it was answered; never, if nobody knows whether it was done.
    pub(crate) ended: Option<u64>,
}

/// Whether the operations on every key could have been those of one register.
pub(crate) fn is_linearizable(history: &[Op]) -> Result<(), String> {
    let mut keys: BTreeMap<u64, Vec<Op>> = BTreeMap::new();
    let seen = |op: &Op| {
        let Did::Wrote(value) = op.did else {
            return false;
        };
        let reads = |one: &Op| one.key == op.key && one.did == Did::Read(value);
        history.iter().any(reads)
    };
    for op in history {
        // What was never answered says something only if it was a write that somebody saw.
        if op.ended.is_some() || seen(op) {
            keys.entry(op.key).or_default().push(*op);
        }
    }
    for (key, mut ops) in keys {
        ops.sort_by_key(|op| (op.begun, op.ended));
        if !one_register(&ops) {
            return Err(format!("key {key}: no order of {} operations", ops.len()));
        }
    }
    Ok(())
}

/// Depth first: any operation that nothing unfinished precedes may come next. `done` and the value
/// say all that matters, so each pair is tried once.
fn one_register(ops: &[Op]) -> bool {
    let words = ops.len().div_ceil(64);
    let mut tried: HashSet<(Vec<u64>, u64)> = HashSet::new();
    let mut stack = vec![(vec![0_u64; words], 0_u64)];
    while let Some((done, value)) = stack.pop() {
        if !tried.insert((done.clone(), value)) {
            continue;
        }
        let is_done = |index: usize| done[index / 64] & (1 << (index % 64)) != 0;
        let open = (0..ops.len()).filter(|&index| !is_done(index));
        // The earliest answer among those that are open: whatever begins later must come later.
        let limit = open
            .clone()
            .map(|index| ops[index].ended.unwrap_or(u64::MAX))
            .min();
        let Some(limit) = limit else { return true };
        if open.clone().all(|index| ops[index].ended.is_none()) {
            return true;
        }
        for index in open.take_while(|&index| ops[index].begun <= limit) {
            let next = match ops[index].did {
                Did::Wrote(new) => new,
                Did::Read(seen) if seen == value => value,
                Did::Read(_) => continue,
            };
            let mut with = done.clone();
            with[index / 64] |= 1 << (index % 64);
            stack.push((with, next));
        }
    }
    false
}

#[cfg(test)]
mod tests {
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
    fn what_one_register_can_show_is_told_from_what_it_cannot() {
        use Did::{Read, Wrote};
        let good: [&[Op]; 4] = [
            &[op(Wrote(1), 0, 1), op(Read(1), 2, 3), op(Wrote(2), 4, 5)],
            // At the same time: either order.
            &[op(Wrote(1), 0, 9), op(Read(0), 1, 2), op(Read(1), 3, 4)],
            // Nobody knows whether it was done; it was, later.
            &[op(Wrote(7), 0, 0), op(Read(0), 1, 2), op(Read(7), 3, 4)],
            &[op(Wrote(7), 0, 0), op(Read(0), 1, 2), op(Read(0), 3, 4)],
        ];
        for history in good {
            assert_eq!(is_linearizable(history), Ok(()), "{history:?}");
        }
        let bad: [&[Op]; 4] = [
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
        ];
        for history in bad {
            assert!(is_linearizable(history).is_err(), "{history:?}");
        }
    }
}
