//! What people ask the leading migrator for: moves, and answers to parked migrations.

use std::time::Duration;

use domain::{HostId, InstanceId, MigrationId};
use tokio::sync::{mpsc, oneshot};

use crate::gc::{Mode, Report};
use crate::shards::Shard;

/// Orders that may wait.
const WAITING: usize = 16;
/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why an order is not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// What stands against it.
    #[error("{0}")]
    Refused(String),
    /// Nobody can carry it out now: another migrator leads, or the store is away.
    #[error("not leading: {0}")]
    Unavailable(String),
}

/// What a person may answer to a parked migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Try again what failed; whatever stood in the way is mended.
    Retry,
    /// Undo everything. Not possible after the commit.
    RollBack,
}

/// What somebody wants.
pub(crate) enum Wish {
    /// An instance moved to a host.
    Move(InstanceId, HostId),
    /// A parked migration answered.
    Answer(MigrationId, Answer),
    /// What belongs to nothing in a shard looked for, and removed if wanted.
    Collect(Mode, Shard),
}

/// What a wish came to.
pub(crate) enum Told {
    /// The migration that it is about.
    Migration(MigrationId),
    /// What was found.
    Collected(Report),
}

/// A wish and where its answer goes.
pub(crate) struct Order {
    pub(crate) what: Wish,
    pub(crate) reply: oneshot::Sender<Result<Told, OrderError>>,
}

impl Order {
    /// Answers that it is not carried out.
    pub(crate) fn refuse(self, error: OrderError) {
        // Whoever asked may be gone.
        let _ = self.reply.send(Err(error));
    }
}

/// Where orders are left; the leader takes them.
pub(crate) struct Desk(mpsc::Sender<Order>);

impl Desk {
    pub(crate) fn new() -> (Self, mpsc::Receiver<Order>) {
        let (orders, taken) = mpsc::channel(WAITING);
        (Self(orders), taken)
    }

    /// Leaves an order and waits for its answer.
    pub(crate) async fn ask(&self, what: Wish) -> Result<Told, OrderError> {
        let away = |why: &str| OrderError::Unavailable(why.to_owned());
        let (reply, answer) = oneshot::channel();
        self.0
            .try_send(Order { what, reply })
            .map_err(|_| away("too many orders wait"))?;
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(away("leadership was lost")),
            Err(_) => Err(away("another migrator leads, or none")),
        }
    }

    /// As [`Desk::ask`], for what a migration comes of.
    pub(crate) async fn migration(&self, what: Wish) -> Result<MigrationId, OrderError> {
        match self.ask(what).await? {
            Told::Migration(id) => Ok(id),
            Told::Collected(_) => Err(OrderError::Refused("another answer came".to_owned())),
        }
    }
}
