//! The messages.

use domain::forecast::InstanceForecast as Known;
use domain::{QUANTILE_LEVELS, Resource};

/// What a value measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Quantity {
    /// Not said.
    Unspecified = 0,
    /// Millicores.
    Cpu = 1,
    /// Bytes.
    Memory = 2,
    /// Bytes received per second.
    NetRx = 3,
    /// Bytes sent per second.
    NetTx = 4,
    /// What users do.
    Activity = 5,
}

/// One value at one time.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Sample {
    /// Whose.
    #[prost(string, tag = "1")]
    pub instance: String,
    /// Of what.
    #[prost(enumeration = "Quantity", tag = "2")]
    pub quantity: i32,
    /// When, in milliseconds since the epoch.
    #[prost(uint64, tag = "3")]
    pub at_ms: u64,
    /// How much.
    #[prost(double, tag = "4")]
    pub value: f64,
}

/// Samples.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PushRequest {
    /// At least one, at most ten thousand.
    #[prost(message, repeated, tag = "1")]
    pub samples: Vec<Sample>,
}

/// What became of them.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct PushReply {
    /// In the history.
    #[prost(uint64, tag = "1")]
    pub taken: u64,
    /// Of a known time.
    #[prost(uint64, tag = "2")]
    pub duplicates: u64,
    /// Older than the newest.
    #[prost(uint64, tag = "3")]
    pub late: u64,
    /// Later than now.
    #[prost(uint64, tag = "4")]
    pub future: u64,
    /// Of series that a driver reads.
    #[prost(uint64, tag = "5")]
    pub owned: u64,
    /// Of new series without room.
    #[prost(uint64, tag = "6")]
    pub no_room: u64,
}

/// Which forecast.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct GetForecastRequest {
    /// Whose.
    #[prost(string, tag = "1")]
    pub instance: String,
}

/// Which forecasts.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct WatchForecastsRequest {
    /// Whose; everybody's if empty.
    #[prost(string, repeated, tag = "1")]
    pub instances: Vec<String>,
}

/// All forecasts of one instance.
#[derive(Clone, PartialEq, prost::Message)]
pub struct InstanceForecast {
    /// Whose.
    #[prost(string, tag = "1")]
    pub instance: String,
    /// One per quantity.
    #[prost(message, repeated, tag = "2")]
    pub forecasts: Vec<Forecast>,
    /// The levels of the quantiles.
    #[prost(double, repeated, tag = "3")]
    pub levels: Vec<f64>,
    /// There is none any more.
    #[prost(bool, tag = "4")]
    pub gone: bool,
}

/// The forecast of one quantity.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Forecast {
    /// Of what.
    #[prost(enumeration = "Quantity", tag = "1")]
    pub quantity: i32,
    /// When it was made.
    #[prost(uint64, tag = "2")]
    pub issued_at_ms: u64,
    /// Age of what it rests on.
    #[prost(uint64, tag = "3")]
    pub data_age_ms: u64,
    /// How many values it rests on.
    #[prost(uint32, tag = "4")]
    pub samples: u32,
    /// Whether the instance's habits are not known.
    #[prost(bool, tag = "5")]
    pub cold_start: bool,
    /// What made it.
    #[prost(string, tag = "6")]
    pub model: String,
    /// Its version.
    #[prost(string, tag = "7")]
    pub model_version: String,
    /// Why the model did not answer.
    #[prost(string, tag = "8")]
    pub fallback: String,
    /// The newest value.
    #[prost(double, optional, tag = "9")]
    pub last: Option<f64>,
    /// Nearest first.
    #[prost(message, repeated, tag = "10")]
    pub horizons: Vec<Horizon>,
}

/// The distribution at one time.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Horizon {
    /// After the forecast was made.
    #[prost(uint64, tag = "1")]
    pub ahead_ms: u64,
    /// At the levels.
    #[prost(double, repeated, tag = "2")]
    pub quantiles: Vec<f64>,
}

impl From<Resource> for Quantity {
    fn from(resource: Resource) -> Self {
        match resource {
            Resource::Cpu => Self::Cpu,
            Resource::Memory => Self::Memory,
            Resource::NetRx => Self::NetRx,
            Resource::NetTx => Self::NetTx,
        }
    }
}

impl From<&domain::Forecast> for Forecast {
    fn from(known: &domain::Forecast) -> Self {
        let horizon = |horizon: &domain::HorizonForecast| Horizon {
            ahead_ms: horizon.ahead_ms,
            quantiles: horizon.demand.values().to_vec(),
        };
        Self {
            quantity: Quantity::from(known.resource).into(),
            issued_at_ms: known.issued_at.0,
            data_age_ms: known.data_age_ms,
            samples: known.samples,
            cold_start: known.cold_start,
            model: known.model.id.clone(),
            model_version: known.model.version.clone(),
            fallback: known.model.fallback.clone().unwrap_or_default(),
            last: known.last,
            horizons: known.horizons.iter().map(horizon).collect(),
        }
    }
}

impl From<&Known> for InstanceForecast {
    fn from(known: &Known) -> Self {
        Self {
            instance: known.instance.to_string(),
            forecasts: known.forecasts.iter().map(Forecast::from).collect(),
            levels: QUANTILE_LEVELS.to_vec(),
            gone: false,
        }
    }
}

impl InstanceForecast {
    /// That there is no forecast of an instance any more.
    pub fn gone(instance: String) -> Self {
        Self {
            instance,
            gone: true,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use prost::Message;
    use prost::encoding::{DecodeContext, WireType, decode_key, skip_field};

    use super::*;

    /// The numbers of the fields that are on the wire.
    fn numbers(message: &impl Message) -> BTreeSet<u32> {
        let bytes = message.encode_to_vec();
        let mut rest = bytes.as_slice();
        let mut found = BTreeSet::new();
        while !rest.is_empty() {
            let (number, kind): (u32, WireType) = decode_key(&mut rest).unwrap();
            found.insert(number);
            skip_field(kind, number, &mut rest, DecodeContext::default()).unwrap();
        }
        found
    }

    /// The fields of every message in the file, by name.
    fn contract() -> BTreeMap<String, BTreeMap<u32, String>> {
        let text = include_str!("../../proto/foreshadow/v1/forecasting.proto");
        let mut found = BTreeMap::new();
        let mut current = String::new();
        for line in text.lines() {
            let line = line.split("//").next().unwrap_or_default().trim();
            let name = line.strip_prefix("message ").or(line.strip_prefix("enum "));
            if let Some(name) = name {
                current = name.trim_end_matches(" {").to_owned();
            } else if let Some((field, number)) = line.trim_end_matches(';').split_once(" = ") {
                let Ok(number) = number.parse() else { continue };
                let fields: &mut BTreeMap<u32, String> = found.entry(current.clone()).or_default();
                fields.insert(number, field.to_owned());
            }
        }
        found
    }

    fn sample() -> Sample {
        Sample {
            instance: "vm".to_owned(),
            quantity: Quantity::Activity.into(),
            at_ms: 1,
            value: 1.0,
        }
    }

    fn forecast() -> Forecast {
        Forecast {
            quantity: Quantity::Cpu.into(),
            issued_at_ms: 1,
            data_age_ms: 1,
            samples: 1,
            cold_start: true,
            model: "m".to_owned(),
            model_version: "v".to_owned(),
            fallback: "f".to_owned(),
            last: Some(0.0),
            horizons: vec![horizon()],
        }
    }

    fn horizon() -> Horizon {
        Horizon {
            ahead_ms: 1,
            quantiles: vec![1.0],
        }
    }

    #[test]
    fn the_messages_have_the_fields_of_the_contract() {
        let contract = contract();
        let reply = PushReply {
            taken: 1,
            duplicates: 1,
            late: 1,
            future: 1,
            owned: 1,
            no_room: 1,
        };
        let whole = InstanceForecast {
            instance: "vm".to_owned(),
            forecasts: vec![forecast()],
            levels: vec![0.5],
            gone: true,
        };
        let get = GetForecastRequest {
            instance: "vm".to_owned(),
        };
        let watch = WatchForecastsRequest {
            instances: vec!["vm".to_owned()],
        };
        let push = PushRequest {
            samples: vec![sample()],
        };
        let found = [
            ("Sample", numbers(&sample())),
            ("PushRequest", numbers(&push)),
            ("PushReply", numbers(&reply)),
            ("GetForecastRequest", numbers(&get)),
            ("WatchForecastsRequest", numbers(&watch)),
            ("InstanceForecast", numbers(&whole)),
            ("Forecast", numbers(&forecast())),
            ("Horizon", numbers(&horizon())),
        ];
        assert_eq!(contract.len(), found.len() + 1, "{contract:#?}");
        for (name, numbers) in found {
            let written: BTreeSet<u32> = contract[name].keys().copied().collect();
            assert_eq!(numbers, written, "{name}");
        }
        for (number, name) in &contract["Quantity"] {
            let known = Quantity::try_from(i32::try_from(*number).unwrap()).unwrap();
            let plain = name.replace("QUANTITY_", "").replace('_', "");
            assert!(format!("{known:?}").eq_ignore_ascii_case(&plain), "{name}");
        }
    }
}
