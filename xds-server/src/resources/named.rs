//! A resource as it is published: name, version, bytes.

use std::fmt;
use std::sync::Arc;

use api::envoy::google::protobuf::Any;

/// The types of resources that are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceType {
    /// CDS.
    Cluster,
    /// EDS.
    Endpoint,
    /// LDS.
    Listener,
    /// RDS.
    Route,
}

impl ResourceType {
    /// All types, in the order in which a stream is told of changes: what is named before what
    /// names it.
    pub const ALL: [Self; 4] = [Self::Cluster, Self::Endpoint, Self::Listener, Self::Route];

    /// The type a URL means, if it is served.
    pub fn of_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.url() == url)
    }

    /// Its type URL.
    pub const fn url(self) -> &'static str {
        match self {
            Self::Cluster => api::xds::CLUSTER,
            Self::Endpoint => api::xds::ENDPOINT,
            Self::Listener => api::xds::LISTENER,
            Self::Route => api::xds::ROUTE,
        }
    }

    /// Its short name, for people.
    pub fn short_name(self) -> &'static str {
        api::xds::short_name(self.url())
    }

    /// Whether a first request without names means all resources, and whether a resource that is
    /// gone is taken away from the client: both hold for clusters and listeners only. Endpoints
    /// and routes go with what names them.
    pub const fn is_root(self) -> bool {
        match self {
            Self::Cluster | Self::Listener => true,
            Self::Endpoint | Self::Route => false,
        }
    }
}

/// Version of a resource: the first 64 bits of the hash of its bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(u64);

impl Version {
    /// The version of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        let mut head = [0; 8];
        head.copy_from_slice(&blake3::hash(bytes).as_bytes()[..8]);
        Self(u64::from_be_bytes(head))
    }

    /// The version of a whole set: of its names and their versions, which must be sorted.
    pub fn of_all<'a>(parts: impl IntoIterator<Item = (&'a str, Self)>) -> Self {
        let mut hasher = blake3::Hasher::new();
        for (name, version) in parts {
            hasher.update(name.as_bytes());
            hasher.update(&[0]);
            hasher.update(&version.0.to_be_bytes());
        }
        let mut head = [0; 8];
        head.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        Self(u64::from_be_bytes(head))
    }

    /// The version a client names, if it is one of ours.
    pub fn parse(text: &str) -> Option<Self> {
        (text.len() == 16)
            .then(|| u64::from_str_radix(text, 16).ok().map(Self))
            .flatten()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A resource, encoded.
#[derive(Debug, Clone, PartialEq)]
pub struct Resource {
    /// Its name.
    pub name: Arc<str>,
    /// The hash of its bytes.
    pub version: Version,
    /// Type and bytes.
    pub any: Any,
}

impl Resource {
    /// Encodes a message under a name. The message must not hold maps of more than one entry:
    /// their order, and so the version, would be arbitrary.
    pub fn encode<M: prost::Message + prost::Name>(name: impl Into<Arc<str>>, message: &M) -> Self {
        let any = super::pack::pack(message);
        Self {
            name: name.into(),
            version: Version::of(&any.value),
            any,
        }
    }
}
