//! The peers' rules on what they must do.

use super::peers::high;

#[test]
fn kayenta_passes_what_is_the_same_and_fails_what_is_far_higher() {
    let points: Vec<f64> = (0..50).map(|n| f64::from(n % 7)).collect();
    let higher: Vec<f64> = points.iter().map(|point| point + 20.0).collect();
    assert!(!high(&points, &points));
    assert!(high(&points, &higher));
}

/// With three points a side no order of them is unlikely enough: guidance asks for fifty.
#[test]
fn kayenta_cannot_fail_anything_on_three_points() {
    assert!(!high(&[1.0, 2.0, 3.0], &[101.0, 102.0, 103.0]));
}
