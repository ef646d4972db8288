//! What the data planes report: counts and latencies per cluster and node.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::{NodeId, ServiceId};
use crate::pairs::Pairs;
use crate::units::Timestamp;

/// One of the two replicas of an instance under migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The running instance.
    Original,
    /// Its replica.
    Shadow,
}

impl Side {
    /// The name used in clusters, metrics and tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Original => "original",
            Self::Shadow => "shadow",
        }
    }
}

/// Upper edges of the latency buckets, in microseconds: 2^(1/2) apart from 250 µs to 32 s. The
/// last bucket of a histogram is open.
pub const LATENCY_EDGES_US: [u64; 35] = [
    250, 354, 500, 707, 1_000, 1_414, 2_000, 2_828, 4_000, 5_657, 8_000, 11_314, 16_000, 22_627,
    32_000, 45_255, 64_000, 90_510, 128_000, 181_019, 256_000, 362_039, 512_000, 724_077,
    1_024_000, 1_448_155, 2_048_000, 2_896_309, 4_096_000, 5_792_619, 8_192_000, 11_585_238,
    16_384_000, 23_170_475, 32_768_000,
];

/// Number of buckets: one per edge and the open one.
const BUCKETS: usize = LATENCY_EDGES_US.len() + 1;

/// Counts of requests by latency, with the edges of [`LATENCY_EDGES_US`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<u64>", into = "Vec<u64>")]
pub struct LatencyHistogram {
    buckets: [u64; BUCKETS],
}

impl Default for LatencyHistogram {
    fn default() -> Self {
        Self {
            buckets: [0; BUCKETS],
        }
    }
}

impl LatencyHistogram {
    /// Index of the bucket for a latency.
    pub fn bucket(latency_us: u64) -> usize {
        LATENCY_EDGES_US.partition_point(|&edge| edge < latency_us)
    }

    /// Counts one request.
    pub fn record(&mut self, latency_us: u64) {
        self.add(Self::bucket(latency_us), 1);
    }

    /// Adds `count` requests to the bucket at `index`; an index past the end means the open
    /// bucket.
    pub fn add(&mut self, index: usize, count: u64) {
        let bucket = &mut self.buckets[index.min(BUCKETS - 1)];
        *bucket = bucket.saturating_add(count);
    }

    /// The count of each bucket, the open one last.
    pub fn counts(&self) -> &[u64] {
        &self.buckets
    }

    /// All requests counted.
    pub fn total(&self) -> u64 {
        self.buckets
            .iter()
            .fold(0, |sum, &count| sum.saturating_add(count))
    }

    /// Adds another histogram.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine = mine.saturating_add(*theirs);
        }
    }

    /// What has been counted since `earlier`, bucket by bucket; 0 where the count fell.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut change = self.clone();
        for (now, before) in change.buckets.iter_mut().zip(&earlier.buckets) {
            *now = now.saturating_sub(*before);
        }
        change
    }

    /// The latency below which a share `level` of the requests lies, in microseconds, linear
    /// inside a bucket; `None` without requests.
    pub fn quantile_us(&self, level: f64) -> Option<f64> {
        let total = self.total();
        if total == 0 {
            return None;
        }
        let wanted = level.clamp(0.0, 1.0) * total as f64;
        let mut below = 0.0;
        for (index, &count) in self.buckets.iter().enumerate() {
            let here = count as f64;
            if count > 0 && below + here >= wanted {
                let low = index.checked_sub(1).map_or(0, |i| LATENCY_EDGES_US[i]) as f64;
                let high = LATENCY_EDGES_US
                    .get(index)
                    .map_or(low * 1.5, |&edge| edge as f64);
                return Some(low + (high - low) * ((wanted - below) / here).clamp(0.0, 1.0));
            }
            below += here;
        }
        None
    }

    /// How many requests were slower than `edge_us`, which should be one of the edges.
    pub fn slower_than(&self, edge_us: u64) -> u64 {
        let first = LATENCY_EDGES_US.partition_point(|&edge| edge <= edge_us);
        self.buckets[first.min(BUCKETS - 1)..].iter().sum()
    }
}

impl From<Vec<u64>> for LatencyHistogram {
    fn from(counts: Vec<u64>) -> Self {
        let mut histogram = Self::default();
        for (index, count) in counts.into_iter().enumerate() {
            histogram.add(index, count);
        }
        histogram
    }
}

impl From<LatencyHistogram> for Vec<u64> {
    fn from(histogram: LatencyHistogram) -> Self {
        histogram.buckets.to_vec()
    }
}

/// Totals of one cluster at one node since that node's session began.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Requests that ended well.
    pub success: u64,
    /// Requests that failed (5xx, reset, no connection).
    pub error: u64,
    /// Requests not yet ended at the time of the report.
    pub in_progress: u64,
    /// Latencies of the ended requests.
    pub latency: LatencyHistogram,
}

impl Counts {
    /// Requests that ended.
    pub const fn ended(&self) -> u64 {
        self.success.saturating_add(self.error)
    }

    /// Adds another cluster's or node's totals.
    pub fn merge(&mut self, other: &Self) {
        self.success = self.success.saturating_add(other.success);
        self.error = self.error.saturating_add(other.error);
        self.in_progress = self.in_progress.saturating_add(other.in_progress);
        self.latency.merge(&other.latency);
    }

    /// What was counted since `earlier`; `in_progress` stays the newest.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            success: self.success.saturating_sub(earlier.success),
            error: self.error.saturating_sub(earlier.error),
            in_progress: self.in_progress,
            latency: self.latency.since(&earlier.latency),
        }
    }
}

/// What one node has reported.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NodeTraffic {
    /// Identity of the node's reporting session; totals begin anew with each.
    pub session: u64,
    /// When its last report arrived.
    pub reported_at: Timestamp,
    /// Number of reports in this session. A cluster that a report leaves out had nothing in
    /// progress.
    pub reports: u64,
    /// Totals per cluster.
    pub clusters: BTreeMap<String, Counts>,
    /// What paired answers said, per cluster of a shadow.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pairs: BTreeMap<String, Pairs>,
    /// What the instances say of themselves in their answers (ORCA), per cluster and name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metrics: BTreeMap<String, BTreeMap<String, NamedMetric>>,
}

/// A number that instances give with their answers, added up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NamedMetric {
    /// Answers that gave it.
    pub answers: u64,
    /// Sum over these answers, in millionths.
    pub sum_millionths: i64,
}

impl NamedMetric {
    /// Adds what `answers` answers gave together. What is no number adds nothing.
    pub fn add(&mut self, answers: u64, sum: f64) {
        if !sum.is_finite() {
            return;
        }
        self.answers = self.answers.saturating_add(answers);
        self.sum_millionths = self.sum_millionths.saturating_add(millionths(sum));
    }

    /// Mean over the answers; `None` without any.
    pub fn mean(self) -> Option<f64> {
        let answers = self.answers as f64;
        (self.answers > 0).then(|| self.sum_millionths as f64 / 1e6 / answers)
    }
}

/// The nearest millionth; what is out of range is taken for the range's end.
#[expect(
    clippy::cast_possible_truncation,
    reason = "a float that is out of range becomes the nearest whole number, which is what is wanted"
)]
fn millionths(value: f64) -> i64 {
    (value * 1e6).round() as i64
}

/// What all nodes have reported about one service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// The service.
    pub service: ServiceId,
    /// When this record was written.
    pub at: Timestamp,
    /// Per node.
    pub nodes: BTreeMap<NodeId, NodeTraffic>,
}

impl Traffic {
    /// What several control planes have heard together: each node by its newest report.
    pub fn merge(words: impl IntoIterator<Item = Self>) -> Option<Self> {
        let mut words = words.into_iter();
        let mut merged = words.next()?;
        for word in words {
            merged.at = merged.at.max(word.at);
            for (node, heard) in word.nodes {
                let before = merged.nodes.get(&node);
                if before.is_none_or(|before| before.reported_at < heard.reported_at) {
                    merged.nodes.insert(node, heard);
                }
            }
        }
        Some(merged)
    }

    /// Totals of one cluster over all nodes.
    pub fn cluster(&self, name: &str) -> Counts {
        let mut sum = Counts::default();
        for node in self.nodes.values() {
            if let Some(counts) = node.clusters.get(name) {
                sum.merge(counts);
            }
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_quantile_lies_in_the_bucket_of_its_rank() {
        let mut histogram = LatencyHistogram::default();
        for _ in 0..99 {
            histogram.record(900);
        }
        histogram.record(60_000);
        let median = histogram.quantile_us(0.5).unwrap();
        assert!((707.0..=1_000.0).contains(&median), "{median}");
        assert!(histogram.quantile_us(0.995).unwrap() > 45_255.0);
        assert_eq!(histogram.slower_than(1_000), 1);
        assert_eq!(LatencyHistogram::default().quantile_us(0.5), None);
    }

    #[test]
    fn a_node_that_changed_its_control_plane_counts_once_by_its_newest_report() {
        let word = |node: &str, at, success| {
            let heard = NodeTraffic {
                reported_at: Timestamp(at),
                clusters: [(
                    "c".to_owned(),
                    Counts {
                        success,
                        ..Counts::default()
                    },
                )]
                .into(),
                ..NodeTraffic::default()
            };
            Traffic {
                service: ServiceId::new("s").unwrap(),
                at: Timestamp(at),
                nodes: [(NodeId::new(node).unwrap(), heard)].into(),
            }
        };
        let words = [word("n", 5, 50), word("n", 3, 30), word("other", 1, 1)];
        let merged = Traffic::merge(words).unwrap();
        assert_eq!((merged.cluster("c").success, merged.at), (51, Timestamp(5)));
    }

    #[test]
    fn a_named_metric_has_the_mean_of_the_answers_and_no_mean_of_none() {
        let mut metric = NamedMetric::default();
        assert_eq!(metric.mean(), None);
        metric.add(3, 1.5);
        metric.add(1, -0.5);
        metric.add(9, f64::NAN);
        metric.add(9, f64::INFINITY);
        assert_eq!((metric.answers, metric.mean()), (4, Some(0.25)));
        metric.add(0, f64::MAX);
        assert_eq!(metric.sum_millionths, i64::MAX);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_between_record_merge_and_difference(
            first in prop::collection::vec(0_u64..50_000_000, 0..50),
            second in prop::collection::vec(0_u64..50_000_000, 0..50),
        ) {
            let of = |values: &[u64]| {
                let mut histogram = LatencyHistogram::default();
                for &value in values {
                    histogram.record(value);
                }
                histogram
            };
            let (one, two) = (of(&first), of(&second));
            let mut both = one.clone();
            both.merge(&two);
            prop_assert_eq!(both.total(), (first.len() + second.len()) as u64);
            prop_assert_eq!(both.since(&one), two);
        }
    }
}
