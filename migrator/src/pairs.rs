//! Whether paired answers prove that the shadow is not like its original.
//!
//! Pure: totals in, finding out. The proxies compare ([`domain::Pairs`]), this bets.
//!
//! # The bets
//! **Answers.** If the shadow is like the original, each difference speaks against either side with
//! probability 1/2, whatever the request, the answers, or what came before (the proxy's `pairs`
//! module has the argument). A bet that puts `q` on the shadow multiplies what one has by `2q` or by
//! `2(1 − q)`, and keeps its expectation: `(2q + 2(1 − q)) / 2 = 1`. The product over all
//! differences, averaged over a few `q`, is an e-process.
//!
//! **Latency.** Let `x` be the logarithm of how many times as long the shadow took as the original,
//! asked for the same at the same moment. If they are alike, `x` is as likely as `−x`. The factor is
//! `2 / (1 + exp(−2λ(x − m)))`. For `m = 0` it and its counterpart for `−x` sum to 2, so its
//! expectation is 1; it rises with `x`, so with a margin `m > 0`, or with a shadow that is faster, it
//! is at most 1. This is the best bet on the sign of `x` for differences whose size matters, and
//! bounded by 2, so that no single stall decides. `x` is counted in steps that are rounded alike in
//! both directions, which keeps the symmetry.
//!
//! **Both.** The weighted average of e-processes is one. By Ville's inequality the probability that
//! it ever reaches `1/α` is at most `α`, however often and at whichever moment one looks. Totals are
//! enough to compute it: nothing has to be kept over a restart but the totals from before the copies
//! began.

use std::collections::BTreeMap;

use domain::pairs::RATIO_STEP;
use domain::{NodeId, Pairs, Traffic};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is put on the shadow, and the weight of each bet: rare corruption stands out in a service
/// that otherwise repeats itself, so most is on that.
const ANSWERS: [(f64, f64); 3] = [(0.99, 0.6), (0.8, 0.25), (0.6, 0.15)];
/// The steepness of the bets on latency.
const STEEPNESS: [f64; 5] = [1.0, 2.0, 4.0, 8.0, 16.0];
/// Share of the whole that is bet on answers; the rest is on latency.
const ON_ANSWERS: f64 = 0.7;

/// Settings of the comparison of copied requests.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PairSettings {
    /// Highest probability that a shadow that answers like its original is rolled back for it.
    pub alpha: f64,
    /// Requests that must have been compared before the ramp begins.
    pub min_pairs: u64,
    /// How long they are waited for, in milliseconds; then the ramp begins without.
    pub wait_ms: u64,
    /// How many times as slow as the original the shadow may be.
    pub slow_ratio: f64,
}

impl Default for PairSettings {
    fn default() -> Self {
        Self {
            alpha: 0.01,
            min_pairs: 20,
            wait_ms: 4_000,
            slow_ratio: 1.05,
        }
    }
}

impl PairSettings {
    /// Checks what types cannot.
    ///
    /// # Errors
    /// The field, its value and what is allowed, in words.
    pub fn validate(&self) -> Result<(), String> {
        if !(self.alpha > 0.0 && self.alpha < 0.5) {
            let alpha = self.alpha;
            return Err(format!(
                "pairs.alpha is {alpha}; allowed is above 0 and below 0.5"
            ));
        }
        if !(1.0..=10.0).contains(&self.slow_ratio) {
            let ratio = self.slow_ratio;
            return Err(format!("pairs.slow_ratio is {ratio}; allowed is 1 to 10"));
        }
        for (field, value, highest) in [
            ("pairs.min_pairs", self.min_pairs, 1_000_000),
            ("pairs.wait_ms", self.wait_ms, 86_400_000),
        ] {
            if value > highest {
                return Err(format!("{field} is {value}; allowed is 0 to {highest}"));
            }
        }
        Ok(())
    }
}

/// What the pairs say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// The shadow is not like its original.
    Proven(String),
    /// More pairs are needed.
    Wait(String),
    /// Nothing stands against going on.
    Fine(String),
}

/// Logarithms of the two e-processes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Wealth {
    /// Of the bets on answers.
    pub answers: f64,
    /// Of the bets on latency.
    pub latency: f64,
}

impl Wealth {
    /// What the totals come to.
    pub fn of(pairs: &Pairs, slow_ratio: f64) -> Self {
        let (ours, theirs) = (pairs.against_shadow as f64, pairs.against_original as f64);
        let answers = ANSWERS.map(|(on_shadow, weight)| {
            weight.ln() + ours * (2.0 * on_shadow).ln() + theirs * (2.0 * (1.0 - on_shadow)).ln()
        });
        let margin = slow_ratio.max(1.0).ln();
        let latency = STEEPNESS.map(|steepness| {
            let each = pairs.ratios.iter().map(|(&step, &count)| {
                let beyond = f64::from(step) * RATIO_STEP - margin;
                count as f64 * (2.0_f64.ln() - (-2.0 * steepness * beyond).exp().ln_1p())
            });
            -(STEEPNESS.len() as f64).ln() + each.sum::<f64>()
        });
        Self {
            answers: sum_ln(&answers),
            latency: sum_ln(&latency),
        }
    }

    /// The logarithm of both together.
    pub fn both(&self) -> f64 {
        sum_ln(&[
            ON_ANSWERS.ln() + self.answers,
            (1.0 - ON_ANSWERS).ln() + self.latency,
        ])
    }
}

/// `ln(Σ exp(x))`.
fn sum_ln(terms: &[f64]) -> f64 {
    let largest = terms.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if largest == f64::NEG_INFINITY {
        return largest;
    }
    let sum: f64 = terms.iter().map(|term| (term - largest).exp()).sum();
    largest + sum.ln()
}

/// What the pairs say after so much time.
pub fn judge(pairs: &Pairs, elapsed_ms: u64, settings: &PairSettings) -> Finding {
    let wealth = Wealth::of(pairs, settings.slow_ratio);
    let threshold = -settings.alpha.ln();
    if wealth.both() >= threshold {
        return Finding::Proven(reason(pairs, &wealth));
    }
    let left_out = pairs.left_out();
    let seen = format!(
        "{} pairs compared, {} against the shadow, {} against the original, {left_out} not comparable",
        pairs.compared, pairs.against_shadow, pairs.against_original
    );
    // Half of the way to a proof: nothing is lost by looking on for a while.
    let suspicious = wealth.both() >= threshold / 2.0;
    let patience = settings
        .wait_ms
        .saturating_mul(if suspicious { 10 } else { 1 });
    if elapsed_ms >= patience {
        return Finding::Fine(format!("{seen}; no longer waited for"));
    }
    if suspicious {
        return Finding::Wait(format!("{seen}; the differences are looked into"));
    }
    if pairs.compared < settings.min_pairs {
        let missing = settings.min_pairs - pairs.compared;
        return Finding::Wait(format!("{seen}; {missing} more pairs are needed"));
    }
    Finding::Fine(seen)
}

fn reason(pairs: &Pairs, wealth: &Wealth) -> String {
    if ON_ANSWERS.ln() + wealth.answers >= (1.0 - ON_ANSWERS).ln() + wealth.latency {
        let mut fields: Vec<_> = pairs.fields.iter().collect();
        fields.sort_by(|one, other| other.1.cmp(one.1).then(one.0.cmp(other.0)));
        let named = fields.iter().take(3);
        let named: Vec<String> = named
            .map(|(name, count)| format!("{name} ({count})"))
            .collect();
        return format!(
            "its answers differ from the original's: {} of {} pairs against it, {} against the original; {}",
            pairs.against_shadow,
            pairs.compared,
            pairs.against_original,
            if named.is_empty() {
                "no part is named".to_owned()
            } else {
                named.join(", ")
            }
        );
    }
    let median = median_ratio(pairs).unwrap_or(1.0);
    format!(
        "it is slower than the original with the same requests: {median:.2} times in the median of {} pairs",
        pairs.ratios.values().sum::<u64>()
    )
}

/// The median of how many times as long the shadow took.
pub fn median_ratio(pairs: &Pairs) -> Option<f64> {
    let total: u64 = pairs.ratios.values().sum();
    let mut below = 0;
    for (step, count) in &pairs.ratios {
        below += count;
        if below * 2 >= total && total > 0 {
            return Some((f64::from(*step) * RATIO_STEP).exp());
        }
    }
    None
}

/// Adds up what the nodes report from a moment on, over their sessions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairLedger {
    cluster: String,
    nodes: BTreeMap<NodeId, (u64, Pairs)>,
    total: Pairs,
}

impl PairLedger {
    /// Begins with what has been counted already; it does not count.
    pub fn begin(cluster: String, start: Option<&Traffic>) -> Self {
        let mut ledger = Self {
            cluster,
            nodes: BTreeMap::new(),
            total: Pairs::default(),
        };
        if let Some(start) = start {
            ledger.take(start);
            ledger.total = Pairs::default();
        }
        ledger
    }

    /// Takes a report in. Totals begin anew with a node's session; a count that went back counts
    /// for nothing.
    pub fn take(&mut self, traffic: &Traffic) -> &Pairs {
        for (node, state) in &traffic.nodes {
            let now = state.pairs.get(&self.cluster).cloned().unwrap_or_default();
            let before = self.nodes.get(node);
            let before = before.filter(|(session, _)| *session == state.session);
            let news = match before {
                Some((_, before)) => now.since(before),
                None => now.clone(),
            };
            self.total.merge(&news);
            self.nodes.insert(node.clone(), (state.session, now));
        }
        &self.total
    }
}

#[cfg(test)]
mod tests;
