//! Figures and how they are shown.

use std::time::SystemTime;

/// Median and 99th percentile.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Quantiles {
    p50: f64,
    p99: f64,
}

/// What was measured of one server at one size.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figures {
    pub(crate) connect_us: f64,
    pub(crate) rss_kib: f64,
    pub(crate) cpu_us: f64,
    pub(crate) received_ms: Quantiles,
    pub(crate) last_ms: Quantiles,
}

impl Figures {
    pub(crate) fn line(&self, name: &str, streams: usize, clusters: usize) -> String {
        let (received, last) = (self.received_ms, self.last_ms);
        format!(
            "{name:<12} {streams:>6} streams {clusters:>6} clusters: push {:.1} us CPU a stream, received p50 {:.0} p99 {:.0} ms, last acknowledged p50 {:.0} p99 {:.0} ms; connecting {:.0} us CPU, {:.1} KiB a stream",
            self.cpu_us,
            received.p50,
            received.p99,
            last.p50,
            last.p99,
            self.connect_us,
            self.rss_kib
        )
    }
}

/// Of microseconds, in milliseconds.
pub(crate) fn quantiles(mut micros: Vec<f64>) -> Quantiles {
    micros.sort_by(f64::total_cmp);
    let at = |percent: usize| {
        let index = (micros.len() * percent / 100).min(micros.len().saturating_sub(1));
        micros.get(index).map_or(0.0, |micros| micros / 1_000.0)
    };
    Quantiles {
        p50: at(50),
        p99: at(99),
    }
}

pub(crate) fn float(number: usize) -> f64 {
    number as f64
}

/// Microseconds since 1970, the same for all processes of this machine.
pub(crate) fn now_us() -> f64 {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap();
    now.as_secs_f64() * 1e6
}

/// A line that a reader, or a script, checks a promise by.
pub(crate) fn promise(id: &str, measured: f64, unit: &str, op: &str, target: f64) {
    let holds = match op {
        "<=" => measured <= target,
        _ => measured >= target,
    };
    let verdict = if holds { "ok" } else { "short" };
    println!("promise {id} {measured:.2} {unit} target {op} {target} {verdict}");
}
