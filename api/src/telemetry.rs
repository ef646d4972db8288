//! What Prometheus (remote write 1.0) and OpenTelemetry (OTLP metrics) send, as far as it is read
//! here. Fields that are left out are skipped on the wire.
//!
//! Written out rather than taken from `opentelemetry-proto`, which fits our `prost` and `tonic` but
//! brings the OpenTelemetry SDK for a handful of messages (decision 0029).

/// Prometheus remote write.
pub mod prometheus {
    /// Series with their samples.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct WriteRequest {
        /// The series.
        #[prost(message, repeated, tag = "1")]
        pub timeseries: Vec<TimeSeries>,
    }

    /// One series.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct TimeSeries {
        /// Its labels; `__name__` is the metric's name.
        #[prost(message, repeated, tag = "1")]
        pub labels: Vec<Label>,
        /// Its samples, oldest first.
        #[prost(message, repeated, tag = "2")]
        pub samples: Vec<Sample>,
    }

    /// A label.
    #[derive(Clone, PartialEq, Eq, prost::Message)]
    pub struct Label {
        /// Its name.
        #[prost(string, tag = "1")]
        pub name: String,
        /// Its value.
        #[prost(string, tag = "2")]
        pub value: String,
    }

    /// A sample.
    #[derive(Clone, Copy, PartialEq, prost::Message)]
    pub struct Sample {
        /// The value; a certain NaN says that the series has ended.
        #[prost(double, tag = "1")]
        pub value: f64,
        /// Milliseconds since the epoch.
        #[prost(int64, tag = "2")]
        pub timestamp: i64,
    }
}

/// OpenTelemetry metrics over HTTP.
pub mod otlp {
    /// What is exported.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct ExportMetricsServiceRequest {
        /// By what they describe.
        #[prost(message, repeated, tag = "1")]
        pub resource_metrics: Vec<ResourceMetrics>,
    }

    /// Metrics of one resource.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct ResourceMetrics {
        /// The resource.
        #[prost(message, optional, tag = "1")]
        pub resource: Option<Resource>,
        /// By the library that made them.
        #[prost(message, repeated, tag = "2")]
        pub scope_metrics: Vec<ScopeMetrics>,
    }

    /// What is described.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Resource {
        /// By its attributes.
        #[prost(message, repeated, tag = "1")]
        pub attributes: Vec<KeyValue>,
    }

    /// Metrics of one library.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct ScopeMetrics {
        /// The metrics.
        #[prost(message, repeated, tag = "2")]
        pub metrics: Vec<Metric>,
    }

    /// A metric.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Metric {
        /// Its name.
        #[prost(string, tag = "1")]
        pub name: String,
        /// Values that stand for themselves.
        #[prost(message, optional, tag = "5")]
        pub gauge: Option<Gauge>,
        /// Values that add up.
        #[prost(message, optional, tag = "7")]
        pub sum: Option<Sum>,
    }

    /// Values that stand for themselves.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Gauge {
        /// The values.
        #[prost(message, repeated, tag = "1")]
        pub data_points: Vec<NumberDataPoint>,
    }

    /// Values that add up.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Sum {
        /// The values.
        #[prost(message, repeated, tag = "1")]
        pub data_points: Vec<NumberDataPoint>,
        /// 1: since the value before; 2: since the beginning.
        #[prost(int32, tag = "2")]
        pub aggregation_temporality: i32,
        /// Whether it never falls.
        #[prost(bool, tag = "3")]
        pub is_monotonic: bool,
    }

    /// [`Sum::aggregation_temporality`] of what was added since the value before.
    pub const DELTA: i32 = 1;
    /// [`NumberDataPoint::flags`] of a point that says only that there is no value.
    pub const NO_VALUE: u32 = 1;

    /// A value.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct NumberDataPoint {
        /// When it began to count, in nanoseconds since the epoch.
        #[prost(fixed64, tag = "2")]
        pub start_time_unix_nano: u64,
        /// When it was read.
        #[prost(fixed64, tag = "3")]
        pub time_unix_nano: u64,
        /// Its labels.
        #[prost(message, repeated, tag = "7")]
        pub attributes: Vec<KeyValue>,
        /// See [`NO_VALUE`].
        #[prost(uint32, tag = "8")]
        pub flags: u32,
        /// The number.
        #[prost(oneof = "Number", tags = "4, 6")]
        pub value: Option<Number>,
    }

    /// A number.
    #[derive(Clone, Copy, PartialEq, prost::Oneof)]
    pub enum Number {
        /// With a point.
        #[prost(double, tag = "4")]
        Double(f64),
        /// Without one.
        #[prost(sfixed64, tag = "6")]
        Int(i64),
    }

    /// An attribute.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct KeyValue {
        /// Its name.
        #[prost(string, tag = "1")]
        pub key: String,
        /// Its value.
        #[prost(message, optional, tag = "2")]
        pub value: Option<AnyValue>,
    }

    /// A value of an attribute; only texts are read.
    #[derive(Clone, PartialEq, Eq, prost::Message)]
    pub struct AnyValue {
        /// A text.
        #[prost(string, optional, tag = "1")]
        pub string_value: Option<String>,
    }

    /// The answer.
    #[derive(Clone, PartialEq, Eq, prost::Message)]
    pub struct ExportMetricsServiceResponse {
        /// What was left out, if anything was.
        #[prost(message, optional, tag = "1")]
        pub partial_success: Option<PartialSuccess>,
    }

    /// What was left out.
    #[derive(Clone, PartialEq, Eq, prost::Message)]
    pub struct PartialSuccess {
        /// How many values.
        #[prost(int64, tag = "1")]
        pub rejected_data_points: i64,
        /// Why.
        #[prost(string, tag = "2")]
        pub error_message: String,
    }
}
