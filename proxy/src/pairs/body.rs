//! Bodies: decoded, and taken apart by their type.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Read;

use flate2::read::{MultiGzDecoder, ZlibDecoder};
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use serde_json::Value;
use xxhash_rust::xxh64::Xxh64;

use super::LARGEST_BODY;
use super::answer::Reason;

/// Most parts of one body; what is further inside is one with what holds it.
const MOST_PARTS: usize = 256;
/// Longest name of a part.
const LONGEST_NAME: usize = 80;

/// How a body is taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// By field.
    Json,
    /// Not at all.
    Other,
}

fn media_type(headers: &HeaderMap) -> String {
    let value = headers.get(CONTENT_TYPE).map_or(&b""[..], |v| v.as_bytes());
    let text = String::from_utf8_lossy(value);
    let kind = text.split(';').next().unwrap_or_default();
    kind.trim().to_ascii_lowercase()
}

/// How a body is taken apart.
pub(super) fn kind(headers: &HeaderMap) -> Kind {
    let kind = media_type(headers);
    if kind == "application/json" || kind.ends_with("+json") {
        Kind::Json
    } else {
        Kind::Other
    }
}

/// Whether an answer goes on for as long as its sender likes.
pub(super) fn is_stream(headers: &HeaderMap) -> bool {
    let kind = media_type(headers);
    kind == "text/event-stream"
        || kind == "multipart/x-mixed-replace"
        || kind.starts_with("application/grpc")
        || kind == "application/x-ndjson"
}

/// The body without its encoding.
pub(super) fn decode<'a>(headers: &HeaderMap, body: &'a [u8]) -> Result<Cow<'a, [u8]>, Reason> {
    let mut decoded = Cow::Borrowed(body);
    let codings: Vec<String> = headers
        .get_all(CONTENT_ENCODING)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
        .map(|coding| String::from_utf8_lossy(coding.trim_ascii()).to_ascii_lowercase())
        .collect();
    // What was applied last is taken off first. An answer without a body (to HEAD, say) has nothing.
    for coding in codings.iter().rev().filter(|_| !body.is_empty()) {
        decoded = match &**coding {
            "identity" | "" => decoded,
            "gzip" | "x-gzip" => Cow::Owned(inflate(MultiGzDecoder::new(&*decoded))?),
            "deflate" => Cow::Owned(inflate(ZlibDecoder::new(&*decoded))?),
            _ => return Err("encoding not known"),
        };
    }
    Ok(decoded)
}

/// Bounded, so that a small answer cannot become a large one.
fn inflate(from: impl Read) -> Result<Vec<u8>, Reason> {
    let limit = LARGEST_BODY as u64;
    let mut plain = Vec::new();
    match from.take(limit + 1).read_to_end(&mut plain) {
        Ok(read) if read > LARGEST_BODY => Err("too large"),
        Ok(_) => Ok(plain),
        Err(_) => Err("encoding broken"),
    }
}

/// The fields of a JSON body. All elements of a list are one part, so that a part's name says which
/// field it is and not which element; order counts.
pub(super) fn fields(value: &Value) -> Vec<(String, u64)> {
    let mut parts: BTreeMap<String, Xxh64> = BTreeMap::new();
    let mut name = "body".to_owned();
    walk(&mut parts, &mut name, value);
    let digests = parts.into_iter();
    digests.map(|(name, hash)| (name, hash.digest())).collect()
}

fn walk(parts: &mut BTreeMap<String, Xxh64>, name: &mut String, value: &Value) {
    let here = name.len();
    match value {
        Value::Object(object) if !object.is_empty() => {
            for (key, inner) in object {
                let fits = here + key.len() < LONGEST_NAME && parts.len() < MOST_PARTS;
                if fits {
                    name.push('.');
                    name.extend(key.chars().map(|c| if c.is_control() { '?' } else { c }));
                    walk(parts, name, inner);
                    name.truncate(here);
                } else {
                    put(parts, name, key.as_bytes());
                    put(parts, name, inner.to_string().as_bytes());
                }
            }
        }
        Value::Array(list) if !list.is_empty() => {
            put(parts, name, &list.len().to_le_bytes());
            name.push_str("[]");
            for inner in list {
                walk(parts, name, inner);
            }
            name.truncate(here);
        }
        Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_)
        | Value::Object(_)
        | Value::Array(_) => put(parts, name, value.to_string().as_bytes()),
    }
}

fn put(parts: &mut BTreeMap<String, Xxh64>, name: &str, bytes: &[u8]) {
    let hash = match parts.get_mut(name) {
        Some(hash) => hash,
        None => parts
            .entry(name.to_owned())
            .or_insert_with(|| Xxh64::new(0)),
    };
    hash.update(&bytes.len().to_le_bytes());
    hash.update(bytes);
}
