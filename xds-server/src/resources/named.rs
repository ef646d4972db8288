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
    /// SDS.
    Secret,
}

impl ResourceType {
    /// All types, in the order in which a stream is told of changes: what is named before what
    /// names it.
    pub const ALL: [Self; 5] = [
        Self::Secret,
        Self::Cluster,
        Self::Endpoint,
        Self::Listener,
        Self::Route,
    ];

    /// Its place in [`Self::ALL`].
    pub const fn index(self) -> usize {
        match self {
            Self::Secret => 0,
            Self::Cluster => 1,
            Self::Endpoint => 2,
            Self::Listener => 3,
            Self::Route => 4,
        }
    }

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
            Self::Secret => api::xds::SECRET,
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
            Self::Endpoint | Self::Route | Self::Secret => false,
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

    /// The number behind it.
    pub const fn get(self) -> u64 {
        self.0
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

/// Resources by name.
pub type Resources = std::collections::BTreeMap<Arc<str>, Arc<Resource>>;

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
        Self::encoded(name, &M::type_url(), message.encode_to_vec())
    }

    /// A message that is encoded already.
    pub fn encoded(name: impl Into<Arc<str>>, type_url: &str, value: Vec<u8>) -> Self {
        Self {
            name: name.into(),
            version: Version::of(&value),
            any: Any {
                type_url: type_url.to_owned(),
                value,
            },
        }
    }
}
