//! How the counts of paired answers travel inside load reports: as named metrics of the shadow's
//! cluster, like latencies do (see [`crate::latency`]).

use domain::Pairs;

/// Prefix of the metrics' names.
const PREFIX: &str = "foreshadow.pairs.";
/// Most names of fields and reasons that are told apart.
pub const MOST_NAMES: usize = 64;
/// Longest name of a field or reason, in bytes.
pub const LONGEST_NAME: usize = 120;

/// Everything that was counted, as names and counts.
pub fn metrics(pairs: &Pairs) -> Vec<(String, u64)> {
    let mut all = Vec::new();
    let mut push = |name: String, count: u64| {
        if count > 0 {
            all.push((format!("{PREFIX}{name}"), count));
        }
    };
    push("compared".to_owned(), pairs.compared);
    push("shadow".to_owned(), pairs.against_shadow);
    push("original".to_owned(), pairs.against_original);
    for (step, count) in &pairs.ratios {
        push(format!("ratio.{step}"), *count);
    }
    for (group, names) in [
        ("incomparable", &pairs.incomparable),
        ("field", &pairs.fields),
        ("noisy", &pairs.noisy),
    ] {
        for (name, count) in names {
            push(format!("{group}.{name}"), *count);
        }
    }
    all
}

/// Adds one metric to the counts. Gives whether its name is one of ours; what a client makes up is
/// bounded in number and length.
pub fn add(pairs: &mut Pairs, metric: &str, count: u64) -> bool {
    let Some(name) = metric.strip_prefix(PREFIX) else {
        return false;
    };
    let sum = match name {
        "compared" => &mut pairs.compared,
        "shadow" => &mut pairs.against_shadow,
        "original" => &mut pairs.against_original,
        _ => {
            let Some((group, name)) = name.split_once('.') else {
                return false;
            };
            if group == "ratio" {
                let step = name.parse::<i8>().ok();
                let Some(step) = step.filter(|step| step.abs() <= domain::pairs::RATIO_STEPS)
                else {
                    return false;
                };
                pairs.ratios.entry(step).or_default()
            } else {
                let names = match group {
                    "incomparable" => &mut pairs.incomparable,
                    "field" => &mut pairs.fields,
                    "noisy" => &mut pairs.noisy,
                    _ => return false,
                };
                let known = names.contains_key(name);
                if name.len() > LONGEST_NAME || (!known && names.len() >= MOST_NAMES) {
                    return true;
                }
                names.entry(name.to_owned()).or_default()
            }
        }
    };
    *sum = sum.saturating_add(count);
    true
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn what_is_said_is_understood_and_strangers_are_ignored() {
        let name = |text: &str| BTreeMap::from([(text.to_owned(), 2)]);
        let pairs = Pairs {
            compared: 9,
            against_shadow: 2,
            against_original: 1,
            incomparable: name("streaming"),
            fields: name("/items body.value"),
            noisy: name("/items body.at"),
            ratios: BTreeMap::from([(-25, 1), (3, 4)]),
        };
        let mut heard = Pairs::default();
        for (metric, count) in metrics(&pairs) {
            assert!(add(&mut heard, &metric, count));
        }
        assert_eq!(heard, pairs);
        for stranger in [
            "foreshadow.latency.bucket.1",
            "foreshadow.pairs.ratio.99",
            "foreshadow.pairs.x.y",
        ] {
            assert!(!add(&mut heard, stranger, 1));
        }
        assert_eq!(heard, pairs);
    }

    #[test]
    fn a_client_that_makes_names_up_cannot_fill_the_memory() {
        let mut heard = Pairs::default();
        for index in 0..10_000 {
            add(&mut heard, &format!("foreshadow.pairs.field.f{index}"), 1);
        }
        add(
            &mut heard,
            &format!("foreshadow.pairs.noisy.{}", "x".repeat(500)),
            1,
        );
        assert_eq!((heard.fields.len(), heard.noisy.len()), (MOST_NAMES, 0));
    }
}
