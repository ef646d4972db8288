//! What Prometheus reads of the control plane: `/metrics` beside the page. docs/metrics.md says what
//! each means.

pub mod forecasts;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use domain::NodeProgress;

use crate::health::{Troubles, nodes};
use crate::ingest::Ingest;
use crate::status::Status;

/// The text form. Without a status (the store is away) what is known without it.
pub fn text(
    status: Option<&Status>,
    troubles: &Troubles,
    refused: u64,
    ingest: Option<&Ingest>,
) -> String {
    let mut out = Page::default();
    out.family("foreshadow_build_info", "gauge", "The version that runs");
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    out.value("foreshadow_build_info", &version, 1.0);
    out.family("foreshadow_ready", "gauge", "1 when nothing is wrong");
    let ready = if troubles.is_empty() { 1.0 } else { 0.0 };
    out.value("foreshadow_ready", &[], ready);
    out.family(
        "foreshadow_trouble",
        "gauge",
        "1 for each thing that is wrong",
    );
    for name in troubles.keys() {
        out.value("foreshadow_trouble", &[("name", name)], 1.0);
    }
    out.family(
        "foreshadow_api_refused_total",
        "counter",
        "Requests to the control API that were refused for want of a proof, or as another site's",
    );
    out.value("foreshadow_api_refused_total", &[], refused as f64);
    if let Some(ingest) = ingest {
        taken_in(&mut out, ingest);
    }
    if let Some(status) = status {
        hosts(&mut out, status);
        work(&mut out, status);
    }
    out.0
}

fn taken_in(out: &mut Page, ingest: &Ingest) {
    let name = "foreshadow_ingest_samples_total";
    let help = "Samples that came in from others than drivers, by what became of them";
    out.family(name, "counter", help);
    for (source, taken) in ingest.intake.counted() {
        for (outcome, count) in taken.outcomes() {
            let labels = [("source", source.name()), ("outcome", outcome)];
            out.value(name, &labels, count as f64);
        }
    }
    let name = "foreshadow_ingest_series_total";
    let help = "What Prometheus and OpenTelemetry sent and is no sample, by why";
    out.family(name, "counter", help);
    for (source, sieved) in ingest.sieved() {
        for (outcome, count) in sieved.outcomes() {
            let labels = [("source", source.name()), ("outcome", outcome)];
            out.value(name, &labels, count as f64);
        }
    }
}

fn hosts(out: &mut Page, status: &Status) {
    let risk = |host: &crate::status::HostStatus| {
        let bands = host.forecast.iter().map(|band| band.risk);
        bands.fold(0.0, f64::max)
    };
    type Of<'a> = &'a dyn Fn(&crate::status::HostStatus) -> f64;
    let families: [(&str, &str, Of<'_>); 5] = [
        (
            "foreshadow_host_capacity_millicores",
            "Processor time that a host gives",
            &|host| host.capacity,
        ),
        (
            "foreshadow_host_limit_millicores",
            "Processor time of a host that may be used",
            &|host| host.limit,
        ),
        (
            "foreshadow_host_demand_millicores",
            "Processor time of a host in use",
            &|host| host.demand,
        ),
        (
            "foreshadow_host_risk",
            "Highest probability, over the time ahead, that a host's demand exceeds its limit",
            &risk,
        ),
        (
            "foreshadow_host_instances",
            "Instances on a host",
            &|host| host.instances.len() as f64,
        ),
    ];
    for (name, help, of) in families {
        out.family(name, "gauge", help);
        for host in &status.hosts {
            out.value(name, &[("host", host.id.as_str())], of(host));
        }
    }
}

fn work(out: &mut Page, status: &Status) {
    out.family(
        "foreshadow_migrations",
        "gauge",
        "Migrations that are kept, by the name of their phase",
    );
    let mut phases: BTreeMap<&str, u64> = BTreeMap::new();
    for kept in &status.migrations {
        *phases.entry(kept.migration.phase.name()).or_default() += 1;
    }
    for (phase, count) in phases {
        out.value("foreshadow_migrations", &[("phase", phase)], count as f64);
    }
    out.family(
        "foreshadow_reservations",
        "gauge",
        "Reservations of capacity that are held",
    );
    let held = status.reservations.len();
    out.value("foreshadow_reservations", &[], held as f64);
    out.family(
        "foreshadow_proxies",
        "gauge",
        "Data planes that are known, by how they are",
    );
    let mut states: BTreeMap<&str, u64> = ["applied", "waiting", "away", "rejected"]
        .map(|state| (state, 0))
        .into();
    for progress in nodes(&status.routing).values() {
        let state = match progress {
            NodeProgress::Applied => "applied",
            NodeProgress::Waiting { .. } => "waiting",
            NodeProgress::Away => "away",
            NodeProgress::Rejected { .. } => "rejected",
        };
        *states.entry(state).or_default() += 1;
    }
    for (state, count) in states {
        out.value("foreshadow_proxies", &[("state", state)], count as f64);
    }
}

#[derive(Default)]
struct Page(String);

// Writing to a text cannot fail.
impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn value(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let labels: Vec<String> = labels
            .iter()
            .map(|(label, text)| format!("{label}=\"{}\"", escaped(text)))
            .collect();
        let labels = match labels.as_slice() {
            [] => String::new(),
            some => format!("{{{}}}", some.join(",")),
        };
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }
}

/// A label's value as the text form wants it.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_stands_in_the_metrics_also_without_a_store() {
        let troubles = [("a \"b\"\n".to_owned(), "gone".to_owned())].into();
        let text = text(None, &troubles, 3, None);
        for line in [
            "foreshadow_ready 0",
            "foreshadow_trouble{name=\"a \\\"b\\\"\\n\"} 1",
            "foreshadow_api_refused_total 3",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
    }
}
