//! `foreshadow.v1.Forecasting` (api/proto): samples in, forecasts out. Behind the [`crate::door`] as
//! the control API is, at the same address.

use std::collections::BTreeSet;
use std::sync::Arc;

use api::forecasting::{
    Forecasting, GetForecastRequest, InstanceForecast, PushReply, PushRequest, Quantity as Wire,
    WatchForecastsRequest,
};
use domain::forecast::InstanceForecast as Known;
use domain::{InstanceId, Resource};
use forecaster::intake::{Intake, Quantity, Sample, Source};
use store::{Change, Key, Kind, Record, SharedStore, Watch};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::ingest::samples;

/// Watches at once.
const MAX_WATCHES: usize = 128;
/// Most instances that one watch may name.
const MAX_NAMED: usize = 1_000;
/// Forecasts that wait for a client to read them.
const AHEAD: usize = 64;

/// What serves it.
pub struct Forecasts {
    store: SharedStore,
    intake: Intake,
    room: Arc<Semaphore>,
    cancel: CancellationToken,
}

impl Forecasts {
    /// Serves a store's forecasts until cancelled.
    pub fn new(store: SharedStore, intake: Intake, cancel: CancellationToken) -> Self {
        Self {
            store,
            intake,
            room: Arc::new(Semaphore::new(MAX_WATCHES)),
            cancel,
        }
    }
}

fn unavailable(error: &dyn std::fmt::Display) -> Status {
    Status::unavailable(error.to_string())
}

fn named(field: &str, name: &str) -> Result<InstanceId, Status> {
    InstanceId::new(name).map_err(|error| {
        let shown: String = name.chars().take(80).collect();
        Status::invalid_argument(format!("{field} is {shown:?}; allowed is {error}"))
    })
}

/// The samples of a request.
fn samples_of(request: &PushRequest) -> Result<Vec<Sample>, Status> {
    let refused = |wrong: samples::Wrong| Status::invalid_argument(wrong.to_string());
    samples::count(request.samples.len()).map_err(refused)?;
    let one = |(index, given): (usize, &api::forecasting::Sample)| {
        let quantity = match given.quantity() {
            Wire::Cpu => Quantity::Demand(Resource::Cpu),
            Wire::Memory => Quantity::Demand(Resource::Memory),
            Wire::NetRx => Quantity::Demand(Resource::NetRx),
            Wire::NetTx => Quantity::Demand(Resource::NetTx),
            Wire::Activity => Quantity::Activity,
            Wire::Unspecified => {
                return Err(Status::invalid_argument(format!(
                    "samples[{index}].quantity is {}; allowed is 1 (CPU) to 5 (ACTIVITY)",
                    given.quantity
                )));
            }
        };
        samples::sample(index, &given.instance, given.at_ms, quantity, given.value).map_err(refused)
    };
    request.samples.iter().enumerate().map(one).collect()
}

impl Forecasting for Forecasts {
    type Watching = ReceiverStream<Result<InstanceForecast, Status>>;

    fn push(&self, request: PushRequest) -> Result<PushReply, Status> {
        let taken = self.intake.push(Source::Grpc, samples_of(&request)?);
        Ok(PushReply {
            taken: taken.taken,
            duplicates: taken.duplicates,
            late: taken.late,
            future: taken.future,
            owned: taken.owned,
            no_room: taken.no_room,
        })
    }

    async fn get(&self, request: GetForecastRequest) -> Result<InstanceForecast, Status> {
        let instance = named("instance", &request.instance)?;
        let key = Key::new(Kind::Forecast, instance.as_str());
        let found = self.store.get(&key).await;
        let record = found.map_err(|error| unavailable(&error))?;
        let record = record
            .ok_or_else(|| Status::not_found(format!("there is no forecast of {instance} yet")))?;
        let known = record
            .parse::<Known>()
            .map_err(|error| unavailable(&error))?;
        Ok(InstanceForecast::from(&known.value))
    }

    fn watch(&self, request: WatchForecastsRequest) -> Result<Self::Watching, Status> {
        let count = request.instances.len();
        if count > MAX_NAMED {
            return Err(Status::invalid_argument(format!(
                "instances is a list of {count}; allowed is at most {MAX_NAMED}, or none for all"
            )));
        }
        let names = request.instances.iter();
        let wanted: Result<BTreeSet<String>, Status> = names
            .map(|name| named("instances", name).map(|id| id.to_string()))
            .collect();
        let room = Arc::clone(&self.room).try_acquire_owned();
        let room = room.map_err(|_| {
            Status::resource_exhausted(format!("there are {MAX_WATCHES} watches already"))
        })?;
        let (out, stream) = mpsc::channel(AHEAD);
        let watching = Watching {
            wanted: wanted?,
            // Before what there is is listed, so that no change falls between.
            changes: self.store.watch(Kind::Forecast),
            store: Arc::clone(&self.store),
            out,
            _room: room,
        };
        let cancel = self.cancel.clone();
        tokio::spawn(watching.run(cancel));
        Ok(ReceiverStream::new(stream))
    }
}

/// One client's watch.
struct Watching {
    wanted: BTreeSet<String>,
    changes: Watch,
    store: SharedStore,
    out: mpsc::Sender<Result<InstanceForecast, Status>>,
    _room: OwnedSemaphorePermit,
}

/// The client is gone, or has been told why the watch ends.
struct Ended;

impl Watching {
    async fn run(mut self, cancel: CancellationToken) {
        let out = self.out.clone();
        tokio::select! {
            biased;
            () = cancel.cancelled() => {
                // Who does not read learns it from the connection's end.
                let _ = out.try_send(Err(Status::unavailable("the control plane stops")));
            }
            () = out.closed() => {}
            _ = self.follow() => {}
        }
    }

    async fn follow(&mut self) -> Result<(), Ended> {
        self.send_all().await?;
        loop {
            match self.changes.next().await {
                Some(Change::Put(record)) => self.send(&record).await?,
                Some(Change::Deleted(key)) if self.wants(&key) => {
                    self.give(Ok(InstanceForecast::gone(key.id))).await?;
                }
                Some(Change::Deleted(_)) => {}
                Some(Change::Missed) => self.send_all().await?,
                None => {
                    return self
                        .give(Err(Status::unavailable("the store is gone")))
                        .await;
                }
            }
        }
    }

    fn wants(&self, key: &Key) -> bool {
        self.wanted.is_empty() || self.wanted.contains(&key.id)
    }

    async fn send_all(&self) -> Result<(), Ended> {
        let records = match self.store.list(Kind::Forecast).await {
            Ok(records) => records,
            Err(error) => {
                self.give(Err(unavailable(&error))).await?;
                return Err(Ended);
            }
        };
        for record in &records {
            self.send(record).await?;
        }
        Ok(())
    }

    async fn send(&self, record: &Record) -> Result<(), Ended> {
        if !self.wants(&record.key) {
            return Ok(());
        }
        match record.parse::<Known>() {
            Ok(known) => self.give(Ok(InstanceForecast::from(&known.value))).await,
            Err(error) => {
                tracing::warn!(%error, "a forecast is left out of a watch");
                Ok(())
            }
        }
    }

    async fn give(&self, what: Result<InstanceForecast, Status>) -> Result<(), Ended> {
        self.out.send(what).await.map_err(|_| Ended)
    }
}

#[cfg(test)]
mod tests {
    use api::forecasting::Sample as Given;

    use super::*;

    fn given() -> Given {
        Given {
            instance: "vm".to_owned(),
            quantity: Wire::Memory.into(),
            at_ms: 1_764_000_000_000,
            value: 5.0,
        }
    }

    fn words(change: impl Fn(&mut Given)) -> String {
        let mut changed = given();
        change(&mut changed);
        let request = PushRequest {
            samples: vec![given(), changed],
        };
        samples_of(&request).unwrap_err().message().to_owned()
    }

    #[test]
    fn samples_that_cannot_be_meant_are_refused_by_number_field_and_value() {
        let request = PushRequest {
            samples: vec![given()],
        };
        let found = samples_of(&request).unwrap();
        let values: Vec<_> = found.iter().map(|s| (s.quantity.name(), s.value)).collect();
        assert_eq!(values, [("memory", 5.0)]);
        for (found, wanted) in [
            (words(|s| s.instance.clear()), "samples[1].instance is \"\""),
            (words(|s| s.quantity = 0), "samples[1].quantity is 0"),
            (words(|s| s.quantity = 99), "samples[1].quantity is 99"),
            (words(|s| s.at_ms = 1_764_000_000), "look like seconds"),
            (words(|s| s.value = f64::NAN), "samples[1].memory is NaN"),
            (
                words(|s| s.value = f64::INFINITY),
                "samples[1].memory is inf",
            ),
            (words(|s| s.value = -1.0), "samples[1].memory is -1"),
        ] {
            assert!(found.contains(wanted), "{wanted}: {found}");
        }
        let none = samples_of(&PushRequest::default()).unwrap_err();
        assert!(none.message().contains("a list of 0"), "{}", none.message());
    }
}
