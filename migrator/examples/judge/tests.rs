//! The peers' rules on published examples: those of their documentation, of their own tests, and of
//! users who asked about them.

use domain::Counts;
use foreshadow_migrator::simulate::End;

use super::Rule;
use super::cells::Served;
use super::peers::{Argo, Class, Flagger, Z_95, Z_98, classify};

/// Spinnaker issue 6278: seven of ten points at 100 instead of 1 pass, and eight fail.
#[test]
fn kayenta_passes_seven_points_of_ten_and_fails_eight() {
    let canary = |high: usize| -> Vec<f64> {
        let point = |index| if index < high { 100.0 } else { 1.0 };
        (0..10).map(point).collect()
    };
    assert_eq!(classify(&[1.0; 10], &canary(7), 0.25, Z_98), Class::Pass);
    assert_eq!(classify(&[1.0; 10], &canary(8), 0.25, Z_98), Class::High);
}

/// Kayenta issue 780, case 1: the canary's values lie in the middle of a baseline that swings.
#[test]
fn kayenta_passes_a_change_of_spread() {
    let canary = [
        10.0, 10.1, 10.2, 10.3, 10.4, 10.5, 10.6, 17.0, 17.1, 17.2, 17.3, 17.4, 17.5, 17.6, 17.7,
    ];
    let baseline = [
        1.0, 100.0, 4.0, 101.0, 5.0, 102.0, 6.0, 103.0, 7.0, 104.0, 8.0, 105.0, 9.0, 106.0, 17.0,
    ];
    assert_eq!(classify(&baseline, &canary, 0.25, Z_98), Class::Pass);
}

/// Kayenta issue 426: errors in half of the points, where there were none.
#[test]
fn kayenta_passes_sparse_errors() {
    let canary = [0.0, 1.0, 2.0, 1.0, 0.0, 0.0];
    assert_eq!(classify(&[0.0; 6], &canary, 0.25, Z_98), Class::Pass);
}

/// Rounded points of its `ClassifierSuite`: normal, near 10, near 20 and near 10 again.
const NEAR_10: [f64; 30] = [
    9.777, 10.587, 7.838, 9.324, 8.377, 8.936, 8.271, 9.748, 11.624, 9.275, 8.154, 10.562, 13.498,
    11.054, 6.954, 12.521, 9.022, 4.923, 11.251, 11.598, 8.435, 11.110, 10.701, 8.921, 10.086,
    11.421, 9.379, 7.798, 10.623, 11.910,
];
const NEAR_20: [f64; 30] = [
    20.878, 21.786, 19.708, 15.860, 19.510, 19.392, 22.927, 17.157, 18.655, 23.423, 24.056, 22.627,
    21.979, 21.659, 20.068, 22.120, 16.440, 21.560, 21.000, 17.779, 17.806, 18.537, 20.556, 19.553,
    21.771, 21.810, 20.962, 20.978, 19.106, 16.977,
];
const CONTROL: [f64; 30] = [
    11.145, 9.962, 7.069, 7.301, 9.794, 9.604, 6.187, 12.346, 10.372, 8.609, 9.913, 10.361, 14.207,
    10.946, 10.216, 11.740, 10.908, 12.823, 8.102, 8.498, 12.113, 13.272, 10.115, 6.946, 6.211,
    10.160, 8.346, 8.384, 7.002, 10.756,
];

#[test]
fn kayenta_classifies_as_its_own_tests_say() {
    let classify = |baseline: &[f64], canary: &[f64]| classify(baseline, canary, 0.10, Z_95);
    assert_eq!(classify(&CONTROL, &NEAR_10), Class::Pass);
    assert_eq!(classify(&CONTROL, &NEAR_20), Class::High);
    assert_eq!(classify(&NEAR_20, &NEAR_10), Class::Low);
    assert_eq!(classify(&[1.0, 1.0], &[1.0, 1.0, 1.0]), Class::Pass);
    let rising = [1.0, 2.0, 3.0, 4.0, 5.0];
    let falling = [5.0, 4.0, 3.0, 2.0, 1.0];
    assert_eq!(classify(&falling, &rising), Class::Pass);
    let leading = [0.0, 1.0, 1.0, 1.0, 1.0];
    assert_eq!(classify(&[1.0; 5], &leading), Class::Pass);
    assert_eq!(classify(&rising, &[]), Class::NoData);
}

/// A second in which a share of the shadow's requests fails.
fn second(failing: u64) -> Served {
    let mut requests = Counts {
        success: 100 - failing,
        error: failing,
        ..Counts::default()
    };
    (0..100).for_each(|_| requests.latency.record(5_000));
    Served {
        requests,
        units: None,
    }
}

/// How a rule ends, and after how many seconds, if the same happens every second.
fn ends(mut rule: impl Rule, failing: u64) -> Option<(End, u32)> {
    let original = second(0);
    (1..=10_800).find_map(|at| rule.look(&original, &second(failing)).map(|end| (end, at)))
}

/// Its documentation: promoted after `interval * (maxWeight / stepWeight)`, rolled back after
/// `interval * threshold`; its scheduler looks at the number of failed checks first, so that the
/// roll-back is one interval later.
#[test]
fn flagger_takes_the_times_of_its_documentation() {
    assert_eq!(ends(Flagger::new(10), 0), Some((End::Promoted, 600)));
    assert_eq!(ends(Flagger::new(10), 2), Some((End::RolledBack, 660)));
    assert_eq!(ends(Flagger::new(1), 2), Some((End::RolledBack, 120)));
    assert_eq!(ends(Flagger::new(10), 1), Some((End::Promoted, 600)));
}

/// Its documentation: a fifth more every ten minutes, a measurement every five; `failureLimit: 3`
/// is how many may fail.
#[test]
fn argo_takes_the_times_of_its_documentation() {
    assert_eq!(ends(Argo::new(), 0), Some((End::Promoted, 2_400)));
    assert_eq!(ends(Argo::new(), 6), Some((End::RolledBack, 1_200)));
    assert_eq!(ends(Argo::new(), 5), Some((End::Promoted, 2_400)));
}
