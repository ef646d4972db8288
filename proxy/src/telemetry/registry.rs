//! The counters of all clusters, and what has been reported of them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::envoy::envoy::config::core::v3::Locality;
use api::envoy::envoy::config::endpoint::v3::{
    ClusterStats, EndpointLoadMetricStats, UpstreamLocalityStats,
};
use api::envoy::google::protobuf::Duration as WireDuration;

use domain::Pairs;

use super::counters::{Counters, Snapshot};
use crate::pairs::Book;

/// The counters of all clusters. They outlive the tables that name them, until all they have
/// counted is reported.
#[derive(Debug, Default)]
pub struct Registry {
    clusters: Mutex<BTreeMap<String, Entry>>,
}

#[derive(Debug, Default)]
struct Entry {
    counters: Arc<Counters>,
    reported: Snapshot,
    book: Arc<Book>,
    told: Pairs,
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        // Counters stay meaningful whatever interrupted their holder.
        self.clusters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The counters of a cluster.
    pub fn counters(&self, cluster: &str) -> Arc<Counters> {
        let mut clusters = self.lock();
        if let Some(entry) = clusters.get(cluster) {
            return Arc::clone(&entry.counters);
        }
        Arc::clone(&clusters.entry(cluster.to_owned()).or_default().counters)
    }

    /// What paired answers of a shadow's cluster said.
    pub(crate) fn book(&self, cluster: &str) -> Arc<Book> {
        let mut clusters = self.lock();
        Arc::clone(&clusters.entry(cluster.to_owned()).or_default().book)
    }

    /// What all paired answers said.
    pub(crate) fn pairs(&self) -> BTreeMap<String, Pairs> {
        let clusters = self.lock();
        let all = clusters
            .iter()
            .map(|(name, entry)| (name.clone(), entry.book.pairs()));
        all.filter(|(_, pairs)| !pairs.is_empty()).collect()
    }

    /// The totals of all clusters.
    pub fn totals(&self) -> BTreeMap<String, Snapshot> {
        let clusters = self.lock();
        clusters
            .iter()
            .map(|(name, entry)| (name.clone(), entry.counters.snapshot()))
            .collect()
    }

    /// What was counted since the last call, for clusters where there is anything to say. The
    /// caller must deliver it.
    pub fn take_report(&self, since_last: Duration) -> Vec<ClusterStats> {
        let mut report = Vec::new();
        self.lock().retain(|name, entry| {
            let now = entry.counters.snapshot();
            let pairs = entry.book.pairs();
            let news = pairs.since(&entry.told);
            let said = stats(name, &now, &entry.reported, &news, since_last);
            entry.reported = now;
            entry.told = pairs;
            let silent = said.is_none();
            report.extend(said);
            // Nobody can count any more, and all is reported.
            let unused = Arc::strong_count(&entry.counters) == 1;
            !(silent && unused && Arc::strong_count(&entry.book) == 1)
        });
        report
    }
}

fn stats(
    name: &str,
    now: &Snapshot,
    reported: &Snapshot,
    pairs: &Pairs,
    since_last: Duration,
) -> Option<ClusterStats> {
    let news = now.counts.since(&reported.counts);
    let sessions = now.sessions.since(&reported.sessions);
    let issued = now.issued.saturating_sub(reported.issued);
    let quiet = news.ended() == 0 && issued == 0 && news.latency.total() == 0;
    // What was in progress in the last report and is not any more is said by leaving it out.
    if quiet && news.in_progress == 0 && pairs.is_empty() {
        return None;
    }
    let latencies = news
        .latency
        .counts()
        .iter()
        .enumerate()
        .filter(|&(_, &count)| count > 0);
    let locality = UpstreamLocalityStats {
        locality: Some(Locality::default()),
        total_successful_requests: news.success,
        total_error_requests: news.error,
        total_requests_in_progress: news.in_progress,
        total_issued_requests: issued,
        load_metric_stats: latencies
            .map(|(index, &count)| (api::latency::bucket_metric(index), count))
            .chain(api::pairs::metrics(pairs))
            .chain(api::sessions::metrics(&sessions))
            .map(|(metric_name, count)| EndpointLoadMetricStats {
                metric_name,
                num_requests_finished_with_metric: count,
                total_metric_value: 0.0,
            })
            .collect(),
        ..UpstreamLocalityStats::default()
    };
    Some(ClusterStats {
        cluster_name: name.to_owned(),
        upstream_locality_stats: vec![locality],
        load_report_interval: Some(wire(since_last)),
        ..ClusterStats::default()
    })
}

fn wire(duration: Duration) -> WireDuration {
    WireDuration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::super::counters::{InProgress, Outcome};
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn reports_carry_each_request_once_and_a_cluster_is_forgotten_only_when_all_is_said() {
        let registry = Registry::default();
        let counters = registry.counters("a");
        let running = InProgress::begin(&counters);
        counters.ended(Outcome::Success, Duration::from_micros(300));
        let report = registry.take_report(SECOND);
        let locality = &report[0].upstream_locality_stats[0];
        assert_eq!(locality.total_successful_requests, 1);
        assert_eq!(locality.total_requests_in_progress, 1);
        assert_eq!(
            locality.load_metric_stats[0].metric_name,
            api::latency::bucket_metric(1)
        );

        let again = registry.take_report(SECOND);
        let locality = &again[0].upstream_locality_stats[0];
        assert_eq!(locality.total_successful_requests, 0);
        assert_eq!(locality.total_requests_in_progress, 1);

        counters.ended(Outcome::Error, SECOND);
        drop((running, counters));
        assert_eq!(
            registry.take_report(SECOND)[0].upstream_locality_stats[0].total_error_requests,
            1
        );
        assert!(registry.take_report(SECOND).is_empty());
        assert!(registry.totals().is_empty());
    }
}
