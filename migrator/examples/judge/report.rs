//! The table, and the promises held against it.

use super::Run;
use super::cells::Cell;

pub(crate) struct Row {
    cell: &'static str,
    rule: &'static str,
    harmless: bool,
    compared: bool,
    runs: usize,
    rolled_back: usize,
    median_s: f64,
    mean_excess: f64,
    p95_excess: f64,
}

impl Row {
    pub(crate) fn new(cell: &Cell, rule: &'static str, runs: &[Run]) -> Self {
        let mut times: Vec<f64> = caught(runs).map(|run| run.after_s).collect();
        let mut excess: Vec<f64> = runs.iter().map(|run| run.excess).collect();
        let mean = excess.iter().sum::<f64>() / excess.len().max(1) as f64;
        Self {
            cell: cell.name,
            rule,
            harmless: cell.harmless(),
            compared: cell.compared(),
            runs: runs.len(),
            rolled_back: caught(runs).count(),
            median_s: at(&mut times, 50),
            mean_excess: mean,
            p95_excess: at(&mut excess, 95),
        }
    }

    fn percent(&self) -> f64 {
        100.0 * self.rolled_back as f64 / self.runs.max(1) as f64
    }

    pub(crate) fn print(&self) {
        let what = if self.harmless { "false" } else { "caught" };
        let median = if self.median_s.is_finite() {
            format!("{:.0}", self.median_s)
        } else {
            "-".to_owned()
        };
        println!(
            "{:<26}{:<19}{what:<7}{:>6.1} % {:>4}/{:<5}{median:>8}{:>12.1}{:>12.1}",
            self.cell,
            self.rule,
            self.percent(),
            self.rolled_back,
            self.runs,
            self.mean_excess,
            self.p95_excess
        );
    }
}

fn caught(runs: &[Run]) -> impl Iterator<Item = &Run> {
    runs.iter().filter(|run| run.rolled_back)
}

fn at(values: &mut [f64], percent: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    let index = (values.len() * percent / 100).min(values.len().saturating_sub(1));
    values.get(index).copied().unwrap_or(f64::INFINITY)
}

pub(crate) fn head() {
    println!(
        "{:<26}{:<19}{:<7}{:>8} {:>10}{:>8}{:>12}{:>12}",
        "cell", "rule", "", "rolled", "runs", "med. s", "mean excess", "p95 excess"
    );
}

/// Lines that a script can read.
pub(crate) fn promises(rows: &[Row]) {
    let ours: Vec<&Row> = rows.iter().filter(|row| row.rule == "foreshadow").collect();
    let harmless = || ours.iter().filter(|row| row.harmless && row.compared);
    let harmful = || ours.iter().filter(|row| !row.harmless);
    let named = |start: &str| {
        let found = ours.iter().find(|row| row.cell.starts_with(start));
        found.map_or(f64::INFINITY, |row| row.median_s)
    };
    let bad: usize = harmless().map(|row| row.rolled_back).sum();
    let all: usize = harmless().map(|row| row.runs).sum();
    let alone = ours.iter().find(|row| !row.compared);
    let most = |of: fn(&Row) -> f64| harmful().map(|row| of(row)).fold(0.0, f64::max);
    let least = harmful().map(|row| row.percent()).fold(100.0, f64::min);
    println!();
    at_most("J1", 100.0 * bad as f64 / all.max(1) as f64, "%", 1.0);
    at_least("J2", least, "%", 99.0);
    at_most("J3", named("errors x10,"), "s", 180.0);
    at_most("J4", named("errors x100"), "s", 20.0);
    at_most("J5", named("latency"), "s", 180.0);
    at_most("J6", named("late "), "s", 45.0);
    at_most("J7", most(|row| row.mean_excess), "requests", 15.0);
    at_most("J8", most(|row| row.p95_excess), "requests", 30.0);
    at_most("J9", alone.map_or(100.0, |row| row.percent()), "%", 1.0);
}

fn at_most(id: &str, measured: f64, unit: &str, target: f64) {
    line(id, measured, unit, "<=", target, measured <= target);
}

fn at_least(id: &str, measured: f64, unit: &str, target: f64) {
    line(id, measured, unit, ">=", target, measured >= target);
}

fn line(id: &str, measured: f64, unit: &str, sign: &str, target: f64, good: impl Into<Good>) {
    let Good(word) = good.into();
    println!("promise {id} {measured:.2} {unit} target {sign} {target} {word}");
}

struct Good(&'static str);

impl From<bool> for Good {
    fn from(good: bool) -> Self {
        Self(if good { "ok" } else { "short" })
    }
}
