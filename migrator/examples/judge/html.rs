//! A page with the table as plots. No script, nothing from outside.

use std::fmt::Write as _;

use super::report::{OURS, Row, seconds};

const RULES: [(&str, &str); 6] = [
    (OURS, "#1b6ca8"),
    ("flagger docs (10)", "#d1495b"),
    ("flagger unset (1)", "#e8a0a8"),
    ("argo docs", "#66a182"),
    ("kayenta 3h/1h", "#7d5ba6"),
    ("kayenta 15m/5m", "#c0aedb"),
];

pub(crate) fn page(rows: &[Row]) -> String {
    let mut html = String::from(
        "<!doctype html><meta charset=utf-8><title>Judges on the same traffic</title>\
         <style>body{font:14px sans-serif;margin:2em;max-width:70em}table{border-collapse:collapse}\
         td,th{padding:2px 8px;text-align:right;border-bottom:1px solid #ddd}\
         td:first-child,td:nth-child(2){text-align:left}svg text{font:11px sans-serif}</style>\
         <h1>Judges on the same traffic</h1><p>",
    );
    for (rule, colour) in RULES {
        let _ = write!(
            html,
            "<span style=color:{colour}>&#9632;</span> {rule} &nbsp; "
        );
    }
    html += "</p>";
    let percent = |row: &Row| row.percent();
    html += &bars(
        "Good shadows that were rolled back, %",
        rows,
        true,
        percent,
        100.0,
    );
    html += &bars(
        "Bad shadows that were caught, %",
        rows,
        false,
        percent,
        100.0,
    );
    html += &bars(
        "Median seconds until then (log)",
        rows,
        false,
        |r| log(r.median_s),
        4.1,
    );
    html += &bars(
        "Mean excess bad requests (log)",
        rows,
        false,
        |r| log(r.mean_excess),
        4.6,
    );
    html += "<h2>Table</h2><table><tr><th>cell<th>rule<th>ramps<th>rolled back<th>95 % confidence\
             <th>median s<th>promoted<th>median s<th>mean excess<th>p95<th>floor";
    for row in rows {
        let (low, high) = row.between();
        let _ = write!(
            html,
            "<tr><td>{}<td>{}<td>{}<td>{:.2} %<td>{low:.2}–{high:.2} %<td>{}<td>{}<td>{}<td>{:.1}<td>{:.1}<td>{:.1}",
            row.cell,
            row.rule,
            row.runs,
            row.percent(),
            seconds(row.median_s),
            row.promoted,
            seconds(row.promoted_s),
            row.mean_excess,
            row.p95_excess,
            row.floor
        );
    }
    html + "</table>"
}

fn log(value: f64) -> f64 {
    if value.is_finite() {
        value.max(1.0).log10()
    } else {
        0.0
    }
}

/// A group of bars for every cell.
fn bars(title: &str, rows: &[Row], harmless: bool, of: fn(&Row) -> f64, most: f64) -> String {
    let mut cells: Vec<&str> = Vec::new();
    for row in rows.iter().filter(|row| row.harmless == harmless) {
        if cells.last() != Some(&row.cell) {
            cells.push(row.cell);
        }
    }
    let height = cells.len() * 64 + 10;
    let mut svg = format!("<h2>{title}</h2><svg width=900 height={height}>");
    for (index, cell) in cells.iter().enumerate() {
        let top = index * 64;
        let _ = write!(svg, "<text x=0 y={}>{cell}</text>", top + 30);
        for (place, (rule, colour)) in RULES.iter().enumerate() {
            let found = rows
                .iter()
                .find(|row| row.cell == *cell && row.rule == *rule);
            let Some(row) = found else { continue };
            let width = 600.0 * (of(row) / most).clamp(0.0, 1.0) + 1.0;
            let y = top + 4 + place * 9;
            let _ = write!(
                svg,
                "<rect x=200 y={y} width={width:.0} height=8 fill={colour}><title>{rule}: {:.1} %, \
                 {} s, {:.1}</title></rect>",
                row.percent(),
                seconds(row.median_s),
                row.mean_excess
            );
        }
    }
    svg + "</svg>"
}
