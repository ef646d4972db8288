//! Header fields that concern one connection only.

use http::HeaderMap;
use http::header::{
    CONNECTION, HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE,
    TRANSFER_ENCODING, UPGRADE,
};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
/// Whom a request came from.
pub(crate) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The fields that `Connection` names.
pub(crate) fn nominated(headers: &HeaderMap) -> Vec<HeaderName> {
    headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .filter(|name| *name != CONNECTION)
        .collect()
}

/// Fields that concern one connection only, besides those that `Connection` names.
pub(super) const HOP_BY_HOP: [HeaderName; 3] = [KEEP_ALIVE, PROXY_CONNECTION, TE];

/// Takes away what concerns one connection only.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    for name in nominated(headers) {
        headers.remove(name);
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
    for name in [
        CONNECTION,
        TRANSFER_ENCODING,
        UPGRADE,
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
    ] {
        headers.remove(name);
    }
}

/// The field that says whom a request came from: what it said before, and the client.
pub(crate) fn forwarded_for(headers: &HeaderMap, peer: std::net::IpAddr) -> Option<HeaderValue> {
    let mut text = Vec::new();
    for before in headers.get_all(X_FORWARDED_FOR) {
        text.extend_from_slice(before.as_bytes());
        text.extend_from_slice(b", ");
    }
    text.extend_from_slice(peer.to_canonical().to_string().as_bytes());
    HeaderValue::from_bytes(&text).ok()
}
