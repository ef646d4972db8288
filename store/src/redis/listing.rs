//! Lists: a short one in one answer, a long one in pages, so that neither the time limit nor other
//! clients suffer.
//!
//! Pages are read at different moments. Of a kind that must survive, the changes that were told
//! meanwhile are laid over the pages. Changes and answers share one connection, so when the last
//! page is there, so is every change that it may reflect; and changes are taken by whole
//! transactions. The result is the kind as it was at one moment. Telemetry may mix moments: its
//! records are independent of each other, and renewed all the time.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::time::Instant;

use super::codec;
use super::core::{Core, Live};
use super::fault;
use super::script::{Call, READ};
use crate::error::StoreError;
use crate::key::{Durability, Key, Kind};
use crate::record::Record;
use crate::watch::Change;

const OPERATION: &str = "list records";

/// About how many records a page has.
const PAGE: usize = 1_000;

/// How often a list begins anew when changes were missed while it was read.
const ATTEMPTS: usize = 5;

/// All records of a kind, by id.
pub(super) async fn list(core: &Arc<Core>, kind: Kind) -> Result<Vec<Record>, StoreError> {
    for _ in 0..ATTEMPTS {
        let mut watch = core.watchers.watch(kind);
        let live = core.live(Instant::now() + core.options.timeout).await?;
        let (mut records, pages) = read(core, &live, kind).await?;
        let whole = pages == 1 || kind.durability() == Durability::Ephemeral;
        if !whole {
            let Some(changes) = core.watchers.drain(&mut watch) else {
                continue;
            };
            overlay(&mut records, changes);
        }
        return Ok(records.into_values().collect());
    }
    Err(fault::unavailable(
        OPERATION,
        format!("changes were missed {ATTEMPTS} times while it was read"),
    ))
}

/// Every page, over one connection: a cursor means nothing to another server.
async fn read(
    core: &Core,
    live: &Live,
    kind: Kind,
) -> Result<(BTreeMap<Key, Record>, usize), StoreError> {
    let keys = &core.keys;
    let mut records = BTreeMap::new();
    let mut cursor = "0".to_owned();
    for page in 1.. {
        let mut call = Call::new([keys.head(), keys.counts(), keys.records(kind)]);
        call.arg("list")
            .arg(format!("records:{}", kind.name()))
            .arg(cursor)
            .count(PAGE);
        let deadline = Instant::now() + core.options.timeout;
        let mut answer = core
            .call_on(live, deadline, OPERATION, &READ, &call)
            .await?;
        cursor = answer.text()?;
        for pair in answer.list()?.chunks_exact(2) {
            if let [id, stored] = pair {
                let key = Key::new(kind, codec::text("the id of a record", id)?);
                records.insert(key.clone(), codec::record(key, stored)?);
            }
        }
        if cursor == "0" {
            return Ok((records, page));
        }
    }
    Ok((records, 0))
}

fn overlay(records: &mut BTreeMap<Key, Record>, changes: Vec<Change>) {
    for change in changes {
        match change {
            Change::Put(record) => {
                records.insert(record.key.clone(), record);
            }
            Change::Deleted(key) => {
                records.remove(&key);
            }
            // A drain that missed something gives no changes at all.
            Change::Missed => {}
        }
    }
}
