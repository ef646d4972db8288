//! Counters of the control plane, in Prometheus' text form.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A number that only grows, or that is set.
#[derive(Debug, Default)]
pub(crate) struct Number(AtomicU64);

impl Number {
    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Upper edges of the histogram of how long an acknowledgement takes, in milliseconds.
const EDGES_MS: [u64; 12] = [1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 5_000, 30_000];

/// How long something took, in buckets.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    buckets: [Number; EDGES_MS.len() + 1],
    sum_us: Number,
}

impl Histogram {
    pub(crate) fn observe(&self, took: Duration) {
        let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let bucket = EDGES_MS.partition_point(|edge| *edge < millis);
        if let Some(bucket) = self.buckets.get(bucket) {
            bucket.add(1);
        }
        self.sum_us
            .add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }

    fn write(&self, name: &str, help: &str, out: &mut String) {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} histogram");
        let mut total = 0;
        for (edge, bucket) in EDGES_MS.iter().zip(&self.buckets) {
            total += bucket.get();
            let seconds = Duration::from_millis(*edge).as_secs_f64();
            let _ = writeln!(out, "{name}_bucket{{le=\"{seconds}\"}} {total}");
        }
        total += self.buckets.last().map_or(0, Number::get);
        let sum = Duration::from_micros(self.sum_us.get()).as_secs_f64();
        let _ = writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {total}");
        let _ = writeln!(out, "{name}_sum {sum}\n{name}_count {total}");
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) connections: Number,
    pub(crate) failed_handshakes: Number,
    pub(crate) refused_streams: Number,
    pub(crate) paced_streams: Number,
    pub(crate) streams: Number,
    pub(crate) away: Number,
    pub(crate) unsettled: Number,
    pub(crate) held: Number,
    pub(crate) pushes: Number,
    pub(crate) pushed_bytes: Number,
    pub(crate) acks: Number,
    pub(crate) nacks: Number,
    pub(crate) slow_streams: Number,
    pub(crate) dropped_streams: Number,
    pub(crate) load_reports: Number,
    pub(crate) log_entries: Number,
    pub(crate) ack_time: Histogram,
}

impl Metrics {
    /// All of them as text.
    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        let one = |out: &mut String, name: &str, kind: &str, help: &str, number: &Number| {
            // Writing to a text cannot fail.
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
            let _ = writeln!(out, "{name} {}", number.get());
        };
        let counters = [
            (
                "connections_total",
                "Connections accepted",
                &self.connections,
            ),
            (
                "tls_handshakes_failed_total",
                "TLS handshakes that failed",
                &self.failed_handshakes,
            ),
            (
                "streams_refused_total",
                "Discovery streams refused at their first message",
                &self.refused_streams,
            ),
            (
                "streams_paced_total",
                "Discovery streams that waited for their turn to begin",
                &self.paced_streams,
            ),
            ("pushes_total", "Responses sent", &self.pushes),
            (
                "pushed_bytes_total",
                "Bytes of responses sent",
                &self.pushed_bytes,
            ),
            ("acks_total", "Responses acknowledged", &self.acks),
            ("nacks_total", "Responses refused by a node", &self.nacks),
            (
                "streams_dropped_total",
                "Streams dropped because their client did not read",
                &self.dropped_streams,
            ),
            (
                "load_reports_total",
                "Load reports received",
                &self.load_reports,
            ),
            (
                "access_log_entries_total",
                "Access log entries received",
                &self.log_entries,
            ),
        ];
        let gauges = [
            ("streams", "Discovery streams connected", &self.streams),
            ("nodes_away", "Known nodes without a stream", &self.away),
            (
                "services_unsettled",
                "Services not applied by every known node",
                &self.unsettled,
            ),
            (
                "resources_held",
                "Resources that only a canary sees so far",
                &self.held,
            ),
            (
                "streams_slow",
                "Streams whose client does not read",
                &self.slow_streams,
            ),
        ];
        for (name, help, number) in counters {
            one(
                &mut out,
                &format!("foreshadow_xds_{name}"),
                "counter",
                help,
                number,
            );
        }
        for (name, help, number) in gauges {
            one(
                &mut out,
                &format!("foreshadow_xds_{name}"),
                "gauge",
                help,
                number,
            );
        }
        self.ack_time.write(
            "foreshadow_xds_ack_seconds",
            "Time from a response to its acknowledgement",
            &mut out,
        );
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_is_cumulative_and_counts_what_is_over_the_last_edge() {
        let metrics = Metrics::default();
        for millis in [1, 3, 40_000] {
            metrics.ack_time.observe(Duration::from_millis(millis));
        }
        metrics.nacks.add(2);
        let text = metrics.text();
        for line in [
            "foreshadow_xds_ack_seconds_bucket{le=\"0.001\"} 1",
            "foreshadow_xds_ack_seconds_bucket{le=\"0.005\"} 2",
            "foreshadow_xds_ack_seconds_bucket{le=\"+Inf\"} 3",
            "foreshadow_xds_ack_seconds_count 3",
            "foreshadow_xds_nacks_total 2",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
    }
}
