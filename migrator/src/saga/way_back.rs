//! The way back from a shadow that is given up although it is well (an abort, a full deadline): the
//! original has had little to do for a while, its caches and pools are cold, and gets its requests
//! back at a pace instead of all at once.
//!
//! From a shadow that is ill, dead or unknown they come back at once; so they do as soon as it turns
//! out to be on the way. What a crash interrupts is taken up at the weight that is published.

use std::time::Duration;

use domain::routing::side_cluster;
use domain::{BasisPoints, Migration, Side, WeightSplit};

use super::effects::{self, EffectError};
use super::{Context, ramp, traffic};
use crate::judge::{Increment, Ledger};

/// Time between two weights.
const PACE: Duration = Duration::from_secs(1);

/// Lowers the shadow's weight step by step until one more step leaves nothing.
pub(super) async fn ease(context: &Context, migration: &Migration) -> Result<(), EffectError> {
    let weight = effects::current_routing(context, migration)
        .await?
        .and_then(|routing| routing.value.migration)
        .filter(|routing| routing.migration == migration.id)
        .map_or(0, |routing| routing.split.shadow().get());
    if weight == 0 || !is_alive(context, migration).await {
        return Ok(());
    }
    if ramp::harms(context, migration).await? {
        return Ok(());
    }
    pace(context, migration, weight).await
}

/// Whether the driver says that the shadow runs. A driver that cannot say is taken for a no.
async fn is_alive(context: &Context, migration: &Migration) -> bool {
    let Some(shadow) = &migration.shadow else {
        return false;
    };
    matches!(context.driver.find_by_tag(&shadow.tag).await, Ok(Some(_)))
}

async fn pace(
    context: &Context,
    migration: &Migration,
    mut weight: u32,
) -> Result<(), EffectError> {
    let name = |side| side_cluster(&migration.service, &migration.instance, side);
    let start = traffic::traffic(context, migration).await?;
    let mut ledger = Ledger::begin(name(Side::Original), name(Side::Shadow), start.as_ref());
    while let Some(next) = next(weight, context.settings.way_back_per_s) {
        let split = WeightSplit::shadow_share(BasisPoints::new(next).unwrap_or(BasisPoints::ZERO));
        effects::publish(context, migration, Some(effects::plain(split))).await?;
        weight = next;
        tokio::time::sleep(PACE).await;
        let now = traffic::traffic(context, migration).await?;
        let more = now.map_or_else(Increment::default, |now| ledger.take(&now));
        if is_ill(&more) {
            tracing::info!(migration = %migration.id, weight, "the rest of the way back at once");
            break;
        }
    }
    Ok(())
}

/// The weight a second later; `None` if that is nothing.
fn next(weight: u32, per_second: u32) -> Option<u32> {
    weight
        .checked_sub(per_second.max(1))
        .filter(|left| *left > 0)
}

/// Whether the shadow fails more than half of what it still gets, and the original does not.
fn is_ill(more: &Increment) -> bool {
    let half = |failed: u64, all: u64| all > 0 && failed.saturating_mul(2) > all;
    let shadow = half(more.shadow.error, more.shadow.ended());
    shadow && !half(more.original.error, more.original.ended())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use domain::{Endpoint, Epoch, MigrationRouting, Routing};
    use store::{Key, Kind};

    use super::super::tests::{context, migration, put};
    use super::*;

    async fn begin(shadow: u32) -> (Context, Migration) {
        let mut context = context().await;
        context.settings.way_back_per_s = 2_500;
        let mut migration = migration();
        migration.verified = true;
        let endpoint = Endpoint(([127, 0, 0, 1], 2).into());
        migration.shadow_endpoint = Some(endpoint);
        let routing = Routing {
            service: migration.service.clone(),
            revision: 1,
            epoch: Epoch(1),
            migration: Some(MigrationRouting {
                migration: migration.id.clone(),
                instance: migration.instance.clone(),
                original: migration.original.endpoint,
                shadow: endpoint,
                split: WeightSplit::shadow_share(BasisPoints::new(shadow).unwrap()),
                mirror: false,
                hold: domain::Hold::Off,
            }),
        };
        put(&*context.store, Kind::Routing, "shop", &routing).await;
        (context, migration)
    }

    async fn weight(context: &Context) -> u32 {
        let key = Key::new(Kind::Routing, "shop");
        let record = context.store.get(&key).await.unwrap().unwrap();
        let routing: Routing = record.parse().unwrap().value;
        routing.migration.unwrap().split.shadow().get()
    }

    #[tokio::test(start_paused = true)]
    async fn the_original_gets_its_requests_back_at_the_pace_that_is_set() {
        let (context, migration) = begin(10_000).await;
        let shared = Arc::new(context);
        let going = tokio::spawn({
            let (context, migration) = (Arc::clone(&shared), migration.clone());
            async move { pace(&context, &migration, 10_000).await }
        });
        for expected in [7_500, 5_000, 2_500] {
            tokio::time::sleep(PACE / 2).await;
            assert_eq!(weight(&shared).await, expected);
            tokio::time::sleep(PACE / 2).await;
        }
        going.await.unwrap().unwrap();
        assert_eq!(
            weight(&shared).await,
            2_500,
            "the rest is the roll-back's own"
        );
    }

    #[tokio::test]
    async fn from_a_shadow_that_nobody_knows_to_run_they_come_back_at_once() {
        let (context, migration) = begin(10_000).await;
        ease(&context, &migration).await.unwrap();
        assert_eq!(weight(&context).await, 10_000, "no step of its own");
    }

    #[test]
    fn a_shadow_that_fails_on_the_way_is_left_at_once() {
        let counts = |success, error| domain::Counts {
            success,
            error,
            ..domain::Counts::default()
        };
        let more = |original, shadow| Increment {
            original,
            shadow,
            ..Increment::default()
        };
        assert!(is_ill(&more(counts(9, 1), counts(1, 2))));
        assert!(!is_ill(&more(counts(1, 9), counts(1, 2))), "both fail");
        assert!(!is_ill(&more(counts(9, 0), counts(9, 1))));
        assert!(!is_ill(&more(counts(0, 0), counts(0, 0))));
        assert_eq!(next(300, 2_500), None);
        assert_eq!(next(2_500, 2_500), None);
    }
}
