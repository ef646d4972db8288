//! What control planes say of a service, read as one: several may serve at the same time, and each
//! writes records of its own.

use std::collections::BTreeSet;

use domain::routing::word_id;
use domain::{KnownNode, RoutingStatus, ServiceId, Traffic};
use serde::de::DeserializeOwned;

use crate::Store;
use crate::error::StoreError;
use crate::key::{Key, Kind};

/// How far a service's routing is, by what all control planes say.
///
/// # Errors
/// The store's.
pub async fn routing_status(
    store: &dyn Store,
    service: &ServiceId,
) -> Result<Option<RoutingStatus>, StoreError> {
    let words = words(store, Kind::RoutingStatus, service).await?;
    let known = if words.len() > 1 {
        known(store).await?
    } else {
        BTreeSet::new()
    };
    Ok(RoutingStatus::merge(words, &known))
}

/// What data planes have reported of a service, to whichever control plane.
///
/// # Errors
/// The store's.
pub async fn traffic(
    store: &dyn Store,
    service: &ServiceId,
) -> Result<Option<Traffic>, StoreError> {
    Ok(Traffic::merge(words(store, Kind::Traffic, service).await?))
}

async fn words<T: DeserializeOwned>(
    store: &dyn Store,
    kind: Kind,
    service: &ServiceId,
) -> Result<Vec<T>, StoreError> {
    let servers = store.list(Kind::Server).await?;
    let names = servers.iter().map(|record| record.key.id.as_str());
    let mut words = Vec::new();
    for server in std::iter::once("").chain(names) {
        let key = Key::new(kind, word_id(service, server));
        if let Some(record) = store.get(&key).await? {
            words.push(record.parse()?.value);
        }
    }
    Ok(words)
}

/// The nodes that anybody waits for.
async fn known(store: &dyn Store) -> Result<BTreeSet<domain::NodeId>, StoreError> {
    let records = store.list(Kind::Node).await?;
    records
        .iter()
        .map(|record| Ok(record.parse::<KnownNode>()?.value.node))
        .collect()
}
