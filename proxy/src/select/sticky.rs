//! Choice by a header's value: the same function as Envoy's, so that both data planes put the same
//! user on the same side.

use http::HeaderMap;
use xxhash_rust::xxh64::{Xxh64, xxh64};

use crate::config::HashHeader;

/// The key of a request: `xxh64` with seed 0 of the header's value; `None` if no header is there.
/// Several values of one header are hashed in sorted order, several headers are combined by
/// rotation and exclusive or.
pub fn sticky_key(policy: &[HashHeader], headers: &HeaderMap) -> Option<u64> {
    let mut key: Option<u64> = None;
    for header in policy {
        let Some(hash) = of_header(headers, &header.name) else {
            continue;
        };
        key = Some(key.map_or(hash, |before| before.rotate_left(1) ^ hash));
        if header.terminal {
            break;
        }
    }
    key
}

fn of_header(headers: &HeaderMap, name: &http::HeaderName) -> Option<u64> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    let Some(second) = values.next() else {
        return Some(xxh64(first.as_bytes(), 0));
    };
    let mut all = vec![first.as_bytes(), second.as_bytes()];
    all.extend(values.map(http::HeaderValue::as_bytes));
    all.sort_unstable();
    let mut state = Xxh64::new(0);
    for value in all {
        state.update(value);
    }
    Some(state.digest())
}
