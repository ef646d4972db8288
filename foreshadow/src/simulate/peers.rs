//! The rules that are used today, written down anew from their papers and sources.
//!
//! Each sees what it would see in production: readings up to the last step, and where everything
//! is or is going to. None knows the future. Where the source leaves something open, the choice is
//! said at the rule.

use std::collections::BTreeMap;

use domain::Resource;
use domain::forecast::InstanceForecast;

use super::fleet::{Fleet, watts};
use super::workload::{mixed, whole};

/// Host loads and instance demands at the last step, as shares of the host's processors.
pub struct Look<'f, 'w> {
    fleet: &'f Fleet<'w>,
    step: usize,
    loads: Vec<f64>,
}

impl<'f, 'w> Look<'f, 'w> {
    /// A look at the beginning of a step.
    pub fn new(fleet: &'f Fleet<'w>, step: usize) -> Self {
        let mut look = Self {
            fleet,
            step,
            loads: vec![0.0; fleet.hosts()],
        };
        for row in 0..fleet.host_of.len() {
            look.loads[fleet.goes_to(row)] += look.demand(row);
        }
        look
    }

    fn demand(&self, row: usize) -> f64 {
        self.past(row, 1)
    }

    /// Demand some steps ago; 1 is the last that was measured.
    fn past(&self, row: usize, ago: usize) -> f64 {
        let step = self.step.saturating_sub(ago);
        self.fleet.workload.at(row, Resource::Cpu, step) / self.fleet.capacity[0]
    }

    fn rows(&self, host: usize) -> Vec<usize> {
        (0..self.fleet.host_of.len())
            .filter(|&row| self.fleet.host_of[row] == host && !self.fleet.is_moving(row))
            .collect()
    }

    /// Utilisation of a host over the last steps, the newest first, with what is on it now.
    fn history(&self, host: usize, steps: usize) -> Vec<f64> {
        let on = (0..self.fleet.host_of.len()).filter(|&row| self.fleet.goes_to(row) == host);
        let rows: Vec<usize> = on.collect();
        (1..=steps.min(self.step))
            .map(|ago| rows.iter().map(|&row| self.past(row, ago)).sum())
            .collect()
    }

    fn apply(&mut self, moves: &mut Vec<(usize, usize)>, row: usize, to: usize) {
        let demand = self.demand(row);
        let from = moves
            .iter()
            .rev()
            .find(|(moved, _)| *moved == row)
            .map_or(self.fleet.host_of[row], |&(_, to)| to);
        self.loads[from] -= demand;
        self.loads[to] += demand;
        moves.push((row, to));
    }

    fn hottest(&self) -> usize {
        (0..self.loads.len())
            .max_by(|&a, &b| self.loads[a].total_cmp(&self.loads[b]))
            .unwrap_or(0)
    }

    fn by_load(&self) -> Vec<usize> {
        let mut hosts: Vec<usize> = (0..self.loads.len()).collect();
        hosts.sort_by(|&a, &b| self.loads[a].total_cmp(&self.loads[b]));
        hosts
    }

    fn deviation(&self) -> f64 {
        let mean = self.loads.iter().sum::<f64>() / self.loads.len() as f64;
        let square = |load: &f64| (load - mean) * (load - mean);
        (self.loads.iter().map(square).sum::<f64>() / self.loads.len() as f64).sqrt()
    }
}

/// The rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// Nothing is ever moved.
    None,
    /// Above 90 %: the smallest instance that brings the host below goes to the emptiest host.
    Reactive,
    /// The same, with an hour of rest for what has moved.
    CoolDown,
    /// Sandpiper (Wood et al., NSDI 2007).
    Sandpiper,
    /// OpenStack Watcher, strategy `workload_balance`.
    WorkloadBalance,
    /// OpenStack Watcher, strategy `workload_stabilization`.
    WorkloadStabilization,
    /// OpenNebula DRS.
    OpenNebula,
    /// ProxLB.
    ProxLb,
    /// Static threshold, minimum migration time (Beloglazov, Buyya, CCPE 2012).
    Thr,
    /// Inter-quartile range, same.
    Iqr,
    /// Median absolute deviation, same.
    Mad,
    /// Local regression, same.
    Lr,
    /// The reactive rule on the mean that is forecast half an hour ahead.
    MeanForecast,
}

impl Rule {
    /// All rules.
    pub const ALL: [Self; 13] = [
        Self::None,
        Self::Reactive,
        Self::CoolDown,
        Self::Sandpiper,
        Self::WorkloadBalance,
        Self::WorkloadStabilization,
        Self::OpenNebula,
        Self::ProxLb,
        Self::Thr,
        Self::Iqr,
        Self::Mad,
        Self::Lr,
        Self::MeanForecast,
    ];

    /// Its name in tables and options.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Reactive => "reactive",
            Self::CoolDown => "reactive-cool-down",
            Self::Sandpiper => "sandpiper",
            Self::WorkloadBalance => "watcher-balance",
            Self::WorkloadStabilization => "watcher-stabilization",
            Self::OpenNebula => "opennebula-drs",
            Self::ProxLb => "proxlb",
            Self::Thr => "thr-mmt",
            Self::Iqr => "iqr-mmt",
            Self::Mad => "mad-mmt",
            Self::Lr => "lr-mmt",
            Self::MeanForecast => "mean-forecast",
        }
    }

    /// Moves at the beginning of a step.
    pub fn decide(
        self,
        fleet: &Fleet<'_>,
        step: usize,
        forecasts: &[InstanceForecast],
    ) -> Vec<(usize, usize)> {
        let look = Look::new(fleet, step);
        match self {
            Self::None => Vec::new(),
            Self::Reactive => reactive(look, 0),
            Self::CoolDown => reactive(look, 3_600_000),
            Self::Sandpiper => sandpiper(look),
            Self::WorkloadBalance => workload_balance(look),
            Self::WorkloadStabilization => workload_stabilization(look),
            Self::OpenNebula => opennebula(look),
            Self::ProxLb => proxlb(look),
            Self::Thr => mmt(look, |_| Some(0.8)),
            Self::Iqr => mmt(look, |history| {
                Some(1.0 - 1.5 * iqr(history)).filter(|_| history.len() >= 12)
            }),
            Self::Mad => mmt(look, |history| {
                Some(1.0 - 2.5 * mad(history)).filter(|_| history.len() >= 12)
            }),
            Self::Lr => local_regression(look),
            Self::MeanForecast => mean_forecast(look, forecasts),
        }
    }
}

/// What a platform does without any planner: the threshold, the smallest that suffices (or the
/// largest there is), the emptiest host that stays below the threshold.
fn reactive(mut look: Look<'_, '_>, rest_ms: u64) -> Vec<(usize, usize)> {
    let loads = look.loads.clone();
    relieve(&mut look, &loads, 0.9, rest_ms)
}

fn relieve(
    look: &mut Look<'_, '_>,
    seen: &[f64],
    threshold: f64,
    rest_ms: u64,
) -> Vec<(usize, usize)> {
    let mut moves = Vec::new();
    let mut hosts: Vec<usize> = (0..seen.len()).filter(|&h| seen[h] > threshold).collect();
    hosts.sort_by(|&a, &b| seen[b].total_cmp(&seen[a]));
    let now = look.fleet.now().0;
    for host in hosts {
        let excess = seen[host] - threshold;
        let mut rows = look.rows(host);
        rows.retain(|&row| {
            let placed = look.fleet.placed_ms[row];
            placed == 0 || now - placed >= rest_ms
        });
        rows.sort_by(|&a, &b| look.demand(a).total_cmp(&look.demand(b)));
        let enough = rows.iter().copied().find(|&row| look.demand(row) >= excess);
        let Some(row) = enough.or(rows.last().copied()) else {
            continue;
        };
        let Some(&to) = look.by_load().first() else {
            continue;
        };
        if to != host && look.loads[to] + look.demand(row) < threshold {
            look.apply(&mut moves, row, to);
        }
    }
    moves
}

/// Sandpiper: a hot spot is above 75 % in 3 of the last 5 and, by AR(1) on the history, next time
/// too. Instances by volume-to-size ratio (VSR), from the host of the highest volume to that of
/// the lowest; where nothing fits, a swap with lower-VSR instances. With one resource the volume is
/// 1/(1 − cpu). Constants as in the notes on the paper; the AR(1) is fitted on the last hour.
fn sandpiper(mut look: Look<'_, '_>) -> Vec<(usize, usize)> {
    const HOT: f64 = 0.75;
    let volume = |load: f64| 1.0 / (1.0 - load.min(0.99));
    let mut moves: Vec<(usize, usize)> = Vec::new();
    let mut hot: Vec<usize> = (0..look.loads.len())
        .filter(|&host| {
            let history = look.history(host, 12);
            let above = history.iter().take(5).filter(|&&load| load > HOT).count();
            above >= 3 && autoregressive(&history) > HOT
        })
        .collect();
    hot.sort_by(|&a, &b| look.loads[b].total_cmp(&look.loads[a]));
    for host in hot {
        let mut rows = look.rows(host);
        let ratio = |row: usize| volume(look.demand(row)) / look.fleet.workload.memory[row] as f64;
        rows.sort_by(|&a, &b| ratio(b).total_cmp(&ratio(a)));
        let mut load = look.loads[host];
        for row in rows.clone() {
            if load <= HOT {
                break;
            }
            let Some(&to) = look.by_load().iter().find(|&&to| to != host) else {
                break;
            };
            if look.loads[to] + look.demand(row) <= HOT {
                look.apply(&mut moves, row, to);
                load = look.loads[host];
                continue;
            }
            // Swap with the instances of the emptiest host, those of the lowest VSR first.
            let mut others = look.rows(to);
            others.retain(|other| !moves.iter().any(|(moved, _)| moved == other));
            others.sort_by(|&a, &b| look.demand(a).total_cmp(&look.demand(b)));
            let Some(&other) = others
                .iter()
                .find(|&&other| look.demand(other) < look.demand(row))
            else {
                continue;
            };
            let (mine, theirs) = (look.demand(row), look.demand(other));
            let there = look.loads[to] + mine - theirs;
            if there <= HOT && look.loads[host] - mine + theirs < look.loads[host] {
                look.apply(&mut moves, row, to);
                look.apply(&mut moves, other, host);
                load = look.loads[host];
            }
        }
    }
    moves
}

/// Next value by u(k+1) = μ + φ(u(k) − μ), φ by Yule and Walker. Newest first.
fn autoregressive(history: &[f64]) -> f64 {
    let Some(&last) = history.first() else {
        return 0.0;
    };
    let mean = history.iter().sum::<f64>() / history.len() as f64;
    let variance: f64 = history.iter().map(|v| (v - mean) * (v - mean)).sum();
    let lagged: f64 = history
        .windows(2)
        .map(|w| (w[0] - mean) * (w[1] - mean))
        .sum();
    let phi = if variance > 0.0 {
        lagged / variance
    } else {
        0.0
    };
    mean + phi * (last - mean)
}

/// Watcher `workload_balance` (openstack/watcher, watcher/decision_engine/strategy/strategies):
/// the hottest host above the threshold gives the instance that leaves the smallest non-negative
/// rest of (load − average − instance) to the least loaded host that stays below the threshold;
/// one instance an audit, an audit every five minutes. The default threshold of 25 % would match
/// no host here, so it is 90 %.
fn workload_balance(mut look: Look<'_, '_>) -> Vec<(usize, usize)> {
    const THRESHOLD: f64 = 0.9;
    let mut moves = Vec::new();
    let host = look.hottest();
    if look.loads[host] <= THRESHOLD {
        return moves;
    }
    let average = look.loads.iter().sum::<f64>() / look.loads.len() as f64;
    let over = look.loads[host] - average;
    let rows = look.rows(host);
    let best = rows
        .iter()
        .copied()
        .filter(|&row| over - look.demand(row) >= 0.0)
        .min_by(|&a, &b| {
            let rest = |row: usize| over - look.demand(row);
            rest(a).total_cmp(&rest(b))
        });
    if let Some(row) = best {
        let fits = |to: &&usize| **to != host && look.loads[**to] + look.demand(row) < THRESHOLD;
        if let Some(to) = look.by_load().iter().find(fits).copied() {
            look.apply(&mut moves, row, to);
        }
    }
    moves
}

/// Watcher `workload_stabilization`: while the standard deviation of the hosts' loads is above the
/// threshold, moves that lower it, each instance tried with one host taken at random
/// (`host_choice=retry`, `retry_count=1`), the best first.
fn workload_stabilization(mut look: Look<'_, '_>) -> Vec<(usize, usize)> {
    const THRESHOLD: f64 = 0.1;
    let mut moves = Vec::new();
    if look.deviation() <= THRESHOLD {
        return moves;
    }
    let hosts = look.loads.len();
    let mean = look.loads.iter().sum::<f64>() / hosts as f64;
    let mut tried: Vec<(f64, usize, usize)> = Vec::new();
    for host in 0..hosts {
        if look.loads[host] <= mean {
            continue;
        }
        for row in look.rows(host) {
            let pick = mixed(row as u64, look.step as u64) % hosts as u64;
            let to = usize::try_from(pick).unwrap_or(0);
            if to == host {
                continue;
            }
            let before = look.loads.clone();
            look.loads[host] -= look.demand(row);
            look.loads[to] += look.demand(row);
            tried.push((look.deviation(), row, to));
            look.loads = before;
        }
    }
    tried.sort_by(|one, other| one.0.total_cmp(&other.0).then(one.1.cmp(&other.1)));
    for (_, row, to) in tried {
        let before = look.deviation();
        if before <= THRESHOLD {
            break;
        }
        look.apply(&mut moves, row, to);
        if look.deviation() >= before {
            look.apply(&mut moves, row, look.fleet.host_of[row]);
            moves.truncate(moves.len() - 2);
        }
    }
    moves
}

/// OpenNebula DRS (OpenNebula/one, src/schedm_mad/remotes/one_drs): the least highest load by an
/// integer program on a blend of the present load and a point forecast (here the mean of the last
/// hour, weight one half), without limit on moves or cost. The program is solved by descent: the
/// move that lowers the highest load most, until none does. It runs once an hour.
fn opennebula(mut look: Look<'_, '_>) -> Vec<(usize, usize)> {
    let mut moves: Vec<(usize, usize)> = Vec::new();
    if !look.step.is_multiple_of(12) {
        return moves;
    }
    let rows = look.fleet.host_of.len();
    let blend: Vec<f64> = (0..rows)
        .map(|row| {
            let hour = (1..=12).map(|ago| look.past(row, ago)).sum::<f64>() / 12.0;
            f64::midpoint(look.demand(row), hour)
        })
        .collect();
    let mut at: Vec<usize> = (0..rows).map(|row| look.fleet.goes_to(row)).collect();
    let mut loads = vec![0.0; look.loads.len()];
    for (row, &host) in at.iter().enumerate() {
        loads[host] += blend[row];
    }
    loop {
        let by = |a: &usize, b: &usize| f64::total_cmp(&loads[*a], &loads[*b]);
        let hosts: Vec<usize> = (0..loads.len()).collect();
        let (Some(&hot), Some(&cold)) = (
            hosts.iter().max_by(|a, b| by(a, b)),
            hosts.iter().min_by(|a, b| by(a, b)),
        ) else {
            break;
        };
        // The move after which the higher of the two is lowest.
        let after = |row: usize| (loads[hot] - blend[row]).max(loads[cold] + blend[row]);
        let best = (0..rows)
            .filter(|&row| at[row] == hot && !look.fleet.is_moving(row))
            .min_by(|&a, &b| after(a).total_cmp(&after(b)));
        let Some(row) = best.filter(|&row| after(row) < loads[hot] - 1e-3) else {
            break;
        };
        loads[hot] -= blend[row];
        loads[cold] += blend[row];
        at[row] = cold;
        moves.retain(|(moved, _)| *moved != row);
        if look.fleet.host_of[row] != cold {
            moves.push((row, cold));
        }
        if moves.len() >= rows {
            break;
        }
    }
    look.loads = loads;
    moves
}

/// ProxLB (gyptazy/ProxLB): when the spread between the fullest and the emptiest host is above
/// `balanciness` (10 points), guests go one after another to the emptiest host until it is not.
/// The service's default of once in twelve hours would be two runs a day; once an hour here.
fn proxlb(mut look: Look<'_, '_>) -> Vec<(usize, usize)> {
    const BALANCINESS: f64 = 0.10;
    let mut moves = Vec::new();
    if !look.step.is_multiple_of(12) {
        return moves;
    }
    let spread = |look: &Look<'_, '_>| {
        let hosts = look.by_load();
        match (hosts.first(), hosts.last()) {
            (Some(&cold), Some(&hot)) => look.loads[hot] - look.loads[cold],
            _ => 0.0,
        }
    };
    let mut rows: Vec<usize> = (0..look.fleet.host_of.len())
        .filter(|&row| !look.fleet.is_moving(row))
        .collect();
    rows.sort_by(|&a, &b| look.demand(b).total_cmp(&look.demand(a)));
    for row in rows {
        if spread(&look) <= BALANCINESS {
            break;
        }
        let host = look.fleet.host_of[row];
        let Some(&cold) = look.by_load().first() else {
            break;
        };
        // Only where the guest is better off: its host would still be the fuller one.
        if look.loads[cold] + look.demand(row) < look.loads[host] {
            look.apply(&mut moves, row, cold);
        }
    }
    moves
}

/// The distance between the quartiles, as CloudSim computes it (Apache Commons Math percentiles).
pub fn iqr(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    let at = |share: f64| {
        // CloudSim takes the values at round(share × (n + 1)) − 1.
        let place = usize::try_from(whole((share * (n as f64 + 1.0)).round())).unwrap_or(1);
        sorted
            .get(place.max(1) - 1)
            .or(sorted.last())
            .copied()
            .unwrap_or(0.0)
    };
    at(0.75) - at(0.25)
}

/// The median absolute deviation.
pub fn mad(values: &[f64]) -> f64 {
    let middle = median(values);
    let deviations: Vec<f64> = values.iter().map(|value| (middle - value).abs()).collect();
    median(&deviations)
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// Intercept and slope of a line through values at 1, 2, …, weighted by the tricube of their
/// distance from the last (Cleveland 1979).
pub fn loess(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let (mut sw, mut sx, mut sy, mut sxx, mut sxy) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for (index, &y) in values.iter().enumerate() {
        let x = index as f64 + 1.0;
        let distance = (n - x) / n;
        let weight = (1.0 - distance.powi(3)).powi(3);
        sw += weight;
        sx += weight * x;
        sy += weight * y;
        sxx += weight * x * x;
        sxy += weight * x * y;
    }
    let slope = (sw * sxy - sx * sy) / (sw * sxx - sx * sx);
    ((sy - slope * sx) / sw, slope)
}

fn local_regression(look: Look<'_, '_>) -> Vec<(usize, usize)> {
    const SAFETY: f64 = 1.2;
    mmt(look, |history| {
        // Ten values, as CloudSim takes; the longest migration takes less than a step.
        let mut last: Vec<f64> = history.iter().take(10).copied().collect();
        if last.len() < 10 {
            return None;
        }
        last.reverse();
        let (intercept, slope) = loess(&last);
        let predicted = SAFETY * (intercept + slope * 11.0);
        // A threshold that the present load is above exactly when the prediction reaches all.
        Some(if predicted >= 1.0 { 0.0 } else { f64::INFINITY })
    })
}

/// Overloaded hosts by a threshold from their history; instances with the least memory leave until
/// the host is below it (MMT); each goes where it raises the power least (PABFD), to a host that is
/// not overloaded with it. Hosts are not switched off: their number is given here.
fn mmt(mut look: Look<'_, '_>, threshold: impl Fn(&[f64]) -> Option<f64>) -> Vec<(usize, usize)> {
    let mut moves = Vec::new();
    let limits: Vec<f64> = (0..look.loads.len())
        .map(|host| threshold(&look.history(host, 30)).unwrap_or(0.8))
        .collect();
    let hot: Vec<usize> = (0..look.loads.len())
        .filter(|&host| look.loads[host] > limits[host])
        .collect();
    let mut leaving: Vec<usize> = Vec::new();
    for &host in &hot {
        let mut rows = look.rows(host);
        rows.sort_by_key(|&row| look.fleet.workload.memory[row]);
        let mut load = look.loads[host];
        // With a limit of 0 (local regression) the load that CloudSim would stop at is the one at
        // which its prediction is below 1; the prediction scales with the load.
        let enough = if limits[host] > 0.0 {
            limits[host]
        } else {
            0.83
        };
        for row in rows {
            if load <= enough {
                break;
            }
            load -= look.demand(row);
            leaving.push(row);
        }
    }
    leaving.sort_by(|&a, &b| look.demand(b).total_cmp(&look.demand(a)));
    for row in leaving {
        let demand = look.demand(row);
        let rise = |to: usize| watts(look.loads[to] + demand) - watts(look.loads[to]);
        let best = (0..look.loads.len())
            .filter(|to| !hot.contains(to))
            .filter(|&to| {
                look.loads[to] + demand <= limits[to].clamp(0.0, 0.83_f64.max(limits[to].min(1.0)))
            })
            .min_by(|&a, &b| rise(a).total_cmp(&rise(b)));
        if let Some(to) = best {
            look.apply(&mut moves, row, to);
        }
    }
    moves
}

/// The reactive rule on the mean that the model forecasts for half an hour ahead.
fn mean_forecast(mut look: Look<'_, '_>, forecasts: &[InstanceForecast]) -> Vec<(usize, usize)> {
    let ahead = 6 * look.fleet.workload.step_ms;
    let mut seen = vec![0.0; look.loads.len()];
    let known: BTreeMap<_, _> = forecasts.iter().map(|f| (&f.instance, f)).collect();
    for (row, id) in look.fleet.workload.ids.iter().enumerate() {
        let mean = known
            .get(id)
            .and_then(|forecast| forecast.of(Resource::Cpu)?.nearest(ahead))
            .map_or(look.demand(row), |h| {
                h.demand.mean() / look.fleet.capacity[0]
            });
        seen[look.fleet.goes_to(row)] += mean;
    }
    relieve(&mut look, &seen, 0.9, 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::workload::Workload;

    #[test]
    fn quartiles_and_deviations_are_those_of_cloudsims_own_tests() {
        // MathUtilTest of CloudSim: DATA1 to DATA3.
        let first = [105, 109, 107, 112, 102, 118, 115, 104, 110, 116, 108].map(f64::from);
        assert!((iqr(&first) - 10.0).abs() < 1e-12);
        let second = [
            2, 4, 7, -20, 22, -1, 0, -1, 7, 15, 8, 4, -4, 11, 11, 12, 3, 12, 18, 1,
        ];
        assert!((iqr(&second.map(f64::from)) - 12.0).abs() < 1e-12);
        assert!((mad(&[1.0, 1.0, 2.0, 2.0, 4.0, 6.0, 9.0]) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn a_line_is_regressed_to_itself() {
        let line: Vec<f64> = (1..=10).map(|x| 0.3 + 0.05 * f64::from(x)).collect();
        let (intercept, slope) = loess(&line);
        assert!((intercept - 0.3).abs() < 1e-9 && (slope - 0.05).abs() < 1e-9);
    }

    /// Two hosts of 100; a, b, c on the first, d on the second, the same in every step.
    fn fleet_of(demand: [u32; 4], play: impl FnOnce(&Fleet<'_>)) {
        let mut text = "instance,step,cpu\n".to_owned();
        for (name, demand) in ["a", "b", "c", "d"].iter().zip(demand) {
            for step in 0..40 {
                for part in [name, ",", &step.to_string(), ",", &demand.to_string(), "\n"] {
                    text.push_str(part);
                }
            }
        }
        let workload = Workload::read("t", text.as_bytes(), 300_000).unwrap();
        let capacity = [100.0, f64::INFINITY, f64::INFINITY, f64::INFINITY];
        play(&Fleet::new(
            &workload,
            capacity,
            2,
            vec![0, 0, 0, 1],
            36,
            1,
            60_000,
        ));
    }

    #[test]
    fn the_reactive_rule_moves_the_smallest_that_suffices() {
        fleet_of([20, 45, 30, 10], |fleet| {
            // 95 of 90: 20 is enough.
            assert_eq!(Rule::Reactive.decide(fleet, 36, &[]), [(0, 1)]);
        });
        fleet_of([20, 40, 29, 10], |fleet| {
            assert!(Rule::Reactive.decide(fleet, 36, &[]).is_empty(), "89 of 90");
        });
    }

    #[test]
    fn watchers_balance_leaves_the_smallest_rest_above_the_average() {
        fleet_of([20, 45, 30, 10], |fleet| {
            // Average 52.5, over by 42.5: 45 is too much, 30 leaves the least.
            assert_eq!(Rule::WorkloadBalance.decide(fleet, 36, &[]), [(2, 1)]);
        });
    }

    #[test]
    fn sandpiper_takes_the_highest_volume_for_its_size_below_its_threshold() {
        fleet_of([20, 45, 30, 10], |fleet| {
            let moves = Rule::Sandpiper.decide(fleet, 36, &[]);
            assert!(!moves.is_empty());
            let gone: u32 = moves.iter().map(|&(row, _)| [20, 45, 30, 10][row]).sum();
            assert!(95 - gone <= 75, "{moves:?}");
        });
        fleet_of([20, 25, 29, 10], |fleet| {
            assert!(
                Rule::Sandpiper.decide(fleet, 36, &[]).is_empty(),
                "74 of 75"
            );
        });
    }

    #[test]
    fn the_threshold_rules_move_the_least_memory_until_below() {
        fleet_of([20, 45, 30, 10], |fleet| {
            // Memory by type: a 870, b 1740, c 1740 MiB: a goes, and 75 is below 80.
            assert_eq!(Rule::Thr.decide(fleet, 36, &[]), [(0, 1)]);
        });
        // A flat history has no spread: the adaptive thresholds are at 1.
        fleet_of([20, 45, 30, 10], |fleet| {
            assert!(Rule::Mad.decide(fleet, 36, &[]).is_empty());
            assert!(Rule::Iqr.decide(fleet, 36, &[]).is_empty());
            // 0.95 × 1.2 is above 1.
            assert!(!Rule::Lr.decide(fleet, 36, &[]).is_empty());
        });
    }

    #[test]
    fn the_balancers_even_out_and_stop_when_even() {
        fleet_of([20, 45, 30, 10], |fleet| {
            let moves = Rule::OpenNebula.decide(fleet, 36, &[]);
            let gone: u32 = moves.iter().map(|&(row, _)| [20, 45, 30, 10][row]).sum();
            assert_eq!(95 - gone, 50, "the least highest load is 55: {moves:?}");
            assert!(!Rule::ProxLb.decide(fleet, 36, &[]).is_empty());
        });
        fleet_of([20, 20, 10, 50], |fleet| {
            assert!(Rule::OpenNebula.decide(fleet, 36, &[]).is_empty());
            assert!(Rule::ProxLb.decide(fleet, 36, &[]).is_empty());
            assert!(
                Rule::WorkloadStabilization
                    .decide(fleet, 36, &[])
                    .is_empty()
            );
        });
    }
}
