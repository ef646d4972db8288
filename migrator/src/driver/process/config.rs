//! What the process driver is told at the start.

use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use super::failed;
use crate::driver::DriverError;

/// Whether hosts become control groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CgroupPolicy {
    /// Where this process may make them; else processor affinity only.
    #[default]
    WherePermitted,
    /// Never: processor affinity only.
    Never,
}

/// Settings of a [`ProcessDriver`](super::ProcessDriver).
#[derive(Debug, Clone)]
pub struct ProcessConfig {
    /// Folder for everything the driver keeps.
    pub root: PathBuf,
    /// Ports for instances; below 32768, where the kernel takes none for outgoing connections.
    pub ports: Range<u16>,
    /// Longest rest of an original during a fork.
    pub pause_budget: Duration,
    /// Time between SIGTERM and SIGKILL.
    pub grace: Duration,
    /// Time for a process to become healthy after its start.
    pub health_deadline: Duration,
    /// Whether hosts become control groups.
    pub cgroups: CgroupPolicy,
}

impl ProcessConfig {
    /// The usual settings over a root folder.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            ports: 20_000..28_000,
            pause_budget: Duration::from_secs(1),
            grace: Duration::from_secs(5),
            health_deadline: Duration::from_secs(20),
            cgroups: CgroupPolicy::default(),
        }
    }

    pub(super) fn check(&self) -> Result<(), DriverError> {
        let bad = |reason: String| Err(failed("configure", "process driver", reason));
        if self.ports.is_empty() || self.ports.start < 1024 || self.ports.end > 32_768 {
            return bad(format!(
                "ports {}..{} is not a range within 1024..32768",
                self.ports.start, self.ports.end
            ));
        }
        if self.pause_budget.is_zero() {
            return bad("pause_budget is 0: the original could never be copied at rest".to_owned());
        }
        Ok(())
    }
}
