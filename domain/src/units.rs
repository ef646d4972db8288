//! Units: shares in basis points, points in time, resources.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A value outside what its unit allows.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{unit} {value} is out of range: allowed is {allowed}")]
pub struct UnitError {
    /// The unit's name.
    pub unit: &'static str,
    /// The value as given.
    pub value: String,
    /// What would be allowed.
    pub allowed: &'static str,
}

/// A share in hundredths of a percent: 0 is none, 10 000 is all.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(try_from = "u32", into = "u32")]
pub struct BasisPoints(u16);

impl BasisPoints {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// Everything.
    pub const ALL: Self = Self(10_000);

    /// One hundredth.
    pub const PERCENT: Self = Self(100);

    /// This share several times, at most everything.
    #[must_use]
    pub const fn times(self, factor: u16) -> Self {
        let product = self.0.saturating_mul(factor);
        if product > 10_000 {
            Self::ALL
        } else {
            Self(product)
        }
    }

    /// A share of `value` hundredths of a percent.
    ///
    /// # Errors
    /// [`UnitError`] above 10 000.
    pub fn new(value: u32) -> Result<Self, UnitError> {
        match u16::try_from(value) {
            Ok(small) if small <= 10_000 => Ok(Self(small)),
            Ok(_) | Err(_) => Err(UnitError {
                unit: "basis points",
                value: value.to_string(),
                allowed: "0 to 10000",
            }),
        }
    }

    /// The number of basis points, 0 to 10 000.
    pub const fn get(self) -> u32 {
        self.0 as u32
    }

    /// What is left of the whole.
    #[must_use]
    pub const fn rest(self) -> Self {
        Self(10_000 - self.0)
    }

    /// This share of `total`, rounded half up; never more than `total`.
    pub const fn of(self, total: u32) -> u32 {
        let scaled = (self.0 as u64 * total as u64 + 5_000) / 10_000;
        // At most `total`, so it fits.
        #[expect(clippy::cast_possible_truncation, reason = "scaled <= total, a u32")]
        let share = scaled as u32;
        share
    }

    /// The share as a fraction between 0 and 1.
    pub fn fraction(self) -> f64 {
        f64::from(self.0) / 10_000.0
    }
}

impl TryFrom<u32> for BasisPoints {
    type Error = UnitError;
    fn try_from(value: u32) -> Result<Self, UnitError> {
        Self::new(value)
    }
}

impl From<BasisPoints> for u32 {
    fn from(share: BasisPoints) -> Self {
        share.get()
    }
}

impl fmt::Display for BasisPoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02} %", self.0 / 100, self.0 % 100)
    }
}

/// A point in time: milliseconds since the Unix epoch. It always comes from outside.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// Milliseconds from `earlier` to this point; 0 when `earlier` is later.
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The point `millis` later.
    #[must_use]
    pub const fn plus(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis))
    }
}

/// Leadership fence: grows at each acquisition of a lease, so a stale leader is recognised.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What an instance needs and a host gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    /// Processor time, in thousandths of one core.
    Cpu,
    /// Resident memory, in bytes.
    Memory,
    /// Network received, in bytes per second.
    NetRx,
    /// Network sent, in bytes per second.
    NetTx,
}

impl Resource {
    /// All resources, in their fixed order.
    pub const ALL: [Self; 4] = [Self::Cpu, Self::Memory, Self::NetRx, Self::NetTx];

    /// The unit, for display.
    pub const fn unit(self) -> &'static str {
        match self {
            Self::Cpu => "millicores",
            Self::Memory => "bytes",
            Self::NetRx | Self::NetTx => "bytes/s",
        }
    }

    /// The name used in files, keys and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::NetRx => "net_rx",
            Self::NetTx => "net_tx",
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One value per resource.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Resources<T> {
    /// Processor time (thousandths of a core).
    pub cpu: T,
    /// Memory (bytes).
    pub memory: T,
    /// Network received (bytes per second).
    pub net_rx: T,
    /// Network sent (bytes per second).
    pub net_tx: T,
}

impl<T> Resources<T> {
    /// The value for one resource.
    pub const fn get(&self, resource: Resource) -> &T {
        match resource {
            Resource::Cpu => &self.cpu,
            Resource::Memory => &self.memory,
            Resource::NetRx => &self.net_rx,
            Resource::NetTx => &self.net_tx,
        }
    }

    /// The value for one resource, to change it.
    pub const fn get_mut(&mut self, resource: Resource) -> &mut T {
        match resource {
            Resource::Cpu => &mut self.cpu,
            Resource::Memory => &mut self.memory,
            Resource::NetRx => &mut self.net_rx,
            Resource::NetTx => &mut self.net_tx,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_above_the_whole_is_refused_by_name() {
        let error = BasisPoints::new(10_001).unwrap_err();
        assert_eq!(
            error.to_string(),
            "basis points 10001 is out of range: allowed is 0 to 10000"
        );
        assert!(serde_json::from_str::<BasisPoints>("70000").is_err());
    }

    #[test]
    fn a_share_and_its_rest_make_the_whole() {
        for value in [0, 1, 4_999, 5_000, 9_999, 10_000] {
            let share = BasisPoints::new(value).unwrap();
            assert_eq!(share.get() + share.rest().get(), 10_000);
            assert_eq!(share.of(10_000), value);
        }
    }
}
