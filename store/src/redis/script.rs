//! The Lua scripts: how they are run, and how their answers are read.

use std::sync::LazyLock;

use ::redis::aio::MultiplexedConnection;
use ::redis::{Cmd, ErrorKind, ServerErrorKind, Value};
use sha1_smol::Sha1;

use super::codec;
use super::fault;
use super::memory::Witness;
use crate::error::StoreError;

/// A script and its name in the server's cache.
pub(super) struct Script {
    code: String,
    hash: String,
}

impl Script {
    fn new(body: &str) -> Self {
        let code = format!("{}\n{body}", include_str!("lua/common.lua"));
        let hash = Sha1::from(code.as_bytes()).digest().to_string();
        Self { code, hash }
    }
}

pub(super) static ATTACH: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("lua/attach.lua")));
pub(super) static COMMIT: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("lua/commit.lua")));
pub(super) static READ: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("lua/read.lua")));
pub(super) static LEASE: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("lua/lease.lua")));

/// Keys and arguments of one run.
#[derive(Default)]
pub(super) struct Call {
    keys: Vec<String>,
    args: Vec<Vec<u8>>,
}

impl Call {
    pub(super) fn new(keys: impl IntoIterator<Item = String>) -> Self {
        Self {
            keys: keys.into_iter().collect(),
            args: Vec::new(),
        }
    }

    /// Adds a key and says its number, counted from 1 as Lua does.
    pub(super) fn key(&mut self, key: String) -> usize {
        if let Some(index) = self.keys.iter().position(|known| *known == key) {
            return index + 1;
        }
        self.keys.push(key);
        self.keys.len()
    }

    pub(super) fn arg(&mut self, arg: impl Into<Vec<u8>>) -> &mut Self {
        self.args.push(arg.into());
        self
    }

    pub(super) fn count(&mut self, count: usize) -> &mut Self {
        self.arg(count.to_string())
    }

    fn command(&self, verb: &str, script: &str, seen: &Witness) -> Cmd {
        let mut command = Cmd::new();
        command.arg(verb).arg(script).arg(self.keys.len());
        for key in &self.keys {
            command.arg(key);
        }
        command
            .arg(&seen.identity)
            .arg(&seen.run)
            .arg(seen.revision);
        for arg in &self.args {
            command.arg(arg.as_slice());
        }
        command
    }
}

/// Runs a script. The server's cache may be flushed at any time; then the code is sent along.
/// `seen.run` is the run of the server that the connection leads to.
pub(super) async fn run(
    operation: &'static str,
    connection: &MultiplexedConnection,
    script: &Script,
    call: &Call,
    seen: &Witness,
) -> Result<Answer, StoreError> {
    let mut connection = connection.clone();
    let cached = call
        .command("EVALSHA", &script.hash, seen)
        .query_async::<Value>(&mut connection)
        .await;
    let answer = match cached {
        Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
            call.command("EVAL", &script.code, seen)
                .query_async::<Value>(&mut connection)
                .await
        }
        other => other,
    };
    Answer::read(
        operation,
        answer.map_err(|error| fault::name(operation, &error))?,
    )
}

/// What a script answered.
#[derive(Debug)]
pub(super) struct Answer {
    operation: &'static str,
    word: Vec<u8>,
    rest: std::vec::IntoIter<Value>,
}

impl Answer {
    fn read(operation: &'static str, value: Value) -> Result<Self, StoreError> {
        let Value::Array(values) = value else {
            return Err(unexpected(operation));
        };
        let mut rest = values.into_iter();
        let word = bytes(operation, rest.next().unwrap_or_default())?;
        Ok(Self {
            operation,
            word,
            rest,
        })
    }

    pub(super) fn word(&self) -> &[u8] {
        &self.word
    }

    pub(super) fn next(&mut self) -> Value {
        self.rest.next().unwrap_or_default()
    }

    pub(super) fn bytes(&mut self) -> Result<Vec<u8>, StoreError> {
        let next = self.next();
        bytes(self.operation, next)
    }

    pub(super) fn text(&mut self) -> Result<String, StoreError> {
        codec::text("an answer of the server", &self.bytes()?)
    }

    pub(super) fn number(&mut self) -> Result<u64, StoreError> {
        codec::number("an answer of the server", &self.bytes()?)
    }

    pub(super) fn list(&mut self) -> Result<Vec<Vec<u8>>, StoreError> {
        let Value::Array(values) = self.next() else {
            return Err(unexpected(self.operation));
        };
        values
            .into_iter()
            .map(|value| bytes(self.operation, value))
            .collect()
    }

    /// Turns the refusals that any script may give into errors; other words are the caller's.
    pub(super) fn refusals(mut self, store: &str, seen: u64) -> Result<Self, StoreError> {
        match self.word() {
            b"lost" => Err(StoreError::Lost {
                store: store.to_owned(),
                reason: self.text()?,
            }),
            b"rewound" => Err(StoreError::Rewound {
                store: store.to_owned(),
                seen,
                found: self.number()?,
            }),
            b"malformed" => Err(StoreError::Malformed {
                what: self.text()?,
                reason: self.text()?,
            }),
            b"superseded" => Err(fault::unavailable(
                self.operation,
                "another server has taken over since this connection was made",
            )),
            _ => Ok(self),
        }
    }

    /// A word that the caller does not know.
    pub(super) fn unknown(&self) -> StoreError {
        fault::unavailable(
            self.operation,
            format!(
                "the server answered {:?}",
                String::from_utf8_lossy(&self.word)
            ),
        )
    }
}

/// The bytes of a value that must be a text.
pub(super) fn bytes(operation: &'static str, value: Value) -> Result<Vec<u8>, StoreError> {
    if let Value::BulkString(bytes) = value {
        Ok(bytes)
    } else {
        Err(unexpected(operation))
    }
}

/// An answer of another shape. Its value is not printed: it may be long.
pub(super) fn unexpected(operation: &'static str) -> StoreError {
    fault::unavailable(operation, "the server's answer has an unknown form")
}
