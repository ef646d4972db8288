//! Redis is away for a minute: the data plane does not notice, and nothing is decided meanwhile.

use std::time::{SystemTime, UNIX_EPOCH};

use domain::{Phase, Timestamp};
use rustix::process::Signal;

use crate::ONE_AT_A_TIME;
use crate::lab::{Lab, Newest, RATE, block_on, is_over, nothing_was_lost, until};

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Timestamp(u64::try_from(since.as_millis()).unwrap())
}

#[test]
#[ignore = "a minute: make away"]
fn a_minute_without_redis_costs_no_request_and_the_ramp_holds() {
    let _turn = ONE_AT_A_TIME.lock();
    block_on(async {
        let lab = Lab::start_on_redis().await;
        lab.order().await.unwrap();
        let ramps = |m: &Newest| matches!(m.migration.phase, Phase::Ramping { .. });
        lab.newest("the ramp begins", ramps).await;
        lab.signal_redis(Signal::STOP);
        let stopped = now();
        // A minute, told by the load: it never stops.
        for _ in 0..3 {
            let before = lab.sent();
            let of_a_third = u64::from(20 * 2 * (RATE + 5));
            until("a third of a minute of requests", async || {
                (lab.sent() - before >= of_a_third).then_some(())
            })
            .await;
        }
        let goes_on = now();
        let away = goes_on.since(stopped);
        assert!(away >= 50_000, "only {away} ms");
        lab.signal_redis(Signal::CONT);
        let ended = lab.newest("an end", is_over).await.migration;
        assert_eq!(ended.phase, Phase::Done, "{ended:#?}");
        // What was on its way when it stopped may have been noted; nothing later.
        let decided = |at: Timestamp| at.0 > stopped.0 + 1_000 && at < goes_on;
        let meanwhile: Vec<_> = ended.history.iter().filter(|e| decided(e.at)).collect();
        assert!(meanwhile.is_empty(), "{meanwhile:#?}");
        lab.is_at_rest("a minute without Redis").await;
        let report = lab.end().await;
        let failed = report.failures.len();
        println!("promise S15-away {away} ms target >= 50000 ok");
        println!(
            "promise S15-failed {failed} requests target = 0 {}",
            if failed == 0 { "ok" } else { "short" }
        );
        nothing_was_lost(&report, 3_000);
    });
}
