//! Which instance moves, and to which host. Pure and deterministic: same world, same decision.
//!
//! For each contended host every instance on it is looked at with every other host: filters
//! first (each failure is kept as a reason), then a score. A pair after which the host is no
//! longer in contention goes before every other, whatever they score: a move that does not relieve
//! costs as much and helps nobody. Among equals the best score moves; a pair that brings the
//! target into contention is none. What was not taken is kept with the reason.

use domain::{
    Alternative, ConsistencyClass, Contention, Decision, Host, HostId, Instance, InstanceId,
    InstanceState, Move, Policy, Priority, Resource, Resources,
};

use crate::detect::{self, Memory};
use crate::settings::Settings;
use crate::world::World;

#[cfg(test)]
mod tests;

/// How many alternatives are kept with a decision.
const KEPT_ALTERNATIVES: usize = 8;

/// Decides what to do in this world.
pub fn decide(world: &World, settings: &Settings, memory: &mut Memory) -> Decision {
    let contention = detect::detect(world, settings, memory);
    let mut decision = Decision {
        at: world.at,
        policy: settings.policy,
        contention,
        moves: Vec::new(),
        alternatives: Vec::new(),
        summary: String::new(),
    };
    let mut free = settings
        .max_migrations
        .saturating_sub(world.migrations.len());
    for contention in decision.contention.clone() {
        let (best, rest) = best_move(world, settings, &contention);
        decision.alternatives.extend(rest);
        let Some(best) = best else { continue };
        let busy = decision
            .moves
            .iter()
            .any(|taken| taken.instance == best.instance || taken.from == best.from);
        if free == 0 || busy {
            decision.alternatives.push(Alternative {
                instance: best.instance,
                target: Some(best.target),
                score: Some(best.score),
                reason: "as many migrations as allowed are under way".to_owned(),
            });
        } else {
            free -= 1;
            decision.moves.push(best);
        }
    }
    decision.alternatives.truncate(KEPT_ALTERNATIVES);
    decision.summary = summary(&decision);
    decision
}

fn summary(decision: &Decision) -> String {
    match (
        decision.policy,
        decision.contention.first(),
        decision.moves.first(),
    ) {
        (Policy::None, _, _) => "policy none: nothing is ever moved".to_owned(),
        (Policy::Reactive | Policy::Predictive, None, _) => {
            "no contention in sight: nothing to do".to_owned()
        }
        (Policy::Reactive | Policy::Predictive, Some(contention), None) => format!(
            "contention on {} is {}, but nothing can be moved",
            contention.host,
            when(contention)
        ),
        (Policy::Reactive | Policy::Predictive, Some(contention), Some(best)) => format!(
            "contention on {} is {}: move {} to {}",
            contention.host,
            when(contention),
            best.instance,
            best.target
        ),
    }
}

fn when(contention: &Contention) -> String {
    if contention.ahead_ms == 0 {
        "here".to_owned()
    } else {
        format!(
            "{:.0} % likely in {:.0} s",
            contention.probability * 100.0,
            contention.ahead_ms as f64 / 1_000.0
        )
    }
}

/// The best move against a contention, and what else was looked at.
fn best_move(
    world: &World,
    settings: &Settings,
    contention: &Contention,
) -> (Option<Move>, Vec<Alternative>) {
    let mut moves = Vec::new();
    let mut refused = Vec::new();
    for instance in world.on_host(&contention.host) {
        if let Some(reason) = stays(world, settings, instance) {
            refused.push(Alternative {
                instance: instance.spec.id.clone(),
                target: None,
                score: None,
                reason,
            });
            continue;
        }
        for target in world
            .hosts
            .values()
            .filter(|host| host.id != contention.host)
        {
            match unfit(world, settings, instance, target) {
                Some(reason) => refused.push(Alternative {
                    instance: instance.spec.id.clone(),
                    target: Some(target.id.clone()),
                    score: None,
                    reason,
                }),
                None => moves.push(scored(world, settings, contention, instance, &target.id)),
            }
        }
    }
    moves.sort_by(|one, other| {
        let by_relief = other.suffices.cmp(&one.suffices);
        let by_score = other.intent.score.total_cmp(&one.intent.score);
        let name = |pair: &Scored| (pair.intent.instance.clone(), pair.intent.target.clone());
        by_relief
            .then(by_score)
            .then_with(|| name(one).cmp(&name(other)))
    });
    let mut moves = moves.into_iter();
    let best = moves.next().filter(|best| best.intent.score > 0.0);
    let mut alternatives: Vec<_> = moves
        .map(|other| other.passed_over(best.as_ref()))
        .collect();
    alternatives.append(&mut refused);
    (best.map(|best| best.intent), alternatives)
}

/// A move that may be made.
struct Scored {
    intent: Move,
    /// Whether the host it leaves is out of contention afterwards.
    suffices: bool,
    /// Risk that is left on that host.
    left: f64,
}

impl Scored {
    /// This one as an alternative to the one that was taken.
    fn passed_over(self, best: Option<&Self>) -> Alternative {
        let reason = match best {
            Some(best) if best.suffices && !self.suffices => format!(
                "would not be enough: the risk on {} stays at {:.0} %",
                self.intent.from,
                self.left * 100.0
            ),
            Some(best) => format!("a better one scores {:.1}", best.intent.score),
            None => "it costs more than it relieves".to_owned(),
        };
        Alternative {
            instance: self.intent.instance,
            target: Some(self.intent.target),
            score: Some(self.intent.score),
            reason,
        }
    }
}

/// The decision that a person has made: one instance to one host. What keeps an instance or a host
/// out of the planner's choice holds here too, but for the cool-down: whoever asks knows why.
///
/// # Errors
/// What stands against it, in words.
pub fn requested(
    world: &World,
    settings: &Settings,
    instance: &InstanceId,
    target: &HostId,
) -> Result<Decision, String> {
    let found = world
        .instances
        .get(instance)
        .ok_or_else(|| format!("instance {instance} is unknown"))?;
    let host = world
        .hosts
        .get(target)
        .ok_or_else(|| format!("host {target} is unknown"))?;
    if found.replica.host == *target {
        return Err(format!("instance {instance} is on host {target} already"));
    }
    if found.state != InstanceState::Running {
        return Err(format!("instance {instance} does not run"));
    }
    if let Some(reason) = fixed(world, found) {
        return Err(format!("instance {instance} cannot move: {reason}"));
    }
    if world.migrations.len() >= settings.max_migrations {
        return Err("as many migrations as allowed are under way".to_owned());
    }
    if let Some(reason) = unfit(world, settings, found, host) {
        return Err(format!("host {target} cannot take {instance}: {reason}"));
    }
    let (demand, variance) = world.demand(instance, Resource::Cpu, settings.lead_ms);
    let now = world.present_demand(instance, Resource::Cpu).unwrap_or(0.0);
    Ok(Decision {
        at: world.at,
        policy: settings.policy,
        contention: Vec::new(),
        moves: vec![Move {
            instance: instance.clone(),
            from: found.replica.host.clone(),
            target: target.clone(),
            ramp: settings.ramp.clone(),
            reserve: reserve(found, now, demand, variance),
            score: 0.0,
            reasons: vec!["an operator asked for it".to_owned()],
        }],
        alternatives: Vec::new(),
        summary: format!("an operator asked: move {instance} to {target}"),
    })
}

/// What is held on the target: memory as declared, processors for the upper end of the forecast.
fn reserve(instance: &Instance, now: f64, then: f64, variance: f64) -> Resources<f64> {
    Resources {
        cpu: (then + 1.645 * variance.sqrt()).max(now),
        memory: instance.spec.memory_bytes as f64,
        ..Resources::default()
    }
}

/// Why an instance must stay for now, if it must.
fn stays(world: &World, settings: &Settings, instance: &Instance) -> Option<String> {
    fixed(world, instance).or_else(|| resting(world, settings, instance))
}

/// Why an instance must stay whoever asks.
fn fixed(world: &World, instance: &Instance) -> Option<String> {
    let spec = &instance.spec;
    if !spec.movable {
        Some("it is marked as not movable".to_owned())
    } else if spec.class == ConsistencyClass::SingleWriter && spec.hooks.writer.is_none() {
        Some(
            "consistency class S3 needs a cut-over, and the instance has no hook by which its \
             writing is handed over (hooks.writer)"
                .to_owned(),
        )
    } else if spec.class == ConsistencyClass::Sessions {
        Some(format!(
            "consistency class {} needs a cut-over, which this driver cannot do",
            spec.class.code()
        ))
    } else if world.is_migrating(&spec.id) {
        Some("it is being moved".to_owned())
    } else {
        None
    }
}

/// Why an instance should rest, if it should: it has just moved, or just failed to.
fn resting(world: &World, settings: &Settings, instance: &Instance) -> Option<String> {
    let limit = settings.cool_down_ms;
    let rested = world.at.since(instance.placed_at);
    if instance.placed_at.0 > 0 && rested < limit {
        return Some(format!(
            "it was moved {rested} ms ago; cool-down is {limit} ms"
        ));
    }
    let limit = settings.retry_ms;
    let rested = world.at.since(*world.rolled_back.get(&instance.spec.id)?);
    (rested < limit)
        .then(|| format!("its migration was rolled back {rested} ms ago; it rests for {limit} ms"))
}

/// Why a host cannot take an instance, if it cannot.
fn unfit(world: &World, settings: &Settings, instance: &Instance, host: &Host) -> Option<String> {
    if let Some(isolation) = &host.isolation {
        return Some(format!("isolated: {}", isolation.reason));
    }
    let apart = &instance.spec.anti_affinity;
    if let Some(other) = world.on_host(&host.id).find(|other| {
        apart.contains(&other.spec.id) || other.spec.anti_affinity.contains(&instance.spec.id)
    }) {
        return Some(format!("anti-affinity with {}", other.spec.id));
    }
    if let Some(capacity) = host.capacity.memory {
        let used: u64 = world
            .on_host(&host.id)
            .map(|other| other.spec.memory_bytes)
            .sum();
        let held: f64 = world
            .reservations
            .iter()
            .filter(|reservation| reservation.host == host.id)
            .map(|reservation| reservation.amount.memory)
            .sum();
        if used as f64 + held + instance.spec.memory_bytes as f64 > capacity {
            return Some("not enough memory".to_owned());
        }
    }
    let limit = detect::limit(world, &host.id, Resource::Cpu, settings)?;
    std::iter::once(0)
        .chain(detect::points(settings))
        .find_map(|ahead| {
            let with = Some(&instance.spec.id);
            let (mean, variance) =
                detect::host_demand(world, &host.id, Resource::Cpu, ahead, None, with);
            let risk = detect::exceedance(mean, variance, limit);
            // Hysteresis: what may enter must leave more room than what makes one leave.
            (risk > settings.accepted_risk / 2.0).then(|| {
                format!(
                    "would be in contention itself: {:.0} % likely in {ahead} ms",
                    risk * 100.0
                )
            })
        })
}

/// A move with its score: what it relieves, minus what it costs.
fn scored(
    world: &World,
    settings: &Settings,
    contention: &Contention,
    instance: &Instance,
    target: &HostId,
) -> Scored {
    let id = &instance.spec.id;
    let resource = contention.resource;
    let ahead = contention.ahead_ms;
    let worst = |host: &HostId, without, with| {
        let limit = detect::limit(world, host, Resource::Cpu, settings).unwrap_or(f64::INFINITY);
        detect::points(settings)
            .map(|ahead| {
                let (mean, variance) =
                    detect::host_demand(world, host, Resource::Cpu, ahead, without, with);
                detect::exceedance(mean, variance, limit)
            })
            .fold(0.0, f64::max)
    };
    let before = worst(&contention.host, None, None).max(contention.probability);
    let after = worst(&contention.host, Some(id), None);
    let there = worst(target, None, Some(id));
    let relief = 100.0 * (before - after.max(there));
    let now = world.present_demand(id, resource).unwrap_or(0.0);
    let (then, variance) = world.demand(id, resource, ahead);
    let rise = 20.0 * ((then - now) / contention.limit.max(1.0)).clamp(-1.0, 1.0);
    let priority = match instance.spec.priority {
        Priority::Low => 10.0,
        Priority::Normal => 0.0,
        Priority::High => -20.0,
    };
    let mib = instance.spec.memory_bytes as f64 / (1024.0 * 1024.0);
    let cost = mib / 256.0;
    let score = relief + rise + priority - cost;
    let suffices = after <= settings.accepted_risk;
    let enough = if suffices {
        "it is enough"
    } else {
        "not enough by itself"
    };
    let intent = Move {
        instance: id.clone(),
        from: contention.host.clone(),
        target: target.clone(),
        ramp: settings.ramp.clone(),
        reserve: reserve(instance, now, then, variance),
        score,
        reasons: vec![
            format!(
                "relief {relief:+.1}: risk on {} falls from {:.0} % to {:.0} % ({enough}), on {target} it is {:.0} %",
                contention.host,
                before * 100.0,
                after * 100.0,
                there * 100.0
            ),
            format!(
                "rise {rise:+.1}: its {resource} goes from {now:.0} to {then:.0} {}",
                resource.unit()
            ),
            format!("priority {priority:+.1}: {:?}", instance.spec.priority),
            format!("cost {:+.1}: {mib:.0} MiB of memory to copy", -cost),
        ],
    };
    Scored {
        intent,
        suffices,
        left: after,
    }
}
