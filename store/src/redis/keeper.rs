//! Keeps a connection: makes it, joins the store, listens to changes, tests it, and makes another
//! when it is lost.
//!
//! ```text
//! connect ─▶ HELLO, AUTH ─▶ inspect the server ─▶ attach (identity, era, revision) ─▶ subscribe ─▶ up
//!    ▲                                                  │ lost, rewound: stopped for good
//!    └── pause, longer each time ◀── closed, no answer, not the master, complaint ◀────────────────┘
//! ```

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, ProtocolVersion, PushInfo, RedisConnectionInfo};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::core::{Core, Link, Live};
use super::fault;
use super::feed::Feed;
use super::memory::{self, Witness};
use super::options::Opening;
use super::script::{self, ATTACH, Call, READ};
use super::server::Server;
use crate::error::StoreError;
use crate::key::Kind;

const CONNECT: &str = "connect";
const FIRST_PAUSE: Duration = Duration::from_millis(20);

/// A task that ends with its owner.
pub(super) struct Task(JoinHandle<()>);

impl Task {
    pub(super) fn spawn(work: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(work))
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A connection in use.
pub(super) struct Established {
    pub(super) live: Live,
    complaints: mpsc::Receiver<StoreError>,
    subscribed: BTreeSet<Kind>,
    driver: Task,
}

/// Makes a connection, within the time limit of one operation.
pub(super) async fn establish(core: &Core, opening: Opening) -> Result<Established, StoreError> {
    let limit = core.options.timeout;
    timeout(limit, attempt(core, opening))
        .await
        .unwrap_or_else(|_| Err(fault::timed_out(CONNECT, limit)))
}

async fn attempt(core: &Core, opening: Opening) -> Result<Established, StoreError> {
    let (connection, driver) = handshake(core).await?;
    let server = Server::inspect(&connection).await?;
    server.check(core.options.persistence, &core.name)?;
    attach(core, &connection, &server.run, opening).await?;

    let (live, complaints) = Live::new(connection, &server.run);
    let mut established = Established {
        live,
        complaints,
        subscribed: BTreeSet::new(),
        driver,
    };
    subscribe(core, &mut established).await?;
    Ok(established)
}

async fn handshake(core: &Core) -> Result<(MultiplexedConnection, Task), StoreError> {
    let stream = core.connector.connect().await.map_err(|error| {
        fault::unavailable(CONNECT, format!("{}: {error}", core.connector.name()))
    })?;
    // RESP3, so that changes and answers share one connection.
    let mut login = RedisConnectionInfo::default()
        .set_protocol(ProtocolVersion::RESP3)
        .set_skip_set_lib_name();
    if let Some(user) = &core.options.user {
        login = login.set_username(user);
    }
    if let Some(password) = &core.options.password {
        login = login.set_password(password.expose());
    }
    let feed = Feed::new(core.keys.clone(), Arc::clone(&core.watchers));
    // Every caller has its own time limit; a second one inside would only hide it.
    let config = AsyncConnectionConfig::new()
        .set_response_timeout(None)
        .set_connection_timeout(None)
        .set_push_sender(move |push: PushInfo| {
            feed.handle(&push);
            Ok::<(), ::redis::aio::SendError>(())
        });
    let (connection, driver) = MultiplexedConnection::new_with_config(&login, stream, config)
        .await
        .map_err(|error| fault::name(CONNECT, &error))?;
    Ok((connection, Task::spawn(driver)))
}

/// Joins the store, or makes it.
async fn attach(
    core: &Core,
    connection: &MultiplexedConnection,
    run: &str,
    opening: Opening,
) -> Result<(), StoreError> {
    const OPERATION: &str = "join the store";
    let seen = core.memory.recall()?.unwrap_or_default();
    let keys = &core.keys;
    let mut call = Call::new([
        keys.head(),
        keys.counts(),
        keys.eras(),
        keys.leases(),
        keys.scratch(),
    ]);
    for kind in Kind::ALL {
        call.key(keys.records(kind));
    }
    let mode = match opening {
        Opening::Existing => "existing",
        Opening::CreateIfAbsent => "create",
        Opening::AcknowledgeLoss => "acknowledge",
    };
    call.arg(mode).arg(seen.run).arg(keys.log_prefix());
    for kind in Kind::ALL {
        call.arg(kind.name());
    }
    let witness = Witness {
        identity: seen.identity,
        run: run.to_owned(),
        revision: seen.revision,
    };
    let answer = script::run(OPERATION, connection, &ATTACH, &call, &witness).await?;
    let mut answer = answer.refusals(&core.name, witness.revision)?;
    if answer.word() != b"ok" {
        return Err(answer.unknown());
    }
    let revision = answer.number()?;
    core.memory.joined(Witness {
        identity: answer.text()?,
        run: run.to_owned(),
        revision,
    });
    Ok(())
}

/// Listens to what is wanted and not yet heard. Says which kinds those are.
async fn subscribe(
    core: &Core,
    established: &mut Established,
) -> Result<BTreeSet<Kind>, StoreError> {
    let wanted = core.wanted();
    let fresh: BTreeSet<Kind> = &wanted - &established.subscribed;
    if !fresh.is_empty() {
        let channels: Vec<_> = fresh.iter().map(|&kind| core.keys.channel(kind)).collect();
        established
            .live
            .connection
            .subscribe(&channels)
            .await
            .map_err(|error| fault::name("listen to changes", &error))?;
        established.subscribed = wanted;
    }
    Ok(fresh)
}

/// Keeps the link up until the store is dropped, or failed its witness.
pub(super) async fn keep(core: Arc<Core>, first: Established) {
    let mut established = first;
    loop {
        let reason = hold(&core, &mut established).await;
        core.link.send_replace(Link::Down(reason));
        drop(established);
        let again = reconnect(&core).await;
        // What happened meanwhile was heard by nobody; and watchers of a store that is stopped
        // list anew, and are told why that fails.
        for kind in core.wanted() {
            core.watchers.missed(kind);
        }
        match again {
            Some(again) => established = again,
            None => return,
        }
    }
}

/// Watches over a connection; says why it is no longer used.
async fn hold(core: &Core, established: &mut Established) -> StoreError {
    loop {
        tokio::select! {
            biased;
            Some(complaint) = established.complaints.recv() => return complaint,
            _ = &mut established.driver.0 => {
                return fault::unavailable(CONNECT, "the server closed the connection");
            }
            () = core.bell.notified() => {
                let limit = core.options.timeout;
                match timeout(limit, subscribe(core, established)).await {
                    Ok(Ok(fresh)) => fresh.into_iter().for_each(|kind| core.watchers.missed(kind)),
                    Ok(Err(reason)) => return reason,
                    Err(_) => return fault::timed_out("listen to changes", limit),
                }
            }
            () = sleep(core.options.keepalive) => {
                let deadline = Instant::now() + core.options.timeout;
                let mut nothing = Call::new([core.keys.head(), core.keys.counts()]);
                nothing.arg("nothing").arg("");
                let glance =
                    core.call_on(&established.live, deadline, "test the connection", &READ, &nothing);
                // Its failure comes back as a complaint; what is not one leaves the link as it is.
                drop(glance.await);
            }
        }
    }
}

/// Another connection, however long that takes; none once the store has failed its witness.
async fn reconnect(core: &Core) -> Option<Established> {
    let mut pause = FIRST_PAUSE;
    let mut jitter = core.options.jitter_seed | 1;
    while core.memory.recall().is_ok() {
        match establish(core, Opening::Existing).await {
            Ok(established) => {
                core.link.send_replace(Link::Up(established.live.clone()));
                return Some(established);
            }
            Err(reason) => {
                core.memory.judge(&reason);
                let ended = memory::is_final(&reason);
                core.link.send_replace(Link::Down(reason));
                if ended {
                    break;
                }
            }
        }
        sleep(spread(pause, &mut jitter)).await;
        pause = (pause * 2).min(core.options.longest_pause);
    }
    None
}

/// Half of the pause to all of it, so that many clients do not come back in step.
fn spread(pause: Duration, jitter: &mut u64) -> Duration {
    // Xorshift: good enough to spread, and the same for the same seed.
    *jitter ^= *jitter << 13;
    *jitter ^= *jitter >> 7;
    *jitter ^= *jitter << 17;
    let thousandths = u32::try_from(*jitter % 500).unwrap_or_default() + 500;
    pause * thousandths / 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_spread_over_their_upper_half_and_repeat_with_the_seed() {
        let pauses = |seed: u64| {
            let mut jitter = seed;
            (0..100)
                .map(|_| spread(Duration::from_secs(1), &mut jitter))
                .collect::<Vec<_>>()
        };
        let some = pauses(7);
        assert!(
            some.iter()
                .all(|pause| (500..1_000).contains(&pause.as_millis()))
        );
        assert!(some.iter().collect::<BTreeSet<_>>().len() > 50);
        assert_eq!(some, pauses(7));
        assert_ne!(some, pauses(9));
    }
}
