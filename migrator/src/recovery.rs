//! A migration's record against the world, before anybody acts on it.
//!
//! # Flow
//! ```text
//! record ┐
//! log    ├─▶ compare (pure) ─▶ resume: everything may be so
//! driver │                   ─▶ roll back: the shadow is gone, nothing is lost yet
//! routes ┘                   ─▶ park: they contradict each other; a person looks
//! ```
//! A leader that takes a migration over knows only its record. A crash leaves the pending effect
//! begun or not; both are expected. Anything else means that the store lost something, that
//! somebody took something away, or that a machine died: to go on would be a guess.
//!
//! A store that lost something and was opened all the same, because a person said so, is told by a
//! note ([`note_loss`]). A record from before it may be older than the world in ways that do not show,
//! so it always waits for a person.
//!
//! # Assumptions
//! Intent is in the record before an effect begins, so what exists is never ahead of it.

use std::time::Duration;

use domain::migration::EffectKind;
use domain::{
    Host, Instance, Migration, Phase, Replica, Reservation, Routing, Side, Timestamp, WeightSplit,
};
use store::{Key, Kind, LogName, Store, StoreError, Transaction};

use crate::driver::DriverError;
use crate::saga::{Context, LogLine, log_name, published};

/// What a comparison says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Record and world agree.
    Resume,
    /// The migration cannot succeed any more; undo it, with this reason.
    RollBack(String),
    /// They contradict each other; a person must answer this.
    Park(String),
}

/// What is known of a migration besides its record.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// The replica that runs under the original's tag.
    pub original: Option<Replica>,
    /// The replica that runs under the migration's tag.
    pub shadow: Option<Replica>,
    /// The instance's record.
    pub instance: Option<Instance>,
    /// Whether the target host is known.
    pub target: Option<Host>,
    /// What is held for it.
    pub reservation: Option<Reservation>,
    /// How its service is routed.
    pub routing: Option<Routing>,
    /// The newest revision that data planes work on.
    pub published: Option<u64>,
    /// Its log's last line.
    pub last_line: Option<LogLine>,
    /// When a loss of the store was acknowledged last.
    pub loss: Option<Timestamp>,
}

/// Where losses of the store are noted.
fn losses() -> LogName {
    LogName("migrator/losses".to_owned())
}

/// Notes that the store has lost something, and that a person has acknowledged it: to be called after
/// it was opened so, and before anybody leads. What was under way waits for a person then.
///
/// # Errors
/// The store's.
pub async fn note_loss(store: &dyn Store, at: Timestamp) -> Result<(), StoreError> {
    let note = Transaction::new().append(losses(), &at)?;
    store.commit(note).await.map(|_| ())
}

/// When a loss was acknowledged last.
async fn last_loss(store: &dyn Store) -> Result<Option<Timestamp>, StoreError> {
    let log = store.read_log(&losses(), 0, usize::MAX).await?;
    let parse = |entry: &store::LogEntry| {
        serde_json::from_slice(&entry.value).map_err(|error| StoreError::Malformed {
            what: format!("log {}", losses().0),
            reason: error.to_string(),
        })
    };
    log.last().map(parse).transpose()
}

/// What a phase says about a thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Must {
    /// It is there.
    Be,
    /// It is not there.
    NotBe,
    /// Either.
    May,
}

/// What a record says about the world.
struct Claims {
    original: Must,
    shadow: Must,
    reservation: Must,
    /// The service's routing names this migration.
    split: Must,
}

/// What must be true if a record is.
fn claims(record: &Migration) -> Claims {
    use Must::{Be, May, NotBe};
    let pending = record.pending.as_ref().map(|pending| &pending.kind);
    let routes = matches!(pending, Some(EffectKind::Route(_)));
    let terminates = matches!(pending, Some(EffectKind::Terminate { .. }));
    let of = |original, shadow, reservation, split| Claims {
        original,
        shadow,
        reservation,
        split,
    };
    match record.phase {
        Phase::Planned => of(Be, NotBe, May, NotBe),
        Phase::HostReserved | Phase::ShadowCreating | Phase::Syncing => of(Be, NotBe, Be, NotBe),
        Phase::Forking => of(Be, May, Be, NotBe),
        Phase::Reidentifying | Phase::Verifying => of(Be, Be, Be, NotBe),
        Phase::Mirroring => of(Be, Be, Be, May),
        // The split that is on its way may be the first.
        Phase::Ramping { .. } | Phase::Soaking if routes => of(Be, Be, Be, May),
        Phase::Ramping { .. } | Phase::Soaking | Phase::CutOver | Phase::Draining => {
            of(Be, Be, Be, Be)
        }
        Phase::Committed => of(May, Be, Be, May),
        Phase::Terminating if terminates => of(May, Be, Be, NotBe),
        Phase::Terminating => of(May, May, May, NotBe),
        Phase::RollingBack => of(Be, May, May, May),
        Phase::Done | Phase::RolledBack | Phase::Parked => of(May, May, May, May),
    }
}

/// Compares a record with what was observed.
pub fn compare(record: &Migration, observed: &Observed) -> Verdict {
    if let Some(contradiction) = contradiction(record, observed) {
        let (id, phase) = (&record.id, record.phase.name());
        return Verdict::Park(format!(
            "{id} is {phase} by its record, but {contradiction}. Find out which is true; then retry or roll back?"
        ));
    }
    if claims(record).shadow == Must::Be && observed.shadow.is_none() {
        return Verdict::RollBack(format!(
            "the shadow of {} does not run any more",
            record.instance
        ));
    }
    Verdict::Resume
}

/// The first thing that cannot be true together with the record.
fn contradiction(record: &Migration, observed: &Observed) -> Option<String> {
    may_be_old(record, observed)
        .or_else(|| log_differs(record, observed))
        .or_else(|| inventory_differs(record, observed))
        .or_else(|| replicas_differ(record, observed))
        .or_else(|| reservation_differs(record, observed))
        .or_else(|| routing_differs(record, observed))
}

/// Whether the record may be one that the world has left behind.
fn may_be_old(record: &Migration, observed: &Observed) -> Option<String> {
    let loss = observed.loss?;
    let is_older = record.history.last().is_none_or(|last| last.at <= loss);
    (is_older && !record.phase.is_final()).then(|| {
        "the store has lost something since, which was acknowledged: the world may be further"
            .to_owned()
    })
}

fn log_differs(record: &Migration, observed: &Observed) -> Option<String> {
    match &observed.last_line {
        // Created, and never driven.
        None if record.history.len() <= 1 && record.pending.is_none() => None,
        None => Some("its log is gone".to_owned()),
        Some(line) if line.phase != record.phase => {
            Some(format!("its log ends with {}", line.phase.name()))
        }
        Some(_) => None,
    }
}

fn inventory_differs(record: &Migration, observed: &Observed) -> Option<String> {
    if observed.target.is_none() {
        return Some(format!("host {} is unknown", record.target));
    }
    let Some(instance) = &observed.instance else {
        return Some(format!("instance {} is unknown", record.instance));
    };
    let is_original = instance.replica == record.original;
    let is_shadow = record.shadow.as_ref() == Some(&instance.replica);
    let (may_be_original, may_be_shadow) = match record.phase {
        Phase::Committed => (true, true),
        Phase::Terminating | Phase::Done => (false, true),
        Phase::Planned
        | Phase::HostReserved
        | Phase::ShadowCreating
        | Phase::Syncing
        | Phase::Forking
        | Phase::Reidentifying
        | Phase::Verifying
        | Phase::Mirroring
        | Phase::Ramping { .. }
        | Phase::Soaking
        | Phase::CutOver
        | Phase::Draining
        | Phase::RollingBack
        | Phase::RolledBack
        | Phase::Parked => (true, false),
    };
    if (is_original && may_be_original) || (is_shadow && may_be_shadow) {
        return None;
    }
    let tag = &instance.replica.tag;
    Some(format!(
        "the record of {} names replica {tag}, which is neither expected",
        record.instance
    ))
}

fn replicas_differ(record: &Migration, observed: &Observed) -> Option<String> {
    let claims = claims(record);
    let elsewhere = |side: Side, found: &Option<Replica>, host: &domain::HostId| {
        let found = found.as_ref().filter(|found| found.host != *host)?;
        let name = side.name();
        Some(format!(
            "the {name} runs on host {}, not on {host}",
            found.host
        ))
    };
    if claims.shadow == Must::NotBe && observed.shadow.is_some() {
        return Some("a shadow runs already".to_owned());
    }
    let shadow_gone = observed.shadow.is_none();
    match (claims.original, &observed.original) {
        (Must::Be, None) if !(record.phase == Phase::RollingBack && shadow_gone) => {
            return Some("the original does not run".to_owned());
        }
        // After the commit the shadow is the instance: without it nothing may be taken away.
        (Must::May, _) if claims.shadow == Must::Be && shadow_gone => {
            return Some("the shadow, which has all traffic, does not run".to_owned());
        }
        (Must::Be | Must::NotBe | Must::May, _) => {}
    }
    elsewhere(Side::Shadow, &observed.shadow, &record.target)
        .or_else(|| elsewhere(Side::Original, &observed.original, &record.original.host))
}

fn reservation_differs(record: &Migration, observed: &Observed) -> Option<String> {
    match (claims(record).reservation, &observed.reservation) {
        (Must::Be, None) => Some(format!("nothing is reserved on {}", record.target)),
        (_, Some(held)) if held.host != record.target => {
            Some(format!("its reservation is on host {}", held.host))
        }
        (Must::Be | Must::NotBe | Must::May, _) => None,
    }
}

fn routing_differs(record: &Migration, observed: &Observed) -> Option<String> {
    let service = &record.service;
    let Some(routing) = &observed.routing else {
        let never_was = observed.published.is_none() && claims(record).split != Must::Be;
        return (!never_was).then(|| format!("the routing of {service} is gone"));
    };
    if let Some(published) = observed.published.filter(|seen| *seen > routing.revision) {
        return Some(format!(
            "data planes have revision {published} of {service}, the store only {}",
            routing.revision
        ));
    }
    let own = routing.migration.as_ref();
    if let Some(other) = own.filter(|split| split.migration != record.id) {
        return Some(format!(
            "{service} is split for migration {}",
            other.migration
        ));
    }
    match (claims(record).split, own) {
        (Must::Be, None) => Some(format!("{service} is not split")),
        (Must::NotBe, Some(_)) => Some(format!("{service} is split for it")),
        (_, Some(split))
            if record.phase == Phase::Committed && split.split != WeightSplit::SHADOW =>
        {
            Some(format!("{service} still gives the original traffic"))
        }
        (Must::Be | Must::NotBe | Must::May, _) => None,
    }
}

/// How long to wait before a driver that does not answer is asked again.
const RETRY: Duration = Duration::from_millis(200);

/// Looks at the world and compares. A driver that does not answer is waited for: its silence says
/// nothing.
///
/// # Errors
/// The store's.
pub(crate) async fn examine(
    context: &Context,
    migration: &Migration,
) -> Result<Verdict, StoreError> {
    let original = match find(context, &migration.original.tag).await {
        Ok(found) => found,
        Err(error) => return Ok(Verdict::Park(format!("the driver cannot say: {error}"))),
    };
    let shadow = match find(context, migration.id.as_str()).await {
        Ok(found) => found,
        Err(error) => return Ok(Verdict::Park(format!("the driver cannot say: {error}"))),
    };
    let get = |kind, id: &str| {
        let key = Key::new(kind, id);
        async move { context.store.get(&key).await }
    };
    let service = migration.service.as_str();
    // What was published is read before what shall be: the one never passes the other.
    let published = published(context, &migration.service).await?;
    let routing = get(Kind::Routing, service).await?;
    let instance = get(Kind::Instance, migration.instance.as_str()).await?;
    let target = get(Kind::Host, migration.target.as_str()).await?;
    let reservation = get(Kind::Reservation, migration.id.as_str()).await?;
    let log = context
        .store
        .read_log(&log_name(&migration.id), 0, usize::MAX)
        .await?;
    let last_line = match log.last() {
        None => None,
        Some(entry) => match serde_json::from_slice(&entry.value) {
            Ok(line) => Some(line),
            Err(error) => {
                let number = entry.sequence;
                let reason = format!("line {number} of its log is damaged: {error}. Retry?");
                return Ok(Verdict::Park(reason));
            }
        },
    };
    fn parsed<T: serde::de::DeserializeOwned>(
        found: Option<store::Record>,
    ) -> Result<Option<T>, StoreError> {
        Ok(found
            .map(|record| record.parse())
            .transpose()?
            .map(|found| found.value))
    }
    let observed = Observed {
        original,
        shadow,
        instance: parsed(instance)?,
        target: parsed(target)?,
        reservation: parsed(reservation)?,
        routing: parsed(routing)?,
        published,
        last_line,
        loss: last_loss(&*context.store).await?,
    };
    let verdict = compare(migration, &observed);
    if verdict != Verdict::Resume {
        tracing::warn!(migration = %migration.id, ?verdict, "record and world differ");
    }
    Ok(verdict)
}

async fn find(context: &Context, tag: &str) -> Result<Option<Replica>, DriverError> {
    loop {
        match context.driver.find_by_tag(tag).await {
            Err(error) if error.may_retry() => {
                tracing::warn!(%error, "the driver does not answer; asking again");
                tokio::time::sleep(RETRY).await;
            }
            answer => return answer,
        }
    }
}

#[cfg(test)]
mod tests;
