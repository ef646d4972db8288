//! What the judge relies on in the records.

use api::envoy::envoy::config::endpoint::v3::{EndpointLoadMetricStats, UpstreamLocalityStats};
use api::envoy::envoy::data::accesslog::v3::AccessLogCommon;
use api::envoy::google::protobuf::Duration;

use super::*;

fn service() -> ServiceId {
    ServiceId::new("shop").unwrap()
}

fn node() -> NodeId {
    NodeId::new("edge").unwrap()
}

fn stats(cluster: &str, success: u64, error: u64, busy: u64) -> ClusterStats {
    ClusterStats {
        cluster_name: cluster.to_owned(),
        upstream_locality_stats: vec![UpstreamLocalityStats {
            total_successful_requests: success,
            total_error_requests: error,
            total_requests_in_progress: busy,
            ..UpstreamLocalityStats::default()
        }],
        ..ClusterStats::default()
    }
}

fn entry(cluster: &str, micros: i32) -> HttpAccessLogEntry {
    HttpAccessLogEntry {
        common_properties: Some(AccessLogCommon {
            upstream_cluster: cluster.to_owned(),
            time_to_last_downstream_tx_byte: Some(Duration {
                seconds: 0,
                nanos: micros * 1_000,
            }),
            ..AccessLogCommon::default()
        }),
        ..HttpAccessLogEntry::default()
    }
}

fn telemetry() -> Telemetry {
    let mut telemetry = Telemetry::default();
    let known = BTreeSet::from([service(), ServiceId::new("shop-2").unwrap()]);
    telemetry.set_services(known, BTreeSet::new());
    telemetry
}

fn at(millis: u64) -> Timestamp {
    Timestamp(1_000_000 + millis)
}

fn only(telemetry: &mut Telemetry, now: Timestamp) -> NodeTotals {
    let traffic = telemetry.take(now);
    let shop = traffic
        .into_iter()
        .find(|traffic| traffic.service == service())
        .unwrap();
    shop.nodes.into_values().next().unwrap()
}

type NodeTotals = domain::NodeTraffic;

#[test]
fn counts_add_up_within_a_session_and_a_cluster_left_out_has_nothing_in_progress() {
    let mut telemetry = telemetry();
    let session = Session::new(at(0), 1);
    telemetry.begin(&node(), session);
    telemetry.load(&node(), session, &[stats("shop~a~shadow", 5, 1, 3)], at(1));
    telemetry.load(&node(), session, &[stats("shop", 1, 0, 0)], at(2));
    telemetry.load(&node(), session, &[stats("shop~a~shadow", 2, 0, 0)], at(3));
    let traffic = only(&mut telemetry, at(4));
    let shadow = &traffic.clusters["shop~a~shadow"];
    assert_eq!(
        (shadow.success, shadow.error, shadow.in_progress),
        (7, 1, 0)
    );
    assert_eq!((traffic.reports, traffic.session), (3, session.get()));
    assert_eq!(traffic.clusters["shop"].success, 1);
}

#[test]
fn a_new_session_begins_at_nothing_and_the_old_one_is_not_heard_any_more() {
    let mut telemetry = telemetry();
    let (old, new) = (Session::new(at(0), 1), Session::new(at(0), 2));
    telemetry.begin(&node(), old);
    telemetry.load(&node(), old, &[stats("shop", 9, 0, 0)], at(1));
    telemetry.begin(&node(), new);
    telemetry.load(&node(), old, &[stats("shop", 9, 0, 0)], at(2));
    telemetry.load(&node(), new, &[stats("shop", 1, 0, 0)], at(3));
    let traffic = only(&mut telemetry, at(4));
    assert_eq!(
        (traffic.session, traffic.clusters["shop"].success),
        (new.get(), 1)
    );
}

#[test]
fn latencies_of_an_envoy_come_from_its_access_log() {
    let mut telemetry = telemetry();
    let session = Session::new(at(0), 1);
    telemetry.begin(&node(), session);
    telemetry.load(&node(), session, &[stats("shop", 2, 0, 0)], at(1));
    telemetry.log(
        &node(),
        session,
        &[entry("shop", 900), entry("shop", 3_000)],
        at(2),
    );
    telemetry.log(&node(), session, &[entry("", 900)], at(2));
    let traffic = only(&mut telemetry, at(3));
    assert_eq!(traffic.clusters["shop"].latency.total(), 2);
    assert!(traffic.clusters.len() == 1);
}

#[test]
fn a_node_that_measures_itself_is_not_counted_twice() {
    let mut telemetry = telemetry();
    let session = Session::new(at(0), 1);
    telemetry.begin(&node(), session);
    telemetry.log(&node(), session, &[entry("shop", 900)], at(1));
    let mut report = stats("shop", 4, 0, 0);
    report.upstream_locality_stats[0].load_metric_stats = vec![EndpointLoadMetricStats {
        metric_name: api::latency::bucket_metric(7),
        num_requests_finished_with_metric: 4,
        total_metric_value: 4.0,
    }];
    telemetry.load(&node(), session, &[report], at(2));
    let traffic = only(&mut telemetry, at(3));
    let latency = &traffic.clusters["shop"].latency;
    assert_eq!((latency.total(), latency.counts()[7]), (4, 4));
}

#[test]
fn a_service_gets_its_own_clusters_and_not_those_of_a_longer_name() {
    let mut telemetry = telemetry();
    let session = Session::new(at(0), 1);
    telemetry.begin(&node(), session);
    let all = [
        stats("shop", 1, 0, 0),
        stats("shop-2", 1, 0, 0),
        stats("shop~a~original", 1, 0, 0),
    ];
    telemetry.load(&node(), session, &all, at(1));
    let names: Vec<String> = only(&mut telemetry, at(2)).clusters.into_keys().collect();
    assert_eq!(names, ["shop", "shop~a~original"]);
}

#[test]
fn under_migration_every_report_is_written_even_without_news() {
    let mut telemetry = telemetry();
    telemetry.set_services(BTreeSet::from([service()]), BTreeSet::from([service()]));
    let session = Session::new(at(0), 1);
    telemetry.begin(&node(), session);
    for report in 1..=3 {
        telemetry.load(&node(), session, &[], at(report));
        assert_eq!(only(&mut telemetry, at(report)).reports, report);
    }
}

#[test]
fn a_silent_node_is_forgotten() {
    let mut telemetry = telemetry();
    let session = Session::new(at(0), 1);
    telemetry.begin(&node(), session);
    telemetry.load(&node(), session, &[stats("shop", 1, 0, 1)], at(1));
    let traffic = telemetry.take(at(1 + FORGET_AFTER_MS));
    assert!(
        traffic.iter().all(|traffic| traffic.nodes.is_empty()),
        "{traffic:?}"
    );
}

#[test]
fn what_instances_say_of_themselves_adds_up_by_name_and_is_bounded() {
    let mut telemetry = telemetry();
    let session = Session::new(at(0), 1);
    telemetry.begin(&node(), session);
    let named = |name: &str, answers, sum| EndpointLoadMetricStats {
        metric_name: name.to_owned(),
        num_requests_finished_with_metric: answers,
        total_metric_value: sum,
    };
    let mut report = stats("shop", 4, 0, 0);
    let metrics = &mut report.upstream_locality_stats[0].load_metric_stats;
    metrics.push(named("named_metrics.queue", 4, 10.0));
    metrics.push(named(&"x".repeat(10_000), 1, 1.0));
    metrics.extend((0..1_000).map(|number| named(&format!("made.up.{number}"), 1, 1.0)));
    for _ in 0..2 {
        telemetry.load(&node(), session, std::slice::from_ref(&report), at(1));
    }
    let traffic = only(&mut telemetry, at(2));
    let metrics = &traffic.metrics["shop"];
    let queue = metrics["named_metrics.queue"];
    assert_eq!((queue.answers, queue.mean()), (8, Some(2.5)));
    assert_eq!(metrics.len(), 32);
    assert!(metrics.keys().all(|name| name.len() <= 128));
}
