//! Files that were damaged behind the store's back: each is named, and stays as it is.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use domain::HolderId;
use redb::{Database, ReadableTable as _, TableDefinition};

use super::{EmbeddedStore, LEASES, RECORDS, head};
use crate::Store as _;
use crate::clock::SystemClock;
use crate::error::StoreError;
use crate::key::{Key, Kind, LeaseName, LogName};
use crate::record::{Expect, Lease, Transaction};
use crate::redis::{Opening, Witness};

const RECORD: &str = "migration/m";
const LEASE: &str = "migrator/default";

fn key() -> Key {
    Key::new(Kind::Migration, "m")
}

async fn lead(store: &EmbeddedStore) -> Result<Option<Lease>, StoreError> {
    let holder = HolderId::new("one").unwrap();
    let name = LeaseName(LEASE.to_owned());
    store.acquire(&name, &holder, Duration::from_hours(1)).await
}

/// A file with a record, a log and a lease that nobody has open, and what was seen of it last.
async fn filled(folder: &Path) -> (PathBuf, Witness) {
    let path = folder.join("store.redb");
    let store = EmbeddedStore::open(&path).unwrap();
    let log = LogName(RECORD.to_owned());
    let both = Transaction::new().put(key(), Expect::Absent, &7).unwrap();
    let both = both.append(log, &"intent").unwrap();
    store.commit(both).await.unwrap();
    lead(&store).await.unwrap().unwrap();
    let seen = store.last_seen();
    (path, seen)
}

/// What stands in a table, and something else in its place.
fn replace(
    path: &Path,
    table: TableDefinition<'_, &str, &[u8]>,
    name: &str,
    by: impl FnOnce(&str) -> String,
) -> Vec<u8> {
    let database = Database::create(path).unwrap();
    let write = database.begin_write().unwrap();
    let new = {
        let mut table = write.open_table(table).unwrap();
        let old = table.get(name).unwrap().unwrap().value().to_vec();
        let new = by(std::str::from_utf8(&old).unwrap()).into_bytes();
        table.insert(name, new.as_slice()).unwrap();
        new
    };
    write.commit().unwrap();
    new
}

fn value_of(path: &Path, table: TableDefinition<'_, &str, &[u8]>, name: &str) -> Vec<u8> {
    use redb::ReadableDatabase as _;
    let database = Database::create(path).unwrap();
    let read = database.begin_read().unwrap();
    let table = read.open_table(table).unwrap();
    table.get(name).unwrap().unwrap().value().to_vec()
}

fn assert_names<T>(answer: Result<T, StoreError>, name: &str) {
    match answer.err() {
        Some(StoreError::Malformed { what, .. }) => assert!(what.contains(name), "{what}"),
        other => panic!("expected {name} to be malformed, got {other:?}"),
    }
}

fn cut(good: &str) -> String {
    good[..good.len() - 1].to_owned()
}

/// Damages: cut short, empty, of another schema, of another type, with a field nobody knows.
fn damages() -> [fn(&str) -> String; 5] {
    [
        cut,
        |_| String::new(),
        |good| good.replacen("generation", "generation-v2", 1),
        |_| "7".to_owned(),
        |good| good.replacen('{', "{\"more\":1,", 1),
    ]
}

#[tokio::test]
async fn a_damaged_record_is_named_when_the_file_is_opened_and_stays_as_it_is() {
    for damage in damages() {
        let folder = tempfile::tempdir().unwrap();
        let (path, seen) = filled(folder.path()).await;
        let bad = replace(&path, RECORDS, RECORD, damage);
        assert_names(EmbeddedStore::open(&path), RECORD);
        // Taking a loss as the truth does not turn a damaged record into none.
        let acknowledged = EmbeddedStore::open_as(
            &path,
            Arc::new(SystemClock),
            Opening::AcknowledgeLoss,
            Some(&seen),
        );
        assert_names(acknowledged, RECORD);
        assert_eq!(value_of(&path, RECORDS, RECORD), bad);
    }
}

#[tokio::test]
async fn a_record_of_a_kind_of_a_later_version_is_named_and_not_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let (path, _) = filled(folder.path()).await;
    {
        let database = Database::create(&path).unwrap();
        let write = database.begin_write().unwrap();
        {
            let mut table = write.open_table(RECORDS).unwrap();
            table.insert("prophecy/p", b"{}".as_slice()).unwrap();
        }
        write.commit().unwrap();
    }
    assert_names(EmbeddedStore::open(&path), "prophecy/p");
    assert_eq!(value_of(&path, RECORDS, "prophecy/p"), b"{}");
}

#[tokio::test]
async fn a_damaged_lease_is_named_gives_nobody_leadership_and_stays_as_it_is() {
    for damage in [
        damages()[0],
        damages()[1],
        |good: &str| good.replacen("epoch", "epoch-v2", 1),
        damages()[3],
        damages()[4],
    ] {
        let folder = tempfile::tempdir().unwrap();
        let (path, _) = filled(folder.path()).await;
        let bad = replace(&path, LEASES, LEASE, damage);
        {
            let store = EmbeddedStore::open(&path).unwrap();
            assert_names(lead(&store).await, LEASE);
            // Records can be read by whoever looks for the cause.
            assert!(store.get(&key()).await.unwrap().is_some());
        }
        assert_eq!(value_of(&path, LEASES, LEASE), bad);
    }
}

#[tokio::test]
async fn a_damaged_head_is_named_and_stays_as_it_is() {
    for damage in [
        damages()[0],
        damages()[1],
        |good: &str| good.replacen("identity", "name", 1),
        damages()[3],
        damages()[4],
    ] {
        let folder = tempfile::tempdir().unwrap();
        let (path, _) = filled(folder.path()).await;
        let bad = replace(&path, head::META, head::HEAD, damage);
        assert_names(EmbeddedStore::open(&path), "head");
        assert_eq!(value_of(&path, head::META, head::HEAD), bad);
    }
}

#[tokio::test]
async fn a_file_that_was_cut_short_or_written_over_is_an_error_and_never_an_empty_store() {
    let folder = tempfile::tempdir().unwrap();
    let (path, seen) = filled(folder.path()).await;
    let whole = std::fs::read(&path).unwrap();
    let half = whole.len() / 2;
    let mut zeros = whole.clone();
    zeros[half..].fill(0);
    let mut noise = whole.clone();
    for (byte, value) in noise[half..].iter_mut().zip((0..251_u8).cycle()) {
        *byte = value;
    }
    let damaged = [
        ("a page is left", whole[..4096].to_vec()),
        ("half is left", whole[..half].to_vec()),
        ("less than a page is left", whole[..100].to_vec()),
        ("the second half is zeros", zeros),
        ("the second half is noise", noise),
    ];
    let mut refused = 0;
    for (what, bytes) in damaged {
        std::fs::write(&path, &bytes).unwrap();
        let opened =
            EmbeddedStore::open_as(&path, Arc::new(SystemClock), Opening::Existing, Some(&seen));
        match opened {
            Err(StoreError::Unavailable { reason, .. }) => {
                refused += 1;
                assert_eq!(std::fs::read(&path).unwrap(), bytes, "{what}");
                assert!(reason.contains("store.redb"), "{what}: {reason}");
            }
            Err(error) => panic!("{what}: {error:?}"),
            Ok(store) => {
                // The damage is where nothing is kept: then everything is there.
                let record = store.get(&key()).await.unwrap().unwrap();
                assert_eq!(record.parse::<u8>().unwrap().value, 7, "{what}");
                let log = LogName(RECORD.to_owned());
                assert_eq!(store.read_log(&log, 0, 10).await.unwrap().len(), 1);
            }
        }
    }
    assert!(refused >= 4, "the damage hit nothing: {refused}");
}
