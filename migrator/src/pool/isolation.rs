//! Who keeps a host from taking new instances, and why.
//!
//! Several may have a reason at the same time: each holds a claim of its own, and the host takes
//! instances again when the last claim is gone. A claim survives everything; when its lease runs
//! out an alarm is raised, and it goes on holding: a host that was taken out of service does not
//! come back because somebody forgot it. A claim that drains also asks for the host to be emptied.

use std::collections::BTreeMap;

use domain::{Host, HostId, Timestamp};
use serde::{Deserialize, Serialize};
use store::{Expect, Key, Kind, Store, StoreError, Transaction};

use crate::events::{self, Signal};

/// One reason to isolate a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// The reason, for people.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
    /// When an alarm is due, if it still stands.
    pub until: Option<Timestamp>,
    /// Whether the host is to be emptied.
    pub drain: bool,
}

/// All claims on a host, by owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claims {
    /// The host.
    pub host: HostId,
    /// Its claims, by owner.
    pub by_owner: BTreeMap<String, Claim>,
}

/// Why a claim cannot be made or given back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// The text is empty or too long.
    #[error("{field} has {length} characters; allowed is 1 to {most}")]
    Text {
        /// Which.
        field: &'static str,
        /// Its length.
        length: usize,
        /// The longest that is allowed.
        most: usize,
    },
    /// That owner holds none.
    #[error("{owner} does not isolate host {host}; it is isolated by: {owners}")]
    NotHeld {
        /// The host.
        host: HostId,
        /// Who asked.
        owner: String,
        /// Who does.
        owners: String,
    },
}

const LONGEST_OWNER: usize = 63;
const LONGEST_REASON: usize = 500;

impl Claims {
    /// No claims.
    pub const fn none(host: HostId) -> Self {
        Self {
            host,
            by_owner: BTreeMap::new(),
        }
    }

    /// Makes a claim; one that the owner holds already is renewed, and keeps its beginning.
    ///
    /// # Errors
    /// [`ClaimError::Text`].
    pub fn claim(&mut self, owner: &str, mut claim: Claim) -> Result<(), ClaimError> {
        let within = |field, text: &str, most| match text.chars().count() {
            length if (1..=most).contains(&length) => Ok(()),
            length => Err(ClaimError::Text {
                field,
                length,
                most,
            }),
        };
        within("owner", owner, LONGEST_OWNER)?;
        within("reason", &claim.reason, LONGEST_REASON)?;
        if let Some(before) = self.by_owner.get(owner) {
            claim.since = before.since;
        }
        self.by_owner.insert(owner.to_owned(), claim);
        Ok(())
    }

    /// Gives an owner's claim back. Gives whether the host is free of claims now.
    ///
    /// # Errors
    /// [`ClaimError::NotHeld`]: nobody gives back what another holds, and nothing is given back
    /// twice.
    pub fn release(&mut self, owner: &str) -> Result<bool, ClaimError> {
        if self.by_owner.remove(owner).is_some() {
            return Ok(self.by_owner.is_empty());
        }
        let owners: Vec<&str> = self.by_owner.keys().map(String::as_str).collect();
        Err(ClaimError::NotHeld {
            host: self.host.clone(),
            owner: owner.to_owned(),
            owners: if owners.is_empty() {
                "nobody".to_owned()
            } else {
                owners.join(", ")
            },
        })
    }

    /// Stops an evacuation: the owner's claim is given back, so the host takes instances again
    /// unless others claim it.
    ///
    /// # Errors
    /// As [`Claims::release`].
    pub fn abort_drain(&mut self, owner: &str) -> Result<bool, ClaimError> {
        self.release(owner)
    }

    /// Whether somebody wants the host empty.
    pub fn drains(&self) -> bool {
        self.by_owner.values().any(|claim| claim.drain)
    }

    /// Claims whose lease has run out, as alarms.
    pub fn alarms(&self, now: Timestamp) -> Vec<String> {
        let late = |until: &Timestamp| *until <= now;
        self.by_owner
            .iter()
            .filter(|(_, claim)| claim.until.as_ref().is_some_and(late))
            .map(|(owner, claim)| {
                format!(
                    "host {} is still isolated by {owner} ({}), {} s beyond its lease",
                    self.host,
                    claim.reason,
                    now.since(claim.until.unwrap_or(now)) / 1_000
                )
            })
            .collect()
    }

    /// The reasons in one line.
    pub fn reasons(&self) -> String {
        self.by_owner
            .iter()
            .map(|(owner, claim)| format!("{} ({owner})", claim.reason))
            .collect::<Vec<_>>()
            .join("; ")
    }
}

/// Why the claims of a host are not changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// The host is not known.
    #[error("host {0} is unknown")]
    Unknown(HostId),
    /// What is asked is not possible.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// The store's words.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Changes an owner's claim on a host in the store, and signals it; tried again when somebody else was first.
///
/// # Errors
/// [`ChangeError`]; nothing has changed then.
pub async fn change<T>(
    store: &dyn Store,
    host: &HostId,
    owner: &str,
    deed: impl Fn(&mut Claims) -> Result<T, ClaimError>,
) -> Result<T, ChangeError> {
    const ATTEMPTS: usize = 16;
    let known = store.get(&Key::new(Kind::Host, host.as_str())).await?;
    known
        .ok_or_else(|| ChangeError::Unknown(host.clone()))?
        .parse::<Host>()?;
    let key = Key::new(Kind::Isolation, host.as_str());
    let mut tried = 0;
    loop {
        let (mut claims, expect) = match store.get(&key).await? {
            Some(record) => {
                let found = record.parse::<Claims>()?;
                (found.value, Expect::Generation(found.generation))
            }
            None => (Claims::none(host.clone()), Expect::Absent),
        };
        let answer = deed(&mut claims)?;
        let own = claims.by_owner.get(owner);
        let signal = Signal::Isolation {
            host: host.clone(),
            owner: owner.to_owned(),
            reason: own.map(|claim| claim.reason.clone()),
            isolated: !claims.by_owner.is_empty(),
            drain: claims.drains(),
        };
        let put = Transaction::new()
            .put(key.clone(), expect, &claims)?
            .append(events::log_name(), &signal)?;
        match store.commit(put).await {
            Ok(_) => return Ok(answer),
            Err(StoreError::Conflict { .. }) if tried < ATTEMPTS => tried += 1,
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn claim(reason: &str) -> Claim {
        Claim {
            reason: reason.to_owned(),
            since: Timestamp(5),
            until: Some(Timestamp(1_000)),
            drain: false,
        }
    }

    fn claims() -> Claims {
        Claims::none(HostId::new("a").unwrap())
    }

    #[test]
    fn only_the_last_owner_frees_a_host_and_nobody_frees_it_for_another() {
        let mut claims = claims();
        claims.claim("ops", claim("kernel")).unwrap();
        claims.claim("plan-7", claim("hot")).unwrap();
        let error = claims.release("somebody").unwrap_err().to_string();
        assert!(error.contains("ops, plan-7"), "{error}");
        assert!(!claims.release("ops").unwrap());
        assert!(claims.release("ops").is_err());
        assert!(claims.release("plan-7").unwrap());
    }

    #[test]
    fn a_lease_that_runs_out_raises_an_alarm_and_frees_nothing() {
        let mut claims = claims();
        claims.claim("ops", claim("kernel")).unwrap();
        assert!(claims.alarms(Timestamp(999)).is_empty());
        let alarms = claims.alarms(Timestamp(3_000));
        assert!(
            alarms[0].contains("ops") && alarms[0].contains("2 s"),
            "{alarms:?}"
        );
        assert!(!claims.by_owner.is_empty());
    }

    #[test]
    fn a_claim_without_reason_or_owner_is_refused_by_name() {
        let error = claims().claim("", claim("x")).unwrap_err().to_string();
        assert!(error.contains("owner has 0 characters"), "{error}");
        let error = claims().claim("ops", claim("")).unwrap_err().to_string();
        assert!(error.contains("reason has 0"), "{error}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]
        #[test]
        fn in_any_order_of_claims_and_releases_a_host_is_freed_exactly_once(
            schedule in prop::collection::vec((0_usize..4, any::<bool>()), 1..40),
        ) {
            let owners = ["a", "b", "c", "d"];
            let (mut claims, mut held) = (claims(), std::collections::BTreeSet::new());
            for (owner, takes) in schedule {
                let owner = owners[owner];
                if takes {
                    claims.claim(owner, claim("r")).unwrap();
                    held.insert(owner);
                } else {
                    let freed = claims.release(owner);
                    let had = held.remove(owner);
                    prop_assert_eq!(freed.is_ok(), had);
                    prop_assert_eq!(freed == Ok(true), had && held.is_empty());
                }
                // What is stored between any two steps is the whole of it.
                let stored = serde_json::to_string(&claims).unwrap();
                claims = serde_json::from_str(&stored).unwrap();
                prop_assert_eq!(claims.by_owner.is_empty(), held.is_empty());
            }
        }
    }
}
