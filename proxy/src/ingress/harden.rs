//! Refuses requests that two programs could read differently.

use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{Method, Version};
use pingora_http::RequestHeader;

/// Largest header.
pub(super) const MAX_HEADER_BYTES: usize = 64 * 1024;
/// Most header fields.
pub(super) const MAX_FIELDS: usize = 128;

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rejection {
    /// The status to answer.
    pub(super) status: u16,
    /// For people.
    pub(super) reason: &'static str,
}

const fn reject(status: u16, reason: &'static str) -> Result<(), Rejection> {
    Err(Rejection { status, reason })
}

/// Refuses what is ambiguous or too large. `raw` is the header as it came: some of it has been
/// made consistent since, and must not pass for consistent.
pub(super) fn check(request: &RequestHeader, raw: &[u8]) -> Result<(), Rejection> {
    if raw.len() > MAX_HEADER_BYTES || request.headers.len() > MAX_FIELDS {
        return reject(
            431,
            "the header is larger than 64 KiB or has more than 128 fields",
        );
    }
    if request.method == Method::TRACE {
        return reject(405, "TRACE is not allowed");
    }
    let host = request.headers.get(HOST);
    let nameless = host.is_none_or(|host| host.as_bytes().trim_ascii().is_empty());
    if nameless && request.version != Version::HTTP_10 {
        return reject(400, "Host is missing");
    }
    let target = request.raw_path();
    let absolute = path_of_absolute(target).is_some();
    let asterisk = target == b"*" && request.method == Method::OPTIONS;
    if !(absolute || asterisk || target.starts_with(b"/")) || has_fragment(raw) {
        return reject(400, "the request target must be a path");
    }
    framing(request, raw)
}

fn framing(request: &RequestHeader, raw: &[u8]) -> Result<(), Rejection> {
    let mut lengths = request.headers.get_all(CONTENT_LENGTH).iter();
    if let Some(length) = lengths.next() {
        let digits = length.as_bytes();
        let number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
        if lengths.next().is_some() || !number {
            return reject(400, "Content-Length must be one number");
        }
    }
    let mut codings = request.headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        let chunked = coding.as_bytes().eq_ignore_ascii_case(b"chunked");
        if !chunked || codings.next().is_some() {
            return reject(400, "Transfer-Encoding must be chunked");
        }
        if has_field(raw, b"content-length:") {
            return reject(
                400,
                "Content-Length and Transfer-Encoding exclude each other",
            );
        }
    }
    Ok(())
}

/// The path of a target that is a whole URI. That its authority is the one that Host names has been
/// checked when it was read.
pub(super) fn path_of_absolute(target: &[u8]) -> Option<Vec<u8>> {
    let scheme = target.get(..7)?;
    if !scheme.eq_ignore_ascii_case(b"http://") {
        return None;
    }
    let rest = target.get(7..)?;
    let path = rest.iter().position(|byte| b"/?".contains(byte));
    let path = path.map_or(&b""[..], |begin| &rest[begin..]);
    let slash: &[u8] = if path.starts_with(b"/") { b"" } else { b"/" };
    Some([slash, path].concat())
}

/// Whether the request line has a fragment, which has been cut off since.
fn has_fragment(raw: &[u8]) -> bool {
    raw.iter()
        .take_while(|&&byte| byte != b'\n')
        .any(|&byte| byte == b'#')
}

/// Whether a line of the header begins with `name`, which is in lower case.
fn has_field(raw: &[u8], name: &[u8]) -> bool {
    raw.split(|&byte| byte == b'\n')
        .filter_map(|line| line.get(..name.len()))
        .any(|start| start.eq_ignore_ascii_case(name))
}
