//! How latency histograms travel inside load reports.
//!
//! LRS (`envoy.service.load_stats.v3`) has no field for latencies, but lets a client report named
//! metrics per locality. Our proxy reports one metric per bucket of
//! [`domain::LATENCY_EDGES_US`], named [`bucket_metric`], whose
//! `num_requests_finished_with_metric` is the number of requests in that bucket since the last
//! report. Envoy ignores names it does not know, and so do we.

/// Prefix of the metrics' names.
const PREFIX: &str = "foreshadow.latency.bucket.";

/// Name of the metric for the bucket at `index`.
pub fn bucket_metric(index: usize) -> String {
    format!("{PREFIX}{index}")
}

/// The bucket that a metric's name means, if it is one of ours.
pub fn bucket_of(metric: &str) -> Option<usize> {
    let index = metric.strip_prefix(PREFIX)?.parse().ok()?;
    (index <= domain::LATENCY_EDGES_US.len()).then_some(index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_buckets_are_inverse_and_strangers_are_ignored() {
        for index in 0..=domain::LATENCY_EDGES_US.len() {
            assert_eq!(bucket_of(&bucket_metric(index)), Some(index));
        }
        assert_eq!(bucket_of("foreshadow.latency.bucket.99"), None);
        assert_eq!(bucket_of("named_metrics.cpu"), None);
    }
}
