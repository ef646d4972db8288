//! The bound: the cheapest way to end each host's contention, wherever the instances could go.

use domain::{Decision, Host, Resource};
use foreshadow_migrator::world::World;
use foreshadow_migrator::{Settings, select};

/// An instance as the bound sees it.
#[derive(Debug, Clone, Copy)]
struct Item {
    demand: f64,
    price: f64,
}

fn limit(host: &Host, settings: &Settings) -> f64 {
    host.capacity.cpu.unwrap_or(f64::INFINITY) * settings.utilisation_limit
}

fn harm(demand: f64, limit: f64, settings: &Settings) -> f64 {
    if demand > limit {
        1.0 + settings.planning.excess_weight * ((demand - limit) / limit).min(1.0)
    } else {
        0.0
    }
}

/// What a plan leaves and costs.
pub(crate) fn value(world: &World, settings: &Settings, decision: &Decision) -> f64 {
    let at = |id: &domain::InstanceId| {
        let moved = decision.moves.iter().rev().find(|m| m.instance == *id);
        moved
            .map_or(&world.instances[id].replica.host, |m| &m.target)
            .clone()
    };
    let mut demand = std::collections::BTreeMap::new();
    for id in world.instances.keys() {
        *demand.entry(at(id)).or_insert(0.0) += world.demand(id, Resource::Cpu, settings.lead_ms).0;
    }
    let left: f64 = world
        .hosts
        .values()
        .map(|host| {
            let demand = demand.get(&host.id).copied().unwrap_or(0.0);
            harm(demand, limit(host, settings), settings)
        })
        .sum();
    let price: f64 = decision
        .moves
        .iter()
        .map(|m| select::price(settings, &world.instances[&m.instance]))
        .sum();
    left + price
}

/// The least that any plan leaves and costs.
pub(crate) fn bound(world: &World, settings: &Settings) -> f64 {
    world
        .hosts
        .values()
        .map(|host| {
            let mut items: Vec<Item> = world
                .on_host(&host.id)
                .map(|instance| Item {
                    demand: world
                        .demand(&instance.spec.id, Resource::Cpu, settings.lead_ms)
                        .0,
                    price: select::price(settings, instance),
                })
                .collect();
            let limit = limit(host, settings);
            let demand: f64 = items.iter().map(|item| item.demand).sum();
            if demand <= limit {
                return 0.0;
            }
            items.sort_by(|one, other| {
                (one.price / one.demand).total_cmp(&(other.price / other.demand))
            });
            // Ending it, or lessening the excess for what that costs.
            let lessened: f64 = items
                .iter()
                .map(|item| {
                    (settings.planning.excess_weight * item.demand / limit - item.price).max(0.0)
                })
                .sum();
            let stays = harm(demand, limit, settings) - lessened;
            cheapest_cover(&items, demand - limit).min(stays)
        })
        .sum()
}

/// The least price of items that together demand at least `excess`: depth first, bounded by the
/// fractional cover.
fn cheapest_cover(items: &[Item], excess: f64) -> f64 {
    fn descend(items: &[Item], excess: f64, spent: f64, best: &mut f64) {
        if excess <= 1e-9 {
            *best = best.min(spent);
            return;
        }
        let (mut left, mut bound) = (excess, spent);
        for item in items {
            if left <= 0.0 {
                break;
            }
            let part = (left / item.demand).min(1.0);
            bound += part * item.price;
            left -= item.demand;
        }
        if left > 1e-9 || bound >= *best - 1e-12 {
            return;
        }
        if let Some((first, rest)) = items.split_first() {
            descend(rest, excess - first.demand, spent + first.price, best);
            descend(rest, excess, spent, best);
        }
    }
    let mut best = f64::INFINITY;
    descend(items, excess, 0.0, &mut best);
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cheapest_cover_is_that_of_trying_everything() {
        let items: Vec<Item> = [(30.0, 3.0), (20.0, 1.0), (15.0, 2.5), (5.0, 0.2)]
            .map(|(demand, price)| Item { demand, price })
            .to_vec();
        for excess in [1.0, 19.0, 24.0, 31.0, 50.0, 69.0] {
            let mut best = f64::INFINITY;
            for set in 0_u32..16 {
                let chosen = || items.iter().enumerate().filter(|(i, _)| set >> i & 1 == 1);
                if chosen().map(|(_, item)| item.demand).sum::<f64>() >= excess {
                    best = best.min(chosen().map(|(_, item)| item.price).sum());
                }
            }
            let mut sorted = items.clone();
            sorted.sort_by(|a, b| (a.price / a.demand).total_cmp(&(b.price / b.demand)));
            assert!(
                (cheapest_cover(&sorted, excess) - best).abs() < 1e-9,
                "{excess}"
            );
        }
    }
}
