//! The peers' rules on what they must do.

use super::peers::high;

#[test]
fn kayenta_passes_what_is_the_same_and_fails_what_is_far_higher() {
    let points: Vec<f64> = (0..50).map(|n| f64::from(n % 7)).collect();
    let higher: Vec<f64> = points.iter().map(|point| point + 20.0).collect();
    assert!(!high(&points, &points));
    assert!(high(&points, &higher));
}
