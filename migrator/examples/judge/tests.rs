//! The peers' rules against examples that were published about them.

use super::peers::high;

/// spinnaker/spinnaker#6278: a constant baseline of 0 and a canary with some points at 100: seven
/// of ten pass, eight do not.
#[test]
fn kayenta_passes_seven_of_ten_points_at_a_hundred_and_fails_eight() {
    let baseline = vec![0.0; 10];
    let canary = |bad: usize| {
        let mut points = vec![0.0; 10 - bad];
        points.extend(vec![100.0; bad]);
        points
    };
    assert!(!high(&baseline, &canary(7)));
    assert!(high(&baseline, &canary(8)));
}

#[test]
fn kayenta_passes_what_is_the_same() {
    let points: Vec<f64> = (0..50).map(|n| f64::from(n % 7)).collect();
    assert!(!high(&points, &points));
}
