//! The HTML report: hosts over time as a heat map, forecast against truth, moves.

use std::fmt::Write as _;

use domain::Resource;
use domain::forecast::InstanceForecast;

use super::fleet::Fleet;
use super::{Arm, Run, table};

/// Horizon of the band, in steps.
const AHEAD: usize = 6;

/// What was forecast of the first host half an hour ahead, and what came.
#[derive(Debug, Clone, Copy)]
pub(super) struct Band {
    /// The step it is for.
    pub(super) step: usize,
    /// Lower end of the 80 % interval, as a share of the capacity.
    pub(super) low: f64,
    /// Mean.
    pub(super) mean: f64,
    /// Upper end.
    pub(super) high: f64,
    /// The truth of the same instances.
    pub(super) truth: f64,
}

pub(super) fn band(fleet: &Fleet<'_>, step: usize, forecasts: &[InstanceForecast]) -> Band {
    let (mut mean, mut variance, mut truth) = (0.0, 0.0, 0.0);
    let workload = fleet.workload;
    let at = (step + AHEAD - 1).min(workload.steps - 1);
    for (row, forecast) in forecasts.iter().enumerate() {
        if fleet.host_of[row] != 0 {
            continue;
        }
        truth += workload.at(row, Resource::Cpu, at);
        let ahead = AHEAD as u64 * workload.step_ms;
        if let Some(h) = forecast.of(Resource::Cpu).and_then(|f| f.nearest(ahead)) {
            let (m, v) = h.demand.moments();
            mean += m;
            variance += v;
        }
    }
    let capacity = fleet.capacity[0];
    let half = 1.2816 * variance.sqrt();
    Band {
        step: at,
        low: (mean - half).max(0.0) / capacity,
        mean: mean / capacity,
        high: (mean + half) / capacity,
        truth: truth / capacity,
    }
}

pub(super) fn html(runs: &[Run], step_ms: u64, warm_up: usize) -> String {
    let mut body = String::new();
    let _ = writeln!(body, "<pre>{}</pre>", escape(&table::text(runs)));
    let _ = writeln!(body, "<p>{:?}</p>", table::moves_per_arm(runs));
    for run in runs.iter().filter(|run| run.seed == 1) {
        let shown = match run.arm {
            Arm::Predictive | Arm::Oracle => true,
            Arm::Peer(rule) => matches!(rule.name(), "none" | "reactive"),
        };
        if !shown {
            continue;
        }
        let _ = writeln!(
            body,
            "<h2>{} at {:.0} %: {}</h2><p>{} hosts, contention {:.3} %, {} moves</p>",
            escape(&run.trace),
            run.load * 100.0,
            run.arm.name(),
            run.hosts,
            run.totals.contention() * 100.0,
            run.totals.moves
        );
        body.push_str(&heat(run, step_ms, warm_up));
        if run.arm == Arm::Predictive {
            body.push_str(&bands(&run.band));
            body.push_str(&moves(run));
        }
    }
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8><title>Foreshadow: policies on traces</title>\
<style>body{{font:14px system-ui;margin:2em;max-width:1200px}}pre{{overflow:auto}}td,th{{padding:0 .8em;text-align:left}}svg{{background:#fff}}</style>\
<h1>Policies on traces</h1>{body}</html>"
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

/// One row of pixels per host, one column per step; red is above capacity; a dot is a move.
fn heat(run: &Run, step_ms: u64, warm_up: usize) -> String {
    let (wide, high) = (3, 6);
    let width = run.heat.len() * wide;
    let height = run.hosts * high;
    let mut svg = format!(
        "<svg role=img aria-label='hosts over time' width={width} height={height} shape-rendering=crispEdges>"
    );
    for (column, hosts) in run.heat.iter().enumerate() {
        for (host, &load) in hosts.iter().enumerate() {
            if load < 0.5 {
                continue;
            }
            let colour = if load > 1.0 {
                "#c00".to_owned()
            } else {
                let shade = 255.0 - 200.0 * (f64::from(load) - 0.5) / 0.5;
                format!("rgb({shade:.0},{shade:.0},255)")
            };
            let _ = write!(
                svg,
                "<path fill='{colour}' d='M{} {}h{wide}v{high}h-{wide}z'/>",
                column * wide,
                host * high
            );
        }
    }
    let begin = warm_up as u64 * step_ms;
    for moved in &run.log {
        let x = (moved.began_ms.saturating_sub(begin) / step_ms.max(1)) * wide as u64;
        let (from, to) = (moved.from * high + high / 2, moved.to * high + high / 2);
        let _ = write!(svg, "<path stroke='#080' d='M{x} {from}L{x} {to}'/>");
    }
    svg.push_str("</svg>");
    svg
}

fn bands(bands: &[Band]) -> String {
    let y = |share: f64| 150.0 * (1.0 - share / 1.4).clamp(0.0, 1.0);
    let first = bands.first().map_or(0, |band| band.step);
    let x = |band: &Band| (band.step - first) * 3;
    let line = |value: &dyn Fn(&Band) -> f64| {
        bands
            .iter()
            .map(|band| format!("{},{:.1}", x(band), y(value(band))))
            .collect::<Vec<_>>()
    };
    let mut area = line(&|band| band.high);
    let mut low = line(&|band| band.low);
    low.reverse();
    area.append(&mut low);
    format!(
        "<h3>First host, half an hour ahead: 80 % band, mean, truth</h3><svg role=img aria-label='forecast and truth' width={} height=150>\
<polygon fill='#cde' points='{}'/><polyline fill=none stroke='#36c' points='{}'/><polyline fill=none stroke='#000' points='{}'/>\
<path stroke='#c00' d='M0 {:.1}h{}'/></svg>",
        bands.len() * 3,
        area.join(" "),
        line(&|band| band.mean).join(" "),
        line(&|band| band.truth).join(" "),
        y(1.0),
        bands.len() * 3
    )
}

fn moves(run: &Run) -> String {
    let mut text =
        "<h3>Moves</h3><table><tr><th>at, h<th>instance<th>from<th>to<th>took, s</tr>".to_owned();
    for moved in run.log.iter().take(500) {
        let _ = write!(
            text,
            "<tr><td>{:.2}<td>{}<td>{}<td>{}<td>{:.0}</tr>",
            moved.began_ms as f64 / 3.6e6,
            moved.row,
            moved.from,
            moved.to,
            (moved.ends_ms - moved.began_ms) as f64 / 1e3
        );
    }
    text.push_str("</table>");
    text
}
