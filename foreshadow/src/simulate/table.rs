//! What the runs came to, as text, JSON and promises.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use migrator::belief::Bin;

use super::peers::Rule;
use super::{Arm, Run};

/// Mean and half of the 95 % interval.
fn spread(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n.max(1.0);
    let variance = values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / (n - 1.0).max(1.0);
    (mean, 1.96 * (variance / n.max(1.0)).sqrt())
}

fn loads(runs: &[Run]) -> Vec<f64> {
    let mut loads: Vec<f64> = runs.iter().map(|run| run.load).collect();
    loads.sort_by(f64::total_cmp);
    loads.dedup();
    loads
}

fn arms(runs: &[Run]) -> Vec<Arm> {
    let mut arms: Vec<Arm> = runs.iter().map(|run| run.arm).collect();
    arms.sort();
    arms.dedup();
    arms
}

fn of(runs: &[Run], load: f64, arm: Arm) -> Vec<&Run> {
    runs.iter()
        .filter(|run| run.arm == arm && (run.load - load).abs() < 1e-9)
        .collect()
}

fn each(runs: &[&Run], value: impl Fn(&Run) -> f64) -> Vec<f64> {
    runs.iter().map(|run| value(run)).collect()
}

fn mean(runs: &[&Run], value: impl Fn(&Run) -> f64) -> f64 {
    spread(&each(runs, value)).0
}

pub(super) fn text(runs: &[Run]) -> String {
    let mut text = String::new();
    for load in loads(runs) {
        let _ = writeln!(text, "\n{:.0} % mean load", load * 100.0);
        let _ = writeln!(
            text,
            "{:<22} {:>16} {:>9} {:>8} {:>9} {:>9} {:>9} {:>9} {:>10} {:>10}",
            "policy",
            "contention %",
            "lost %",
            "moves",
            "ping-pong",
            "SLATAH %",
            "PDM %",
            "SLAV e-5",
            "ESV e-3",
            "ms/decision"
        );
        for arm in arms(runs) {
            let runs = of(runs, load, arm);
            let (contention, half) = spread(&each(&runs, |run| run.totals.contention() * 100.0));
            let took: Vec<f64> = runs
                .iter()
                .flat_map(|run| &run.took)
                .map(|took| took.as_secs_f64() * 1e3)
                .collect();
            let _ = writeln!(
                text,
                "{:<22} {contention:>8.3} ±{half:>6.3} {:>9.4} {:>8.0} {:>9.1} {:>9.2} {:>9.4} {:>9.3} {:>10.3} {:>10}",
                arm.name(),
                mean(&runs, |run| run.totals.lost_share() * 100.0),
                mean(&runs, |run| run.totals.moves as f64),
                mean(&runs, |run| run.totals.ping_pong as f64),
                mean(&runs, |run| run.totals.slatah() * 100.0),
                mean(&runs, |run| run.totals.pdm() * 100.0),
                mean(&runs, |run| run.totals.slav() * 1e5),
                mean(&runs, |run| run.totals.esv() * 1e3),
                if took.is_empty() {
                    "-".to_owned()
                } else {
                    format!("{:.1}", spread(&took).0)
                },
            );
        }
        text.push_str(&per_trace(runs, load));
    }
    text.push_str(&calibration(runs));
    text
}

fn per_trace(runs: &[Run], load: f64) -> String {
    let mut traces: Vec<&str> = runs.iter().map(|run| run.trace.as_str()).collect();
    traces.sort_unstable();
    traces.dedup();
    let mut text = String::new();
    for trace in traces {
        let here: Vec<&Run> = runs
            .iter()
            .filter(|run| run.trace == trace && (run.load - load).abs() < 1e-9)
            .collect();
        let of =
            |arm: Arm| -> Vec<&Run> { here.iter().copied().filter(|run| run.arm == arm).collect() };
        let ours = of(Arm::Predictive);
        if ours.is_empty() {
            continue;
        }
        let contention = |arm: Arm| mean(&of(arm), |run| run.totals.contention() * 100.0);
        let best = todays(&here)
            .into_iter()
            .min_by(|&a, &b| contention(a).total_cmp(&contention(b)));
        let best = best.map_or("-".to_owned(), |arm| {
            format!("{} {:.3}", arm.name(), contention(arm))
        });
        let worse = ours
            .iter()
            .filter(|run| {
                lost_of_none(&here, run).is_some_and(|none| run.totals.lost_share() > none)
            })
            .count();
        let _ = writeln!(
            text,
            "  {trace}: contention % predictive {:.3}, best of today's rules {best}, none {:.3}, oracle {:.3}; moves {:.0}, reactive {:.0}; lost more than none in {worse} of {} seeds",
            contention(Arm::Predictive),
            contention(Arm::Peer(Rule::None)),
            contention(Arm::Oracle),
            mean(&ours, |run| run.totals.moves as f64),
            mean(&of(Arm::Peer(Rule::Reactive)), |run| run.totals.moves
                as f64),
            ours.len()
        );
    }
    text
}

/// Rules that are in use today: all but ours, the oracle, and the mean of our forecast.
fn todays(runs: &[&Run]) -> Vec<Arm> {
    let mut arms: Vec<Arm> = runs
        .iter()
        .map(|run| run.arm)
        .filter(|arm| match arm {
            Arm::Peer(Rule::MeanForecast) | Arm::Predictive | Arm::Oracle => false,
            Arm::Peer(_) => true,
        })
        .collect();
    arms.sort();
    arms.dedup();
    arms
}

fn lost_of_none(runs: &[&Run], like: &Run) -> Option<f64> {
    runs.iter()
        .find(|run| {
            run.arm == Arm::Peer(Rule::None)
                && run.trace == like.trace
                && run.seed == like.seed
                && (run.load - like.load).abs() < 1e-9
        })
        .map(|run| run.totals.lost_share())
}

fn bins(runs: &[Run]) -> Vec<Bin> {
    let mut bins = vec![Bin::default(); 10];
    for run in runs.iter().filter(|run| run.arm == Arm::Predictive) {
        for (into, bin) in bins.iter_mut().zip(&run.bins) {
            into.stated += bin.stated;
            into.sum += bin.sum;
            into.came += bin.came;
        }
    }
    bins
}

fn calibration(runs: &[Run]) -> String {
    let mut text = String::new();
    let bins = bins(runs);
    if bins.iter().all(|bin| bin.stated == 0) {
        return text;
    }
    text.push_str("\nprobability of contention, as stated and as observed\n");
    for (index, bin) in bins.iter().enumerate().filter(|(_, bin)| bin.stated > 0) {
        let (stated, observed) = shares(bin);
        let _ = writeln!(
            text,
            "  {:>3}-{:<3} %: stated {:>6.2} %, observed {:>6.2} % of {}",
            index * 10,
            index * 10 + 10,
            stated * 100.0,
            observed * 100.0,
            bin.stated
        );
    }
    text
}

fn shares(bin: &Bin) -> (f64, f64) {
    let all = bin.stated as f64;
    (bin.sum / all, bin.came as f64 / all)
}

pub(super) fn json(runs: &[Run]) -> String {
    let runs: Vec<serde_json::Value> = runs
        .iter()
        .map(|run| {
            let totals = &run.totals;
            serde_json::json!({
                "trace": run.trace,
                "load": run.load,
                "seed": run.seed,
                "policy": run.arm.name(),
                "hosts": run.hosts,
                "contention": totals.contention(),
                "lost": totals.lost_share(),
                "moves": totals.moves,
                "ping_pong": totals.ping_pong,
                "slatah": totals.slatah(),
                "pdm": totals.pdm(),
                "slav": totals.slav(),
                "esv": totals.esv(),
                "kwh": totals.kwh,
                "lead_ms": run.leads,
                "decision_ms": run.took.iter().map(|took| took.as_secs_f64() * 1e3).collect::<Vec<_>>(),
                "calibration": run.bins,
            })
        })
        .collect();
    serde_json::json!({ "runs": runs }).to_string()
}

/// One line: what was promised and what was measured.
fn line(text: &mut String, id: &str, measured: f64, unit: &str, op: &str, target: f64) {
    let kept = match op {
        "<=" => measured <= target,
        _ => measured >= target,
    };
    let word = if kept { "ok" } else { "short" };
    let _ = writeln!(
        text,
        "promise {id} {measured:.4} {unit} target {op} {target} {word}"
    );
}

pub(super) fn promises(runs: &[Run]) -> String {
    let mut text = String::new();
    for load in loads(runs) {
        let here: Vec<&Run> = runs
            .iter()
            .filter(|run| (run.load - load).abs() < 1e-9)
            .collect();
        let contention = |arm: Arm| mean(&of(runs, load, arm), |run| run.totals.contention());
        let moves = |arm: Arm| mean(&of(runs, load, arm), |run| run.totals.moves as f64);
        let Some(best) = todays(&here)
            .into_iter()
            .min_by(|&a, &b| contention(a).total_cmp(&contention(b)))
        else {
            continue;
        };
        let name = |what: &str| format!("A-{what}-{:.0}", load * 100.0);
        let ours = contention(Arm::Predictive);
        let target = if load < 0.7 { 0.5 } else { 0.7 };
        line(
            &mut text,
            &name("contention"),
            ours / contention(best),
            "of-best",
            "<=",
            target,
        );
        let oracle = contention(Arm::Oracle);
        let gap = (contention(best) - ours) / (contention(best) - oracle).max(1e-12);
        line(&mut text, &name("gap"), gap, "of-gap", ">=", 0.35);
        let reactive = moves(Arm::Peer(Rule::Reactive));
        let share = moves(Arm::Predictive) / reactive.max(1.0);
        line(&mut text, &name("moves"), share, "of-reactive", "<=", 0.5);
        let mine = of(runs, load, Arm::Predictive);
        let returned: f64 = mine.iter().map(|run| run.totals.ping_pong as f64).sum();
        let all: f64 = mine.iter().map(|run| run.totals.moves as f64).sum();
        line(
            &mut text,
            &name("ping-pong"),
            100.0 * returned / all.max(1.0),
            "%",
            "<=",
            0.2,
        );
        let worse = mine
            .iter()
            .filter(|run| {
                lost_of_none(&here, run).is_some_and(|none| run.totals.lost_share() > none)
            })
            .count();
        line(
            &mut text,
            &name("lost-more-than-none"),
            worse as f64,
            "runs",
            "<=",
            0.0,
        );
    }
    let off = bins(runs)
        .iter()
        .filter(|bin| bin.stated >= 500)
        .map(|bin| {
            let (stated, observed) = shares(bin);
            (stated - observed).abs() * 100.0
        })
        .fold(0.0, f64::max);
    line(&mut text, "A-calibration", off, "points", "<=", 2.0);
    text
}

/// Moves per policy, for the report.
pub(super) fn moves_per_arm(runs: &[Run]) -> BTreeMap<&'static str, u64> {
    let mut moves = BTreeMap::new();
    for run in runs {
        *moves.entry(run.arm.name()).or_insert(0) += run.totals.moves;
    }
    moves
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_says_whether_it_is_kept() {
        let mut text = String::new();
        line(&mut text, "A-x", 0.4, "of-best", "<=", 0.5);
        line(&mut text, "A-y", 0.2, "of-gap", ">=", 0.35);
        assert_eq!(
            text,
            "promise A-x 0.4000 of-best target <= 0.5 ok\npromise A-y 0.2000 of-gap target >= 0.35 short\n"
        );
    }

    #[test]
    fn the_interval_is_that_of_the_mean() {
        let (mean, half) = spread(&[1.0, 3.0]);
        assert!((mean - 2.0).abs() < 1e-12 && (half - 1.96).abs() < 1e-12);
    }
}
