//! Names of resources as URLs: `xdstp://AUTHORITY/TYPE/ID`.
//!
//! A client whose bootstrap names authorities asks for resources so, and wants them under the name by
//! which it asked. What is published has plain names; a URL of ours means the plain one.

use std::sync::Arc;

use prost::encoding;

use super::named::{Resource, ResourceType};

/// The authority whose names are ours.
pub const AUTHORITY: &str = "foreshadow";
const SCHEME: &str = "xdstp://";
/// Fields of the encoded resources: the name is the first of every type that is served.
const NAME: u32 = 1;
const EDS_CLUSTER_CONFIG: u32 = 3;
const SERVICE_NAME: u32 = 2;

/// Why a name that begins as a URL is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// A part is missing.
    #[error("{name:?}: use {SCHEME}AUTHORITY/TYPE/ID")]
    Incomplete {
        /// The name, shortened.
        name: String,
    },
    /// A percent sign that begins no byte, or bytes that are no text.
    #[error("{name:?}: after '%' use two hexadecimal digits of UTF-8")]
    Escape {
        /// The name, shortened.
        name: String,
    },
}

/// A name in its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct XdsName {
    /// Who answers for it; may be empty.
    pub authority: String,
    /// The message's full name, as `envoy.config.cluster.v3.Cluster`.
    pub resource_type: String,
    /// What is left of the path.
    pub id: String,
    /// Parameters, sorted: they are a part of the name.
    pub context: Vec<(String, String)>,
}

impl XdsName {
    /// Reads a name; `None` when it is a plain one. What follows '#' says how to look for the resource
    /// and is no part of its name.
    ///
    /// # Errors
    /// [`BadName`] when it begins as a URL and is none.
    pub fn parse(text: &str) -> Result<Option<Self>, BadName> {
        let Some(rest) = text.strip_prefix(SCHEME) else {
            return Ok(None);
        };
        let short = || text.chars().take(80).collect::<String>();
        let incomplete = || BadName::Incomplete { name: short() };
        let rest = rest.split_once('#').map_or(rest, |(rest, _)| rest);
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = path.split_once('/').ok_or_else(incomplete)?;
        let (resource_type, id) = path.split_once('/').ok_or_else(incomplete)?;
        if resource_type.is_empty() || id.is_empty() {
            return Err(incomplete());
        }
        let plain = |part: &str| unescape(part).ok_or_else(|| BadName::Escape { name: short() });
        let mut context = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            context.push((plain(key)?, plain(value)?));
        }
        context.sort_unstable();
        Ok(Some(Self {
            authority: plain(authority)?,
            resource_type: plain(resource_type)?,
            id: plain(id)?,
            context,
        }))
    }

    /// The plain name of a resource of this type, if it is one of ours. Ours have no parameters.
    fn own(self, kind: ResourceType) -> Option<String> {
        let is_type = kind.url().ends_with(&format!("/{}", self.resource_type));
        let is_ours = self.authority.is_empty() || self.authority == AUTHORITY;
        (is_type && is_ours && self.context.is_empty()).then_some(self.id)
    }
}

fn unescape(text: &str) -> Option<String> {
    if !text.contains('%') {
        return Some(text.to_owned());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        if first != b'%' {
            bytes.push(first);
            rest = after;
            continue;
        }
        let digits = std::str::from_utf8(after.get(..2)?).ok()?;
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = after.get(2..)?;
    }
    String::from_utf8(bytes).ok()
}

/// The plain name that a client means; `None` when it uses a plain one, or one that is not ours.
pub fn plain_name(kind: ResourceType, name: &str) -> Option<String> {
    XdsName::parse(name).ok().flatten()?.own(kind)
}

/// The resource under the name by which a client asked for it. In an encoded message the last value of
/// a field counts, so the name is added at the end.
pub(crate) fn renamed(kind: ResourceType, resource: &Resource, name: &Arc<str>) -> Arc<Resource> {
    let mut any = resource.any.clone();
    encoding::string::encode(NAME, &name.to_string(), &mut any.value);
    if kind == ResourceType::Cluster {
        // Its endpoints would be asked for by the URL, which names the wrong type.
        let mut config = Vec::new();
        encoding::string::encode(SERVICE_NAME, &resource.name.to_string(), &mut config);
        encoding::bytes::encode(EDS_CLUSTER_CONFIG, &config, &mut any.value);
    }
    Arc::new(Resource {
        name: Arc::clone(name),
        version: resource.version,
        any,
    })
}

#[cfg(test)]
mod tests {
    use api::envoy::envoy::config::cluster::v3::Cluster;
    use prost::Message as _;

    use super::*;
    use crate::resources::bare_cluster;

    #[test]
    fn a_url_of_ours_means_the_plain_name_and_every_other_one_means_nothing() {
        let plain = |name: &str| plain_name(ResourceType::Cluster, name);
        let of = |rest: &str| format!("xdstp://{rest}");
        let cluster = "envoy.config.cluster.v3.Cluster";
        for (name, means) in [
            (of(&format!("foreshadow/{cluster}/shop")), Some("shop")),
            (of(&format!("/{cluster}/shop#entry=x")), Some("shop")),
            (
                of(&format!("/{cluster}/shop%7Ea%7Eshadow")),
                Some("shop~a~shadow"),
            ),
            (of(&format!("/{cluster}/a/b")), Some("a/b")),
            (of(&format!("elsewhere/{cluster}/shop")), None),
            (
                of("foreshadow/envoy.config.listener.v3.Listener/shop"),
                None,
            ),
            (of(&format!("foreshadow/{cluster}/shop?zone=a")), None),
            ("shop".to_owned(), None),
        ] {
            assert_eq!(plain(&name).as_deref(), means, "{name}");
        }
    }

    #[test]
    fn what_is_no_url_is_named_and_parameters_are_sorted() {
        for bad in [
            "xdstp://",
            "xdstp://a",
            "xdstp://a/t",
            "xdstp://a//x",
            "xdstp://a/t/",
        ] {
            let error = XdsName::parse(bad).unwrap_err();
            assert!(matches!(error, BadName::Incomplete { .. }), "{error}");
        }
        for bad in [
            "xdstp://a/t/%",
            "xdstp://a/t/%4",
            "xdstp://a/t/%+1",
            "xdstp://a/t/%ff",
        ] {
            let error = XdsName::parse(bad).unwrap_err();
            assert!(matches!(error, BadName::Escape { .. }), "{error}");
        }
        let name = XdsName::parse("xdstp://a/t/x?b=2&a=1").unwrap().unwrap();
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(name.context, [pair("a", "1"), pair("b", "2")]);
    }

    #[test]
    fn a_renamed_cluster_says_its_new_name_and_where_its_endpoints_are() {
        let name: Arc<str> = Arc::from("xdstp://foreshadow/envoy.config.cluster.v3.Cluster/shop");
        let resource = renamed(ResourceType::Cluster, &bare_cluster("shop"), &name);
        let cluster = Cluster::decode(resource.any.value.as_slice()).unwrap();
        assert_eq!(cluster.name, *name);
        let config = cluster.eds_cluster_config.unwrap();
        assert_eq!(config.service_name, "shop");
        assert!(config.eds_config.is_some(), "the rest is what it was");
    }
}
