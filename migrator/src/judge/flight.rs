//! Whole ramps with people, guards and weights, in tables of looks.

use domain::migration::{JudgeScope, Verdict};
use domain::{BasisPoints, Counts, HarmBudget, HoldWindow, RampPlan, RampPolicy, Stage, Timestamp};

use super::{Answer, Increment, Look, Past, Pilot, RampLine, Steering, replay};
use crate::settings::JudgeSettings;

fn settings() -> JudgeSettings {
    JudgeSettings {
        epoch_ms: 1_000,
        ..JudgeSettings::default()
    }
}

fn answered(success: u64, error: u64) -> Counts {
    let mut counts = Counts {
        success,
        error,
        ..Counts::default()
    };
    (0..success + error).for_each(|_| counts.latency.record(5_000));
    counts
}

/// A ramp under way, a look a second.
struct Flight {
    pilot: Pilot,
    second: u64,
    steering: Steering,
    guard: Option<String>,
    applied: bool,
    age_ms: u64,
    lines: Vec<RampLine>,
}

impl Flight {
    fn begin(plan: RampPlan, rate: f64) -> Self {
        let past = Past {
            baseline: answered(5_000, 5),
            ..Past::default()
        };
        let begun = Pilot::begin(plan.clone(), past.clone(), rate, &settings());
        let mut flight = Self {
            pilot: begun.unwrap(),
            second: 0,
            steering: Steering::default(),
            guard: None,
            applied: true,
            age_ms: 0,
            lines: vec![RampLine::Began {
                plan,
                past: Box::new(past),
                rate,
                settings: settings(),
            }],
        };
        flight.enter(JudgeScope::Stage { stage: 0 });
        flight
    }

    fn enter(&mut self, scope: JudgeScope) {
        let at_ms = self.second * 1_000;
        self.pilot.enter(scope, at_ms, &settings());
        self.lines.push(RampLine::Entered { scope, at_ms });
    }

    fn look(&mut self, original: Counts, shadow: Counts) -> Answer {
        self.second += 1;
        let look = Look {
            at_ms: self.second * 1_000,
            clock: Timestamp(self.second * 1_000),
            more: Increment {
                original,
                shadow,
                ..Increment::default()
            },
            age_ms: self.age_ms,
            applied: self.applied,
            steering: self.steering.clone(),
            guard: self.guard.clone(),
        };
        let answer = self.pilot.look(&look, &settings());
        self.lines.push(RampLine::Looked {
            look: Box::new(look),
            answer: answer.clone(),
            ln_bits: self.pilot.ln_bits(),
        });
        answer
    }

    /// Looks at good answers, as the weight divides `rate` of them.
    fn well(&mut self, seconds: u64, rate: u64) -> Answer {
        let mut last = None;
        for _ in 0..seconds {
            let shadow = rate * u64::from(self.pilot.weight()) / 10_000;
            let answer = self.look(answered(rate - shadow, 0), answered(shadow, 0));
            let promoted = matches!(answer.verdict, Verdict::Promote { .. });
            last = Some(answer);
            if promoted {
                break;
            }
        }
        last.unwrap()
    }
}

fn steps(shares: &[u32]) -> RampPlan {
    let stage = |share: &u32| Stage {
        shadow: BasisPoints::new(*share).unwrap(),
        hold_ms: 2_000,
    };
    RampPlan::new(shares.iter().map(stage).collect()).unwrap()
}

fn budget() -> RampPlan {
    RampPlan::budgeted(HarmBudget::default(), 5_000)
}

fn reason(answer: &Answer) -> &str {
    match &answer.verdict {
        Verdict::Rollback { reason }
        | Verdict::Hold { reason }
        | Verdict::Promote { reason }
        | Verdict::Inconclusive { reason } => reason,
    }
}

#[test]
fn a_budget_raises_the_weight_while_all_is_well_and_no_faster_than_it_doubles() {
    let mut flight = Flight::begin(budget(), 500.0);
    let mut weights = vec![flight.pilot.weight()];
    for _ in 0..60 {
        weights.push(flight.well(1, 500).weight);
    }
    assert!(weights[0] <= 40, "{weights:?}");
    assert_eq!(weights.last(), Some(&2_000), "{weights:?}");
    assert!(
        weights
            .windows(2)
            .all(|w| w[0] <= w[1] && w[1] <= 2 * w[0].max(10))
    );
}

#[test]
fn a_dead_shadow_has_nearly_nothing_after_one_look_and_may_come_back() {
    for plan in [budget(), steps(&[5_000, 10_000])] {
        let mut flight = Flight::begin(plan, 1_000.0);
        flight.well(80, 1_000);
        let before = flight.pilot.weight();
        assert!(before >= 2_000, "{before}");
        let dead = flight.look(answered(500, 0), answered(0, 400));
        assert_eq!(dead.weight, 10);
        // It was a hiccup.
        let after = flight.well(100, 1_000);
        let harmed = matches!(after.verdict, Verdict::Rollback { .. });
        assert!(!harmed && after.weight >= before, "{after:?}");
    }
}

#[test]
fn all_traffic_is_given_back_before_anything_is_decided() {
    let mut flight = Flight::begin(steps(&[5_000, 10_000]), 100.0);
    flight.enter(JudgeScope::Soak);
    assert_eq!(flight.well(3, 100).weight, 10_000);
    let answer = flight.look(Counts::default(), answered(80, 20));
    assert!(answer.weight <= 2_000, "{answer:?}");
    assert!(!matches!(answer.verdict, Verdict::Rollback { .. }));
}

#[test]
fn people_pause_freeze_step_and_promote() {
    let mut flight = Flight::begin(steps(&[1_000, 10_000]), 100.0);
    flight.steering.paused = true;
    assert_eq!(reason(&flight.well(30, 100)), "paused by a person");
    flight.steering.steps = 1;
    let step = flight.well(1, 100);
    assert!(matches!(step.verdict, Verdict::Promote { .. }), "{step:?}");
    assert_eq!(reason(&flight.well(5, 100)), "paused by a person");
    flight.steering = Steering {
        steps: 1,
        promote: Some("tested elsewhere".to_owned()),
        ..Steering::default()
    };
    let promoted = flight.well(1, 100);
    assert!(reason(&promoted).contains("tested elsewhere"));
    flight.steering.frozen = true;
    let weight = flight.pilot.weight();
    for _ in 0..20 {
        let answer = flight.look(answered(90, 0), answered(1, 9));
        assert!(matches!(answer.verdict, Verdict::Hold { .. }), "{answer:?}");
        assert_eq!(answer.weight, weight);
    }
    flight.steering.frozen = false;
    let answer = flight.look(answered(90, 0), answered(1, 9));
    assert!(
        matches!(answer.verdict, Verdict::Rollback { .. }),
        "{answer:?}"
    );
}

#[test]
fn a_person_does_not_promote_what_is_shown_to_be_harmful() {
    let mut flight = Flight::begin(steps(&[1_000, 10_000]), 100.0);
    flight.steering.paused = true;
    let mut last = None;
    for _ in 0..20 {
        last = Some(flight.look(answered(90, 0), answered(2, 8)));
    }
    flight.steering.promote = Some("in a hurry".to_owned());
    assert!(matches!(last.unwrap().verdict, Verdict::Rollback { .. }));
}

#[test]
fn guards_windows_and_late_or_unapplied_weights_keep_it_from_going_on() {
    let mut flight = Flight::begin(steps(&[1_000, 10_000]), 100.0);
    flight.guard = Some("host b would be full".to_owned());
    assert_eq!(reason(&flight.well(30, 100)), "host b would be full");
    flight.guard = None;
    assert!(matches!(
        flight.well(1, 100).verdict,
        Verdict::Promote { .. }
    ));

    let mut flight = Flight::begin(budget(), 100.0);
    let first = flight.pilot.weight();
    flight.applied = false;
    assert_eq!(flight.well(20, 100).weight, first);
    (flight.applied, flight.age_ms) = (true, 60_000);
    assert_eq!(flight.well(20, 100).weight, first);
    flight.age_ms = 0;
    assert!(flight.well(20, 100).weight > first);

    let day = HoldWindow {
        from_minute: 0,
        to_minute: 1_440,
    };
    let plan = RampPolicy::Steps {
        stages: steps(&[1_000, 10_000]).stages().to_vec(),
        budget: None,
        hold_windows: vec![day],
    };
    let mut flight = Flight::begin(RampPlan::try_from(plan).unwrap(), 100.0);
    assert_eq!(reason(&flight.well(30, 100)), "in a hold window");
}

#[test]
fn a_record_replays_bit_for_bit_and_a_changed_one_does_not() {
    let mut flight = Flight::begin(budget(), 80.0);
    flight.well(40, 80);
    for second in 0..40 {
        let shadow = u64::from(flight.pilot.weight()) * 80 / 10_000;
        let bad = shadow.min(second % 2);
        let answer = flight.look(answered(80 - shadow, 0), answered(shadow - bad, bad));
        if matches!(answer.verdict, Verdict::Rollback { .. }) {
            break;
        }
    }
    let text: Vec<String> = flight
        .lines
        .iter()
        .map(|line| serde_json::to_string(line).unwrap())
        .collect();
    let read = |text: &[String]| -> Vec<RampLine> {
        text.iter()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    let found = replay(&read(&text)).unwrap();
    assert!(found.differ.is_empty(), "{found:?}");
    assert!(found.looks > 45, "{found:?}");
    assert!(
        found
            .decisions
            .iter()
            .any(|(_, words)| words.contains("roll back"))
    );

    let mut lines = read(&text);
    if let RampLine::Looked { look, .. } = &mut lines[20] {
        look.more.original.success -= 1;
        look.more.original.error += 1;
    }
    assert!(!replay(&lines).unwrap().differ.is_empty());
    assert!(replay(&lines[1..]).unwrap_err().contains("line 1"));
}

#[test]
fn a_ramp_that_was_stored_goes_on_bit_for_bit() {
    let mut flight = Flight::begin(budget(), 80.0);
    let mut other = Flight::begin(budget(), 80.0);
    for _ in 0..60 {
        let one = flight.well(1, 80);
        let text = serde_json::to_string(&other.pilot).unwrap();
        other.pilot = serde_json::from_str(&text).unwrap();
        assert_eq!(one, other.well(1, 80));
        assert_eq!(flight.pilot.ln_bits(), other.pilot.ln_bits());
    }
}

#[test]
fn it_says_what_would_change_its_mind() {
    let mut flight = Flight::begin(steps(&[5_000, 10_000]), 100.0);
    flight.look(answered(50, 0), answered(50, 0));
    flight.look(answered(50, 0), answered(50, 0));
    let flips = flight.pilot.judge().flips(&settings());
    let failures = flips.failures_to_roll_back.unwrap();
    assert!((3..60).contains(&failures), "{flips:?}");
    assert!(flips.requests_to_advance.unwrap() > 300, "{flips:?}");
}
