//! Ending replicas: process, groups, directory, in this order. Everything may be repeated.

use std::fs;
use std::io;
use std::time::{Duration, Instant};

use domain::{Replica, Side, ZeroTraffic};
use rustix::process::Signal;

use super::launch::REPLICA_VARIABLE;
use super::proc::ProcessId;
use super::record::is_tag;
use super::{ProcessDriver, failed, transient};
use crate::driver::{DriverError, OpContext};

/// How long the kernel may take to let go of a killed process's groups, and how often to look.
const GROUPS_LIMIT: Duration = Duration::from_secs(1);
const GLANCE: Duration = Duration::from_millis(5);
/// How long the kernel may take to end a killed process.
const KILL_LIMIT: Duration = Duration::from_secs(5);

impl ProcessDriver {
    pub(super) async fn terminate_original(
        &self,
        ctx: &OpContext,
        original: &Replica,
        proof: &ZeroTraffic,
    ) -> Result<(), DriverError> {
        const OPERATION: &str = "terminate";
        if original.tag == ctx.migration.as_str() {
            let reason = "this is the migration's shadow, not its original";
            return Err(failed(OPERATION, &original.tag, reason));
        }
        tracing::info!(
            replica = original.tag,
            revision = proof.revision(),
            forced = proof.forced(),
            "terminating the original"
        );
        self.end_tag(OPERATION, &original.tag, Some(original)).await
    }

    pub(super) async fn destroy(&self, ctx: &OpContext) -> Result<(), DriverError> {
        const OPERATION: &str = "destroy shadow";
        let tag = ctx.migration.as_str();
        match self.folders.load(tag) {
            Ok(Some(record)) if record.side == Side::Original => {
                Err(failed(OPERATION, tag, "this is an original"))
            }
            Ok(_) | Err(_) => self.end_tag(OPERATION, tag, None).await,
        }
    }

    /// Ends whatever exists under a tag, and removes it.
    pub(super) async fn end_tag(
        &self,
        operation: &'static str,
        tag: &str,
        replica: Option<&Replica>,
    ) -> Result<(), DriverError> {
        if !is_tag(tag) {
            return Err(failed(operation, tag, "this is not a tag"));
        }
        let limit = self.config.grace + KILL_LIMIT + self.config.pause_budget;
        let _one = self.tags.lock(operation, tag, limit).await?;
        let record = self.folders.load(tag).unwrap_or_else(|error| {
            tracing::warn!(tag, %error, "the record is damaged; processes are found by their mark");
            None
        });
        let noted = record.as_ref().and_then(|record| record.process.clone());
        let named = replica.and_then(|replica| ProcessId::from_handle(&replica.handle));
        for process in [noted, named].into_iter().flatten() {
            self.kill(&process, self.config.grace).await;
        }
        self.kill_marked(tag).await;
        let host = record.as_ref().map(|record| record.host.id.as_str());
        let host = host.or_else(|| replica.map(|replica| replica.host.as_str()));
        self.remove_all_of(operation, tag, host).await
    }

    /// Asks a process to end, and makes it.
    pub(super) async fn kill(&self, process: &ProcessId, grace: Duration) {
        if !grace.is_zero() {
            process.signal(Signal::TERM);
            // One that is stopped would not notice.
            process.signal(Signal::CONT);
            if process.gone_within(grace).await {
                return;
            }
        }
        process.signal(Signal::KILL);
        if !process.gone_within(KILL_LIMIT).await {
            tracing::warn!(process = process.handle(), "does not end");
        }
    }

    /// Kills what else carries the replica's mark: its own children, and processes started by a
    /// driver that died before it could note them.
    pub(super) async fn kill_marked(&self, tag: &str) {
        let mark = format!("{REPLICA_VARIABLE}={}", self.replica_mark(tag));
        let found = tokio::task::spawn_blocking(move || marked(&mark))
            .await
            .unwrap_or_default();
        for process in found {
            self.kill(&process, Duration::ZERO).await;
        }
    }

    /// Removes a tag's groups, wherever they are.
    pub(super) async fn remove_groups(&self, tag: &str, host: Option<&str>) {
        let with_groups = self.cgroups.tags().into_iter();
        let mut hosts: Vec<String> = with_groups
            .filter(|(_, other)| other == tag)
            .map(|(host, _)| host)
            .collect();
        hosts.extend(host.map(str::to_owned));
        for host in hosts {
            let end = Instant::now() + GROUPS_LIMIT;
            while !self.cgroups.remove(&host, tag) {
                if Instant::now() >= end {
                    tracing::warn!(tag, host, "control groups are busy and stay");
                    break;
                }
                tokio::time::sleep(GLANCE).await;
            }
        }
    }

    /// Removes groups and directory.
    pub(super) async fn remove_all_of(
        &self,
        operation: &'static str,
        tag: &str,
        host: Option<&str>,
    ) -> Result<(), DriverError> {
        self.remove_groups(tag, host).await;
        let folder = self.folders.of(tag);
        let removed = tokio::task::spawn_blocking(move || remove_folder(&folder)).await;
        let mut samples = self
            .samples
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        samples.remove(tag);
        match removed {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(transient(operation, tag, error)),
            Err(error) => Err(transient(operation, tag, error)),
        }
    }
}

fn remove_folder(folder: &std::path::Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Living processes whose environment has this entry. Only their own user's can be read.
fn marked(entry: &str) -> Vec<ProcessId> {
    let own = i32::try_from(std::process::id()).ok();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|process| process.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| Some(*pid) != own)
        .filter_map(ProcessId::of)
        .filter(ProcessId::is_alive)
        .filter(|process| {
            process
                .environment()
                .is_some_and(|have| have.iter().any(|one| one == entry))
        })
        .collect()
}
