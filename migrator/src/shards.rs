//! Who leads which part of the fleet.
//!
//! # Flow
//! ```text
//! service ─hash─▶ shard ─▶ one lease each ─▶ leader: the member with the highest rank for the shard
//! member: a record that beats; one that does not beat for a lease's time is gone
//! ```
//! # Guarantees
//! - A service belongs to one shard for as long as the number of shards stays: its migrations,
//!   its routing and the driver's fence all see the epochs of one lease.
//! - Ranks are rendezvous hashes: when a member joins or leaves, only the shards that it takes or
//!   leaves change hands. A leader gives a shard back to a better-ranked member.
//! - Members only decide who *asks* for a lease. Whatever they believe, a lease has one holder, and
//!   older epochs are refused by store, driver and control plane.
//!
//! With one shard there are no members: whoever gets the lease leads.

use std::collections::BTreeMap;
use std::time::Duration;

use domain::{HolderId, ServiceId};
use serde::{Deserialize, Serialize};
use store::{Expect, Key, Kind, LeaseName, Store, StoreError, Transaction};
use tokio::time::Instant;

/// A part of the fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shard {
    index: u32,
    of: u32,
}

impl Shard {
    /// All of them.
    pub fn all(of: u32) -> impl Iterator<Item = Self> {
        let of = of.max(1);
        (0..of).map(move |index| Self { index, of })
    }

    /// The one that a service, and with it its instances, belongs to.
    pub fn of_service(service: &ServiceId, of: u32) -> Self {
        let of = of.max(1);
        let index = u32::try_from(hash(&[service.as_str()]) % u64::from(of)).unwrap_or(0);
        Self { index, of }
    }

    /// The first one.
    pub const fn first(of: u32) -> Self {
        Self {
            index: 0,
            of: if of == 0 { 1 } else { of },
        }
    }

    /// Whether a service belongs to it.
    pub fn holds(self, service: &ServiceId) -> bool {
        Self::of_service(service, self.of) == self
    }

    /// Whether it is the first, which also does what is done once for the whole fleet.
    pub const fn is_first(self) -> bool {
        self.index == 0
    }

    /// Its lease.
    pub fn lease(self) -> LeaseName {
        LeaseName(if self.of == 1 {
            "migrator/default".to_owned()
        } else {
            format!("migrator/{}-of-{}", self.index, self.of)
        })
    }

    /// Which of these members should lead it.
    pub fn leader<'a>(self, members: impl Iterator<Item = &'a HolderId>) -> Option<&'a HolderId> {
        let name = self.lease().0;
        members.max_by_key(|member| (hash(&[name.as_str(), member.as_str()]), *member))
    }
}

/// The same on every machine and in every version.
fn hash(parts: &[&str]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(part.as_bytes()).update(&[0]);
    }
    let mut first = [0; 8];
    hasher.finalize_xof().fill(&mut first);
    u64::from_le_bytes(first)
}

/// A member's sign of life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Beat {
    holder: HolderId,
    count: u64,
}

/// Who is there, as this member sees it, by its own monotonic clock.
#[derive(Debug)]
pub(crate) struct Members {
    own: HolderId,
    count: u64,
    patience: Duration,
    seen: BTreeMap<HolderId, (u64, Instant)>,
}

impl Members {
    pub(crate) fn new(own: HolderId, patience: Duration) -> Self {
        Self {
            own,
            count: 0,
            patience,
            seen: BTreeMap::new(),
        }
    }

    /// Gives a sign of life, and looks for those of others.
    pub(crate) async fn beat(&mut self, store: &dyn Store) -> Result<(), StoreError> {
        self.count += 1;
        let beat = Beat {
            holder: self.own.clone(),
            count: self.count,
        };
        let key = Key::new(Kind::Member, self.own.as_str());
        let put = Transaction::new().put(key, Expect::Any, &beat)?;
        store.commit(put).await?;
        let mut found = Vec::new();
        for record in store.list(Kind::Member).await? {
            found.push(record.parse::<Beat>()?.value);
        }
        for gone in self.take(found, Instant::now()) {
            let key = Key::new(Kind::Member, gone.as_str());
            store
                .commit(Transaction::new().delete(key, Expect::Any))
                .await?;
        }
        Ok(())
    }

    /// Takes in the signs of life that are there; says who has given none for long.
    fn take(&mut self, found: Vec<Beat>, now: Instant) -> Vec<HolderId> {
        self.seen
            .retain(|holder, _| found.iter().any(|beat| beat.holder == *holder));
        for beat in found {
            let state = self.seen.entry(beat.holder).or_insert((beat.count, now));
            if state.0 != beat.count {
                *state = (beat.count, now);
            }
        }
        // Kept a while longer, so that two members agree on who is gone.
        let long = self.patience * 10;
        let gone = |(_, (_, at)): &(&HolderId, &(u64, Instant))| now.duration_since(*at) > long;
        self.seen
            .iter()
            .filter(gone)
            .map(|(holder, _)| holder.clone())
            .collect()
    }

    /// Members that have given a sign of life lately; this one always counts.
    fn alive(&self, now: Instant) -> impl Iterator<Item = &HolderId> {
        let lately = move |at: Instant| now.duration_since(at) <= self.patience;
        let others = self
            .seen
            .iter()
            .filter(move |(holder, (_, at))| **holder != self.own && lately(*at))
            .map(|(holder, _)| holder);
        others.chain(std::iter::once(&self.own))
    }

    /// Whether this member should lead a shard.
    pub(crate) fn should_lead(&self, shard: Shard, now: Instant) -> bool {
        shard.leader(self.alive(now)) == Some(&self.own)
    }

    /// Says good-bye, so that nobody has to wait for the next sign of life.
    pub(crate) async fn leave(&self, store: &dyn Store) -> Result<(), StoreError> {
        let key = Key::new(Kind::Member, self.own.as_str());
        let delete = Transaction::new().delete(key, Expect::Any);
        store.commit(delete).await.map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(name: &str) -> HolderId {
        HolderId::new(name).unwrap()
    }

    fn beats(all: &[(&str, u64)]) -> Vec<Beat> {
        let beat = |&(name, count): &(&str, u64)| Beat {
            holder: holder(name),
            count,
        };
        all.iter().map(beat).collect()
    }

    #[test]
    fn a_service_belongs_to_one_shard_and_services_are_spread() {
        let mut sizes = [0_u32; 8];
        for number in 0..8_000 {
            let service = ServiceId::new(format!("service-{number}")).unwrap();
            let holding: Vec<_> = Shard::all(8)
                .filter(|shard| shard.holds(&service))
                .collect();
            assert_eq!(holding, [Shard::of_service(&service, 8)]);
            sizes[holding[0].index as usize] += 1;
        }
        assert!(
            sizes.iter().all(|size| (850..1_150).contains(size)),
            "{sizes:?}"
        );
        let shop = ServiceId::new("shop").unwrap();
        assert_eq!(Shard::of_service(&shop, 1).lease().0, "migrator/default");
        // A service must not change its shard with a new version of this program.
        assert_eq!(Shard::of_service(&shop, 64).lease().0, "migrator/58-of-64");
    }

    #[test]
    fn one_member_more_or_less_moves_only_its_own_shards() {
        let names: Vec<_> = (0..5).map(|n| holder(&format!("m-{n}"))).collect();
        let mut moved = 0;
        for shard in Shard::all(64) {
            let before = shard.leader(names[..4].iter()).unwrap();
            let after = shard.leader(names.iter()).unwrap();
            if before != after {
                assert_eq!(*after, names[4], "only the new one takes");
                moved += 1;
            }
        }
        assert!((4..30).contains(&moved), "{moved} of 64 moved to the fifth");
    }

    #[tokio::test(start_paused = true)]
    async fn a_member_that_gives_no_sign_of_life_is_gone_and_comes_back_with_the_next() {
        let patience = Duration::from_secs(5);
        let mut members = Members::new(holder("me"), patience);
        let led = |members: &Members| {
            let now = Instant::now();
            Shard::all(64)
                .filter(|shard| members.should_lead(*shard, now))
                .count()
        };
        members.take(beats(&[("me", 1)]), Instant::now());
        assert_eq!(led(&members), 64);
        members.take(beats(&[("me", 2), ("other", 1)]), Instant::now());
        let shared = led(&members);
        assert!((16..48).contains(&shared), "{shared}");
        for count in 3..6 {
            tokio::time::advance(Duration::from_secs(2)).await;
            members.take(beats(&[("me", count), ("other", 1)]), Instant::now());
        }
        assert_eq!(led(&members), 64, "the other does not beat");
        members.take(beats(&[("me", 6), ("other", 2)]), Instant::now());
        assert_eq!(led(&members), shared, "it beats again");
    }
}
