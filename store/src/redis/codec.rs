//! The text form of what is stored and told. Lua writes it (`lua/commit.lua`), this reads it.
//!
//! Record: `1|generation|d or e|checksum|value`. Log entry: `1|sequence|checksum|value`. `1` is
//! the schema's version, `e` marks a record that is made anew after a crash, and the checksum
//! (SHA-1, against damage and mix-ups, not against an attacker) covers the name too.

use sha1_smol::Sha1;

use crate::error::StoreError;
use crate::key::{Durability, Key, Kind, LogName};
use crate::record::{Generation, LogEntry, Record};
use crate::watch::Change;

/// The only schema that this version knows.
const SCHEMA: &[u8] = b"1";

/// How a record's durability is marked.
pub(super) const fn mark(durability: Durability) -> &'static str {
    match durability {
        Durability::Durable => "d",
        Durability::Ephemeral => "e",
    }
}

fn malformed(what: &str, reason: &str) -> StoreError {
    StoreError::Malformed {
        what: what.to_owned(),
        reason: reason.to_owned(),
    }
}

/// Cuts `count` fields off the front; the rest may hold any byte.
fn fields<'a, const COUNT: usize>(
    what: &str,
    stored: &'a [u8],
) -> Result<([&'a [u8]; COUNT], &'a [u8]), StoreError> {
    let mut parts = stored.splitn(COUNT + 1, |byte| *byte == b'|');
    let mut found = [&[][..]; COUNT];
    for field in &mut found {
        *field = parts.next().unwrap_or_default();
    }
    if found.first() != Some(&SCHEMA) {
        return Err(malformed(what, "its schema is not version 1"));
    }
    match parts.next() {
        Some(rest) => Ok((found, rest)),
        None => Err(malformed(what, "it is cut off")),
    }
}

/// A whole number, in the one way the store writes it.
pub(super) fn number(what: &str, bytes: &[u8]) -> Result<u64, StoreError> {
    std::str::from_utf8(bytes)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| malformed(what, "a number in it is not one"))
}

fn check(what: &str, sum: &[u8], parts: &[&[u8]]) -> Result<(), StoreError> {
    let mut hash = Sha1::new();
    for part in parts {
        hash.update(part);
    }
    if hash.digest().to_string().as_bytes() == sum {
        Ok(())
    } else {
        Err(malformed(what, "its checksum is wrong"))
    }
}

/// Reads a record.
pub(super) fn record(key: Key, stored: &[u8]) -> Result<Record, StoreError> {
    let what = key.to_string();
    let ([_, generation, mark, sum], value) = fields::<4>(&what, stored)?;
    if mark != b"d" && mark != b"e" {
        return Err(malformed(&what, "its durability is neither d nor e"));
    }
    let name = what.as_bytes();
    check(
        &what,
        sum,
        &[name, b"|", generation, b"|", mark, b"|", value],
    )?;
    Ok(Record {
        generation: Generation(number(&what, generation)?),
        key,
        value: value.to_vec(),
    })
}

/// Reads the entry that must have this sequence number.
pub(super) fn entry(log: &LogName, sequence: u64, stored: &[u8]) -> Result<LogEntry, StoreError> {
    let what = format!("entry {sequence} of log {}", log.0);
    let ([_, written, sum], value) = fields::<3>(&what, stored)?;
    check(&what, sum, &[log.0.as_bytes(), b"|", written, b"|", value])?;
    if number(&what, written)? != sequence {
        return Err(malformed(&what, "it was written at another place"));
    }
    Ok(LogEntry {
        sequence,
        value: value.to_vec(),
    })
}

/// Reads what is told of one transaction about one kind: the message's number, and the changes.
pub(super) fn message(kind: Kind, bytes: &[u8]) -> Result<(u64, Vec<Change>), StoreError> {
    let what = "a message about changes";
    let (count, mut rest) = line(what, bytes)?;
    let mut changes = Vec::new();
    while !rest.is_empty() {
        let (header, body) = line(what, rest)?;
        let mut words = header.split(|byte| *byte == b' ');
        let word = words.next().unwrap_or_default();
        let mut size = || {
            let size = number(what, words.next().unwrap_or_default())?;
            usize::try_from(size).map_err(|_| malformed(what, "a size is too large"))
        };
        let (id_size, stored_size) = (size()?, size()?);
        let (id, body) = cut(what, body, id_size)?;
        let (stored, body) = cut(what, body, stored_size)?;
        let key = Key::new(kind, text(what, id)?);
        changes.push(match word {
            b"P" => Change::Put(record(key, stored)?),
            b"D" => Change::Deleted(key),
            _ => return Err(malformed(what, "a change is neither P nor D")),
        });
        rest = body;
    }
    Ok((number(what, count)?, changes))
}

fn line<'a>(what: &str, bytes: &'a [u8]) -> Result<(&'a [u8], &'a [u8]), StoreError> {
    let mut parts = bytes.splitn(2, |byte| *byte == b'\n');
    match (parts.next(), parts.next()) {
        (Some(line), Some(rest)) => Ok((line, rest)),
        _ => Err(malformed(what, "it is cut off")),
    }
}

fn cut<'a>(what: &str, bytes: &'a [u8], size: usize) -> Result<(&'a [u8], &'a [u8]), StoreError> {
    bytes
        .split_at_checked(size)
        .ok_or_else(|| malformed(what, "it is cut off"))
}

/// A name, which is always text.
pub(super) fn text(what: &str, bytes: &[u8]) -> Result<String, StoreError> {
    std::str::from_utf8(bytes)
        .map(str::to_owned)
        .map_err(|_| malformed(what, "a name in it is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(name: &str, generation: &str, value: &str) -> Vec<u8> {
        let sum = Sha1::from(format!("{name}|{generation}|d|{value}").as_bytes())
            .digest()
            .to_string();
        format!("1|{generation}|d|{sum}|{value}").into_bytes()
    }

    #[test]
    fn a_record_is_read_and_every_single_damage_is_noticed() {
        let key = || Key::new(Kind::Host, "a");
        let good = stored("host/a", "7", "{\"x\":\"|\"}");
        let read = record(key(), &good).unwrap();
        assert_eq!(read.generation, Generation(7));
        assert_eq!(read.value, b"{\"x\":\"|\"}");
        for index in 0..good.len() {
            let mut flipped = good.clone();
            flipped[index] ^= 1;
            assert!(record(key(), &flipped).is_err(), "bit of byte {index}");
            assert!(record(key(), &good[..index]).is_err(), "cut at {index}");
        }
        assert!(
            record(Key::new(Kind::Host, "b"), &good).is_err(),
            "the value of another record"
        );
    }

    #[test]
    fn messages_that_are_cut_are_noticed() {
        let value = stored("host/a", "1", "5");
        let mut bytes = format!("12\nD 1 0\nbP 1 {}\na", value.len()).into_bytes();
        bytes.extend_from_slice(&value);
        let (number, changes) = message(Kind::Host, &bytes).unwrap();
        assert_eq!((number, changes.len()), (12, 2));
        assert_eq!(changes[0], Change::Deleted(Key::new(Kind::Host, "b")));
        for end in 0..bytes.len() {
            // Between two changes a cut looks like an end; the next number tells.
            if end != 3 && end != 10 {
                assert!(message(Kind::Host, &bytes[..end]).is_err(), "cut at {end}");
            }
        }
    }
}
