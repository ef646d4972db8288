//! How the counts of sessions travel inside load reports: as named metrics of a cluster, like
//! latencies do (see [`crate::latency`]). Our proxy reports them for sticky services: the first
//! request that a cluster has of every session.

use domain::Counts;

/// Prefix of the metrics' names.
const PREFIX: &str = "foreshadow.sessions.";

/// Everything that was counted, as names and counts.
pub fn metrics(counts: &Counts) -> Vec<(String, u64)> {
    let ends = [("success", counts.success), ("error", counts.error)];
    let ends = ends.map(|(name, count)| (format!("{PREFIX}{name}"), count));
    let buckets = counts.latency.counts().iter().enumerate();
    let buckets = buckets.map(|(index, &count)| (format!("{PREFIX}bucket.{index}"), count));
    ends.into_iter()
        .chain(buckets)
        .filter(|(_, count)| *count > 0)
        .collect()
}

/// Adds one metric to the counts. Gives whether its name is one of ours.
pub fn add(counts: &mut Counts, metric: &str, count: u64) -> bool {
    match metric.strip_prefix(PREFIX) {
        Some("success") => counts.success = counts.success.saturating_add(count),
        Some("error") => counts.error = counts.error.saturating_add(count),
        Some(name) => {
            let index = name.strip_prefix("bucket.").and_then(|n| n.parse().ok());
            let Some(index) = index.filter(|n| *n <= domain::LATENCY_EDGES_US.len()) else {
                return false;
            };
            counts.latency.add(index, count);
        }
        None => return false,
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reported_is_what_arrives_and_strangers_are_ignored() {
        let mut counts = Counts {
            success: 7,
            error: 2,
            ..Counts::default()
        };
        for us in [300, 5_000, 5_000, 90_000_000] {
            counts.latency.record(us);
        }
        let mut arrived = Counts::default();
        for (name, count) in metrics(&counts) {
            assert!(add(&mut arrived, &name, count), "{name}");
        }
        assert_eq!(arrived, counts);
        for name in [
            "foreshadow.sessions.bucket.99",
            "foreshadow.sessions.x",
            "cpu",
        ] {
            assert!(!add(&mut arrived, name, 1), "{name}");
        }
        assert_eq!(arrived, counts);
        assert!(metrics(&Counts::default()).is_empty());
    }
}
