//! The table, and the promises held against it.

use domain::{Counts, HarmBudget, RampPlan};
use foreshadow_migrator::JudgeSettings;
use foreshadow_migrator::simulate::{Dice, End, Latencies, Ramp, Side};

use super::Run;
use super::cells::Cell;
use super::ours::SOAK_MS;

/// What our rule is called in the table.
pub(crate) const OURS: &str = "foreshadow";
/// A cell whose floor is higher is not held against the harm budget, but against its floor.
const FLOOR: f64 = 12.0;

pub(crate) struct Row {
    pub(crate) cell: &'static str,
    pub(crate) rule: &'static str,
    pub(crate) harmless: bool,
    pub(crate) runs: usize,
    pub(crate) rolled_back: usize,
    pub(crate) promoted: usize,
    pub(crate) median_s: f64,
    pub(crate) promoted_s: f64,
    pub(crate) mean_excess: f64,
    pub(crate) p95_excess: f64,
    /// Seconds until nearly nothing was on the shadow, 95 of a hundred times.
    lowered_s: f64,
    /// Excess that no rule which acts on reports can spare.
    pub(crate) floor: f64,
    took_s: f64,
}

impl Row {
    pub(crate) fn new(cell: &Cell, rule: &'static str, runs: &[Run], took_s: f64) -> Self {
        let times = |end: End| -> Vec<f64> {
            let ended = runs.iter().filter(|run| run.end == Some(end));
            ended.map(|run| run.after_s).collect()
        };
        let (mut back, mut forward) = (times(End::RolledBack), times(End::Promoted));
        let mut lowered: Vec<f64> = runs.iter().map(|run| run.lowered_s).collect();
        let mut excess: Vec<f64> = runs.iter().map(|run| run.excess).collect();
        let mean = excess.iter().sum::<f64>() / excess.len().max(1) as f64;
        Self {
            cell: cell.name,
            rule,
            harmless: cell.harmless(),
            runs: runs.len(),
            rolled_back: back.len(),
            promoted: forward.len(),
            median_s: at(&mut back, 50),
            promoted_s: at(&mut forward, 50),
            mean_excess: mean,
            p95_excess: at(&mut excess, 95),
            lowered_s: at(&mut lowered, 95),
            floor: if rule == OURS { cell.floor() } else { 0.0 },
            took_s,
        }
    }

    pub(crate) fn percent(&self) -> f64 {
        100.0 * self.rolled_back as f64 / self.runs.max(1) as f64
    }

    /// The share that was rolled back lies between these with a probability of 95 %.
    pub(crate) fn between(&self) -> (f64, f64) {
        wilson(self.rolled_back, self.runs)
    }

    pub(crate) fn print(&self) {
        let what = if self.harmless { "false" } else { "caught" };
        let (low, high) = self.between();
        println!(
            "{:<26}{:<19}{what:<7}{:>6.2} % ({low:>5.2} to {high:>6.2}) {:>5}/{:<6}{:>7}{:>8}{:>7}{:>10.1}{:>10.1}{:>8.1}{:>8.1}",
            self.cell,
            self.rule,
            self.percent(),
            self.rolled_back,
            self.runs,
            seconds(self.median_s),
            self.promoted,
            seconds(self.promoted_s),
            self.mean_excess,
            self.p95_excess,
            self.floor,
            self.took_s,
        );
    }
}

pub(crate) fn seconds(value: f64) -> String {
    if value.is_finite() {
        format!("{value:.0}")
    } else {
        "-".to_owned()
    }
}

/// Wilson's interval, in percent.
fn wilson(found: usize, of: usize) -> (f64, f64) {
    let (k, n, z) = (found as f64, of.max(1) as f64, 1.96_f64);
    let centre = (k + z * z / 2.0) / (n + z * z);
    let half = z / (n + z * z) * (k * (n - k) / n + z * z / 4.0).sqrt();
    (100.0 * (centre - half).max(0.0), 100.0 * (centre + half))
}

fn at(values: &mut [f64], percent: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    let index = (values.len() * percent / 100).min(values.len().saturating_sub(1));
    values.get(index).copied().unwrap_or(f64::INFINITY)
}

pub(crate) fn head() {
    println!(
        "{:<26}{:<19}{:<7}{:>8} {:>19}{:>13}{:>6}{:>8}{:>7}{:>10}{:>10}{:>8}{:>8}",
        "cell",
        "rule",
        "",
        "rolled",
        "95 % confidence",
        "ramps",
        "med. s",
        "promo.",
        "med. s",
        "excess",
        "p95",
        "floor",
        "took s"
    );
}

/// Lines that a script can read.
pub(crate) fn promises(rows: &[Row], tick_us: f64) {
    let ours: Vec<&Row> = rows.iter().filter(|row| row.rule == OURS).collect();
    let harmless = || ours.iter().filter(|row| row.harmless);
    let harmful = || ours.iter().filter(|row| !row.harmless);
    let named = |start: &str| ours.iter().find(|row| row.cell.starts_with(start));
    let median = |start: &str| named(start).map_or(f64::INFINITY, |row| row.median_s);
    // What comes in with nearly all traffic on the shadow before anybody is told cannot be spared.
    let sparing = || harmful().filter(|row| row.floor <= FLOOR);
    let most = |of: fn(&Row) -> f64| sparing().map(|row| of(row)).fold(0.0, f64::max);
    let beyond = harmful()
        .map(|row| row.mean_excess - row.floor)
        .fold(0.0, f64::max);
    let dying = || harmful().filter(|row| row.cell.starts_with("dies"));
    let dead = dying().map(|row| row.lowered_s).fold(0.0, f64::max);
    let worst = harmless().map(|row| row.percent()).fold(0.0, f64::max);
    // Where traffic is so thin that no ramp of 40 minutes can know, the share caught is no promise.
    let busy = harmful().filter(|row| !row.cell.contains(", 5 rps"));
    let least = busy.map(|row| row.percent()).fold(100.0, f64::min);
    let late = median("late x10, 500 rps, 70 s").max(median("late x10, 500 rps, 300 s"));
    let outage = named("outage in the soak").map_or(100.0, |row| row.percent());
    let soak = SOAK_MS as f64 / 1_000.0;
    let clean = named("A/A 50 rps, 0.1 %").map_or(f64::INFINITY, |row| row.promoted_s - soak);
    println!();
    at_most("J1", worst, "%", 1.0);
    at_least("J2", least, "%", 99.0);
    at_most("J3", median("errors x10, 50 rps"), "s", 180.0);
    at_most("J4", median("errors x100, 500 rps"), "s", 20.0);
    at_most(
        "J5",
        median("latency x1.3").max(median("stalls")),
        "s",
        180.0,
    );
    at_most("J6", late, "s", 45.0);
    at_most("J7", most(|row| row.mean_excess), "requests", 15.0);
    at_most("J8", most(|row| row.p95_excess), "requests", 30.0);
    at_most("J9", outage, "%", 1.0);
    at_most("J23", beyond, "requests", 15.0);
    at_most("J14", clean, "s", 240.0);
    at_most("J16", dead, "s", 2.0);
    at_most("J15", tick_us, "us", 200.0);
}

/// Microseconds of a look at a ramp, over a thousand of them in turn, at a second each.
pub(crate) fn tick_us() -> f64 {
    let usual = Latencies::new(1.0, 0.0);
    let side = Side {
        errors: 0.001,
        latencies: &usual,
    };
    let mut dice = Dice::new(3);
    let baseline = dice.serve(30_000.0, &side);
    let begin = |_| {
        let plan = RampPlan::budgeted(HarmBudget::default(), SOAK_MS);
        Ramp::begin(plan, baseline.clone(), 50.0, JudgeSettings::default()).ok()
    };
    let mut ramps: Vec<Ramp> = (0..1_000).filter_map(begin).collect();
    let counts: Vec<(Counts, Counts)> = (0..64)
        .map(|_| (dice.serve(40.0, &side), dice.serve(10.0, &side)))
        .collect();
    let began = std::time::Instant::now();
    let mut looks = 0_u32;
    for (original, shadow) in counts.iter().cycle().take(20) {
        for ramp in &mut ramps {
            let _ = ramp.look(1_000, original.clone(), shadow.clone());
            looks += 1;
        }
    }
    began.elapsed().as_secs_f64() * 1e6 / f64::from(looks.max(1))
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
