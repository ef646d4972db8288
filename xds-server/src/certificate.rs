//! What a certificate in a file says: its names, its end, whether it holds.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::sign::CertifiedKey;

use crate::error::XdsError;

/// A certificate that is kept in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its names, without addresses.
    pub names: Vec<String>,
    /// The file.
    pub certificate: PathBuf,
    /// When it ends.
    pub ends: SystemTime,
}

/// Reads a certificate that is kept in a file.
///
/// # Errors
/// [`XdsError::Certificate`] when there is none in it.
pub fn look_at(certificate: &Path) -> Result<Found, XdsError> {
    let bad = |reason: String| XdsError::Certificate {
        path: certificate.to_owned(),
        reason,
    };
    let der = read(certificate)?;
    let parsed = webpki::EndEntityCert::try_from(&der).map_err(|error| bad(error.to_string()))?;
    let names = parsed
        .valid_dns_names()
        .chain(parsed.valid_uri_names())
        .map(ToOwned::to_owned)
        .collect();
    let ends = end(&der).ok_or_else(|| bad("it does not say when it ends".to_owned()))?;
    Ok(Found {
        names,
        certificate: certificate.to_owned(),
        ends,
    })
}

/// Whether a certificate is signed by an authority, belongs to a key, and holds for so long.
pub(crate) fn holds(certificate: &Path, key: &Path, authority: &Path, left: Duration) -> bool {
    let good = || {
        let der = read(certificate).ok()?;
        let key = PrivateKeyDer::from_pem_file(key).ok()?;
        CertifiedKey::from_der(vec![der.clone()], key, &ring::default_provider()).ok()?;
        let root = read(authority).ok()?;
        let anchor = webpki::anchor_from_trusted_cert(&root).ok()?;
        let parsed = webpki::EndEntityCert::try_from(&der).ok()?;
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .ok()?;
        let anchors = [anchor];
        let verify = |usage| {
            let time = UnixTime::since_unix_epoch(now + left);
            let known = webpki::ALL_VERIFICATION_ALGS;
            parsed
                .verify_for_usage(known, &anchors, &[], time, usage, None, None)
                .is_ok()
        };
        let client = verify(webpki::KeyUsage::client_auth());
        let server = verify(webpki::KeyUsage::server_auth());
        Some(client || server)
    };
    good().unwrap_or(false)
}

/// Whether a certificate is for these names and addresses, and for no other name.
pub(crate) fn is_for(certificate: &Path, names: &[String]) -> bool {
    let good = || {
        let der = read(certificate).ok()?;
        let parsed = webpki::EndEntityCert::try_from(&der).ok()?;
        let all = names.iter().all(|name| {
            ServerName::try_from(name.as_str())
                .is_ok_and(|name| parsed.verify_is_valid_for_subject_name(&name).is_ok())
        });
        let only = parsed
            .valid_dns_names()
            .all(|name| names.iter().any(|wanted| wanted == name));
        Some(all && only)
    };
    good().unwrap_or(false)
}

fn read(path: &Path) -> Result<CertificateDer<'static>, XdsError> {
    CertificateDer::from_pem_file(path).map_err(|error| XdsError::Certificate {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// An element of DER: its tag, its content, and what follows it.
fn element(from: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = from.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
        let join = |length: usize, byte: &u8| Some(length.checked_mul(256)? + usize::from(*byte));
        (bytes.iter().try_fold(0, join)?, rest)
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

fn sequence(from: &[u8]) -> Option<&[u8]> {
    let (tag, content, _) = element(from)?;
    (tag == SEQUENCE).then_some(content)
}

/// When a certificate ends (RFC 5280, 4.1): version, serial number, algorithm and issuer stand before.
fn end(certificate: &[u8]) -> Option<SystemTime> {
    let mut rest = sequence(sequence(certificate)?)?;
    let (tag, _, after) = element(rest)?;
    if tag == VERSION {
        rest = after;
    }
    for _ in 0..3 {
        rest = element(rest)?.2;
    }
    let (_, _, after) = element(sequence(rest)?)?;
    let (tag, text, _) = element(after)?;
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let (year, text) = match tag {
        UTC_TIME => {
            let (year, text) = text.split_at_checked(2)?;
            let year: i64 = year.parse().ok()?;
            (
                if year < 50 {
                    2_000 + year
                } else {
                    1_900 + year
                },
                text,
            )
        }
        GENERALIZED_TIME => {
            let (year, text) = text.split_at_checked(4)?;
            (year.parse().ok()?, text)
        }
        _ => return None,
    };
    let part = |at: usize| text.get(at..at + 2)?.parse::<i64>().ok();
    let days = days(year, part(0)?, part(2)?);
    let seconds = days * 86_400 + part(4)? * 3_600 + part(6)? * 60 + part(8)?;
    let since = Duration::from_secs(u64::try_from(seconds).ok()?);
    SystemTime::UNIX_EPOCH.checked_add(since)
}

/// Days from 1970-01-01 to a day of the Gregorian calendar.
const fn days(year: i64, month: i64, day: i64) -> i64 {
    // Years begin in March, so that a leap day is the last of its year.
    let year = if month <= 2 { year - 1 } else { year };
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let leaps = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    365 * year + leaps + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_counted_over_leap_years() {
        for (year, month, day, wanted) in [
            (1970, 1, 1, 0),
            (1970, 3, 1, 59),
            (2000, 2, 29, 11_016),
            (2000, 3, 1, 11_017),
            (2026, 11, 24, 20_781),
        ] {
            assert_eq!(days(year, month, day), wanted, "{year}-{month}-{day}");
        }
    }

    #[test]
    fn the_end_is_read_in_both_forms_and_nothing_is_read_of_what_is_cut_off() {
        for (year, seconds) in [(2031, 1_924_992_000), (2061, 2_871_763_200)] {
            let mut params = rcgen::CertificateParams::default();
            params.not_after = rcgen::date_time_ymd(year, 1, 1);
            let key = rcgen::KeyPair::generate().unwrap();
            let certificate = params.self_signed(&key).unwrap();
            let wanted = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            let der = certificate.der().as_ref();
            assert_eq!(end(der), Some(wanted), "{year}");
            for cut in 0..der.len() {
                assert_eq!(end(&der[..cut]), None, "{cut}");
            }
        }
    }
}
