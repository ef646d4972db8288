//! The gRPC contract of `proto/foreshadow/v1/forecasting.proto`, written out: the build needs no
//! protocol buffer compiler. A test holds the field numbers to that file.

mod messages;
mod service;

pub use messages::{
    Forecast, GetForecastRequest, Horizon, InstanceForecast, PushReply, PushRequest, Quantity,
    Sample, WatchForecastsRequest,
};
pub use service::{Forecasting, ForecastingServer, MAX_MESSAGE, NAME, path};
