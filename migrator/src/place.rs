//! Which hosts may take an instance.
//!
//! Filters come first, each with a name; a host that fails one is never taken, whatever it would
//! bring. What is left is ordered by how full it would be at its upper end.

use std::collections::BTreeMap;

use domain::{Filter, Host, HostId, Instance};

use crate::belief::Belief;
use crate::pool::isolation::Claims;
use crate::pool::{Change, Doubt, Pool};
use crate::select::Refusal;
use crate::settings::Settings;
use crate::world::World;

/// Why a host takes nothing new, if so: its record says so, or somebody holds a claim.
pub fn isolation(world: &World, host: &Host) -> Option<String> {
    let claimed = world
        .claims
        .get(&host.id)
        .filter(|claims| !claims.by_owner.is_empty())
        .map(Claims::reasons);
    host.isolation
        .as_ref()
        .map(|isolation| isolation.reason.clone())
        .or(claimed)
}

/// Why a host cannot take an instance for reasons other than its demand, if it cannot.
pub fn forbidden(
    world: &World,
    pool: &Pool<'_>,
    settings: &Settings,
    row: usize,
    host: usize,
) -> Option<Refusal> {
    let instance = pool.instance(row);
    let target = &pool.hosts()[host];
    if let Some(why) = isolation(world, target.host) {
        return Some(Refusal::new(Filter::Isolated, format!("isolated: {why}")));
    }
    if let Some(why) = &target.distrusted {
        return Some(Refusal::new(Filter::Capacity, why.clone()));
    }
    labels(instance, target.host)
        .or_else(|| company(pool, instance, row, host))
        .or_else(|| spread(world, pool, instance, row, target.host))
        .or_else(|| memory(pool, instance, host))
        .or_else(|| {
            let most = settings.max_per_host;
            (target.in_flight >= most).then(|| {
                let why = format!(
                    "{} migrations go to or from it; {most} may",
                    target.in_flight
                );
                Refusal::new(Filter::InFlight, why)
            })
        })
}

/// Why a host cannot take an instance for want of room, if so.
pub fn crowded(
    pool: &Pool<'_>,
    belief: &Belief,
    host: usize,
    changes: &[Change],
    accepted: f64,
) -> Option<Refusal> {
    let after = pool.outlook(belief, host, changes, Doubt::NONE);
    let while_both = pool.overlap(belief, host, changes);
    let risk = after.risk.max(while_both);
    (risk > accepted).then(|| {
        Refusal::new(
            Filter::HeadRoom,
            format!(
                "would be in contention itself: {:.0} % likely, {:.0} % accepted of a target",
                risk * 100.0,
                accepted * 100.0
            ),
        )
    })
}

/// Whether the instance has left this host not long ago.
pub fn returns(world: &World, settings: &Settings, instance: &Instance, host: &HostId) -> bool {
    world.left.get(&instance.spec.id).is_some_and(|left| {
        left.iter().any(|left| {
            left.host == *host && world.at.since(left.at) < settings.planning.no_return_ms
        })
    })
}

fn labels(instance: &Instance, host: &Host) -> Option<Refusal> {
    let placement = &instance.spec.placement;
    for (label, wanted) in &placement.require {
        let found = host.labels.get(label);
        if found != Some(wanted) {
            let found = found.map_or("none", String::as_str);
            let why = format!("label {label} is {found}; required is {wanted}");
            return Some(Refusal::new(Filter::Labels, why));
        }
    }
    placement
        .avoid
        .iter()
        .find(|(label, value)| host.labels.get(*label) == Some(*value))
        .map(|(label, value)| {
            Refusal::new(
                Filter::Labels,
                format!("label {label} is {value}, which it avoids"),
            )
        })
}

/// Anti-affinity and affinity.
fn company(pool: &Pool<'_>, instance: &Instance, row: usize, host: usize) -> Option<Refusal> {
    let id = &instance.spec.id;
    let apart = &instance.spec.anti_affinity;
    let enemy = pool.around(host).find(|&other| {
        other != row
            && (apart.contains(pool.id(other))
                || pool.instance(other).spec.anti_affinity.contains(id))
    });
    if let Some(enemy) = enemy {
        let why = format!("anti-affinity with {}", pool.id(enemy));
        return Some(Refusal::new(Filter::AntiAffinity, why));
    }
    let elsewhere = |other: &&domain::InstanceId| {
        pool.row(other)
            .is_some_and(|row| pool.host_of(row) != Some(host))
    };
    let wanted = instance.spec.placement.affinity.iter().find(elsewhere);
    // Those that want to be with this one keep it where they are, too.
    let follower = || {
        let from = pool.host_of(row)?;
        let follows = |other: &&usize| {
            **other != row && pool.instance(**other).spec.placement.affinity.contains(id)
        };
        pool.on_host(from)
            .iter()
            .find(follows)
            .map(|&row| pool.id(row))
    };
    wanted.or_else(follower).map(|other| {
        Refusal::new(
            Filter::Affinity,
            format!("must be with {other}, which is elsewhere"),
        )
    })
}

/// No failure domain holds more of a service than it may.
fn spread(
    world: &World,
    pool: &Pool<'_>,
    instance: &Instance,
    row: usize,
    host: &Host,
) -> Option<Refusal> {
    let placement = &instance.spec.placement;
    let label = placement.spread_label.as_ref()?;
    let Some(domain) = host.labels.get(label) else {
        let why = format!("it has no label {label}, by which the service is spread");
        return Some(Refusal::new(Filter::Spread, why));
    };
    let mut per_domain: BTreeMap<&String, u32> = BTreeMap::new();
    let mut fullest = 0;
    for other in world.instances.values() {
        if other.spec.service != instance.spec.service {
            continue;
        }
        let at = pool
            .row(&other.spec.id)
            .and_then(|row| pool.host_of(row))
            .and_then(|host| pool.hosts()[host].host.labels.get(label));
        let Some(at) = at else { continue };
        let count = per_domain.entry(at).or_insert(0);
        *count += 1;
        fullest = fullest.max(*count);
    }
    let own = pool
        .host_of(row)
        .and_then(|host| pool.hosts()[host].host.labels.get(label));
    let most = if placement.spread_most == 0 {
        fullest
    } else {
        placement.spread_most
    };
    let after = per_domain.get(domain).copied().unwrap_or(0) + u32::from(own != Some(domain));
    (own != Some(domain) && after > most).then(|| {
        let why = format!("{label} {domain} would hold {after} of the service; {most} may");
        Refusal::new(Filter::Spread, why)
    })
}

fn memory(pool: &Pool<'_>, instance: &Instance, host: usize) -> Option<Refusal> {
    let target = &pool.hosts()[host];
    let capacity = target.host.capacity.memory?;
    let after = target.memory + instance.spec.memory_bytes as f64;
    (after > capacity).then(|| {
        Refusal::new(
            Filter::Memory,
            format!("not enough memory: {after:.0} of {capacity:.0} bytes would be spoken for"),
        )
    })
}
