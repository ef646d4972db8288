//! The bets are fair, find what they shall find, and never alarm more often than they say.

use domain::pairs::RATIO_STEPS;
use domain::{NodeTraffic, ServiceId, Timestamp};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

fn wealth(pairs: &Pairs) -> Wealth {
    Wealth::of(pairs, PairSettings::default().slow_ratio)
}

#[test]
fn a_bet_on_answers_keeps_its_expectation_whatever_came_before() {
    for (ours, theirs) in [(0, 0), (3, 1), (40, 40), (7, 0)] {
        let with = |more_ours: u64, more_theirs: u64| {
            let pairs = Pairs {
                against_shadow: ours + more_ours,
                against_original: theirs + more_theirs,
                ..Pairs::default()
            };
            wealth(&pairs).answers.exp()
        };
        let expected = f64::midpoint(with(1, 0), with(0, 1));
        assert!((expected - with(0, 0)).abs() <= 1e-9 * with(0, 0));
    }
}

#[test]
fn a_bet_on_latency_gains_nothing_from_a_pair_that_is_as_likely_the_other_way_round() {
    let of = |step: i8, ratio: f64| {
        let pairs = Pairs {
            ratios: BTreeMap::from([(step, 1)]),
            ..Pairs::default()
        };
        Wealth::of(&pairs, ratio).latency.exp()
    };
    for step in -RATIO_STEPS..=RATIO_STEPS {
        let fair = f64::midpoint(of(step, 1.0), of(-step, 1.0));
        assert!((fair - 1.0).abs() < 1e-12, "{fair} at {step}");
        assert!(f64::midpoint(of(step, 1.05), of(-step, 1.05)) <= 1.0);
        assert!(of(step, 1.0) <= 2.0);
        assert!(step == RATIO_STEPS || of(step, 1.0) < of(step + 1, 1.0));
    }
}

/// One compared request: chance of a lone odd answer per asking, and how many times as slow.
fn pair(rng: &mut StdRng, pairs: &mut Pairs, odd: (f64, f64), slower: f64, spread: f64) {
    pairs.compared += 1;
    let mut any = |share: f64| rng.random_bool(1.0 - (1.0 - share).powi(2));
    match (any(odd.0), any(odd.1)) {
        (true, false) => pairs.against_shadow += 1,
        (false, true) => pairs.against_original += 1,
        (true, true) | (false, false) => {}
    }
    let mut normal = || -> f64 { (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0 };
    let cost = 10_000.0 * (0.5 * normal()).exp();
    let mut took = |times: f64| -> u64 {
        let micros = cost * times * (spread * normal()).exp();
        format!("{micros:.0}").parse().unwrap()
    };
    let step = Pairs::ratio_step(took(1.0), took(slower));
    *pairs.ratios.entry(step).or_default() += 1;
}

/// After how many pairs there is a proof, if within `most`.
fn found(seed: u64, most: u64, odd: (f64, f64), slower: f64) -> Option<u64> {
    let settings = PairSettings::default();
    let mut rng = StdRng::seed_from_u64(seed);
    let mut pairs = Pairs::default();
    (1..=most).find(|_| {
        pair(&mut rng, &mut pairs, odd, slower, 0.15);
        matches!(judge(&pairs, 0, &settings), Finding::Proven(_))
    })
}

fn median(mut all: Vec<Option<u64>>) -> u64 {
    all.sort_by_key(|found| found.unwrap_or(u64::MAX));
    all[all.len() / 2].unwrap_or(u64::MAX)
}

#[test]
fn one_corrupted_answer_in_a_hundred_is_found_within_500_pairs() {
    let all: Vec<_> = (0..200)
        .map(|seed| found(seed, 2_000, (0.01, 0.0), 1.0))
        .collect();
    assert!(all.iter().all(Option::is_some));
    let median = median(all);
    assert!(median <= 500, "{median}");
}

#[test]
fn a_fifth_slower_is_found_within_60_pairs() {
    let all: Vec<_> = (0..200)
        .map(|seed| found(seed, 1_000, (0.0, 0.0), 1.2))
        .collect();
    let median = median(all);
    assert!(median <= 60, "{median}");
}

#[test]
fn an_equal_shadow_is_accused_in_no_more_than_one_of_a_hundred_migrations() {
    for odd in [0.0, 0.01, 0.2] {
        let alarms = (0..400)
            .filter(|&seed| found(seed, 600, (odd, odd), 1.0).is_some())
            .count();
        // At most 4 are expected; 12 would be a chance of one in a thousand.
        assert!(alarms <= 11, "{alarms} of 400 at {odd}");
    }
}

#[test]
fn it_waits_for_pairs_then_goes_on_and_says_why() {
    let settings = PairSettings::default();
    let few = Pairs {
        compared: 3,
        ..Pairs::default()
    };
    let Finding::Wait(reason) = judge(&few, 1_000, &settings) else {
        panic!("3 pairs are enough");
    };
    assert!(reason.contains("17 more pairs"), "{reason}");
    let Finding::Fine(reason) = judge(&few, 4_000, &settings) else {
        panic!("it waits for ever");
    };
    assert!(reason.contains("no longer waited for"), "{reason}");
    let enough = Pairs {
        compared: 20,
        ..Pairs::default()
    };
    assert!(matches!(judge(&enough, 0, &settings), Finding::Fine(_)));
    // Suspicious, and not proven.
    let odd = Pairs {
        compared: 100,
        against_shadow: 5,
        ..Pairs::default()
    };
    assert!(matches!(judge(&odd, 10_000, &settings), Finding::Wait(_)));
    assert!(matches!(judge(&odd, 40_000, &settings), Finding::Fine(_)));
}

#[test]
fn answers_that_cannot_be_compared_prove_nothing() {
    let pairs = Pairs {
        incomparable: BTreeMap::from([("too large".to_owned(), 10_000)]),
        ..Pairs::default()
    };
    let Finding::Fine(reason) = judge(&pairs, 5_000, &PairSettings::default()) else {
        panic!("a verdict from nothing");
    };
    assert!(reason.contains("10000 not comparable"), "{reason}");
}

#[test]
fn the_reason_names_the_part_that_differs() {
    let pairs = Pairs {
        compared: 300,
        against_shadow: 12,
        fields: BTreeMap::from([
            ("/items body.value".to_owned(), 12),
            ("/items header.content-type".to_owned(), 1),
        ]),
        ..Pairs::default()
    };
    let Finding::Proven(reason) = judge(&pairs, 0, &PairSettings::default()) else {
        panic!("12 to 0 prove nothing");
    };
    assert!(
        reason.contains("12 of 300 pairs") && reason.contains("/items body.value (12)"),
        "{reason}"
    );
}

#[test]
fn pairs_add_up_over_nodes_and_sessions_without_what_was_before() {
    let node = |session, compared| NodeTraffic {
        session,
        pairs: BTreeMap::from([(
            "s~i~shadow".to_owned(),
            Pairs {
                compared,
                ..Pairs::default()
            },
        )]),
        ..NodeTraffic::default()
    };
    let traffic = |nodes: [(&str, NodeTraffic); 2]| Traffic {
        service: ServiceId::new("s").unwrap(),
        at: Timestamp(0),
        nodes: nodes
            .map(|(name, node)| (NodeId::new(name).unwrap(), node))
            .into(),
    };
    let start = traffic([("a", node(1, 50)), ("b", node(1, 7))]);
    let mut ledger = PairLedger::begin("s~i~shadow".to_owned(), Some(&start));
    assert_eq!(
        ledger
            .take(&traffic([("a", node(1, 53)), ("b", node(2, 4))]))
            .compared,
        7
    );
    // A count that goes back counts for nothing.
    assert_eq!(
        ledger
            .take(&traffic([("a", node(1, 10)), ("b", node(2, 5))]))
            .compared,
        8
    );
}

#[test]
fn settings_that_make_no_sense_are_named() {
    for (bad, field) in [
        (
            PairSettings {
                alpha: f64::NAN,
                ..PairSettings::default()
            },
            "pairs.alpha",
        ),
        (
            PairSettings {
                slow_ratio: 0.9,
                ..PairSettings::default()
            },
            "pairs.slow_ratio",
        ),
        (
            PairSettings {
                wait_ms: u64::MAX,
                ..PairSettings::default()
            },
            "pairs.wait_ms",
        ),
    ] {
        let error = bad.validate().unwrap_err();
        assert!(
            error.contains(field) && error.contains("allowed"),
            "{error}"
        );
    }
    PairSettings::default().validate().unwrap();
}
