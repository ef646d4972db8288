//! How long a lease that was taken still counts, by this machine's monotonic clock.
//!
//! # Flow
//! ```text
//! renew every third ─▶ done: it counts for its whole time from the moment the renewal was sent
//!        │                └─ late by much: the next one is sent sooner
//!        ├─▶ the store failed: again soon, until the time is over
//!        └─▶ taken by another, or the time is over: lost
//! ```
//! # Guarantees
//! - No effect begins unless the lease is sure for a margin longer ([`Tenure::sure`]); what waits
//!   goes on as soon as a renewal comes through, in the same epoch. So a process that was starved
//!   or could not reach the store for a moment neither acts on an old lease nor gives it up.
//! - Safety does not rest on this: store, driver and control plane refuse older epochs.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use store::{Lease, SharedStore, StoreError};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};

/// Renewals per time to live.
const PER_LIFE: u32 = 3;
/// Tries per time to live once one has failed, or came late.
const PER_LIFE_IN_DOUBT: u32 = 12;
/// This part of the time to live is left unused.
const MARGIN: u32 = 5;

/// The right to act, as far as this process knows.
#[derive(Debug, Clone)]
pub struct Tenure(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// When the lease may end for others.
    until: Mutex<Instant>,
    margin: Duration,
    renewed: Notify,
}

impl Tenure {
    /// Of a lease that was asked for at `asked`, and given for `ttl`.
    pub fn new(asked: Instant, ttl: Duration) -> Self {
        Self(Arc::new(Inner {
            until: Mutex::new(asked + ttl),
            margin: ttl / MARGIN,
            renewed: Notify::new(),
        }))
    }

    /// When the lease may end for others.
    fn until(&self) -> Instant {
        // An instant is whole whatever interrupted its writer.
        *self.0.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn extend(&self, until: Instant) {
        *self.0.until.lock().unwrap_or_else(PoisonError::into_inner) = until;
        self.0.renewed.notify_waiters();
    }

    /// Whether the lease is sure for the margin and longer.
    pub fn is_sure(&self) -> bool {
        Instant::now() + self.0.margin < self.until()
    }

    /// Waits until the lease is sure; for ever once it is lost, so the waiter must be cancelled
    /// with the term.
    pub async fn sure(&self) {
        loop {
            let renewed = self.0.renewed.notified();
            tokio::pin!(renewed);
            // Listening from here on, so that no renewal falls between the look and the wait.
            renewed.as_mut().enable();
            if self.is_sure() {
                return;
            }
            renewed.await;
        }
    }

    /// Renews until the lease is lost, and says how it was.
    pub(crate) async fn hold(self, store: SharedStore, lease: Lease, ttl: Duration) -> StoreError {
        let mut next = self.until() - ttl + ttl / PER_LIFE;
        loop {
            sleep_until(next).await;
            let sent = Instant::now();
            let late = sent.duration_since(next) > ttl / PER_LIFE_IN_DOUBT;
            let left = self.until().saturating_duration_since(sent);
            let limit = if left.is_zero() {
                ttl / PER_LIFE
            } else {
                left.max(ttl / PER_LIFE_IN_DOUBT).min(ttl / PER_LIFE)
            };
            let answer = timeout(limit, store.renew(&lease, ttl)).await;
            let error = match answer {
                Ok(Ok(_)) => {
                    self.extend(sent + ttl);
                    // Who was starved once is not sure to run in time.
                    let pause = if late {
                        ttl / PER_LIFE / 2
                    } else {
                        ttl / PER_LIFE
                    };
                    next = sent + pause;
                    continue;
                }
                Ok(Err(error @ StoreError::Fenced { .. })) => return error,
                Ok(Err(error)) => error,
                Err(_) => StoreError::TimedOut {
                    operation: "renew a lease",
                    limit_ms: u64::try_from(limit.as_millis()).unwrap_or(u64::MAX),
                },
            };
            // Who was starved until the time was over has had one try all the same.
            if left.is_zero() {
                return error;
            }
            tracing::debug!(%error, "a renewal failed; again soon");
            let soon = sent + ttl / PER_LIFE_IN_DOUBT;
            next = soon.min(self.until()).max(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use domain::HolderId;
    use store::{
        Committed, Key, Kind, LeaseName, LogEntry, LogName, MemoryStore, Record, Store,
        Transaction, Watch,
    };
    use tokio::time::{advance, sleep};

    use super::*;

    const TTL: Duration = Duration::from_secs(3);

    /// A store whose next renewals fail, or hang.
    struct Flaky {
        inner: MemoryStore,
        fails: AtomicU32,
        hangs: AtomicU32,
    }

    fn take_one(count: &AtomicU32) -> bool {
        let less = |left: u32| left.checked_sub(1);
        count
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, less)
            .is_ok()
    }

    #[async_trait::async_trait]
    impl Store for Flaky {
        async fn get(&self, key: &Key) -> Result<Option<Record>, StoreError> {
            self.inner.get(key).await
        }
        async fn list(&self, kind: Kind) -> Result<Vec<Record>, StoreError> {
            self.inner.list(kind).await
        }
        async fn commit(&self, transaction: Transaction) -> Result<Committed, StoreError> {
            self.inner.commit(transaction).await
        }
        async fn read_log(
            &self,
            log: &LogName,
            from: u64,
            limit: usize,
        ) -> Result<Vec<LogEntry>, StoreError> {
            self.inner.read_log(log, from, limit).await
        }
        async fn acquire(
            &self,
            lease: &LeaseName,
            holder: &HolderId,
            ttl: Duration,
        ) -> Result<Option<Lease>, StoreError> {
            self.inner.acquire(lease, holder, ttl).await
        }
        async fn renew(&self, lease: &Lease, ttl: Duration) -> Result<Lease, StoreError> {
            if take_one(&self.hangs) {
                std::future::pending::<()>().await;
            }
            if take_one(&self.fails) {
                return Err(StoreError::Unavailable {
                    operation: "renew a lease",
                    reason: "the test wants it".to_owned(),
                });
            }
            self.inner.renew(lease, ttl).await
        }
        async fn release(&self, lease: &Lease) -> Result<(), StoreError> {
            self.inner.release(lease).await
        }
        fn watch(&self, kind: Kind) -> Watch {
            self.inner.watch(kind)
        }
    }

    struct Held {
        store: Arc<Flaky>,
        tenure: Tenure,
        task: tokio::task::JoinHandle<StoreError>,
    }

    async fn held() -> Held {
        let store = Arc::new(Flaky {
            inner: MemoryStore::new(),
            fails: AtomicU32::new(0),
            hangs: AtomicU32::new(0),
        });
        let holder = HolderId::new("me").unwrap();
        let asked = Instant::now();
        let lease = store
            .acquire(&LeaseName("l".to_owned()), &holder, TTL)
            .await;
        let tenure = Tenure::new(asked, TTL);
        let shared: SharedStore = Arc::clone(&store) as _;
        let task = tokio::spawn(tenure.clone().hold(shared, lease.unwrap().unwrap(), TTL));
        Held {
            store,
            tenure,
            task,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_stays_sure_for_as_long_as_renewals_come_through() {
        let held = held().await;
        for _ in 0..100 {
            sleep(TTL / 7).await;
            assert!(held.tenure.is_sure());
        }
        assert!(!held.task.is_finished());
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_is_away_for_a_moment_costs_neither_lease_nor_epoch() {
        let held = held().await;
        held.store.fails.store(5, Ordering::SeqCst);
        sleep(TTL * 2).await;
        assert_eq!(
            held.store.fails.load(Ordering::SeqCst),
            0,
            "all five were used"
        );
        assert!(held.tenure.is_sure() && !held.task.is_finished());
        held.store.hangs.store(1, Ordering::SeqCst);
        sleep(TTL * 2).await;
        assert!(held.tenure.is_sure() && !held.task.is_finished());
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_begins_once_the_lease_may_be_gone_and_in_the_end_it_is_lost() {
        let held = held().await;
        held.store.fails.store(u32::MAX, Ordering::SeqCst);
        sleep(TTL * (MARGIN - 1) / MARGIN).await;
        assert!(!held.tenure.is_sure(), "the margin is not used");
        let waits = tokio::time::timeout(TTL * 10, held.tenure.sure()).await;
        assert!(waits.is_err(), "nothing begins");
        assert!(held.task.is_finished(), "it is lost");
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_was_starved_past_the_end_goes_on_in_the_same_epoch() {
        let held = held().await;
        sleep(TTL / 10).await;
        // Nothing runs meanwhile: time jumps over several renewals.
        advance(TTL * 3).await;
        assert!(!held.tenure.is_sure());
        held.tenure.sure().await;
        assert!(!held.task.is_finished(), "nobody took the lease");
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_another_has_taken_is_lost_at_once() {
        let held = held().await;
        let thief = HolderId::new("me").unwrap();
        held.store
            .inner
            .acquire(&LeaseName("l".to_owned()), &thief, TTL)
            .await
            .unwrap()
            .unwrap();
        sleep(TTL / 2).await;
        assert!(matches!(held.task.await, Ok(StoreError::Fenced { .. })));
    }
}
