//! What a replica uses.

use std::sync::PoisonError;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use domain::{Reading, Replica, Resources, Timestamp};

use super::proc::ProcessId;
use super::{ProcessDriver, transient};
use crate::driver::DriverError;

/// The counter of processor time at one instant.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    process: ProcessId,
    at: Instant,
    cpu_ns: u64,
}

fn now() -> Timestamp {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Thousandths of a core between two samples; `None` when they are not of one process.
fn millicores(earlier: &Sample, later: &Sample) -> Option<f64> {
    let seconds = later.at.checked_duration_since(earlier.at)?.as_secs_f64();
    let used = later.cpu_ns.checked_sub(earlier.cpu_ns)?;
    (earlier.process == later.process && seconds > 0.0).then(|| used as f64 / 1e6 / seconds)
}

impl ProcessDriver {
    /// A reading since the last call, and the sample for the next.
    pub(super) fn measure(&self, replica: &Replica) -> Result<Option<Reading>, DriverError> {
        const OPERATION: &str = "read";
        let gone = || transient(OPERATION, &replica.tag, "its process does not run");
        let process = ProcessId::from_handle(&replica.handle).ok_or_else(gone)?;
        let own = process.cpu_ns().ok_or_else(gone)?;
        // The group also counts children, and finer than clock ticks.
        let cpu_ns = self
            .cgroups
            .cpu_ns(replica.host.as_str(), &replica.tag)
            .unwrap_or(own);
        let memory = process.resident_bytes();
        let sample = Sample {
            process,
            at: Instant::now(),
            cpu_ns,
        };
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let earlier = samples.insert(replica.tag.clone(), sample.clone());
        Ok(earlier
            .and_then(|earlier| millicores(&earlier, &sample))
            .map(|cpu| Reading {
                at: now(),
                demand: Resources {
                    cpu: Some(cpu),
                    memory: memory.map(|bytes| bytes as f64),
                    net_rx: None,
                    net_tx: None,
                },
            }))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_restarted_process_does_not_look_like_a_sudden_rest() {
        let process = |started| ProcessId {
            pid: 5,
            started,
            boot: "b".to_owned(),
        };
        let at = Instant::now();
        let first = Sample {
            process: process(1),
            at,
            cpu_ns: 1_000_000_000,
        };
        let at = at + Duration::from_secs(2);
        let second = Sample {
            process: process(1),
            at,
            cpu_ns: 2_000_000_000,
        };
        assert_eq!(millicores(&first, &second), Some(500.0));
        let other = Sample {
            process: process(2),
            at,
            cpu_ns: 3_000_000_000,
        };
        assert_eq!(millicores(&first, &other), None);
    }
}
