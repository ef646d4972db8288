//! The operations of [`Store`], as calls of scripts.

use std::time::Duration;

use ::redis::Value;
use domain::{Epoch, HolderId, Timestamp};

use super::RedisStore;
use super::codec;
use super::listing;
use super::script::{self, COMMIT, Call, LEASE, READ};
use crate::Store;
use crate::error::StoreError;
use crate::key::{Durability, Key, Kind, LeaseName, LogName};
use crate::record::{Committed, Expect, Fence, Generation, Lease, LogEntry, Record, Transaction};
use crate::table;
use crate::watch::Watch;

/// The longest time to live that is kept, about 30 000 years: Lua's numbers are exact up to 2^53.
const LONGEST_TTL_MS: u64 = 1_000_000_000_000_000;

/// A transaction as the script's arguments. Kinds and logs become keys, in the order in which they
/// are first named.
fn commit_call(store: &RedisStore, transaction: &Transaction) -> Call {
    let keys = &store.core.keys;
    let mut call = Call::new([keys.head(), keys.counts(), keys.leases()]);
    match &transaction.fence {
        Some(Fence { lease, epoch }) => {
            call.arg("1").arg(lease.0.as_str()).arg(epoch.0.to_string())
        }
        None => call.arg("0").arg("").arg(""),
    };
    let mut kinds: Vec<Kind> = Vec::new();
    let written = transaction.writes.iter().map(|write| &write.key);
    let required = transaction.requires.iter().map(|(key, _)| key);
    for key in written.chain(required) {
        if !kinds.contains(&key.kind) {
            kinds.push(key.kind);
        }
    }
    call.count(kinds.len());
    for &kind in &kinds {
        call.key(keys.records(kind));
        call.arg(kind.name()).arg(keys.channel(kind));
    }
    let number = |key: &Key| {
        let index = kinds.iter().position(|&kind| kind == key.kind);
        index.map_or(0, |index| index + 1)
    };
    call.count(transaction.writes.len() + transaction.requires.len());
    for write in &transaction.writes {
        call.count(number(&write.key));
        expect_args(&mut call, &write.key, write.expect);
        match &write.value {
            Some(value) => call
                .arg(codec::mark(write.key.kind.durability()))
                .arg(value.as_slice()),
            None => call.arg("-").arg(""),
        };
    }
    for (key, expect) in &transaction.requires {
        call.count(number(key));
        expect_args(&mut call, key, *expect);
        call.arg("=").arg("");
    }
    call.count(transaction.appends.len());
    for (log, value) in &transaction.appends {
        let index = call.key(keys.log(log));
        call.count(index).arg(log.0.as_str()).arg(value.as_slice());
    }
    call
}

fn expect_args(call: &mut Call, key: &Key, expect: Expect) {
    call.arg(key.id.as_str());
    match expect {
        Expect::Any => call.arg("any"),
        Expect::Absent => call.arg("absent"),
        Expect::Generation(generation) => call.arg(generation.0.to_string()),
    };
}

fn generation(bytes: &[u8]) -> Result<Option<Generation>, StoreError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    codec::number("a generation", bytes).map(|number| Some(Generation(number)))
}

impl RedisStore {
    fn reading(&self, what: &str, name: String, key: String) -> Call {
        let keys = &self.core.keys;
        let mut call = Call::new([keys.head(), keys.counts(), key]);
        call.arg(what).arg(name);
        call
    }

    fn lease_call(&self, what: &str, name: &LeaseName, holder: &HolderId) -> Call {
        let keys = &self.core.keys;
        let mut call = Call::new([keys.head(), keys.counts(), keys.leases()]);
        call.arg(what).arg(name.0.as_str()).arg(holder.as_str());
        call
    }
}

#[async_trait::async_trait]
impl Store for RedisStore {
    async fn get(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        const OPERATION: &str = "read a record";
        let kind = key.kind;
        let name = format!("records:{}", kind.name());
        let mut call = self.reading("get", name, self.core.keys.records(kind));
        call.arg(key.id.as_str());
        let mut answer = self.core.call(OPERATION, &READ, &call).await?;
        let found = answer.next();
        if found == Value::Nil {
            return Ok(None);
        }
        codec::record(key.clone(), &script::bytes(OPERATION, found)?).map(Some)
    }

    async fn list(&self, kind: Kind) -> Result<Vec<Record>, StoreError> {
        listing::list(&self.core, kind).await
    }

    async fn commit(&self, transaction: Transaction) -> Result<Committed, StoreError> {
        let call = commit_call(self, &transaction);
        let mut answer = self.core.call("commit", &COMMIT, &call).await?;
        match answer.word() {
            b"ok" => {
                let generations = answer.list()?;
                let written = generations.iter().take(transaction.writes.len());
                let generations = written.map(|bytes| generation(bytes));
                Ok(Committed {
                    generations: generations.collect::<Result<_, _>>()?,
                })
            }
            b"conflict" => {
                let number = usize::try_from(answer.number()?).unwrap_or_default();
                let found = generation(&answer.bytes()?)?;
                let written = transaction.writes.iter().map(|w| (&w.key, w.expect));
                let required = transaction.requires.iter().map(|(key, e)| (key, *e));
                match written.chain(required).nth(number.wrapping_sub(1)) {
                    Some((key, expect)) => Err(table::conflict(key, expect, found)),
                    None => Err(answer.unknown()),
                }
            }
            b"fenced" => match transaction.fence {
                Some(fence) => Err(StoreError::Fenced {
                    lease: fence.lease.0,
                    ours: fence.epoch,
                    current: Epoch(answer.number()?),
                }),
                None => Err(answer.unknown()),
            },
            _ => Err(answer.unknown()),
        }
    }

    async fn read_log(
        &self,
        log: &LogName,
        from: u64,
        limit: usize,
    ) -> Result<Vec<LogEntry>, StoreError> {
        let first = from.max(1);
        if limit == 0 {
            return Ok(Vec::new());
        }
        // Redis counts from 0, in 64 signed bits, and includes the last index.
        let top = u64::try_from(i64::MAX).unwrap_or_default();
        let start = (first - 1).min(top);
        let end = start
            .saturating_add(u64::try_from(limit).unwrap_or(u64::MAX) - 1)
            .min(top);
        let mut call = self.reading("log", format!("log:{}", log.0), self.core.keys.log(log));
        call.arg(start.to_string()).arg(end.to_string());
        let mut answer = self.core.call("read a log", &READ, &call).await?;
        let entries = answer.list()?;
        (first..=u64::MAX)
            .zip(&entries)
            .map(|(sequence, stored)| codec::entry(log, sequence, stored))
            .collect()
    }

    async fn acquire(
        &self,
        lease: &LeaseName,
        holder: &HolderId,
        ttl: Duration,
    ) -> Result<Option<Lease>, StoreError> {
        let ttl = table::time_to_live(ttl)?.min(LONGEST_TTL_MS);
        let mut call = self.lease_call("acquire", lease, holder);
        call.arg("").arg(ttl.to_string());
        let mut answer = self.core.call("acquire a lease", &LEASE, &call).await?;
        match answer.word() {
            b"held" => Ok(None),
            b"ok" => Ok(Some(Lease {
                name: lease.clone(),
                holder: holder.clone(),
                epoch: Epoch(answer.number()?),
                expires_at: Timestamp(answer.number()?),
            })),
            _ => Err(answer.unknown()),
        }
    }

    async fn renew(&self, lease: &Lease, ttl: Duration) -> Result<Lease, StoreError> {
        let ttl = table::time_to_live(ttl)?.min(LONGEST_TTL_MS);
        let mut call = self.lease_call("renew", &lease.name, &lease.holder);
        call.arg(lease.epoch.0.to_string()).arg(ttl.to_string());
        let mut answer = self.core.call("renew a lease", &LEASE, &call).await?;
        match answer.word() {
            b"ok" => Ok(Lease {
                epoch: Epoch(answer.number()?),
                expires_at: Timestamp(answer.number()?),
                ..lease.clone()
            }),
            b"fenced" => Err(StoreError::Fenced {
                lease: lease.name.0.clone(),
                ours: lease.epoch,
                current: Epoch(answer.number()?),
            }),
            _ => Err(answer.unknown()),
        }
    }

    async fn release(&self, lease: &Lease) -> Result<(), StoreError> {
        let mut call = self.lease_call("release", &lease.name, &lease.holder);
        call.arg(lease.epoch.0.to_string()).arg("0");
        let answer = self.core.call("release a lease", &LEASE, &call).await?;
        match answer.word() {
            b"ok" => Ok(()),
            _ => Err(answer.unknown()),
        }
    }

    fn watch(&self, kind: Kind) -> Watch {
        let watch = self.core.watchers.watch(kind);
        if kind.durability() == Durability::Ephemeral {
            self.core.want(kind);
        }
        watch
    }
}
