//! Holding requests that change something while a single writer is cut over.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests say what they expect by failing"
)]

mod common;

use common::message::Service;
use common::{Answer, Control, Http, Upstream, admin, config, ready, stop, until};
use foreshadow_proxy::RunningProxy;
use http::Request;
use http_body_util::Full;
use tokio::task::JoinHandle;

fn to(side: &str, hold: Option<(u32, u32)>) -> Service {
    let weights = [
        ("s~i~original", 10_000 * u32::from(side == "original")),
        ("s~i~shadow", 10_000 * u32::from(side == "shadow")),
    ];
    Service {
        hold,
        ..Service::new("s", &weights)
    }
}

async fn lab() -> (Control, Upstream, Upstream, RunningProxy) {
    let control = Control::start().await;
    let (original, shadow) = (
        Upstream::start("original").await,
        Upstream::start("shadow").await,
    );
    control.cluster("s~i~original", &[original.address]);
    control.cluster("s~i~shadow", &[shadow.address]);
    control.routes(&[to("original", None)]);
    let proxy = ready(config(control.address)).await;
    (control, original, shadow, proxy)
}

fn write(proxy: &RunningProxy) -> JoinHandle<Answer> {
    let uri = format!("http://{}/item", proxy.local_addr());
    tokio::spawn(async move {
        let request = Request::post(&uri).header("host", "s");
        let request = request.body(Full::from("value")).unwrap();
        Http::new().send(request).await.unwrap()
    })
}

async fn held(proxy: &RunningProxy, count: u64) {
    until("writes are held", || async {
        admin(proxy, "/counts").await["writes_held"] == count
    })
    .await;
}

/// Vitess 7061: what was held was let go only when its time was over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vitess_7061_held_writes_go_to_the_other_side_the_moment_it_is_opened_and_reads_never_wait()
{
    let (control, original, shadow, proxy) = lab().await;
    let version = control.routes(&[to("original", Some((100, 60_000)))]);
    control.acknowledged(api::xds::ROUTE, version).await;
    let writes: Vec<_> = (0..5).map(|_| write(&proxy)).collect();
    held(&proxy, 5).await;
    let uri = format!("http://{}/item", proxy.local_addr());
    assert_eq!(Http::new().get(&uri, "s").await.text(), "original");
    // The flip: reads go to the shadow, writes still wait.
    let version = control.routes(&[to("shadow", Some((100, 60_000)))]);
    control.acknowledged(api::xds::ROUTE, version).await;
    assert_eq!(Http::new().get(&uri, "s").await.text(), "shadow");
    assert!(writes.iter().all(|write| !write.is_finished()));
    assert_eq!((original.requests(), shadow.requests()), (1, 1));
    control.routes(&[to("shadow", None)]);
    for write in writes {
        let answer = write.await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.text()), (200, "shadow:5"));
    }
    assert_eq!(original.requests(), 1, "a held write reached the original");
    stop(proxy).await;
}

/// Vitess 9481: what was under way when the switch began was done after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vitess_9481_a_hold_is_acknowledged_when_no_write_from_before_is_under_way() {
    let (control, original, _shadow, proxy) = lab().await;
    original.hang(true);
    let slow = write(&proxy);
    until("it is under way", || async { original.requests() == 1 }).await;
    let version = control.routes(&[to("original", Some((100, 60_000)))]);
    held(&proxy, 0).await;
    until("the hold is in force", || async {
        admin(&proxy, "/table").await["routes"]["s"][1]["held"] == true
    })
    .await;
    let acknowledged = || control.world().acknowledged.get(api::xds::ROUTE).copied();
    assert!(
        acknowledged() < Some(version),
        "the write is still under way"
    );
    original.hang(false);
    assert_eq!(slow.await.unwrap().status, 200);
    control.acknowledged(api::xds::ROUTE, version).await;
    stop(proxy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_than_may_wait_and_those_that_waited_too_long_are_turned_away_without_effect() {
    let (control, original, shadow, proxy) = lab().await;
    let version = control.routes(&[to("original", Some((2, 700)))]);
    control.acknowledged(api::xds::ROUTE, version).await;
    let writes: Vec<_> = (0..2).map(|_| write(&proxy)).collect();
    held(&proxy, 2).await;
    let third = write(&proxy).await.unwrap();
    assert_eq!(third.status, 503);
    assert!(third.text().contains("too many requests"), "{third:?}");
    for write in writes {
        let answer = write.await.unwrap();
        assert_eq!(answer.status, 503);
        assert!(answer.text().contains("held for too long"), "{answer:?}");
    }
    assert_eq!((original.requests(), shadow.requests()), (0, 0));
    let counts = admin(&proxy, "/counts").await;
    assert_eq!(counts["writes_turned_away"], 3, "{counts}");
    stop(proxy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_that_makes_no_sense_is_refused_and_names_what_is_allowed() {
    let (control, _original, _shadow, proxy) = lab().await;
    control.routes(&[to("original", Some((0, 700)))]);
    until("it is refused", || async {
        !control.world().nacks.is_empty()
    })
    .await;
    let (_, reason) = control.world().nacks[0].clone();
    assert!(reason.contains("must be from 1 to 100000"), "{reason}");
    assert_eq!(
        write(&proxy).await.unwrap().status,
        200,
        "the old one serves on"
    );
    stop(proxy).await;
}
