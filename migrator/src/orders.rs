//! What people ask the leading migrator for: moves, and answers to parked migrations.

use std::time::Duration;

use domain::{HostId, InstanceId, MigrationId};
use tokio::sync::{mpsc, oneshot};

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
}

/// A wish and where its answer goes.
pub(crate) struct Order {
    pub(crate) what: Wish,
    pub(crate) reply: oneshot::Sender<Result<MigrationId, OrderError>>,
}

/// Where orders are left; the leader takes them.
pub(crate) struct Desk(mpsc::Sender<Order>);

impl Desk {
    pub(crate) fn new() -> (Self, mpsc::Receiver<Order>) {
        let (orders, taken) = mpsc::channel(WAITING);
        (Self(orders), taken)
    }

    /// Leaves an order and waits for its answer.
    pub(crate) async fn ask(&self, what: Wish) -> Result<MigrationId, OrderError> {
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
}
