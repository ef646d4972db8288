//! The whole forecaster on a store in memory: readings in, forecasts out.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests say what they expect by failing"
)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use domain::forecast::InstanceForecast;
use domain::{Announcement, InstanceId, Reading, Readings, Resource, Resources, Timestamp, When};
use foreshadow_forecaster::registry::Registry;
use foreshadow_forecaster::trial;
use foreshadow_forecaster::{Forecaster, ForecasterConfig};
use store::{Clock, Expect, Key, Kind, ManualClock, MemoryStore, SharedStore, Transaction};

const STEP_MS: u64 = 100;
const NOW: Timestamp = Timestamp(10_000_000);

struct World {
    store: SharedStore,
    clock: Arc<ManualClock>,
}

impl World {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::at(NOW));
        let on_clock = Arc::clone(&clock) as Arc<dyn Clock>;
        let store: SharedStore = Arc::new(MemoryStore::with_clock(on_clock));
        Self { store, clock }
    }

    fn start(&self, config: &ForecasterConfig) -> Forecaster {
        let clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
        Forecaster::start(config, Arc::clone(&self.store), clock).unwrap()
    }

    async fn publish(&self, name: &str, samples: &[(u64, f64)]) {
        let reading = |&(at, cpu): &(u64, f64)| Reading {
            at: Timestamp(at),
            demand: Resources {
                cpu: Some(cpu),
                memory: Some(cpu * 1_000_000.0),
                ..Resources::default()
            },
        };
        let readings = Readings {
            instance: InstanceId::new(name).unwrap(),
            readings: samples.iter().map(reading).collect(),
        };
        let put = Transaction::new().put(Key::new(Kind::Readings, name), Expect::Any, &readings);
        self.store.commit(put.unwrap()).await.unwrap();
    }

    /// How often the forecast of `a1` was published.
    async fn generation(&self) -> u64 {
        let key = Key::new(Kind::Forecast, "a1");
        let record = self.store.get(&key).await.unwrap();
        record.map_or(0, |record| record.generation.0)
    }

    /// The forecast of an instance, once it is as wanted.
    async fn forecast(
        &self,
        name: &str,
        wanted: impl Fn(&InstanceForecast) -> bool,
    ) -> InstanceForecast {
        let looking = async {
            loop {
                let record = self
                    .store
                    .get(&Key::new(Kind::Forecast, name))
                    .await
                    .unwrap();
                let found = record.map(|r| r.parse::<InstanceForecast>().unwrap().value);
                if let Some(found) = found.filter(&wanted) {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let limit = Duration::from_secs(20);
        tokio::time::timeout(limit, looking)
            .await
            .expect("no such forecast in time")
    }
}

fn config() -> ForecasterConfig {
    ForecasterConfig {
        step_ms: STEP_MS,
        ..ForecasterConfig::default()
    }
}

fn artifacts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../onnx-models/artifacts")
}

/// Samples of a value that alternates with a period of twenty steps, up to now.
fn samples(count: u64) -> Vec<(u64, f64)> {
    (0..count)
        .map(|i| {
            let value = if i % 20 < 10 { 100.0 } else { 200.0 };
            (NOW.0 - (count - 1 - i) * STEP_MS, value)
        })
        .collect()
}

#[tokio::test]
async fn readings_become_forecasts_of_every_measured_resource_by_the_shipped_model() {
    let world = World::new();
    let forecaster = world.start(&config());
    let model = forecaster
        .model()
        .expect("the shipped model loads")
        .to_owned();
    world.publish("a1", &samples(64)).await;
    let found = world
        .forecast("a1", |found| found.forecasts.len() == 2)
        .await;
    for resource in [Resource::Cpu, Resource::Memory] {
        let forecast = found.of(resource).unwrap();
        assert_eq!(
            format!("{} {}", forecast.model.id, forecast.model.version),
            model
        );
        assert_eq!(forecast.model.fallback, None);
        assert_eq!(forecast.samples, 64);
        assert!(forecast.cold_start, "64 steps are less than a day");
        assert_eq!(forecast.issued_at, NOW);
        let ahead: Vec<_> = forecast
            .horizons
            .iter()
            .map(|h| h.ahead_ms / STEP_MS)
            .collect();
        let knots = [1, 2, 3, 4, 6, 9, 12, 18, 24, 36, 48, 72, 108, 144, 216, 288];
        assert_eq!(ahead, knots);
    }
    let median = found.of(Resource::Cpu).unwrap().horizons[0].demand.median();
    assert!((50.0..=300.0).contains(&median), "{median}");
    forecaster.shutdown().await;
}

#[tokio::test]
async fn readings_from_before_the_start_are_used() {
    let world = World::new();
    world.publish("a1", &samples(10)).await;
    let forecaster = world.start(&config());
    world
        .forecast("a1", |found| found.forecasts[0].samples == 10)
        .await;
    forecaster.shutdown().await;
}

#[tokio::test]
async fn a_broken_model_is_told_and_a_flagged_fallback_goes_on() {
    let spoil = |name: &str, change: &dyn Fn(Vec<u8>) -> Vec<u8>| {
        let folder = tempfile::tempdir().unwrap();
        for file in ["manifest.json", "demand.onnx"] {
            let bytes = std::fs::read(artifacts().join(file)).unwrap();
            let bytes = if file == name { change(bytes) } else { bytes };
            std::fs::write(folder.path().join(file), bytes).unwrap();
        }
        folder
    };
    let truncated = spoil("demand.onnx", &|bytes| bytes[..bytes.len() / 2].to_vec());
    let no_json = spoil("manifest.json", &|_| b"{".to_vec());
    let other_shape = spoil("manifest.json", &|bytes| {
        let text = String::from_utf8(bytes).unwrap();
        text.replace("\"context_steps\": 2016", "\"context_steps\": 1000")
            .into_bytes()
    });
    let missing = tempfile::tempdir().unwrap();
    for (folder, wanted) in [
        (truncated, "SHA-256"),
        (no_json, "manifest"),
        (other_shape, "context_steps"),
        (missing, "cannot read"),
    ] {
        let world = World::new();
        let forecaster = world.start(&ForecasterConfig {
            model_dir: Some(folder.path().to_owned()),
            ..config()
        });
        assert!(forecaster.model().unwrap_err().to_string().contains(wanted));
        world.publish("a1", &samples(64)).await;
        let found = world.forecast("a1", |_| true).await;
        let made_by = &found.of(Resource::Cpu).unwrap().model;
        assert_eq!(made_by.id, "conformal-naive");
        assert!(
            made_by.fallback.as_ref().unwrap().contains(wanted),
            "{made_by:?}"
        );
        forecaster.shutdown().await;
    }
}

#[tokio::test]
async fn a_promoted_version_is_taken_up_and_a_broken_one_leaves_the_model_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let version = |name: &str, manifest: &str, model: &str| {
        let to = folder.path().join(name);
        std::fs::create_dir(&to).unwrap();
        std::fs::copy(artifacts().join(manifest), to.join("manifest.json")).unwrap();
        std::fs::copy(artifacts().join(model), to.join(model)).unwrap();
    };
    version("one", "manifest.json", "demand.onnx");
    version("two", "manifest-small.json", "demand-small.onnx");
    version("three", "manifest.json", "demand-small.onnx");
    let registry = Registry::open(folder.path()).unwrap();
    registry.promote("one").unwrap();
    let world = World::new();
    let forecaster = world.start(&ForecasterConfig {
        model_dir: Some(folder.path().to_owned()),
        ..config()
    });
    world.publish("a1", &samples(64)).await;
    let by = |id: &'static str| {
        move |found: &InstanceForecast| {
            let model = &found.forecasts[0].model;
            model.id == id && model.fallback.is_none()
        }
    };
    world.forecast("a1", by("demand-full")).await;
    registry.promote("two").unwrap();
    world.forecast("a1", by("demand-small")).await;
    // Past the registry's own check: as a disk that lost the file would do.
    std::fs::write(folder.path().join("active"), "three\n").unwrap();
    let before = world.generation().await;
    while world.generation().await < before + 3 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    world.forecast("a1", by("demand-small")).await;
    registry.promote("one").unwrap();
    world.forecast("a1", by("demand-full")).await;
    forecaster.shutdown().await;
}

#[tokio::test]
async fn an_announcement_raises_the_forecast_and_its_withdrawal_lowers_it_again() {
    let world = World::new();
    let forecaster = world.start(&config());
    world.publish("a1", &samples(64)).await;
    let id = InstanceId::new("a1").unwrap();
    let announcement = Announcement {
        id: InstanceId::new("event").unwrap(),
        instances: vec![id],
        when: When::At(Timestamp(NOW.0 + 10 * STEP_MS)),
        duration_ms: 50 * STEP_MS,
        adds: Resources {
            cpu: Some(100_000.0),
            ..Resources::default()
        },
        times: None,
        spread: 0.1,
    };
    let median = |steps: u64| {
        move |found: &InstanceForecast| {
            let cpu = found.of(Resource::Cpu).unwrap();
            cpu.nearest(steps * STEP_MS).unwrap().demand.median()
        }
    };
    let key = Key::new(Kind::Announcement, "event");
    let put = Transaction::new().put(key.clone(), Expect::Any, &announcement);
    world.store.commit(put.unwrap()).await.unwrap();
    let raised = world.forecast("a1", |f| median(24)(f) > 90_000.0).await;
    assert!(median(6)(&raised) < 10_000.0, "before it begins");
    assert!(median(108)(&raised) < 10_000.0, "after it ended");
    let gone = Transaction::new().delete(key, Expect::Any);
    world.store.commit(gone).await.unwrap();
    world.forecast("a1", |f| median(24)(f) < 10_000.0).await;
    forecaster.shutdown().await;
}

#[tokio::test]
async fn history_survives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let keeping = ForecasterConfig {
        snapshot_dir: Some(folder.path().join("history")),
        ..config()
    };
    let before = World::new();
    let forecaster = before.start(&keeping);
    before.publish("a1", &samples(64)).await;
    before
        .forecast("a1", |found| found.forecasts[0].samples == 64)
        .await;
    forecaster.shutdown().await;

    let after = World::new();
    let forecaster = after.start(&keeping);
    let found = after.forecast("a1", |_| true).await;
    assert_eq!(found.of(Resource::Cpu).unwrap().samples, 64);
    forecaster.shutdown().await;

    let coarser = World::new();
    let forecaster = coarser.start(&ForecasterConfig {
        step_ms: 200,
        ..keeping
    });
    coarser.publish("b1", &[(NOW.0, 5.0)]).await;
    coarser.forecast("b1", |_| true).await;
    let old = coarser
        .store
        .get(&Key::new(Kind::Forecast, "a1"))
        .await
        .unwrap();
    assert!(old.is_none(), "a history of other steps is not used");
    forecaster.shutdown().await;
}

#[tokio::test]
async fn a_damaged_snapshot_is_ignored_and_forecasting_begins_anew() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("history.bin"),
        b"FSHIST01 and then nonsense",
    )
    .unwrap();
    let world = World::new();
    let forecaster = world.start(&ForecasterConfig {
        snapshot_dir: Some(folder.path().to_owned()),
        ..config()
    });
    world.publish("a1", &samples(3)).await;
    let found = world.forecast("a1", |_| true).await;
    assert_eq!(found.of(Resource::Cpu).unwrap().samples, 3);
    forecaster.shutdown().await;
}

#[tokio::test]
async fn odd_samples_are_counted_and_do_no_harm() {
    let world = World::new();
    let forecaster = world.start(&config());
    let id = InstanceId::new("a1").unwrap();
    let at = NOW.0;
    world
        .publish(
            "a1",
            &[(at - 300, 5.0), (at, -1.0), (at, 5.0), (at + 9_000, 5.0)],
        )
        .await;
    let found = world.forecast("a1", |_| true).await;
    let counters = forecaster.counters(&id, Resource::Cpu).unwrap();
    assert_eq!(
        (counters.refused, counters.future, counters.gaps),
        (1, 1, 2)
    );
    let forecast = found.of(Resource::Cpu).unwrap();
    assert_eq!((forecast.samples, forecast.last), (2, Some(5.0)));
    forecaster.shutdown().await;
}

/// Steps of the trials below: as few as possible.
const QUICK: trial::Settings = trial::Settings {
    block: 1,
    blocks: 3,
    margin: 0.005,
};

/// A registry in which `one` is in use and `two` is another version.
fn two_versions() -> (tempfile::TempDir, Registry) {
    let folder = tempfile::tempdir().unwrap();
    for version in ["one", "two"] {
        let to = folder.path().join(version);
        std::fs::create_dir(&to).unwrap();
        for file in ["manifest.json", "demand.onnx"] {
            std::fs::copy(artifacts().join(file), to.join(file)).unwrap();
        }
    }
    let registry = Registry::open(folder.path()).unwrap();
    registry.promote("one").unwrap();
    (folder, registry)
}

/// Lets time go on until the trial is over; gives its report.
async fn until_tried(world: &World, registry: &Registry) -> trial::Report {
    let looking = async {
        for step in 1_u64.. {
            world.clock.advance(STEP_MS);
            let now = world.clock.now();
            let value = 100.0 + (step % 7) as f64;
            world.publish("a1", &[(now.0, value)]).await;
            let knows = |found: &InstanceForecast| {
                let of = found.of(Resource::Cpu);
                of.is_some_and(|one| one.last == Some(value))
            };
            world.forecast("a1", knows).await;
            if registry.candidate().unwrap().is_none() {
                break;
            }
        }
    };
    tokio::time::timeout(Duration::from_mins(1), looking)
        .await
        .expect("the trial does not end");
    serde_json::from_str(&registry.trial().unwrap().unwrap()).unwrap()
}

#[tokio::test]
async fn a_version_that_is_no_worse_on_live_data_is_used_and_another_is_refused_by_name() {
    let (folder, registry) = two_versions();
    let world = World::new();
    world.publish("a1", &samples(40)).await;
    let config = ForecasterConfig {
        model_dir: Some(folder.path().to_owned()),
        trial: QUICK,
        ..config()
    };
    let forecaster = world.start(&config);
    registry.try_version("two").unwrap();
    let report = until_tried(&world, &registry).await;
    assert_eq!(report.verdict, trial::Verdict::Promoted, "{report:?}");
    assert!(report.truths >= 3 && report.blocks >= 3, "{report:?}");
    assert_eq!(registry.active().unwrap().as_deref(), Some("two"));
    // One that is spoilt after it was named: it is refused, and what is in use stays.
    std::fs::write(folder.path().join("one/demand.onnx"), b"spoilt").unwrap();
    std::fs::write(folder.path().join("candidate"), "one\n").unwrap();
    let report = until_tried(&world, &registry).await;
    let trial::Verdict::Refused(reason) = &report.verdict else {
        panic!("{report:?}");
    };
    assert!(reason.contains("SHA-256"), "{reason}");
    assert_eq!(registry.active().unwrap().as_deref(), Some("two"));
    forecaster.shutdown().await;
}
