//! What a shadow may be told to do wrong, so that tests see a roll-back.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::options::WorkloadOptions;

/// A fault of a shadow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Fault {
    /// A share of the requests gets 500.
    Errors,
    /// Each request takes 150 ms longer.
    Slow,
    /// The process ends soon after it was first given traffic.
    Dead,
}

/// How much longer a slow shadow takes.
const SLOWER_BY: Duration = Duration::from_millis(150);

/// How long after its first request a dying shadow lives.
const LIVES_FOR: Duration = Duration::from_secs(2);

/// The fault in effect.
#[derive(Debug)]
pub(super) struct Faults {
    fault: Option<Fault>,
    share: f64,
    after: u64,
    requests: AtomicU64,
    /// Cancelled when the process is to die.
    pub(super) death: CancellationToken,
}

/// What a request meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meets {
    /// Nothing unusual.
    Nothing,
    /// An error.
    Error,
}

impl Faults {
    /// Faults are for shadows: an original has none, whatever the options say.
    pub(super) fn new(options: &WorkloadOptions) -> Self {
        Self {
            fault: options.fault.filter(|_| options.role == "shadow"),
            share: options.fault_share.clamp(0.0, 1.0),
            after: options.fault_after,
            requests: AtomicU64::new(0),
            death: CancellationToken::new(),
        }
    }

    /// Counts a request and lets it meet the fault.
    pub(super) async fn meet(&self) -> Meets {
        let number = self
            .requests
            .fetch_add(1, Ordering::Relaxed)
            .saturating_add(1);
        match self.fault {
            Some(Fault::Errors) if is_unlucky(number, self.share) => Meets::Error,
            Some(Fault::Slow) => {
                tokio::time::sleep(SLOWER_BY).await;
                Meets::Nothing
            }
            Some(Fault::Dead) => {
                if number == 1 {
                    let death = self.death.clone();
                    tokio::spawn(async move {
                        tokio::time::sleep(LIVES_FOR).await;
                        death.cancel();
                    });
                }
                if number >= self.after {
                    self.death.cancel();
                }
                Meets::Nothing
            }
            Some(Fault::Errors) | None => Meets::Nothing,
        }
    }
}

/// Whether the request with this number is among the share that fails: evenly spread, so that
/// any sequence of requests meets the share exactly.
fn is_unlucky(number: u64, share: f64) -> bool {
    let failed_by = |number: u64| (number as f64 * share).floor();
    failed_by(number) > failed_by(number.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_failing_requests_is_exact() {
        for (share, expected) in [(0.5, 500), (0.1, 100), (0.0, 0), (1.0, 1_000)] {
            let unlucky = (1..=1_000)
                .filter(|&number| is_unlucky(number, share))
                .count();
            assert_eq!(unlucky, expected, "{share}");
        }
    }
}
