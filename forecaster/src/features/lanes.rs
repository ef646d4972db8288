//! Sums in several lanes at once, which the compiler turns into vector instructions.

const LANES: usize = 16;

/// Sum of values.
pub(super) fn sum(values: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest: f32 = chunks.remainder().iter().sum();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += value;
        }
    }
    lanes.iter().sum::<f32>() + rest
}

/// Sum of values, twice as exact.
pub(super) fn sum_wide(values: impl Iterator<Item = f64>) -> f64 {
    let mut lanes = [0.0_f64; LANES];
    for (place, value) in values.enumerate() {
        lanes[place % LANES] += value;
    }
    lanes.iter().sum()
}

/// Sum of the absolute differences of two equally long runs.
pub(super) fn sum_changes(now: &[f32], before: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let (a, b) = (now.chunks_exact(LANES), before.chunks_exact(LANES));
    let rest = a.remainder().iter().zip(b.remainder());
    let rest: f32 = rest.map(|(a, b)| (a - b).abs()).sum();
    for (a, b) in a.zip(b) {
        for i in 0..LANES {
            lanes[i] += (a[i] - b[i]).abs();
        }
    }
    lanes.iter().sum::<f32>() + rest
}

/// Least and greatest known value; 0 where none is.
pub(super) fn extremes(values: &[f32], known: &[f32]) -> (f32, f32) {
    let (mut low, mut high) = (f32::INFINITY, f32::NEG_INFINITY);
    for (&value, &known) in values.iter().zip(known) {
        if known > 0.0 {
            low = low.min(value);
            high = high.max(value);
        }
    }
    if low > high { (0.0, 0.0) } else { (low, high) }
}
