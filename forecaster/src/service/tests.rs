use domain::QuantileCurve;
use store::{MemoryStore, SystemClock};

use super::*;

/// Answers, then fails, then panics, then answers again; and so on.
struct Fickle(u32);

impl Predictor for Fickle {
    fn made_by(&self) -> (String, String) {
        ("fickle".to_owned(), "1".to_owned())
    }
    fn context(&self) -> usize {
        16
    }
    fn horizons(&self) -> Vec<usize> {
        vec![1]
    }
    fn predict(&mut self, asked: &Asking) -> Result<Vec<Option<Vec<QuantileCurve>>>, ModelError> {
        self.0 += 1;
        match self.0 % 3 {
            1 => Ok(vec![
                QuantileCurve::certain(1.0).map(|c| vec![c]);
                asked.len()
            ]),
            2 => Err(ModelError::Runtime("no memory left".to_owned())),
            _ => panic!("a fault in the library"),
        }
    }
}

#[tokio::test]
async fn a_model_that_fails_or_panics_while_running_never_stops_the_forecasts() {
    let store: SharedStore = Arc::new(MemoryStore::new());
    let config = ForecasterConfig {
        step_ms: 100,
        ..ForecasterConfig::default()
    };
    let mut published = store.watch(Kind::Forecast);
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let now = clock.now();
    let forecaster =
        Forecaster::start_with(&config, Ok(Box::new(Fickle(0))), store, clock).unwrap();
    let id = InstanceId::new("a1").unwrap();
    forecaster.preload(&id, Resource::Cpu, &[Some(7.0); 8], now);
    let mut reasons = Vec::new();
    let looking = async {
        while reasons.len() < 4 {
            if let Some(Change::Put(record)) = published.next().await {
                let forecast = record.parse::<InstanceForecast>().unwrap().value;
                reasons.push(forecast.forecasts[0].model.fallback.clone());
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), looking)
        .await
        .unwrap();
    forecaster.shutdown().await;
    assert_eq!(reasons[0], None);
    assert!(reasons[1].as_ref().unwrap().contains("no memory left"));
    assert!(reasons[2].as_ref().unwrap().contains("broke off"));
    assert_eq!(reasons[3], None, "the model is asked again");
}

#[tokio::test]
async fn settings_out_of_range_are_named() {
    for (field, config) in [
        (
            "allowed with a calendar is 300000",
            ForecasterConfig {
                step_ms: 1_000,
                calendar: Calendar::new("UTC", &[]).ok(),
                ..ForecasterConfig::default()
            },
        ),
        (
            "step_ms",
            ForecasterConfig {
                step_ms: 99,
                ..ForecasterConfig::default()
            },
        ),
        (
            "interval_ms",
            ForecasterConfig {
                interval_ms: Some(0),
                ..ForecasterConfig::default()
            },
        ),
        (
            "snapshot_ms",
            ForecasterConfig {
                snapshot_ms: 0,
                ..ForecasterConfig::default()
            },
        ),
    ] {
        let store: SharedStore = Arc::new(MemoryStore::new());
        let error = Forecaster::start(&config, store, Arc::new(SystemClock))
            .err()
            .unwrap();
        assert!(error.to_string().contains(field), "{error}");
    }
}
