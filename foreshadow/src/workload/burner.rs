//! Real processor time, on one worker: what is above its capacity queues, as in a service with one
//! thread.

use std::io;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::{mpsc, oneshot};

use super::follower::Follower;

/// Requests that may wait; more are refused.
const QUEUE: usize = 1_024;

/// Bytes of state hashed in one round.
const ROUND: usize = 4 * 1024;

/// One piece of work.
#[derive(Debug)]
struct Work {
    amount: Duration,
    number: u64,
    done: oneshot::Sender<String>,
}

/// Hands work to the worker.
#[derive(Debug, Clone)]
pub(super) struct Burner {
    queue: mpsc::Sender<Work>,
}

/// The worker has more to do than it will ever manage in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Overloaded;

/// Processor time used by the calling thread.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    Duration::from_secs(seconds) + Duration::from_nanos(time.tv_nsec.try_into().unwrap_or_default())
}

/// Hashes state until `amount` of processor time is used. The time is measured and not calibrated
/// in advance: a request costs the same on every host and at every load, however fast the
/// processor is just then.
fn burn(follower: &Follower, amount: Duration, number: u64) -> String {
    let began = thread_time();
    let mut block = [0; ROUND];
    follower
        .index
        .read()
        .unwrap_or_else(PoisonError::into_inner)
        .sample(number, &mut block);
    let mut hash = blake3::hash(&block);
    while thread_time().saturating_sub(began) < amount {
        block[..32].copy_from_slice(hash.as_bytes());
        hash = blake3::hash(&block);
    }
    hash.to_hex()[..16].to_owned()
}

impl Burner {
    /// Starts the worker; it ends with the last `Burner`.
    pub(super) fn start(follower: Arc<Follower>) -> io::Result<Self> {
        let (queue, mut works) = mpsc::channel::<Work>(QUEUE);
        std::thread::Builder::new()
            .name("burner".to_owned())
            .spawn(move || {
                while let Some(work) = works.blocking_recv() {
                    // Nobody waits for it any more: the client has gone.
                    if !work.done.is_closed() {
                        let _gone = work.done.send(burn(&follower, work.amount, work.number));
                    }
                }
            })?;
        Ok(Self { queue })
    }

    /// Burns `amount` of processor time, and gives the hash of what was worked on.
    pub(super) async fn burn(&self, amount: Duration, number: u64) -> Result<String, Overloaded> {
        let (done, answer) = oneshot::channel();
        let work = Work {
            amount,
            number,
            done,
        };
        self.queue.try_send(work).map_err(|_| Overloaded)?;
        answer.await.map_err(|_| Overloaded)
    }
}
