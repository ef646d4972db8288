//! A single writer (S3): the journal is the instance's own, one replica at a time appends to it,
//! and others follow byte by byte.
//!
//! # Theory
//! Positions in the journal mean the same on every replica, because a follower's journal is a prefix
//! of what it follows. Who may append is said by this replica's `writer` file alone, written to disk
//! before it is acted upon: an append and [`Single::freeze`] exclude each other by a lock, so after a
//! freeze nothing is appended, whoever still sends.
//!
//! # The fence
//! [`Single::open`] takes an epoch and refuses one below the highest that the replica knows of;
//! [`Single::freeze`] raises that. So a call to open that comes late, after somebody took the writes
//! back, opens nobody. The file names the replica that it belongs to: a copy of it (a shadow's, at
//! the fork) grants nothing.
//!
//! # Failure paths
//! A replica that dies takes up what its file says. One that follows and cannot reach the other
//! tries again; one whose journal is longer than what it follows has other writes and stops.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::follower::Follower;
use super::journal::{Record, Writer};

/// How long a follower waits for news in one call.
const LONG_POLL: Duration = Duration::from_millis(500);
/// How long it waits after a failure.
const PAUSE: Duration = Duration::from_millis(20);
/// Most bytes of a journal in one answer.
const CHUNK: usize = 256 * 1024;

/// What a replica does with writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Mode {
    /// It takes them.
    Writer,
    /// It takes none.
    Frozen,
    /// It takes none, and takes over what another replica appends.
    Follower(String),
}

/// The `writer` file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stored {
    /// Whose file it is.
    replica: String,
    mode: Mode,
    /// The highest epoch that it knows of.
    epoch: u64,
    /// Whether it has ever taken writes.
    wrote: bool,
}

/// Where a replica stands, for the hooks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Standing {
    /// The highest epoch that it knows of.
    pub(super) writer: u64,
    /// The end of its journal.
    pub(super) position: u64,
    /// Whether it has ever taken writes.
    pub(super) wrote: bool,
}

/// Why a write is not taken.
#[derive(Debug)]
pub(super) enum NotTaken {
    /// Another replica is the writer, or nobody is for a moment. Nothing was done.
    NotTheWriter,
    /// The journal.
    Io(io::Error),
}

#[derive(Debug)]
struct Inner {
    stored: Stored,
    rest_until: Option<Instant>,
}

/// A single writer's standing.
#[derive(Debug)]
pub(super) struct Single {
    inner: Mutex<Inner>,
    file: PathBuf,
    journal: Writer,
    path: PathBuf,
    /// Rises with every append and every change of standing.
    news: watch::Sender<u64>,
}

impl Single {
    /// Takes up what the state directory says. A new original writes; a new shadow, and a copy of
    /// another replica's directory, does not.
    pub(super) fn open_state(state: &Path, role: &str) -> io::Result<Self> {
        fs::create_dir_all(state)?;
        let replica = fs::canonicalize(state)?.display().to_string();
        let file = state.join("writer");
        let stored: Option<Stored> = match fs::read(&file) {
            Ok(text) => Some(serde_json::from_slice(&text)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let stored = match stored {
            Some(stored) if stored.replica == replica => stored,
            before => {
                let first = before.is_none() && role != "shadow";
                Stored {
                    replica,
                    mode: if first { Mode::Writer } else { Mode::Frozen },
                    epoch: before.map_or(1, |before| before.epoch),
                    wrote: first,
                }
            }
        };
        let path = state.join("journal");
        let this = Self {
            inner: Mutex::new(Inner {
                stored,
                rest_until: None,
            }),
            file,
            journal: Writer::open(&path)?,
            path,
            news: watch::Sender::new(0),
        };
        this.save(&this.lock().stored)?;
        Ok(this)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn save(&self, stored: &Stored) -> io::Result<()> {
        let fresh = self.file.with_extension("new");
        let mut file = File::create(&fresh)?;
        file.write_all(&serde_json::to_vec(stored)?)?;
        file.sync_all()?;
        fs::rename(&fresh, &self.file)?;
        match self.file.parent() {
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    }

    fn changed(&self) {
        self.news.send_modify(|count| *count += 1);
    }

    fn position(&self) -> io::Result<u64> {
        Ok(fs::metadata(&self.path)?.len())
    }

    fn standing(&self, inner: &Inner) -> io::Result<Standing> {
        Ok(Standing {
            writer: inner.stored.epoch,
            position: self.position()?,
            wrote: inner.stored.wrote,
        })
    }

    /// Changes what is stored, on disk first.
    fn change(&self, inner: &mut Inner, next: Stored) -> io::Result<Standing> {
        if next != inner.stored {
            self.save(&next)?;
            inner.stored = next;
            self.changed();
        }
        self.standing(inner)
    }

    /// Appends a record, and gives the position after it. Waits while the state is at rest.
    pub(super) async fn append(&self, record: &Record) -> Result<u64, NotTaken> {
        let mut news = self.news.subscribe();
        loop {
            let until = {
                let inner = self.lock();
                if inner.stored.mode != Mode::Writer {
                    return Err(NotTaken::NotTheWriter);
                }
                match inner.rest_until.filter(|until| *until > Instant::now()) {
                    None => {
                        let end = self.journal.append(record).map_err(NotTaken::Io)?;
                        self.changed();
                        return Ok(end);
                    }
                    Some(until) => until,
                }
            };
            let rest = tokio::time::sleep_until(until.into());
            tokio::select! {
                biased;
                _ = news.changed() => {}
                () = rest => {}
            }
        }
    }

    /// Appends nothing until `resume`, or for `limit` at most.
    pub(super) fn rest(&self, limit: Duration) {
        self.lock().rest_until = Some(Instant::now() + limit);
    }

    /// Goes on.
    pub(super) fn resume(&self) {
        self.lock().rest_until = None;
        self.changed();
    }

    /// Where it stands.
    pub(super) fn stands(&self) -> io::Result<Standing> {
        self.standing(&self.lock())
    }

    /// Takes no writes from now on, and knows of an epoch of at least `at_least`. The position is
    /// taken after that. Again: the same. A freeze that names an epoch is refused by who writes
    /// under another one: it comes late.
    pub(super) fn freeze(
        &self,
        of: Option<u64>,
        at_least: u64,
    ) -> Result<io::Result<Standing>, String> {
        let mut inner = self.lock();
        let mut next = inner.stored.clone();
        if next.mode == Mode::Writer {
            let now = next.epoch;
            if let Some(of) = of.filter(|of| *of != now) {
                return Err(format!(
                    "the freeze is of epoch {of}: this replica writes under {now}"
                ));
            }
            next.mode = Mode::Frozen;
            next.epoch += 1;
        }
        next.epoch = next.epoch.max(at_least);
        Ok(self.change(&mut inner, next))
    }

    /// Takes writes under this epoch.
    pub(super) fn open(&self, epoch: u64) -> Result<io::Result<Standing>, String> {
        let mut inner = self.lock();
        let known = inner.stored.epoch;
        if epoch < known {
            return Err(format!(
                "epoch {epoch} is stale: this replica knows of {known}"
            ));
        }
        let next = Stored {
            mode: Mode::Writer,
            epoch,
            wrote: true,
            ..inner.stored.clone()
        };
        Ok(self.change(&mut inner, next))
    }

    /// Takes over what another replica appends.
    pub(super) fn follow(&self, from: String) -> Result<io::Result<Standing>, String> {
        let mut inner = self.lock();
        if inner.stored.mode == Mode::Writer {
            return Err("it takes writes itself: freeze it first".to_owned());
        }
        let next = Stored {
            mode: Mode::Follower(from),
            ..inner.stored.clone()
        };
        Ok(self.change(&mut inner, next))
    }

    /// What stands in the journal from a position on; waits for something to come. `None` if the
    /// journal ends before.
    pub(super) async fn read(&self, position: u64, wait: Duration) -> io::Result<Option<Bytes>> {
        let mut news = self.news.subscribe();
        let until = tokio::time::Instant::now() + wait;
        loop {
            let len = self.position()?;
            if position > len {
                return Ok(None);
            }
            if position < len {
                let want = usize::try_from(len - position).unwrap_or(CHUNK).min(CHUNK);
                let mut bytes = vec![0; want];
                let file = File::open(&self.path)?;
                std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, position)?;
                return Ok(Some(bytes.into()));
            }
            if tokio::time::timeout_at(until, news.changed())
                .await
                .is_err()
            {
                return Ok(Some(Bytes::new()));
            }
        }
    }

    /// Follows whomever it is told to, for as long as this process lives.
    pub(super) async fn run(self: Arc<Self>, index: Arc<Follower>) {
        let client = Client::builder(TokioExecutor::new()).build(HttpConnector::new());
        let mut news = self.news.subscribe();
        loop {
            let from = match &self.lock().stored.mode {
                Mode::Follower(from) => Some(from.clone()),
                Mode::Writer | Mode::Frozen => None,
            };
            let Some(from) = from else {
                if news.changed().await.is_err() {
                    return;
                }
                continue;
            };
            match self.pull(&client, &from).await {
                Ok(()) => index.look_now(),
                Err(error) => {
                    tracing::debug!(from, error, "nothing to follow for a moment");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn pull(
        &self,
        client: &Client<HttpConnector, Empty<Bytes>>,
        from: &str,
    ) -> Result<(), String> {
        let position = self.position().map_err(|error| error.to_string())?;
        let wait = LONG_POLL.as_millis();
        let uri = format!("http://{from}/foreshadow/journal?position={position}&wait_ms={wait}");
        let request = Request::get(uri).body(Empty::new());
        let request = request.map_err(|error| error.to_string())?;
        let answer = async {
            let response = client
                .request(request)
                .await
                .map_err(|error| error.to_string())?;
            if response.status() != StatusCode::OK {
                return Err(format!("answered {}", response.status()));
            }
            let body = Limited::new(response.into_body(), CHUNK).collect().await;
            body.map(http_body_util::Collected::to_bytes)
                .map_err(|error| error.to_string())
        };
        let bytes = tokio::time::timeout(LONG_POLL * 4, answer)
            .await
            .map_err(|_| "no answer".to_owned())??;
        if bytes.is_empty() {
            return Ok(());
        }
        let rest = self.lock().rest_until;
        if let Some(until) = rest.filter(|until| *until > Instant::now()) {
            tokio::time::sleep_until(until.into()).await;
        }
        let inner = self.lock();
        let same = inner.stored.mode == Mode::Follower(from.to_owned());
        let here = self.position().map_err(|error| error.to_string())?;
        if same && here == position {
            let taken = self.journal.append_raw(&bytes);
            taken.map_err(|error| error.to_string())?;
            drop(inner);
            self.changed();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::journal::Change;
    use super::*;

    fn record(value: &str) -> Record {
        Record {
            key: "k".to_owned(),
            change: Change::Set(value.as_bytes().to_vec()),
        }
    }

    #[tokio::test]
    async fn vitess_9481_nothing_is_appended_after_the_position_was_taken() {
        let folder = tempfile::tempdir().unwrap();
        let single = Arc::new(Single::open_state(folder.path(), "original").unwrap());
        let writers: Vec<_> = (0..8)
            .map(|_| {
                let single = Arc::clone(&single);
                tokio::spawn(async move {
                    let mut last = 0;
                    for turn in 0..1_000 {
                        match single.append(&record(&turn.to_string())).await {
                            Ok(end) => last = end,
                            Err(_) => break,
                        }
                        tokio::task::yield_now().await;
                    }
                    last
                })
            })
            .collect();
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
        let frozen = single.freeze(None, 0).unwrap().unwrap();
        let mut last = 0;
        for writer in writers {
            last = last.max(writer.await.unwrap());
        }
        assert_eq!((frozen.position, frozen.writer), (last, 2));
        assert!(matches!(
            single.append(&record("late")).await,
            Err(NotTaken::NotTheWriter)
        ));
        // Asked again, and after the process died: the same answer.
        assert_eq!(single.freeze(None, 0).unwrap().unwrap(), frozen);
        drop(single);
        let again = Single::open_state(folder.path(), "original").unwrap();
        assert_eq!(again.freeze(None, 0).unwrap().unwrap(), frozen);
    }

    #[tokio::test]
    async fn a_call_to_open_that_comes_late_opens_nobody_and_a_copy_grants_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (folder.path().join("one"), folder.path().join("two"));
        let original = Single::open_state(&one, "original").unwrap();
        original.append(&record("a")).await.unwrap();
        fs::create_dir(&two).unwrap();
        for name in ["writer", "journal"] {
            fs::copy(one.join(name), two.join(name)).unwrap();
        }
        let shadow = Single::open_state(&two, "shadow").unwrap();
        assert!(shadow.append(&record("b")).await.is_err(), "two writers");
        let frozen = original.freeze(Some(1), 0).unwrap().unwrap();
        assert_eq!(frozen.writer, 2);
        // It is taken back before the call to open the shadow arrives.
        let back = shadow.freeze(None, frozen.writer + 1).unwrap().unwrap();
        assert!(!back.wrote);
        original.open(back.writer).unwrap().unwrap();
        let late = shadow.open(frozen.writer).unwrap_err();
        assert!(late.contains("epoch 2 is stale"), "{late}");
        // So does a freeze of before.
        assert!(original.freeze(Some(1), 0).is_err());
        assert!(original.append(&record("c")).await.is_ok());
        assert!(shadow.append(&record("d")).await.is_err());
        // Nobody follows somebody else while it writes.
        assert!(original.follow("127.0.0.1:1".to_owned()).is_err());
    }
}
