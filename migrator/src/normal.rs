//! The normal distribution, as far as it is needed.

/// Probability that a standard normal variable exceeds `z`.
///
/// The error function is approximated by Abramowitz & Stegun, Handbook of Mathematical Functions,
/// 7.1.26 (absolute error below 1.5e-7).
pub(crate) fn survival(z: f64) -> f64 {
    let x = z.abs() / std::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * x);
    let series = t
        * (0.254_829_592
            + t * (-0.284_496_736
                + t * (1.421_413_741 + t * (-1.453_152_027 + t * 1.061_405_429))));
    let tail = series * (-x * x).exp() / 2.0;
    if z >= 0.0 { tail } else { 1.0 - tail }
}
