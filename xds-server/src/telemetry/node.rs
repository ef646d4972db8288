//! What one node has reported in its session.

use std::collections::BTreeMap;

use api::envoy::envoy::config::endpoint::v3::{
    ClusterStats, EndpointLoadMetricStats, UpstreamLocalityStats,
};
use api::envoy::envoy::data::accesslog::v3::HttpAccessLogEntry;
use domain::{Counts, LatencyHistogram, NamedMetric, NodeTraffic, Pairs, ServiceId, Timestamp};

use super::Session;

/// Most clusters that a node may report; more come only from a client that makes them up.
const MAX_CLUSTERS: usize = 20_000;
/// Most names of metrics per cluster, and most bytes of a name: what instances say is not bounded.
const MAX_METRICS: usize = 32;
const MAX_METRIC_NAME: usize = 128;
/// How long a temporary cluster that is not reported any more is remembered.
const FORGET_CLUSTER_MS: u64 = 600_000;

/// Totals of one cluster. Latencies of the two sources are kept apart, so that only one counts.
#[derive(Debug, Default)]
struct ClusterState {
    success: u64,
    error: u64,
    in_progress: u64,
    from_loads: LatencyHistogram,
    from_logs: LatencyHistogram,
    pairs: Pairs,
    metrics: BTreeMap<String, NamedMetric>,
    seen_at: Timestamp,
}

#[derive(Debug)]
pub(super) struct NodeState {
    pub(super) session: Session,
    pub(super) reported_at: Timestamp,
    pub(super) reports: u64,
    /// Whether the load reports carry latencies.
    measures: bool,
    clusters: BTreeMap<String, ClusterState>,
}

impl NodeState {
    pub(super) const fn new(session: Session) -> Self {
        Self {
            session,
            // The session's own beginning, so that a node that never reports is forgotten too.
            reported_at: Timestamp(session.get() / 1_024),
            reports: 0,
            measures: false,
            clusters: BTreeMap::new(),
        }
    }

    /// Adds a report. Gives the clusters whose totals changed.
    pub(super) fn load(&mut self, stats: &[ClusterStats], now: Timestamp) -> Vec<String> {
        self.reports = self.reports.saturating_add(1);
        self.reported_at = now;
        let busy_before: BTreeMap<String, u64> = self
            .clusters
            .iter_mut()
            .filter(|(_, cluster)| cluster.in_progress > 0)
            .map(|(name, cluster)| (name.clone(), std::mem::take(&mut cluster.in_progress)))
            .collect();
        let mut touched: Vec<String> = busy_before.into_keys().collect();
        for cluster in stats {
            let Some(state) = self.cluster(&cluster.cluster_name, now) else {
                continue;
            };
            let mut measures = false;
            for locality in &cluster.upstream_locality_stats {
                measures |= state.add(locality);
            }
            self.measures |= measures;
            touched.push(cluster.cluster_name.clone());
        }
        self.clusters.retain(|name, cluster| {
            !name.contains('~') || now.since(cluster.seen_at) < FORGET_CLUSTER_MS
        });
        touched
    }

    /// Adds access logs. Gives the clusters whose latencies changed.
    pub(super) fn log(&mut self, entries: &[HttpAccessLogEntry], now: Timestamp) -> Vec<String> {
        self.reported_at = now;
        let mut touched = Vec::new();
        for entry in entries {
            let Some(common) = &entry.common_properties else {
                continue;
            };
            let (false, Some(took)) = (
                common.upstream_cluster.is_empty(),
                &common.time_to_last_downstream_tx_byte,
            ) else {
                continue;
            };
            let seconds = u64::try_from(took.seconds).unwrap_or(0);
            let nanos = u64::try_from(took.nanos).unwrap_or(0);
            let micros = seconds
                .saturating_mul(1_000_000)
                .saturating_add(nanos / 1_000);
            if let Some(state) = self.cluster(&common.upstream_cluster, now) {
                state.from_logs.record(micros);
                touched.push(common.upstream_cluster.clone());
            }
        }
        touched
    }

    fn cluster(&mut self, name: &str, now: Timestamp) -> Option<&mut ClusterState> {
        if self.clusters.len() >= MAX_CLUSTERS && !self.clusters.contains_key(name) {
            return None;
        }
        let state = self.clusters.entry(name.to_owned()).or_default();
        state.seen_at = now;
        Some(state)
    }

    /// The part of this node that concerns a service.
    pub(super) fn traffic(&self, service: &ServiceId) -> NodeTraffic {
        let id = service.as_str();
        let own = |name: &str| crate::gate::owner(name) == id;
        let mine = || {
            let from_here = self.clusters.range(id.to_owned()..);
            from_here
                .take_while(|(name, _)| name.starts_with(id))
                .filter(|(name, _)| own(name))
        };
        let clusters = mine().map(|(name, cluster)| (name.clone(), self.counts(cluster)));
        let pairs = mine().map(|(name, cluster)| (name.clone(), cluster.pairs.clone()));
        let metrics = mine().map(|(name, cluster)| (name.clone(), cluster.metrics.clone()));
        NodeTraffic {
            session: self.session.get(),
            reported_at: self.reported_at,
            reports: self.reports,
            clusters: clusters.collect(),
            pairs: pairs.filter(|(_, pairs)| !pairs.is_empty()).collect(),
            metrics: metrics.filter(|(_, metrics)| !metrics.is_empty()).collect(),
        }
    }

    fn counts(&self, cluster: &ClusterState) -> Counts {
        let latency = if self.measures {
            &cluster.from_loads
        } else {
            &cluster.from_logs
        };
        Counts {
            success: cluster.success,
            error: cluster.error,
            in_progress: cluster.in_progress,
            latency: latency.clone(),
        }
    }
}

impl ClusterState {
    /// Adds what one locality reports. Gives whether it carries latencies.
    fn add(&mut self, stats: &UpstreamLocalityStats) -> bool {
        self.success = self.success.saturating_add(stats.total_successful_requests);
        self.error = self.error.saturating_add(stats.total_error_requests);
        self.in_progress = self
            .in_progress
            .saturating_add(stats.total_requests_in_progress);
        let mut measures = false;
        for metric in &stats.load_metric_stats {
            if let Some(bucket) = api::latency::bucket_of(&metric.metric_name) {
                self.from_loads
                    .add(bucket, metric.num_requests_finished_with_metric);
                measures = true;
            } else if !api::pairs::add(
                &mut self.pairs,
                &metric.metric_name,
                metric.num_requests_finished_with_metric,
            ) {
                self.add_metric(metric);
            }
        }
        measures
    }

    /// Adds what the instances say of themselves.
    fn add_metric(&mut self, stats: &EndpointLoadMetricStats) {
        let name = &stats.metric_name;
        let is_known = self.metrics.contains_key(name);
        let fits = !name.is_empty() && name.len() <= MAX_METRIC_NAME;
        if is_known || (fits && self.metrics.len() < MAX_METRICS) {
            let metric = self.metrics.entry(name.clone()).or_default();
            metric.add(
                stats.num_requests_finished_with_metric,
                stats.total_metric_value,
            );
        }
    }
}
