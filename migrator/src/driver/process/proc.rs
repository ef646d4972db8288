//! What `/proc` tells, and signals that reach only whom they mean.

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

/// How often a condition of another process is looked at.
const GLANCE: Duration = Duration::from_millis(5);

/// A process, told apart from a later one with the same number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ProcessId {
    /// The number.
    pub(super) pid: i32,
    /// Start time in clock ticks after the boot (field 22 of `/proc/<pid>/stat`).
    pub(super) started: u64,
    /// The boot in which it was started: start times begin anew with each.
    pub(super) boot: String,
}

/// The fields of `/proc/<pid>/stat` that we use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    state: char,
    cpu_ticks: u64,
    started: u64,
}

/// Reads the fields after the command, which is in parentheses and may hold anything.
fn parse_stat(text: &str) -> Option<Stat> {
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some(Stat {
        state: fields.first()?.chars().next()?,
        cpu_ticks: number(11)?.saturating_add(number(12)?),
        started: number(19)?,
    })
}

fn stat(path: PathBuf) -> Option<Stat> {
    parse_stat(&fs::read_to_string(path).ok()?)
}

/// The identity of the running boot.
fn boot() -> &'static str {
    static BOOT: OnceLock<String> = OnceLock::new();
    BOOT.get_or_init(|| {
        let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        text.trim().to_owned()
    })
}

impl ProcessId {
    /// The process with this number, as it is now.
    pub(super) fn of(pid: i32) -> Option<Self> {
        let stat = stat(PathBuf::from(format!("/proc/{pid}/stat")))?;
        Some(Self {
            pid,
            started: stat.started,
            boot: boot().to_owned(),
        })
    }

    /// How replicas name it.
    pub(super) fn handle(&self) -> String {
        format!("{}@{}", self.pid, self.started)
    }

    /// The process that a handle of this boot names.
    pub(super) fn from_handle(handle: &str) -> Option<Self> {
        let (pid, started) = handle.split_once('@')?;
        Some(Self {
            pid: pid.parse().ok()?,
            started: started.parse().ok()?,
            boot: boot().to_owned(),
        })
    }

    fn stat(&self) -> Option<Stat> {
        let stat = stat(PathBuf::from(format!("/proc/{}/stat", self.pid)))?;
        (stat.started == self.started && self.boot == boot()).then_some(stat)
    }

    /// Whether this very process still runs. One that only waits to be reaped does not.
    pub(super) fn is_alive(&self) -> bool {
        self.stat()
            .is_some_and(|stat| !matches!(stat.state, 'Z' | 'X' | 'x'))
    }

    /// Signals this very process: the descriptor is taken first and the identity checked after,
    /// so the number cannot be recycled in between. `false` when it is gone.
    pub(super) fn signal(&self, signal: Signal) -> bool {
        let Some(pid) = Pid::from_raw(self.pid) else {
            return false;
        };
        let Ok(descriptor) = pidfd_open(pid, PidfdFlags::empty()) else {
            return false;
        };
        self.is_alive() && pidfd_send_signal(&descriptor, signal).is_ok()
    }

    /// Waits until it is gone.
    pub(super) async fn gone_within(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        while self.is_alive() {
            if Instant::now() >= end {
                return false;
            }
            tokio::time::sleep(GLANCE).await;
        }
        true
    }

    /// Waits until a SIGSTOP has brought all its threads to rest.
    pub(super) async fn at_rest_within(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        while !self.threads_rest() {
            if Instant::now() >= end {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        true
    }

    fn threads_rest(&self) -> bool {
        let Ok(threads) = fs::read_dir(format!("/proc/{}/task", self.pid)) else {
            return false;
        };
        threads.flatten().all(|thread| {
            // A thread that has gone in the meantime rests for good.
            stat(thread.path().join("stat"))
                .is_none_or(|stat| matches!(stat.state, 'T' | 't' | 'Z' | 'X' | 'x'))
        })
    }

    /// Processor time used by all its threads, in nanoseconds.
    pub(super) fn cpu_ns(&self) -> Option<u64> {
        let ticks = self.stat()?.cpu_ticks;
        let per_second = rustix::param::clock_ticks_per_second().max(1);
        Some(ticks.saturating_mul(1_000_000_000 / per_second))
    }

    /// Resident memory, in bytes.
    pub(super) fn resident_bytes(&self) -> Option<u64> {
        self.stat()?;
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kib * 1024)
    }

    /// Its arguments as the kernel knows them.
    pub(super) fn arguments(&self) -> Option<Vec<String>> {
        self.stat()?;
        Some(nul_separated(
            &fs::read(format!("/proc/{}/cmdline", self.pid)).ok()?,
        ))
    }

    /// Its environment at the start, as `NAME=value`.
    pub(super) fn environment(&self) -> Option<Vec<String>> {
        self.stat()?;
        Some(nul_separated(
            &fs::read(format!("/proc/{}/environ", self.pid)).ok()?,
        ))
    }
}

fn nul_separated(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    text.split('\0')
        .filter(|part| !part.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_with_parentheses_and_spaces_does_not_shift_the_fields() {
        let text = "7 (a) b (c) R 1 7 7 0 -1 4194304 1 2 3 4 150 50 0 0 20 0 1 0 98765 1 2 3";
        let stat = parse_stat(text).unwrap();
        assert_eq!(
            stat,
            Stat {
                state: 'R',
                cpu_ticks: 200,
                started: 98_765
            }
        );
    }

    #[test]
    fn a_process_is_told_apart_from_one_with_the_same_number() {
        let own = ProcessId::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(own.is_alive());
        let earlier = ProcessId {
            started: own.started - 1,
            ..own.clone()
        };
        assert!(!earlier.is_alive());
        assert!(!earlier.signal(Signal::KILL));
        assert_eq!(ProcessId::from_handle(&own.handle()), Some(own));
    }
}
