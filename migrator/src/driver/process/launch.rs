//! Starting processes: from a spec to one that answers.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use domain::{Host, InstanceSpec, Replica, Side};
use rustix::thread::{CpuSet, sched_setaffinity};
use tokio::process::{Child, Command};
use tokio::sync::{oneshot, watch};

use super::proc::ProcessId;
use super::record::{Phase, Record};
use super::{ProcessDriver, failed, hooks, ports, transient};
use crate::driver::DriverError;

/// What a process inherits from the driver's environment; nothing that may hold a secret.
const INHERITED: [&str; 6] = ["PATH", "HOME", "LANG", "TZ", "TMPDIR", "LD_LIBRARY_PATH"];

/// Tells the process (and whoever looks for it) which replica it is.
pub(super) const REPLICA_VARIABLE: &str = "FORESHADOW_REPLICA";

/// Tells the process whether it is the original or a shadow.
pub(super) const ROLE_VARIABLE: &str = "FORESHADOW_ROLE";

/// How often a starting process is asked for its health.
const GLANCE: Duration = Duration::from_millis(20);

/// The replacements in a spec for one replica.
#[derive(Debug)]
pub(super) struct Template {
    values: [(&'static str, String); 4],
}

impl Template {
    pub(super) fn fill(&self, text: &str) -> String {
        self.values
            .iter()
            .fold(text.to_owned(), |text, (name, value)| {
                text.replace(name, value)
            })
    }

    pub(super) fn is_in(text: &str) -> bool {
        ["{port}", "{state}", "{instance}", "{host}"]
            .iter()
            .any(|name| text.contains(name))
    }
}

/// A process that was started, and how it will end.
struct Started {
    process: ProcessId,
    ended: watch::Receiver<Option<ExitStatus>>,
}

impl ProcessDriver {
    pub(super) fn template(&self, record: &Record) -> Template {
        Template {
            values: [
                ("{port}", record.port.to_string()),
                (
                    "{state}",
                    self.folders.state(&record.tag).display().to_string(),
                ),
                ("{instance}", record.spec.id.to_string()),
                ("{host}", record.host.id.to_string()),
            ],
        }
    }

    /// The value by which a replica's processes are recognised.
    pub(super) fn replica_mark(&self, tag: &str) -> String {
        self.folders.of(tag).display().to_string()
    }

    pub(super) async fn start_original(
        &self,
        spec: &InstanceSpec,
        host: &Host,
    ) -> Result<Replica, DriverError> {
        const OPERATION: &str = "start";
        let tag = spec.id.as_str();
        let _one = self
            .tags
            .lock(OPERATION, tag, self.config.health_deadline)
            .await?;
        let limit = self.config.health_deadline * 4;
        let _of_all_processes = self.fence.start_alone(OPERATION, limit).await?;
        // It may run already, also under the tag of the migration that brought it here.
        let moved = |record: &&Record| record.side == Side::Shadow && record.spec.id == spec.id;
        let all = self.folders.all();
        let own = all.iter().find(|record| record.tag == tag);
        if let Some(record) = own.or_else(|| all.iter().find(moved))
            && let Some(replica) = record.running()
        {
            let path = &record.spec.health_path;
            if record.phase != Phase::Starting || hooks::is_healthy(replica.endpoint, path).await {
                return Ok(replica);
            }
        }
        let existed = own.is_some();
        let mut record = Record::new(tag, Side::Original, spec, host);
        let outcome = self.bring_up(OPERATION, &mut record).await;
        if outcome.is_err() && !existed {
            self.remove_all_of(OPERATION, tag, Some(host.id.as_str()))
                .await?;
        }
        outcome
    }

    /// Reserves a port, starts the process and waits for its health. On failure nothing runs, but
    /// the directory stays.
    pub(super) async fn bring_up(
        &self,
        operation: &'static str,
        record: &mut Record,
    ) -> Result<Replica, DriverError> {
        let subject = record.tag.clone();
        let io = |error: io::Error| transient(operation, subject.clone(), error);
        // Left over from a driver that died between the start and the note of it.
        self.kill_marked(&record.tag).await;
        record.process = None;
        if record.port == 0 || !ports::is_free(record.port) {
            self.ports
                .reserve(&self.folders, record)
                .await
                .map_err(io)?;
        }
        record.phase = Phase::Starting;
        self.folders.save(record).map_err(io)?;
        let started = self.spawn(operation, record).await?;
        record.process = Some(started.process.clone());
        let noted = self.folders.save(record).map_err(io);
        let healthy = match noted {
            Ok(()) => self.await_health(operation, record, started.ended).await,
            Err(error) => Err(error),
        };
        if let Err(error) = healthy {
            self.kill(&started.process, Duration::ZERO).await;
            return Err(error);
        }
        record.phase = Phase::Running;
        self.folders.save(record).map_err(io)?;
        record
            .running()
            .ok_or_else(|| transient(operation, subject, "it ended right after start"))
    }

    async fn spawn(
        &self,
        operation: &'static str,
        record: &Record,
    ) -> Result<Started, DriverError> {
        let subject = record.tag.clone();
        let host = &record.host;
        self.cgroups.prepare(host, &record.tag).map_err(|error| {
            failed(
                operation,
                subject.clone(),
                format!("limits of host {}: {error}", host.id),
            )
        })?;
        let command = self.command(operation, record)?;
        let child = self.spawn_limited(command, record).await.map_err(|error| {
            let program = record.spec.argv.first().map_or("", String::as_str);
            failed(
                operation,
                subject.clone(),
                format!("program {program:?}: {error}"),
            )
        })?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        let Some(process) = pid.and_then(ProcessId::of) else {
            return Err(transient(operation, subject, "it ended at once"));
        };
        let ended = reap(child);
        if let Err(error) = self.cgroups.enter_process(host, &record.tag, process.pid) {
            self.kill(&process, Duration::ZERO).await;
            return Err(failed(operation, subject, error));
        }
        Ok(Started { process, ended })
    }

    fn command(&self, operation: &'static str, record: &Record) -> Result<Command, DriverError> {
        let subject = record.tag.clone();
        let template = self.template(record);
        let mut words = record.spec.argv.iter().map(|word| template.fill(word));
        let Some(program) = words.next() else {
            return Err(failed(
                operation,
                subject,
                "argv is empty: it must name a program",
            ));
        };
        let path = self.folders.log(&record.tag);
        let log = |error: io::Error| failed(operation, subject.clone(), error);
        // Truncated at each start, which bounds what restarts can pile up.
        let out = File::create(&path).map_err(log)?;
        let err = out.try_clone().map_err(log)?;
        let mut command = Command::new(program);
        command
            .args(words)
            .env_clear()
            .envs(
                INHERITED
                    .iter()
                    .filter_map(|name| Some((name, std::env::var_os(name)?))),
            )
            .envs(self.environment(record))
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .process_group(0)
            .kill_on_drop(false);
        Ok(command)
    }

    /// The environment that the spec and the driver give to a replica.
    pub(super) fn environment(&self, record: &Record) -> BTreeMap<String, String> {
        let template = self.template(record);
        let spec = record.spec.env.iter();
        let mut environment: BTreeMap<String, String> = spec
            .map(|(name, value)| (name.clone(), template.fill(value)))
            .collect();
        environment.insert(ROLE_VARIABLE.to_owned(), record.side.name().to_owned());
        environment.insert(REPLICA_VARIABLE.to_owned(), self.replica_mark(&record.tag));
        environment
    }

    /// Starts the command from a thread that already has the host's processors and groups, so the
    /// process never runs outside them. The thread ends with it: nothing has to be restored.
    async fn spawn_limited(&self, mut command: Command, record: &Record) -> io::Result<Child> {
        let (sender, receiver) = oneshot::channel();
        let runtime = tokio::runtime::Handle::current();
        let cpus = record.host.cpus.clone();
        std::thread::scope(|scope| {
            let worker = std::thread::Builder::new().name("spawn".to_owned());
            worker
                .spawn_scoped(scope, || {
                    let _inside = runtime.enter();
                    let limited = limit_thread(&cpus)
                        .and_then(|()| self.cgroups.enter_thread(&record.host, &record.tag));
                    let _gone = sender.send(limited.and_then(|()| command.spawn()));
                })
                .map(|_| ())
        })?;
        receiver
            .await
            .unwrap_or_else(|_| Err(io::Error::other("the starting thread died")))
    }

    async fn await_health(
        &self,
        operation: &'static str,
        record: &Record,
        mut ended: watch::Receiver<Option<ExitStatus>>,
    ) -> Result<(), DriverError> {
        let healthy = async {
            while !hooks::is_healthy(record.endpoint(), &record.spec.health_path).await {
                tokio::time::sleep(GLANCE).await;
            }
        };
        let limit = self.config.health_deadline;
        tokio::select! {
            biased;
            status = ended.wait_for(Option::is_some) => {
                let status = status.ok().and_then(|status| *status);
                let how = status.map_or("it ended".to_owned(), |status| status.to_string());
                let said = self.last_words(&record.tag);
                Err(failed(operation, &record.tag, format!("{how} before it was healthy{said}")))
            }
            healthy = tokio::time::timeout(limit, healthy) => healthy.map_err(|_| {
                let path = &record.spec.health_path;
                let limit = limit.as_millis();
                transient(operation, &record.tag, format!("{path} gave no 200 within {limit} ms"))
            }),
        }
    }

    /// The last line of the log, for the error message.
    fn last_words(&self, tag: &str) -> String {
        let log = fs::read(self.folders.log(tag)).unwrap_or_default();
        let tail = log
            .get(log.len().saturating_sub(2_000)..)
            .unwrap_or_default();
        let text = String::from_utf8_lossy(tail);
        match text.lines().rfind(|line| !line.trim().is_empty()) {
            Some(line) => format!(
                "; it last said: {}",
                line.chars().take(300).collect::<String>()
            ),
            None => String::new(),
        }
    }
}

/// Restricts the calling thread to a host's processors.
fn limit_thread(cpus: &[usize]) -> io::Result<()> {
    if cpus.is_empty() {
        return Ok(());
    }
    let mut set = CpuSet::new();
    for &cpu in cpus {
        if cpu >= CpuSet::MAX_CPU {
            return Err(io::Error::other(format!("there is no processor {cpu}")));
        }
        set.set(cpu);
    }
    sched_setaffinity(None, &set)
        .map_err(|error| io::Error::other(format!("processors {cpus:?} cannot be used: {error}")))
}

/// Waits for a child in a task of its own, so that it never stays a zombie.
fn reap(mut child: Child) -> watch::Receiver<Option<ExitStatus>> {
    let (sender, receiver) = watch::channel(None);
    tokio::spawn(async move {
        if let Ok(status) = child.wait().await {
            let _nobody_asks = sender.send(Some(status));
        }
    });
    receiver
}
