//! Hosts as control groups: processor time, memory and processors of all instances of a host.
//!
//! ```text
//! <controller>/foreshadow-<8 hex of the root>/<host>/<tag>
//! ```
//! The host's group carries the limits; the replica's group below it only counts.
//!
//! # When
//! Only where this process may write, and only beside groups that the system's own manager made
//! (none, or systemd's slices). Inside a group that somebody else set up (a container manager, a
//! job runner) a group at the top would leave that one's limits, so the controller is left alone
//! and [`Cgroups::limits_cpu`] says so.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use domain::Host;

use super::config::CgroupPolicy;

/// Short periods keep the throttling of a small quota below what a client notices.
const PERIOD_US: u64 = 20_000;

/// The kernel takes no smaller quota.
const LEAST_QUOTA_US: u64 = 1_000;

/// The machine's pressure.
const PRESSURE: &str = "/proc/pressure/cpu";

/// Where control groups are mounted.
const MOUNT: &str = "/sys/fs/cgroup";

/// How control groups are laid out here.
#[derive(Debug)]
enum Layout {
    /// One tree for all controllers.
    Unified,
    /// One tree per controller; those that we may use.
    PerController(Vec<Controller>),
    /// Not to be used.
    Absent,
}

/// Controllers of the old layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Controller {
    Cpu,
    CpuAccounting,
    CpuSet,
    Memory,
}

impl Controller {
    const ALL: [Self; 4] = [Self::Cpu, Self::CpuAccounting, Self::CpuSet, Self::Memory];

    const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::CpuAccounting => "cpuacct",
            Self::CpuSet => "cpuset",
            Self::Memory => "memory",
        }
    }
}

/// The control groups of one root.
#[derive(Debug)]
pub(super) struct Cgroups {
    layout: Layout,
    mount: PathBuf,
    base: String,
    /// Groups are made and removed by one at a time: a host's group that looks empty may be about
    /// to get a replica.
    making: Mutex<()>,
}

/// Whether a group is the system's own, so that one at the top leaves nobody's limits.
fn is_systems_own(group: &str) -> bool {
    let slices = ["/user.slice/", "/system.slice/", "/init.scope"];
    group == "/" || slices.iter().any(|slice| group.starts_with(slice))
}

/// `avg10` of the line `some avg10=1.23 avg60=…` of a pressure file, as a share.
fn waited(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let percent = line
        .split_whitespace()
        .find_map(|field| field.strip_prefix("avg10="))?;
    let percent: f64 = percent.parse().ok()?;
    (0.0..=100.0).contains(&percent).then_some(percent / 100.0)
}

/// This process's group for a controller (`""` for the unified tree), from `/proc/self/cgroup`.
fn own_group<'a>(table: &'a str, controller: &str) -> Option<&'a str> {
    table.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (_, names, group) = (parts.next()?, parts.next()?, parts.next()?);
        names
            .split(',')
            .any(|name| name == controller)
            .then_some(group)
    })
}

/// Whether the kernel says that the process is gone.
fn is_no_such_process(error: &io::Error) -> bool {
    let number = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<AtPath>())
        .and_then(|at| at.error.raw_os_error());
    number == Some(rustix::io::Errno::SRCH.raw_os_error())
}

/// What went wrong, and where.
#[derive(Debug, thiserror::Error)]
#[error("{}: {error}", path.display())]
struct AtPath {
    path: PathBuf,
    error: io::Error,
}

fn write(path: &Path, value: impl AsRef<[u8]>) -> io::Result<()> {
    fs::write(path, value).map_err(|error| {
        let path = path.to_owned();
        io::Error::new(error.kind(), AtPath { path, error })
    })
}

fn make(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
    }
}

/// Processors as the kernel writes them.
fn list(cpus: &[usize]) -> String {
    cpus.iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(",")
}

/// A capacity as a whole number of its unit.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to what fits exactly"
)]
fn whole(value: f64) -> u64 {
    value.clamp(0.0, 9.0e15) as u64
}

/// Microseconds of processor time per period for a host, if it is limited.
fn quota_us(host: &Host) -> Option<u64> {
    host.capacity
        .cpu
        .map(|millicores| (whole(millicores).saturating_mul(PERIOD_US) / 1_000).max(LEAST_QUOTA_US))
}

impl Cgroups {
    /// Looks at what this process may do, by trying it.
    pub(super) fn detect(policy: CgroupPolicy, suffix: &str) -> Self {
        let table = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mut this = Self {
            layout: Layout::Absent,
            mount: PathBuf::from(MOUNT),
            base: format!("foreshadow-{suffix}"),
            making: Mutex::default(),
        };
        if policy == CgroupPolicy::WherePermitted {
            this.layout = this.try_layouts(&table);
        }
        match &this.layout {
            Layout::Absent => tracing::info!("hosts are processors only: no control groups here"),
            Layout::Unified => tracing::info!("hosts are control groups (unified)"),
            Layout::PerController(usable) => {
                tracing::info!(
                    ?usable,
                    "hosts are control groups (one tree per controller)"
                );
            }
        }
        this.remove_base();
        this
    }

    fn try_layouts(&self, table: &str) -> Layout {
        if self.mount.join("cgroup.controllers").exists() {
            let own = own_group(table, "").is_some_and(is_systems_own);
            return if own && self.try_unified().is_ok() {
                Layout::Unified
            } else {
                Layout::Absent
            };
        }
        let usable: Vec<Controller> = Controller::ALL
            .into_iter()
            .filter(|controller| {
                own_group(table, controller.name()).is_some_and(is_systems_own)
                    && self.make_base(*controller).is_ok()
            })
            .collect();
        if usable.is_empty() {
            Layout::Absent
        } else {
            Layout::PerController(usable)
        }
    }

    fn try_unified(&self) -> io::Result<()> {
        let base = self.mount.join(&self.base);
        write(&self.mount.join("cgroup.subtree_control"), "+cpu +memory")?;
        make(&base)?;
        write(&base.join("cgroup.subtree_control"), "+cpu +memory")
    }

    fn make_base(&self, controller: Controller) -> io::Result<()> {
        let top = self.mount.join(controller.name());
        let base = top.join(&self.base);
        make(&base)?;
        if controller == Controller::CpuSet {
            inherit_set(&top, &base)?;
        }
        Ok(())
    }

    /// Whether the processor time of a host is limited.
    pub(super) fn limits_cpu(&self) -> bool {
        match &self.layout {
            Layout::Unified => true,
            Layout::PerController(usable) => usable.contains(&Controller::Cpu),
            Layout::Absent => false,
        }
    }

    /// The trees in use, from their top.
    fn trees(&self) -> Vec<(Option<Controller>, PathBuf)> {
        match &self.layout {
            Layout::Unified => vec![(None, self.mount.clone())],
            Layout::PerController(usable) => usable
                .iter()
                .map(|controller| (Some(*controller), self.mount.join(controller.name())))
                .collect(),
            Layout::Absent => Vec::new(),
        }
    }

    /// Makes the groups of a replica and sets its host's limits anew.
    pub(super) fn prepare(&self, host: &Host, tag: &str) -> io::Result<()> {
        let _one = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        for (controller, top) in self.trees() {
            match controller {
                Some(controller) => self.make_base(controller)?,
                None => self.try_unified()?,
            }
            let group = top.join(&self.base).join(host.id.as_str());
            make(&group)?;
            match controller {
                Some(controller) => limit_one(controller, &group, host)?,
                None => limit_unified(&group, host)?,
            }
            let replica = group.join(tag);
            make(&replica)?;
            if controller == Some(Controller::CpuSet) {
                inherit_set(&group, &replica)?;
            }
        }
        Ok(())
    }

    /// Puts the calling thread, and so what it will start, into a replica's groups. Only the old
    /// layout knows threads; see [`Cgroups::enter_process`].
    pub(super) fn enter_thread(&self, host: &Host, tag: &str) -> io::Result<()> {
        if matches!(self.layout, Layout::PerController(_)) {
            for (_, top) in self.trees() {
                let group = top.join(&self.base).join(host.id.as_str()).join(tag);
                write(&group.join("tasks"), "0")?;
            }
        }
        Ok(())
    }

    /// Puts a process that has just been started into a replica's group (unified layout). One that
    /// has ended already needs no group: why it ended is told by who waits for it to be healthy.
    pub(super) fn enter_process(&self, host: &Host, tag: &str, pid: i32) -> io::Result<()> {
        if matches!(self.layout, Layout::Unified) {
            let group = self.mount.join(&self.base).join(host.id.as_str()).join(tag);
            match write(&group.join("cgroup.procs"), pid.to_string()) {
                Err(error) if is_no_such_process(&error) => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// Processor time used in a replica's group, in nanoseconds, where it is counted.
    pub(super) fn cpu_ns(&self, host: &str, tag: &str) -> Option<u64> {
        let group = |top: PathBuf| top.join(&self.base).join(host).join(tag);
        match &self.layout {
            Layout::Unified => {
                let text = fs::read_to_string(group(self.mount.clone()).join("cpu.stat")).ok()?;
                let line = text
                    .lines()
                    .find_map(|line| line.strip_prefix("usage_usec "))?;
                line.trim()
                    .parse::<u64>()
                    .ok()
                    .map(|us| us.saturating_mul(1_000))
            }
            Layout::PerController(usable) => {
                if !usable.contains(&Controller::CpuAccounting) {
                    return None;
                }
                let top = self.mount.join(Controller::CpuAccounting.name());
                fs::read_to_string(group(top).join("cpuacct.usage"))
                    .ok()?
                    .trim()
                    .parse()
                    .ok()
            }
            Layout::Absent => None,
        }
    }

    /// The share of the last ten seconds in which something on a host waited for a processor: of its
    /// group under unified control groups, and of the machine where the host is all of it.
    pub(super) fn pressure(&self, host: &Host) -> Option<f64> {
        let whole = host.cpus.is_empty() && host.capacity.cpu.is_none();
        let file = match &self.layout {
            Layout::Unified => self
                .mount
                .join(&self.base)
                .join(host.id.as_str())
                .join("cpu.pressure"),
            Layout::PerController(_) | Layout::Absent if whole => PathBuf::from(PRESSURE),
            Layout::PerController(_) | Layout::Absent => return None,
        };
        waited(&fs::read_to_string(file).ok()?)
    }

    /// Removes a replica's groups, and its host's when nothing else is in them. `false` when one
    /// of the replica's is still busy: the kernel takes a moment to let go of a killed process.
    #[must_use]
    pub(super) fn remove(&self, host: &str, tag: &str) -> bool {
        let _one = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        let mut gone = true;
        for (_, top) in self.trees() {
            let base = top.join(&self.base);
            let group = base.join(host);
            gone &= match fs::remove_dir(group.join(tag)) {
                Ok(()) => true,
                Err(error) => error.kind() == io::ErrorKind::NotFound,
            };
            // A group with processes or groups in it refuses; that is the check.
            if fs::remove_dir(group).is_ok() {
                let _others_are_in_it = fs::remove_dir(base);
            }
        }
        gone
    }

    /// Replicas that have groups: host and tag.
    pub(super) fn tags(&self) -> BTreeSet<(String, String)> {
        let mut found = BTreeSet::new();
        for (_, top) in self.trees() {
            for host in folders(&top.join(&self.base)) {
                for tag in folders(&host) {
                    if let (Some(host), Some(tag)) = (name(&host), name(&tag)) {
                        found.insert((host, tag));
                    }
                }
            }
        }
        found
    }

    /// Removes the top groups if they are empty.
    pub(super) fn remove_base(&self) {
        let _one = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, top) in self.trees() {
            let base = top.join(&self.base);
            for host in folders(&base) {
                for tag in folders(&host) {
                    let _busy = fs::remove_dir(tag);
                }
                let _busy = fs::remove_dir(host);
            }
            let _busy = fs::remove_dir(base);
        }
    }
}

/// Folders in a folder that may not be there.
fn folders(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect()
}

fn name(path: &Path) -> Option<String> {
    path.file_name()?.to_str().map(str::to_owned)
}

/// A new `cpuset` group is empty and takes no task until it has processors and memory nodes.
fn inherit_set(parent: &Path, child: &Path) -> io::Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let have = fs::read_to_string(child.join(file))?;
        let want = fs::read_to_string(parent.join(file))?;
        if have.trim().is_empty() || have != want {
            write(&child.join(file), want.trim())?;
        }
    }
    Ok(())
}

fn limit_one(controller: Controller, group: &Path, host: &Host) -> io::Result<()> {
    match controller {
        Controller::Cpu => {
            write(&group.join("cpu.cfs_period_us"), PERIOD_US.to_string())?;
            let quota = quota_us(host).map_or("-1".to_owned(), |quota| quota.to_string());
            write(&group.join("cpu.cfs_quota_us"), quota)
        }
        Controller::CpuAccounting => Ok(()),
        Controller::CpuSet => {
            let parent = group.parent().unwrap_or(group);
            let mems = fs::read_to_string(parent.join("cpuset.mems"))?;
            write(&group.join("cpuset.mems"), mems.trim())?;
            let all = fs::read_to_string(parent.join("cpuset.cpus"))?;
            let cpus = if host.cpus.is_empty() {
                all
            } else {
                list(&host.cpus)
            };
            write(&group.join("cpuset.cpus"), cpus.trim())
        }
        Controller::Memory => {
            let limit = host
                .capacity
                .memory
                .map_or("-1".to_owned(), |b| whole(b).to_string());
            write(&group.join("memory.limit_in_bytes"), limit)
        }
    }
}

fn limit_unified(group: &Path, host: &Host) -> io::Result<()> {
    let quota = quota_us(host).map_or("max".to_owned(), |quota| quota.to_string());
    write(&group.join("cpu.max"), format!("{quota} {PERIOD_US}"))?;
    let limit = host
        .capacity
        .memory
        .map_or("max".to_owned(), |b| whole(b).to_string());
    write(&group.join("memory.max"), limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_is_read_from_the_kernels_words_and_from_nothing_else() {
        let text = "some avg10=12.50 avg60=1.00 avg300=0.10 total=123\nfull avg10=1.00 avg60=0.00 avg300=0.00 total=1\n";
        assert_eq!(waited(text), Some(0.125));
        for text in [
            "",
            "full avg10=1.00",
            "some avg60=1.0",
            "some avg10=much",
            "some avg10=NaN",
            "some avg10=-1",
        ] {
            assert_eq!(waited(text), None, "{text}");
        }
    }

    #[test]
    fn a_group_that_somebody_else_set_up_is_not_left() {
        let table = "4:memory:/jobs/17\n3:cpuset:/\n2:cpu,cpuacct:/user.slice/user-0.slice\n0::/\n";
        let own = |name| own_group(table, name).is_some_and(is_systems_own);
        assert!(!own("memory") && own("cpuset") && own("cpu") && own("cpuacct") && own(""));
        assert_eq!(own_group(table, "pids"), None);
    }

    #[test]
    fn a_quota_is_the_capacitys_share_of_a_short_period() {
        let host = |cpu| Host {
            id: domain::HostId::new("a").unwrap(),
            capacity: domain::Resources {
                cpu,
                ..domain::Resources::default()
            },
            cpus: vec![0, 2],
            labels: std::collections::BTreeMap::new(),
            isolation: None,
        };
        assert_eq!(quota_us(&host(Some(500.0))), Some(10_000));
        assert_eq!(quota_us(&host(Some(1_500.0))), Some(30_000));
        assert_eq!(quota_us(&host(Some(1.0))), Some(1_000));
        assert_eq!(quota_us(&host(None)), None);
        assert_eq!(list(&host(None).cpus), "0,2");
    }
}
