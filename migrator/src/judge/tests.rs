//! What the judge does on tables of counts.

use domain::Counts;
use domain::migration::{JudgeScope, Verdict};

use super::{Increment, JudgeState, Past, Task, Trouble};
use crate::settings::{AtDeadline, JudgeSettings};

const TICK: u64 = 500;

fn settings() -> JudgeSettings {
    JudgeSettings {
        epoch_ms: TICK,
        ..JudgeSettings::default()
    }
}

fn answered(success: u64, error: u64, latency_us: u64) -> Counts {
    let mut counts = Counts {
        success,
        error,
        ..Counts::default()
    };
    (0..success + error).for_each(|_| counts.latency.record(latency_us));
    counts
}

/// 1 000 requests of 5 ms, a tenth of 9 ms, a hundredth of 15 ms.
fn healthy() -> Counts {
    let mut counts = answered(890, 0, 5_000);
    counts.merge(&answered(100, 0, 9_000));
    counts.merge(&answered(10, 0, 15_000));
    counts
}

fn task(scope: JudgeScope, shadow_share: u32) -> Task {
    Task {
        scope,
        shadow_share,
        hold_ms: 4_000,
        prove: (5_000..9_000).contains(&shadow_share),
    }
}

fn stage(shadow_share: u32) -> Task {
    task(JudgeScope::Stage { stage: 0 }, shadow_share)
}

const SOAK: Task = Task {
    scope: JudgeScope::Soak,
    shadow_share: 10_000,
    hold_ms: 4_000,
    prove: false,
};

fn past(baseline: &Counts) -> Past {
    Past {
        baseline: baseline.clone(),
        ..Past::default()
    }
}

fn more(original: &Counts, shadow: &Counts) -> Increment {
    Increment {
        original: original.clone(),
        shadow: shadow.clone(),
        ..Increment::default()
    }
}

/// Feeds the same increment for some ticks.
fn after(task: Task, baseline: &Counts, ticks: u64, each: &Increment) -> JudgeState {
    let mut state = JudgeState::begin(task, past(baseline), &settings()).unwrap();
    (1..=ticks).for_each(|tick| state.feed(tick * TICK, each, &settings()));
    state
}

fn verdict(state: &JudgeState) -> Verdict {
    state.verdict(100, &settings())
}

fn rolls_back(state: &JudgeState) -> bool {
    matches!(verdict(state), Verdict::Rollback { .. })
}

#[test]
fn promotes_a_shadow_that_is_as_good() {
    let each = more(&answered(90, 0, 5_000), &answered(10, 0, 5_000));
    let state = after(stage(1_000), &healthy(), 8, &each);
    let verdict = verdict(&state);
    assert!(matches!(verdict, Verdict::Promote { .. }), "{verdict:?}");
    assert!(state.p_value() > 0.5);
}

#[test]
fn rolls_back_errors_slowness_and_death_also_before_the_hold_is_over() {
    let good = answered(31, 0, 5_000);
    let errors = more(&good, &answered(2, 2, 5_000));
    let slow = more(&good, &answered(4, 0, 160_000));
    let dead = more(&good, &answered(0, 4, 5_000));
    for bad in [errors, slow, dead] {
        let state = after(stage(1_000), &healthy(), 5, &bad);
        assert!(
            rolls_back(&state),
            "{:?} p {}",
            verdict(&state),
            state.p_value()
        );
    }
}

#[test]
fn five_failures_and_nothing_else_are_enough() {
    let each = more(&answered(50, 0, 5_000), &answered(0, 5, 5_000));
    assert!(rolls_back(&after(stage(1_000), &healthy(), 1, &each)));
}

#[test]
fn a_shadow_that_fails_with_its_original_is_held() {
    let each = more(&answered(2, 50, 5_000), &answered(0, 5, 5_000));
    let state = after(stage(1_000), &healthy(), 6, &each);
    assert!(!rolls_back(&state), "{:?}", verdict(&state));
}

#[test]
fn two_epochs_never_decide_however_bad() {
    let each = more(&answered(5_000, 0, 5_000), &answered(1, 500, 5_000));
    assert!(!rolls_back(&after(stage(1_000), &healthy(), 2, &each)));
    assert!(rolls_back(&after(stage(1_000), &healthy(), 4, &each)));
}

#[test]
fn a_sick_original_does_not_excuse_a_slow_shadow() {
    let each = more(&answered(30, 0, 400_000), &answered(10, 0, 400_000));
    let state = after(stage(2_500), &healthy(), 6, &each);
    assert!(rolls_back(&state), "{:?}", verdict(&state));
}

#[test]
fn a_machine_that_slows_both_down_is_no_reason_to_go_back() {
    let each = more(&answered(50, 0, 30_000), &answered(50, 0, 30_000));
    let state = after(stage(5_000), &healthy(), 200, &each);
    assert!(!rolls_back(&state), "{:?}", verdict(&state));
}

#[test]
fn a_shadow_that_is_slower_than_both_is_rolled_back() {
    let each = more(&answered(50, 0, 5_000), &answered(50, 0, 30_000));
    assert!(rolls_back(&after(stage(5_000), &healthy(), 30, &each)));
}

#[test]
fn a_shadow_slower_than_a_lucky_original_but_as_fast_as_before_is_not_rolled_back() {
    let lucky = answered(50, 0, 1_000);
    let mut usual = answered(45, 0, 5_000);
    usual.merge(&answered(5, 0, 9_000));
    let state = after(stage(5_000), &healthy(), 200, &more(&lucky, &usual));
    assert!(!rolls_back(&state), "{:?}", verdict(&state));
}

#[test]
fn with_all_traffic_nothing_is_rolled_back_but_an_alarm_is_raised() {
    let nothing = Counts::default();
    let errors = after(
        SOAK,
        &healthy(),
        8,
        &more(&nothing, &answered(45, 15, 5_000)),
    );
    assert!(!rolls_back(&errors), "{:?}", verdict(&errors));
    assert_eq!(errors.alarm().0, Trouble::Shadow);
    assert!(errors.alarm().1 > 0.2, "{:?}", errors.alarm());
    let good = after(
        SOAK,
        &healthy(),
        20,
        &more(&nothing, &answered(60, 0, 5_000)),
    );
    assert!(
        matches!(verdict(&good), Verdict::Promote { .. }),
        "{:?}",
        verdict(&good)
    );
    // Once the original has some of the traffic again, it is known who is ill.
    let mut alone = errors.clone();
    let each = more(&answered(50, 0, 5_000), &answered(3, 1, 5_000));
    (9..30).for_each(|tick| errors_go_on(&mut alone, tick, &each));
    assert!(rolls_back(&alone), "{:?}", verdict(&alone));
    let mut shared = errors;
    let each = more(&answered(38, 12, 5_000), &answered(3, 1, 5_000));
    (9..60).for_each(|tick| errors_go_on(&mut shared, tick, &each));
    assert!(!rolls_back(&shared), "{:?}", verdict(&shared));
    assert_eq!(shared.alarm().0, Trouble::Shared);
}

fn errors_go_on(state: &mut JudgeState, tick: u64, each: &Increment) {
    state.feed(tick * TICK, each, &settings());
}

#[test]
fn evidence_is_kept_over_stages() {
    let each = more(&answered(90, 0, 5_000), &answered(9, 1, 5_000));
    let mut state = after(stage(1_000), &healthy(), 3, &each);
    assert!(!rolls_back(&state), "{:?}", verdict(&state));
    let before = state.p_value();
    state.enter(stage(2_500), 3 * TICK, &settings());
    assert_eq!(state.p_value().to_bits(), before.to_bits());
    (4..=8).for_each(|tick| state.feed(tick * TICK, &each, &settings()));
    assert!(rolls_back(&state), "{:?}", verdict(&state));
}

#[test]
fn a_late_stage_asks_for_proof_and_says_how_much_is_missing() {
    let each = more(&answered(10, 0, 5_000), &answered(10, 0, 5_000));
    let state = after(stage(5_000), &healthy(), 8, &each);
    let Verdict::Inconclusive { reason } = verdict(&state) else {
        panic!("{:?}", verdict(&state));
    };
    assert!(reason.contains("more requests"), "{reason}");
    let state = after(stage(5_000), &healthy(), 130, &each);
    assert!(
        matches!(verdict(&state), Verdict::Promote { .. }),
        "{:?}",
        verdict(&state)
    );
}

#[test]
fn holds_on_late_telemetry_and_on_counts_that_went_back() {
    let each = more(&answered(90, 0, 5_000), &answered(10, 0, 5_000));
    let mut state = after(stage(1_000), &healthy(), 8, &each);
    assert!(matches!(
        state.verdict(5_000, &settings()),
        Verdict::Hold { .. }
    ));
    let trouble = Increment {
        trouble: Some("the counts of node n went back".to_owned()),
        ..Increment::default()
    };
    state.feed(9 * TICK, &trouble, &settings());
    assert!(matches!(verdict(&state), Verdict::Hold { .. }));
}

#[test]
fn a_silent_side_is_neither_good_nor_bad() {
    let nothing = Counts::default();
    let busy = answered(50, 0, 5_000);
    for each in [more(&nothing, &nothing), more(&busy, &nothing)] {
        let state = after(stage(1_000), &healthy(), 50, &each);
        let verdict = verdict(&state);
        assert!(
            matches!(verdict, Verdict::Inconclusive { .. }),
            "{verdict:?}"
        );
    }
    let state = after(
        stage(1_000),
        &healthy(),
        50,
        &more(&nothing, &answered(1, 1, 5_000)),
    );
    assert!(!rolls_back(&state), "{:?}", verdict(&state));
}

#[test]
fn a_stage_that_never_has_enough_goes_as_it_is_told_and_copies_are_not_waited_for() {
    let mut state = JudgeState::begin(stage(1_000), past(&healthy()), &settings()).unwrap();
    state.feed(1_800_000, &Increment::default(), &settings());
    let told = |at_deadline| {
        let settings = JudgeSettings {
            at_deadline,
            ..settings()
        };
        state.verdict(100, &settings)
    };
    assert!(matches!(
        told(AtDeadline::RollBack),
        Verdict::Rollback { .. }
    ));
    assert!(matches!(told(AtDeadline::Promote), Verdict::Promote { .. }));
    let Verdict::Inconclusive { reason } = told(AtDeadline::Hold) else {
        panic!("{:?}", told(AtDeadline::Hold));
    };
    assert!(reason.contains("0 of 20 requests"), "{reason}");
    let mirror = task(JudgeScope::Mirror, 0);
    let state = after(mirror, &healthy(), 9, &Increment::default());
    assert!(matches!(verdict(&state), Verdict::Promote { .. }));
}

#[test]
fn without_a_baseline_the_original_alone_counts() {
    let each = more(&answered(50, 0, 5_000), &answered(20, 0, 90_000));
    let state = after(stage(2_500), &Counts::default(), 20, &each);
    assert!(rolls_back(&state), "{:?}", verdict(&state));
    let same = more(&answered(50, 0, 5_000), &answered(20, 0, 5_000));
    let state = after(stage(2_500), &Counts::default(), 20, &same);
    assert!(
        matches!(verdict(&state), Verdict::Promote { .. }),
        "{:?}",
        verdict(&state)
    );
}

#[test]
fn settings_that_are_no_numbers_or_out_of_range_are_refused_by_name() {
    for (field, bad) in [
        (
            "alpha",
            JudgeSettings {
                alpha: f64::NAN,
                ..settings()
            },
        ),
        (
            "alpha",
            JudgeSettings {
                alpha: 0.5,
                ..settings()
            },
        ),
        (
            "error_ratio",
            JudgeSettings {
                error_ratio: 0.9,
                ..settings()
            },
        ),
        (
            "slow_margin",
            JudgeSettings {
                slow_margin: -0.1,
                ..settings()
            },
        ),
        (
            "far_factor",
            JudgeSettings {
                far_factor: f64::INFINITY,
                ..settings()
            },
        ),
        (
            "epoch_ms",
            JudgeSettings {
                epoch_ms: 0,
                ..settings()
            },
        ),
    ] {
        let error = JudgeState::begin(SOAK, past(&healthy()), &bad).unwrap_err();
        assert!(error.contains(field), "{error}");
    }
}

#[test]
fn the_pieces_in_which_an_epoch_comes_do_not_matter() {
    let (half, whole) = (
        more(&answered(40, 1, 6_000), &answered(7, 1, 7_000)),
        more(&answered(80, 2, 6_000), &answered(14, 2, 7_000)),
    );
    let mut coarse = JudgeState::begin(stage(2_500), past(&healthy()), &settings()).unwrap();
    let mut fine = coarse.clone();
    for tick in 1..=20 {
        coarse.feed(tick * TICK, &whole, &settings());
        fine.feed(tick * TICK - 200, &half, &settings());
        fine.feed(tick * TICK - 100, &Increment::default(), &settings());
        fine.feed(tick * TICK, &half, &settings());
    }
    assert_eq!(coarse.p_value().to_bits(), fine.p_value().to_bits());
    assert_eq!(verdict(&coarse), verdict(&fine));
}

#[test]
fn a_state_that_was_stored_and_taken_up_again_goes_on_bit_for_bit() {
    for (task, baseline) in [
        (stage(5_000), healthy()),
        (SOAK, healthy()),
        (stage(1), answered(0, 0, 0)),
    ] {
        let mut state = JudgeState::begin(task, past(&baseline), &settings()).unwrap();
        let mut resumed = state.clone();
        for tick in 1..=40 {
            let each = more(
                &answered(40 + tick, tick % 3, 6_000),
                &answered(30, tick % 2, 3_000 * tick),
            );
            state.feed(tick * TICK, &each, &settings());
            let text = serde_json::to_string(&resumed).unwrap();
            resumed = serde_json::from_str(&text).unwrap();
            resumed.feed(tick * TICK, &each, &settings());
        }
        assert_eq!(
            serde_json::to_string(&state).unwrap(),
            serde_json::to_string(&resumed).unwrap()
        );
        assert_eq!(state.p_value().to_bits(), resumed.p_value().to_bits());
        assert_eq!(verdict(&state), verdict(&resumed));
    }
}

/// Both sides' sessions are well or ill, whatever their requests say: one bad client sends many.
#[test]
fn where_sessions_are_counted_they_decide_and_not_their_requests() {
    let settings = settings();
    let begin = || {
        let past = Past {
            baseline: healthy(),
            sessions: Some(answered(400, 4, 5_000)),
        };
        JudgeState::begin(stage(2_000), past, &settings).unwrap()
    };
    let sessions =
        |original: Counts, shadow: Counts| Some(Box::new(super::Sides { original, shadow }));
    let bad_client = Increment {
        sessions: sessions(answered(40, 0, 5_000), answered(10, 0, 5_000)),
        ..more(&answered(400, 0, 5_000), &answered(80, 20, 5_000))
    };
    let mut state = begin();
    (1..=60).for_each(|tick| state.feed(tick * TICK, &bad_client, &settings));
    assert!(!rolls_back(&state), "{:?}", verdict(&state));
    assert!(state.evidence(0, &settings).by_session);
    // An alarm, which only lowers a weight, looks at requests.
    assert_eq!(state.alarm().0, Trouble::Shadow);

    let bad_shadow = Increment {
        sessions: sessions(answered(40, 0, 5_000), answered(7, 3, 5_000)),
        ..more(&answered(400, 0, 5_000), &answered(80, 20, 5_000))
    };
    let mut state = begin();
    (1..=60).for_each(|tick| state.feed(tick * TICK, &bad_shadow, &settings));
    assert!(rolls_back(&state), "{:?}", verdict(&state));

    // Requests without sessions (another data plane's) prove nothing.
    let mut state = begin();
    let others = more(&answered(400, 0, 5_000), &answered(80, 20, 5_000));
    (1..=60).for_each(|tick| state.feed(tick * TICK, &others, &settings));
    assert!(!rolls_back(&state), "{:?}", verdict(&state));
}

#[test]
fn a_shadow_that_dies_in_the_middle_of_a_stage_is_rolled_back_by_nothing_but_failures() {
    let settings = settings();
    let good = more(&answered(5, 0, 5_000), &answered(95, 0, 5_000));
    let mut state = after(stage(9_500), &healthy(), 40, &good);
    let at = |state: &mut JudgeState, ms: u64, each: &Increment| {
        state.feed(40 * TICK + ms, each, &settings);
    };
    let dead = more(&answered(1, 0, 5_000), &answered(0, 12, 5_000));
    let lowered = more(&answered(12, 0, 5_000), &answered(0, 1, 5_000));
    at(&mut state, 250, &dead);
    assert!(!rolls_back(&state), "one look is no death");
    at(&mut state, 800, &lowered);
    assert!(!rolls_back(&state), "{:?}", verdict(&state));
    let mut back = state.clone();
    at(&mut state, 1_300, &lowered);
    let Verdict::Rollback { reason } = verdict(&state) else {
        panic!("{:?}", verdict(&state));
    };
    assert!(reason.contains("nothing but failures"), "{reason}");
    // One success, and it is not dead.
    at(
        &mut back,
        1_200,
        &more(&answered(12, 0, 5_000), &answered(1, 0, 5_000)),
    );
    at(&mut back, 1_300, &lowered);
    assert!(!rolls_back(&back), "{:?}", verdict(&back));
}

#[test]
fn a_death_that_the_original_shares_is_none() {
    let settings = settings();
    let good = more(&answered(5, 0, 5_000), &answered(95, 0, 5_000));
    let mut state = after(stage(9_500), &healthy(), 40, &good);
    let dead = more(&answered(0, 20, 5_000), &answered(0, 12, 5_000));
    for look in 1..=16 {
        state.feed(40 * TICK + look * 250, &dead, &settings);
        assert!(!rolls_back(&state), "{look}: {:?}", verdict(&state));
    }
}
