//! Forecasts for Prometheus: `/metrics/forecasts`, a page of its own because it is large.

use std::collections::BTreeSet;

use domain::Forecast;
use domain::forecast::InstanceForecast;
use forecaster::{Coverage, Insight};

use super::Page;

/// Most instances on one page.
pub const MOST: usize = 1_000;
/// Steps ahead that are shown: the forecast's horizons nearest to these.
const AHEAD: [u64; 5] = [1, 6, 12, 72, 288];
/// Quantiles that are shown: the median and the bounds of the 80 % and 95 % intervals.
const LEVELS: [f64; 5] = [0.025, 0.1, 0.5, 0.9, 0.975];

type Of<'a> = &'a dyn Fn(&Forecast) -> Option<f64>;

/// The page: of those that are wanted, of everybody if nobody is named.
pub fn text(known: &[InstanceForecast], wanted: &BTreeSet<&str>, insight: &Insight) -> String {
    let mut out = Page::default();
    let named =
        |one: &&InstanceForecast| wanted.is_empty() || wanted.contains(one.instance.as_str());
    let found: Vec<_> = known.iter().filter(named).collect();
    let shown: Vec<&Forecast> = found
        .iter()
        .take(MOST)
        .flat_map(|one| &one.forecasts)
        .collect();
    out.family(
        "foreshadow_forecast_left_out",
        "gauge",
        "Instances whose forecasts are not on this page because there are too many",
    );
    let left_out = found.len().saturating_sub(MOST);
    out.value("foreshadow_forecast_left_out", &[], left_out as f64);
    demand(&mut out, &shown);
    let families: [(&str, &str, Of<'_>); 4] = [
        ("last", "The newest value that is known", &|one| one.last),
        (
            "data_age_seconds",
            "Age of the newest value when the forecast was made",
            &|one| Some(one.data_age_ms as f64 / 1_000.0),
        ),
        ("samples", "Values that the forecast rests on", &|one| {
            Some(f64::from(one.samples))
        }),
        (
            "cold_start",
            "1 while too little is known of the instance's habits",
            &|one| Some(f64::from(u8::from(one.cold_start))),
        ),
    ];
    for (name, help, of) in families {
        let name = format!("foreshadow_forecast_{name}");
        out.family(&name, "gauge", help);
        for one in &shown {
            if let Some(value) = of(one) {
                out.value(&name, &labels(one), value);
            }
        }
    }
    let name = "foreshadow_forecast_info";
    out.family(name, "gauge", "Always 1; what made the forecast");
    for one in &shown {
        let [instance, resource] = labels(one);
        let fallback = if one.model.fallback.is_some() {
            "1"
        } else {
            "0"
        };
        let model = ("model", one.model.id.as_str());
        let version = ("version", one.model.version.as_str());
        let all = [instance, resource, model, version, ("fallback", fallback)];
        out.value(name, &all, 1.0);
    }
    coverage(&mut out, insight);
    out.0
}

fn labels(one: &Forecast) -> [(&'static str, &str); 2] {
    [
        ("instance", one.instance.as_str()),
        ("resource", one.resource.name()),
    ]
}

fn demand(out: &mut Page, shown: &[&Forecast]) {
    let name = "foreshadow_forecast_demand";
    out.family(
        name,
        "gauge",
        "Demand that is forecast: at this quantile, so many seconds after the newest value",
    );
    for one in shown {
        let [instance, resource] = labels(one);
        let step = one.horizons.first().map_or(0, |first| first.ahead_ms);
        let mut last = None;
        for steps in AHEAD {
            let Some(horizon) = one.nearest(step.saturating_mul(steps)) else {
                continue;
            };
            if last.replace(horizon.ahead_ms) == Some(horizon.ahead_ms) {
                continue;
            }
            let ahead = (horizon.ahead_ms as f64 / 1_000.0).to_string();
            for level in LEVELS {
                let quantile = level.to_string();
                let all = [
                    instance,
                    resource,
                    ("ahead_s", ahead.as_str()),
                    ("quantile", quantile.as_str()),
                ];
                out.value(name, &all, horizon.demand.at(level));
            }
        }
    }
}

fn coverage(out: &mut Page, insight: &Insight) {
    let groups = insight.group_coverage();
    let step_s = insight.step_ms() as f64 / 1_000.0;
    let ahead = |one: &Coverage| (one.steps as f64 * step_s).to_string();
    let name = "foreshadow_forecast_coverage";
    out.family(
        name,
        "gauge",
        "Share of what came that was inside the interval, of all series of a resource",
    );
    for (resource, one) in &groups {
        let (ahead, resource) = (ahead(one), ("resource", resource.name()));
        for (interval, inside) in [("0.8", one.inside), ("0.95", one.inside_outer)] {
            let labels = [
                resource,
                ("ahead_s", ahead.as_str()),
                ("interval", interval),
            ];
            out.value(name, &labels, inside);
        }
    }
    let name = "foreshadow_forecast_compared_total";
    out.family(
        name,
        "counter",
        "Forecasts that were compared with what came",
    );
    for (resource, one) in &groups {
        let ahead = ahead(one);
        let labels = [("resource", resource.name()), ("ahead_s", ahead.as_str())];
        out.value(name, &labels, one.seen as f64);
    }
    let name = "foreshadow_forecast_drifts_total";
    out.family(
        name,
        "counter",
        "Series whose forecasts stopped coming true",
    );
    out.value(name, &[], insight.drifts() as f64);
}

#[cfg(test)]
mod tests {
    use domain::{
        HorizonForecast, InstanceId, ModelRef, QUANTILE_LEVELS, QuantileCurve, Resource, Timestamp,
    };

    use super::*;

    fn forecast(name: &str) -> InstanceForecast {
        let instance = InstanceId::new(name).unwrap();
        let horizon = |steps: u64| HorizonForecast {
            ahead_ms: steps * 300_000,
            demand: QuantileCurve::new(QUANTILE_LEVELS.map(|level| 100.0 * level)).unwrap(),
        };
        InstanceForecast {
            instance: instance.clone(),
            forecasts: vec![Forecast {
                instance,
                resource: Resource::Cpu,
                issued_at: Timestamp(1),
                data_age_ms: 2_500,
                samples: 7,
                cold_start: true,
                model: ModelRef {
                    id: "m".to_owned(),
                    version: "v".to_owned(),
                    fallback: Some("broken".to_owned()),
                },
                last: Some(40.0),
                horizons: [1, 2, 12].map(horizon).to_vec(),
            }],
        }
    }

    #[test]
    fn a_forecast_is_shown_with_its_quantiles_its_age_and_whether_it_is_a_fallback() {
        let known = [forecast("a1"), forecast("b1")];
        let text = text(&known, &["a1"].into(), &Insight::empty(300_000));
        for line in [
            "foreshadow_forecast_demand{instance=\"a1\",resource=\"cpu\",ahead_s=\"300\",quantile=\"0.9\"} 90",
            "foreshadow_forecast_demand{instance=\"a1\",resource=\"cpu\",ahead_s=\"3600\",quantile=\"0.5\"} 50",
            "foreshadow_forecast_last{instance=\"a1\",resource=\"cpu\"} 40",
            "foreshadow_forecast_data_age_seconds{instance=\"a1\",resource=\"cpu\"} 2.5",
            "foreshadow_forecast_cold_start{instance=\"a1\",resource=\"cpu\"} 1",
            "foreshadow_forecast_info{instance=\"a1\",resource=\"cpu\",model=\"m\",version=\"v\",fallback=\"1\"} 1",
            "foreshadow_forecast_left_out 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
        assert!(!text.contains("b1"), "only who is asked for");
        let demands = text
            .lines()
            .filter(|line| line.starts_with("foreshadow_forecast_demand{"));
        // Of five steps ahead three are there: the nearest are shown once.
        assert_eq!(demands.count(), 3 * LEVELS.len());
    }

    #[test]
    fn more_instances_than_a_page_has_room_for_are_counted() {
        let known: Vec<_> = (0..MOST + 3)
            .map(|i| forecast(&format!("vm-{i}")))
            .collect();
        let text = text(&known, &BTreeSet::new(), &Insight::empty(1_000));
        assert!(text.contains("foreshadow_forecast_left_out 3\n"));
    }
}
