//! Identifiers: one type per kind of thing, so that a host can never be passed for an instance.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Longest identifier accepted: identifiers become part of Envoy cluster names, cgroup names and
/// file names, all of which have limits of their own.
pub const MAX_ID_LEN: usize = 63;

/// Why a text is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{kind} {value:?} is not a valid identifier: use 1 to {MAX_ID_LEN} characters of a-z, 0-9, '-', '_' and '.', beginning with a letter or digit"
)]
pub struct IdError {
    /// Kind of identifier, as the user knows it ("host", "instance", …).
    pub kind: &'static str,
    /// The offending text, shortened.
    pub value: String,
}

/// Whether `text` may be an identifier. `~` is excluded on purpose: it separates the parts of a
/// migration's cluster names.
fn is_valid(text: &str) -> bool {
    let mut chars = text.chars();
    let first = chars
        .next()
        .is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    first
        && text.len() <= MAX_ID_LEN
        && chars.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c))
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Parses an identifier.
            ///
            /// # Errors
            /// [`IdError`] when the text is empty, too long, or has a character that is not
            /// allowed.
            pub fn new(text: impl Into<String>) -> Result<Self, IdError> {
                let text = text.into();
                if is_valid(&text) {
                    Ok(Self(text))
                } else {
                    Err(IdError { kind: $kind, value: text.chars().take(80).collect() })
                }
            }

            /// The identifier as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl std::str::FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($kind, ":{}"), self.0)
            }
        }
    };
}

id!(/** A machine that runs instances. */ HostId, "host");
id!(/** The unit that is moved: VM, cloud instance, pod or process. */ InstanceId, "instance");
id!(/** What clients call; has instances. */ ServiceId, "service");
id!(/** Immutable intent to move. */ PlanId, "plan");
id!(/** The execution of one move of a plan. */ MigrationId, "migration");
id!(/** An xDS client's identity, never a machine. */ NodeId, "node");
id!(/** Who holds a lease. */ HolderId, "holder");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_names_things_and_refuses_what_breaks_cluster_names() {
        assert!(HostId::new("host-a.rack_1").is_ok());
        for bad in ["", "-a", "A", "a~b", "a b", "ä", &"x".repeat(64)] {
            let error = HostId::new(bad).unwrap_err();
            assert_eq!(error.kind, "host", "{bad:?}");
        }
    }

    #[test]
    fn an_invalid_identifier_is_refused_on_the_way_in() {
        let error = serde_json::from_str::<InstanceId>("\"a~b\"").unwrap_err();
        assert!(error.to_string().contains("instance \"a~b\""), "{error}");
    }
}
