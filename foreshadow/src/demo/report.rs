//! What happened, as a table.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use domain::{LatencyHistogram, Migration, Phase, Policy};
use serde::Serialize;

use crate::load::{LoadReport, PhaseReport};
use crate::status::{MigrationStatus, Status};

/// The closing table.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// What made instances move.
    pub policy: Policy,
    /// Requests sent.
    pub sent: u64,
    /// Of these, not answered well.
    pub failed: u64,
    /// Failures by reason.
    pub failures: BTreeMap<String, u64>,
    /// When the demand exceeds the limit if nothing moves, in seconds.
    pub contended_from_s: Option<usize>,
    /// Seconds in which a host's measured demand was above its limit.
    pub seconds_above_limit: f64,
    /// Latencies by phase.
    pub latency: BTreeMap<String, Latency>,
    /// Requests slower than 128 ms.
    pub slow: u64,
    /// Migrations.
    pub migrations: Vec<Moved>,
}

/// Latencies of a phase, in milliseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Latency {
    /// Requests.
    pub requests: u64,
    /// Median.
    pub p50_ms: f64,
    /// 99th percentile.
    pub p99_ms: f64,
}

/// A migration, as a line of the table.
#[derive(Debug, Clone, Serialize)]
pub struct Moved {
    /// Its id.
    pub id: String,
    /// What moved, from where, to where.
    pub what: String,
    /// How it ended.
    pub outcome: String,
    /// Why it was rolled back, if it was.
    pub failure: Option<String>,
    /// Seconds into the demo when it was decided.
    pub decided_at_s: f64,
    /// Seconds from the decision to the time at which the contention was predicted.
    pub lead_s: f64,
    /// Seconds per phase.
    pub phases: Vec<(String, f64)>,
    /// Asked and observed share of the shadow per stage.
    pub splits: Vec<Split>,
    /// Requests of clients that the shadow answered, and of these with a failure: what a bad
    /// shadow cost before the judge acted.
    pub shadow: (u64, u64),
}

/// How a stage's requests were split, by what the clients' answers say of their replica.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Split {
    /// Asked share of the shadow, in percent.
    pub asked: f64,
    /// Observed share, in percent.
    pub observed: f64,
    /// Requests that the observation rests on.
    pub requests: u64,
}

/// Follows a run.
pub struct Watching {
    policy: Policy,
    contended_from_s: Option<usize>,
    said: BTreeMap<String, usize>,
    planned: usize,
    above: f64,
    last_look: f64,
    began_at: BTreeMap<String, f64>,
    ended: bool,
    /// The migration and the weight that is in force everywhere, while a stage is judged.
    stage: Option<Stage>,
}

/// The stage that requests belong to.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stage {
    migration: String,
    shadow_bp: u32,
}

impl Stage {
    /// The stage that a migration is in, once its weight is everywhere.
    fn of(status: &MigrationStatus) -> Option<Self> {
        let ramps = matches!(
            status.migration.phase,
            Phase::Ramping { .. } | Phase::Soaking
        );
        let judged = status.progress.as_ref().is_some_and(|p| p.step == "judge");
        (ramps && judged).then(|| Self {
            migration: status.migration.id.to_string(),
            shadow_bp: status.shadow_bp,
        })
    }

    /// As a label of requests, and back.
    fn label(&self) -> String {
        format!("{}@{}", self.migration, self.shadow_bp)
    }

    fn parse(label: &str) -> Option<Self> {
        let (migration, shadow_bp) = label.split_once('@')?;
        Some(Self {
            migration: migration.to_owned(),
            shadow_bp: shadow_bp.parse().ok()?,
        })
    }
}

impl Watching {
    /// Begins.
    pub fn new(policy: Policy, contended_from_s: Option<usize>) -> Self {
        Self {
            policy,
            contended_from_s,
            said: BTreeMap::new(),
            planned: 0,
            above: 0.0,
            last_look: 0.0,
            began_at: BTreeMap::new(),
            ended: false,
            stage: None,
        }
    }

    /// The label for requests sent now: how far the migration is.
    pub fn label(&self) -> String {
        if let Some(stage) = &self.stage {
            stage.label()
        } else if self.ended {
            "after".to_owned()
        } else if self.began_at.is_empty() {
            "before".to_owned()
        } else {
            "during".to_owned()
        }
    }

    /// Whether a migration is under way, so that every moment counts.
    pub fn is_moving(&self) -> bool {
        !self.began_at.is_empty() && !self.ended
    }

    /// Takes in a status; gives lines worth telling.
    pub fn look(&mut self, status: &Status, seconds: f64) -> Vec<String> {
        let mut lines = Vec::new();
        let passed = seconds - self.last_look;
        self.last_look = seconds;
        if status.hosts.iter().any(|host| host.demand > host.limit) {
            self.above += passed;
        }
        if status.plans.len() > self.planned {
            for plan in status
                .plans
                .iter()
                .take(status.plans.len() - self.planned)
                .rev()
            {
                lines.push(format!("{seconds:>4.0} s  plan {}", plan.id));
                lines.extend(
                    crate::client::describe(&plan.decision)
                        .lines()
                        .map(|l| format!("        {l}")),
                );
            }
            self.planned = status.plans.len();
        }
        for migration in &status.migrations {
            lines.extend(self.follow(migration, seconds));
        }
        self.stage = status.migrations.iter().find_map(Stage::of);
        self.ended = !status.migrations.is_empty()
            && status
                .migrations
                .iter()
                .all(|m| m.migration.phase.is_final());
        lines
    }

    fn follow(&mut self, status: &MigrationStatus, seconds: f64) -> Vec<String> {
        let migration = &status.migration;
        let id = migration.id.to_string();
        self.began_at.entry(id.clone()).or_insert(seconds);
        let said = self.said.entry(id).or_insert(0);
        let new: Vec<_> = migration
            .history
            .iter()
            .skip(*said)
            .map(|entered| {
                let Phase::Ramping { stage } = entered.phase else {
                    return entered.phase.name().to_owned();
                };
                let share = migration
                    .ramp
                    .stage(stage)
                    .map_or(0.0, |s| s.shadow.fraction());
                format!("ramping to {:.0} %", share * 100.0)
            })
            .collect();
        *said = migration.history.len();
        new.into_iter()
            .map(|phase| {
                format!(
                    "{seconds:>4.0} s  {} {}: {phase}",
                    migration.id, migration.instance
                )
            })
            .collect()
    }

    /// The closing table.
    pub fn report(&self, load: &LoadReport, status: &Status) -> Report {
        let mut latency: BTreeMap<String, LatencyHistogram> = BTreeMap::new();
        let mut all = LatencyHistogram::default();
        let (mut sent, mut failures) = (0, BTreeMap::<String, u64>::new());
        for (phase, counts) in load.streams.values().flat_map(|stream| &stream.phases) {
            sent += counts.sent;
            for (reason, count) in [
                ("status", counts.failed.status),
                ("connect", counts.failed.connect),
                ("timeout", counts.failed.timeout),
                ("reset", counts.failed.reset),
                ("shed by the generator", counts.shed),
            ] {
                if count > 0 {
                    *failures.entry(reason.to_owned()).or_insert(0) += count;
                }
            }
            let name = if Stage::parse(phase).is_some() {
                "during"
            } else {
                phase
            };
            latency
                .entry(name.to_owned())
                .or_default()
                .merge(&counts.latency);
            all.merge(&counts.latency);
        }
        let slow = all.slower_than(128_000);
        latency.insert("all".to_owned(), all);
        let summary = |histogram: &LatencyHistogram| Latency {
            requests: histogram.total(),
            p50_ms: histogram.quantile_us(0.5).unwrap_or(0.0) / 1_000.0,
            p99_ms: histogram.quantile_us(0.99).unwrap_or(0.0) / 1_000.0,
        };
        Report {
            policy: self.policy,
            sent,
            failed: failures.values().sum(),
            failures,
            contended_from_s: self.contended_from_s,
            seconds_above_limit: self.above,
            latency: latency
                .iter()
                .map(|(name, h)| (name.clone(), summary(h)))
                .collect(),
            slow,
            migrations: status
                .migrations
                .iter()
                .map(|m| self.moved(m, status, load))
                .collect(),
        }
    }

    fn moved(&self, found: &MigrationStatus, status: &Status, load: &LoadReport) -> Moved {
        let migration = &found.migration;
        let id = migration.id.to_string();
        let lead = status
            .plans
            .iter()
            .find(|plan| plan.id == migration.plan)
            .and_then(|plan| plan.decision.contention.first())
            .map_or(0.0, |contention| contention.ahead_ms as f64 / 1_000.0);
        let phases = migration
            .history
            .windows(2)
            .map(|pair| {
                let name = crate::status::phase_name(pair[0].phase);
                (name, pair[1].at.since(pair[0].at) as f64 / 1_000.0)
            })
            .collect();
        Moved {
            what: format!(
                "{} from {} to {}",
                migration.instance, migration.original.host, migration.target
            ),
            outcome: migration.phase.name().to_owned(),
            failure: migration.failure.clone(),
            decided_at_s: self.began_at.get(&id).copied().unwrap_or(0.0),
            lead_s: lead,
            phases,
            splits: splits(load, migration),
            shadow: answered_by_the_shadow(load, migration),
            id,
        }
    }
}

/// What the clients of the migrated instance counted, by label of the request.
fn of_instance<'a>(
    load: &'a LoadReport,
    migration: &'a Migration,
) -> impl Iterator<Item = (&'a String, &'a PhaseReport)> {
    let streams = load.streams.iter().filter(|(name, _)| {
        name.rsplit_once('/')
            .is_some_and(|(_, instance)| instance == migration.instance.as_str())
    });
    streams.flat_map(|(_, stream)| &stream.phases)
}

fn splits(load: &LoadReport, migration: &Migration) -> Vec<Split> {
    let mut stages: BTreeMap<u32, PhaseReport> = BTreeMap::new();
    for (label, counts) in of_instance(load, migration) {
        if let Some(stage) = Stage::parse(label).filter(|s| s.migration == migration.id.as_str()) {
            stages.entry(stage.shadow_bp).or_default().merge(counts);
        }
    }
    let split = |(shadow_bp, counts): (u32, PhaseReport)| {
        let shadow = by_role(&counts.replicas, "shadow");
        let requests = shadow + by_role(&counts.replicas, "original");
        Split {
            asked: f64::from(shadow_bp) / 100.0,
            observed: 100.0 * shadow as f64 / requests.max(1) as f64,
            requests,
        }
    };
    stages.into_iter().map(split).collect()
}

fn answered_by_the_shadow(load: &LoadReport, migration: &Migration) -> (u64, u64) {
    // Before and after, a replica of that role is not this migration's shadow any more.
    let during = |label: &str| label == "during" || Stage::parse(label).is_some();
    of_instance(load, migration)
        .filter(|(label, _)| during(label))
        .fold((0, 0), |sum, (_, counts)| {
            (
                sum.0 + by_role(&counts.replicas, "shadow"),
                sum.1 + by_role(&counts.refused_by, "shadow"),
            )
        })
}

/// Answers of replicas of a role; the workload says `role/identity`.
fn by_role(replicas: &BTreeMap<String, u64>, role: &str) -> u64 {
    let of_role = |name: &str| name.split('/').next() == Some(role);
    replicas
        .iter()
        .filter(|(name, _)| of_role(name))
        .map(|(_, count)| count)
        .sum()
}

impl Report {
    /// The table as text.
    pub fn text(&self) -> String {
        let mut text = format!("\nPolicy {:?}\n", self.policy);
        let _ = writeln!(
            text,
            "  requests sent {:>8}   failed {}",
            self.sent, self.failed
        );
        for (reason, count) in &self.failures {
            let _ = writeln!(text, "    failed: {reason} {count}");
        }
        if let Some(from) = self.contended_from_s {
            let _ = writeln!(text, "  contention without a move begins at {from} s");
        }
        let _ = writeln!(
            text,
            "  time above the limit {:.0} s   requests slower than 128 ms: {}",
            self.seconds_above_limit, self.slow
        );
        let _ = writeln!(
            text,
            "  {:<8} {:>9} {:>9} {:>9}",
            "phase", "requests", "p50 ms", "p99 ms"
        );
        for name in ["before", "during", "after", "all"] {
            if let Some(latency) = self.latency.get(name) {
                let _ = writeln!(
                    text,
                    "  {name:<8} {:>9} {:>9.1} {:>9.1}",
                    latency.requests, latency.p50_ms, latency.p99_ms
                );
            }
        }
        for moved in &self.migrations {
            let _ = writeln!(
                text,
                "  {}: {}, {}, decided at {:.0} s, {:.0} s ahead",
                moved.id, moved.what, moved.outcome, moved.decided_at_s, moved.lead_s
            );
            if let Some(failure) = &moved.failure {
                let _ = writeln!(text, "    because {failure}");
            }
            let phases: Vec<_> = moved
                .phases
                .iter()
                .map(|(name, took)| format!("{name} {took:.1} s"))
                .collect();
            let _ = writeln!(text, "    {}", phases.join(", "));
            let splits: Vec<_> = moved
                .splits
                .iter()
                .map(|s| {
                    let Split {
                        asked,
                        observed,
                        requests,
                    } = s;
                    format!("{asked:.0} % asked, {observed:.1} % of {requests} observed")
                })
                .collect();
            let _ = writeln!(text, "    split: {}", splits.join("; "));
            let _ = writeln!(
                text,
                "    shadow answered {} requests of clients, {} of them with a failure",
                moved.shadow.0, moved.shadow.1
            );
        }
        text
    }
}

/// One table over all policies.
pub fn comparison(reports: &[Report]) -> String {
    let mut text = format!(
        "\n{:<12} {:>8} {:>7} {:>9} {:>9} {:>10} {:>14}  {}\n",
        "policy", "sent", "failed", "p50 ms", "p99 ms", "> 128 ms", "above limit s", "moved"
    );
    for report in reports {
        let all = report.latency.get("all");
        let moved: Vec<_> = report
            .migrations
            .iter()
            .map(|m| format!("{} at {:.0} s ({})", m.what, m.decided_at_s, m.outcome))
            .collect();
        let _ = writeln!(
            text,
            "{:<12} {:>8} {:>7} {:>9.1} {:>9.1} {:>10} {:>14.0}  {}",
            format!("{:?}", report.policy).to_lowercase(),
            report.sent,
            report.failed,
            all.map_or(0.0, |a| a.p50_ms),
            all.map_or(0.0, |a| a.p99_ms),
            report.slow,
            report.seconds_above_limit,
            if moved.is_empty() {
                "-".to_owned()
            } else {
                moved.join(", ")
            }
        );
    }
    text
}
