//! What campaigns show together, as a table, promises, and whether it was enough to mean anything.

use std::collections::BTreeMap;
use std::fmt;

use crate::campaign::{Blow, REST_MS, Shown};
use crate::check::{Findings, TAKE_OVER_MS, check};
use crate::history::Did;
use crate::lab::Backing;

/// Sums over labs.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    labs: u64,
    pub(crate) killed: u64,
    pub(crate) stood: u64,
    pub(crate) stale: u64,
    pub(crate) places: BTreeMap<String, u64>,
    pub(crate) ended: BTreeMap<String, u64>,
    parked: u64,
    take_overs: Vec<u64>,
    rests: Vec<u64>,
    sent: u64,
    failed: u64,
    shed: u64,
    slowest_load: Option<f64>,
    violations: Vec<String>,
    wrong: Vec<String>,
    failures: Vec<String>,
}

fn at(sorted: &[u64], share: f64) -> u64 {
    let last = sorted.len().saturating_sub(1);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index of a list in memory"
    )]
    let index = (last as f64 * share).round() as usize;
    sorted.get(index).copied().unwrap_or(0)
}

impl Outcome {
    pub(crate) fn of(shown: &[Shown]) -> Self {
        let mut outcome = Self::default();
        for one in shown {
            outcome.add(one);
        }
        outcome.take_overs.sort_unstable();
        outcome.rests.sort_unstable();
        outcome
    }

    fn add(&mut self, shown: &Shown) {
        let found = check(&shown.history);
        let lab = format!(
            "{:?}/{:?}",
            shown.campaign.set_up.backing, shown.campaign.blow
        );
        let Findings {
            violations,
            places,
            killed,
            stood,
            stale,
            ended,
            parked,
            take_overs,
            rests,
            sent,
            failed,
            shed,
            rate,
            wrong,
        } = found;
        self.labs += 1;
        self.killed += killed;
        self.stood += stood;
        self.stale += stale;
        self.parked += parked;
        self.sent += sent;
        self.failed += failed;
        self.shed += shed;
        self.take_overs.extend(take_overs);
        self.rests.extend(rests);
        let slowest = self.slowest_load.unwrap_or(f64::MAX);
        self.slowest_load = Some(rate.min(slowest));
        for (place, count) in places {
            *self.places.entry(place).or_default() += count;
        }
        for (phase, count) in ended {
            *self.ended.entry(phase).or_default() += count;
        }
        let named = |what: String| format!("{lab}: {what}");
        self.violations.extend(violations.into_iter().map(named));
        self.wrong.extend(wrong.into_iter().map(named));
        self.failures
            .extend(shown.failures.iter().cloned().map(named));
        let wanted = shown.campaign.count.min(40) as u64;
        let struck = match shown.campaign.blow {
            Blow::Kill => killed,
            Blow::Stand => stood,
        };
        let last = shown.campaign.count as u64 % 40;
        if struck < wanted.min(if last == 0 { wanted } else { last }) {
            self.wrong
                .push(format!("{lab}: only {struck} blows struck"));
        }
        if shown.campaign.set_up.backing == Backing::Redis && killed + stood > 0 {
            self.guard(&lab, shown);
        }
    }

    /// A history in which nobody looked passes everything.
    fn guard(&mut self, lab: &str, shown: &Shown) {
        use crate::history::What;
        let count =
            |wanted: fn(&What) -> bool| shown.history.iter().filter(|s| wanted(&s.what)).count();
        let records = count(|what| matches!(what, What::Record { .. }));
        let answers = count(|what| {
            matches!(
                what,
                What::Process {
                    did: Did::Answer,
                    ..
                }
            )
        });
        let looks = count(|what| matches!(what, What::Alive { .. }));
        let logs = count(|what| matches!(what, What::Log { .. }));
        if records < 20 || answers == 0 || looks < 3 || logs == 0 {
            self.wrong.push(format!(
                "{lab}: too little was seen: {records} records, {answers} answers, {looks} looks \
                 at processes, {logs} logs"
            ));
        }
    }

    /// Everything that is not as it must be.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let mut all = self.violations.clone();
        all.extend(self.wrong.iter().cloned());
        if self.failed + self.shed > 0 {
            all.push(format!(
                "{} requests failed, {} were not sent",
                self.failed, self.shed
            ));
            all.extend(self.failures.iter().cloned());
        }
        all
    }

    /// The lines that say what was promised, and what was measured.
    pub(crate) fn promises(&self, kills: u64, zombies: u64) -> Vec<String> {
        let mut lines = Vec::new();
        let mut line = |id: &str, measured: String, unit: &str, target: String, kept: bool| {
            let word = if kept { "ok" } else { "short" };
            lines.push(format!(
                "promise {id} {measured} {unit} target {target} {word}"
            ));
        };
        let slowest = |all: &[u64]| all.last().copied().unwrap_or(0);
        if kills > 0 {
            let killed = self.killed;
            let target = format!(">= {kills}");
            line("K1", killed.to_string(), "kills", target, killed >= kills);
        }
        if zombies > 0 {
            let stood = self.stood;
            let target = format!(">= {zombies}");
            line("K2", stood.to_string(), "zombies", target, stood >= zombies);
        }
        let broken = self.violations.len();
        line(
            "K3",
            broken.to_string(),
            "violations",
            "<= 0".to_owned(),
            broken == 0,
        );
        let rest = slowest(&self.rests);
        let target = format!("<= {REST_MS}");
        line(
            "K4",
            rest.to_string(),
            "ms-to-rest",
            target,
            rest <= REST_MS,
        );
        line(
            "K5",
            self.failed.to_string(),
            "failed-requests",
            "<= 0".to_owned(),
            self.failed == 0,
        );
        let longest = slowest(&self.take_overs);
        let target = format!("<= {TAKE_OVER_MS}");
        line(
            "K6",
            longest.to_string(),
            "ms-to-take-over",
            target,
            longest <= TAKE_OVER_MS && !self.take_overs.is_empty(),
        );
        let left = self.wrong.len();
        line(
            "K7",
            left.to_string(),
            "left-over-or-wrong",
            "<= 0".to_owned(),
            left == 0,
        );
        line(
            "K8",
            self.stale.to_string(),
            "stale-effects-accepted",
            "<= 0".to_owned(),
            self.stale == 0,
        );
        let load = self.slowest_load.unwrap_or(0.0);
        line(
            "K9",
            format!("{load:.0}"),
            "requests/s",
            ">= 500".to_owned(),
            load >= 500.0,
        );
        lines
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} labs: {} killed, {} stood still, at {} different places",
            self.labs,
            self.killed,
            self.stood,
            self.places.len()
        )?;
        writeln!(
            f,
            "migrations at rest: {:?}; parked on the way: {}",
            self.ended, self.parked
        )?;
        for (what, all) in [
            ("from a blow to the take-over", &self.take_overs),
            ("from the last recovery to rest", &self.rests),
        ] {
            writeln!(
                f,
                "{what}: median {} ms, p99 {} ms, longest {} ms, of {}",
                at(all, 0.5),
                at(all, 0.99),
                at(all, 1.0),
                all.len()
            )?;
        }
        writeln!(
            f,
            "requests: {} sent, {} failed, {} not sent",
            self.sent, self.failed, self.shed
        )
    }
}
