//! One stream of requests.

use std::net::SocketAddr;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::{Method, Request};
use rand::Rng;
use rand::rngs::StdRng;

use super::schedule::{Arrivals, RateCurve};

/// Keys that a stream draws from, evenly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    /// How many there are: `k0`, `k1`, …
    pub count: u32,
    /// The header that carries the key, for sticky services.
    pub header: Option<String>,
}

/// What a stream sends, where and how often.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamSpec {
    /// Its name in the report.
    pub name: String,
    /// The proxy it goes through.
    pub proxy: SocketAddr,
    /// The authority that names the service.
    pub authority: String,
    /// The method.
    pub method: Method,
    /// Path and query; `{key}` is replaced.
    pub path: String,
    /// Further headers.
    pub headers: Vec<(String, String)>,
    /// The body; `{key}` is replaced.
    pub body: String,
    /// Keys for the path, the body and a header.
    pub keys: Option<Keys>,
    /// How often.
    pub curve: RateCurve,
    /// How spread.
    pub arrivals: Arrivals,
}

impl StreamSpec {
    /// A stream of `GET`s.
    pub fn get(
        name: impl Into<String>,
        proxy: SocketAddr,
        authority: impl Into<String>,
        path: impl Into<String>,
        curve: RateCurve,
    ) -> Self {
        Self {
            name: name.into(),
            proxy,
            authority: authority.into(),
            method: Method::GET,
            path: path.into(),
            headers: Vec::new(),
            body: String::new(),
            keys: None,
            curve,
            arrivals: Arrivals::default(),
        }
    }

    /// The next request.
    pub(super) fn request(&self, random: &mut StdRng) -> hyper::http::Result<Request<Full<Bytes>>> {
        let key = self.keys.as_ref().map(|keys| {
            (
                format!("k{}", random.random_range(0..keys.count.max(1))),
                keys.header.as_ref(),
            )
        });
        let fill = |text: &str| match &key {
            Some((key, _)) => text.replace("{key}", key),
            None => text.to_owned(),
        };
        let mut request = Request::builder()
            .method(self.method.clone())
            .uri(format!("http://{}{}", self.proxy, fill(&self.path)))
            .header("host", &self.authority);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        if let Some((key, Some(header))) = &key {
            request = request.header(header.as_str(), key);
        }
        request.body(Full::new(Bytes::from(fill(&self.body))))
    }
}
