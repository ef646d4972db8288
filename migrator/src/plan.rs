//! What is decided in a world. Pure and deterministic: same world, same decision.
//!
//! Hosts that are to be emptied come first, then contention, the most harmful first. For each, the
//! moves off the host are searched ([`crate::search`]): a move after which the host is no longer in
//! contention goes before every other, whatever they score, because a move that does not relieve
//! costs as much and helps nobody. A move is made only if the low quantile of its benefit exceeds
//! the high quantile of its cost. What was not taken is kept with the reason.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use domain::{
    Alternative, Contention, Decision, Expected, Filter, HostId, Instance, InstanceId,
    InstanceState, Move, Policy, Resource, Resources,
};

use crate::detect::{self, Memory};
use crate::place;
use crate::pool::Pool;
use crate::pool::isolation::Claims;
use crate::search::{Found, LeftOut, Search};
use crate::select;
use crate::settings::Settings;
use crate::world::World;

#[cfg(test)]
mod tests;

/// How many alternatives are kept with a decision.
const KEPT_ALTERNATIVES: usize = 12;
/// How many times its cost a move must bring while the brake is on.
const BRAKED: f64 = 4.0;

/// Decides what to do in this world.
pub fn decide(world: &World, settings: &Settings, memory: &mut Memory) -> Decision {
    let pool = Pool::compile(world, settings, &memory.belief);
    if settings.policy == Policy::Predictive {
        memory.belief.follow_up(world, &pool);
    }
    memory.ledger.follow_up(world, settings);
    let contention = detect::detect(world, &pool, settings, memory);
    let brake = memory.ledger.brake(settings);
    let accepted = detect::accepted_risk(settings, pool.load());
    let demanded = if brake.is_some() { BRAKED } else { 1.0 };
    let search = Search::new(pool, world, settings, &memory.belief, accepted, demanded);
    let mut draft = Draft {
        world,
        settings,
        search,
        free: settings
            .max_migrations
            .saturating_sub(world.migrations.len()),
        moves: Vec::new(),
        passed_over: Vec::new(),
        refused: Vec::new(),
        late: Vec::new(),
        excluded: BTreeMap::new(),
        alarms: world
            .claims
            .values()
            .flat_map(|claims| claims.alarms(world.at))
            .chain(brake.map(|why| format!("the brake is on: {why}")))
            .collect(),
    };
    if settings.policy != Policy::None {
        draft.empty_hosts();
        draft.relieve(&contention);
    }
    let decision = draft.into_decision(contention);
    for intent in &decision.moves {
        memory.ledger.note(world.at, intent);
    }
    decision
}

/// A decision in the making.
struct Draft<'a, 'w> {
    world: &'w World,
    settings: &'a Settings,
    search: Search<'a, 'w>,
    /// Migrations that may still begin.
    free: usize,
    moves: Vec<Move>,
    /// Moves that were weighed and not taken.
    passed_over: Vec<Alternative>,
    refused: Vec<Alternative>,
    /// Moves that would have been taken, were there room.
    late: Vec<Alternative>,
    /// How many hosts each filter excluded, where nothing was left.
    excluded: BTreeMap<Filter, usize>,
    alarms: Vec<String>,
}

impl Draft<'_, '_> {
    /// Moves what is on hosts that somebody wants empty.
    fn empty_hosts(&mut self) {
        let hosts: Vec<usize> = (0..self.search.pool.hosts().len())
            .filter(|&host| {
                let id = &self.search.pool.hosts()[host].host.id;
                self.world.claims.get(id).is_some_and(Claims::drains)
            })
            .collect();
        for host in hosts {
            let (mut rows, left_out) = self.search.movable(host);
            // Whoever asks for an empty host knows why: what has just moved moves again.
            rows.extend(
                left_out
                    .iter()
                    .filter(|(_, _, refusal)| refusal.filter == Filter::CoolDown)
                    .map(|&(row, _, _)| row),
            );
            self.refuse(left_out);
            for row in rows {
                if self.free == 0 || self.room(host) == 0 {
                    break;
                }
                let (found, left_out) = self.search.refuge(row, host);
                self.refuse(left_out);
                if let Some(found) = found {
                    self.take(host, &found, "its host is to be emptied", None);
                }
            }
        }
    }

    fn relieve(&mut self, contention: &[Contention]) {
        let mut hosts: Vec<(f64, usize)> = Vec::new();
        for (index, row) in self.search.pool.hosts().iter().enumerate() {
            if contention.iter().any(|found| found.host == row.host.id) {
                hosts.push((self.search.harm(index), index));
            }
        }
        hosts.sort_by(|one, other| other.0.total_cmp(&one.0).then(one.1.cmp(&other.1)));
        for (_, host) in hosts {
            let id = self.search.pool.hosts()[host].host.id.clone();
            if let Some(worst) = contention
                .iter()
                .filter(|found| found.host == id)
                .max_by(|one, other| one.probability.total_cmp(&other.probability))
            {
                self.relieve_host(host, worst);
            }
        }
    }

    /// Migrations that may still go to or from a host.
    fn room(&self, host: usize) -> usize {
        let most = self.settings.max_per_host;
        most.saturating_sub(self.search.pool.hosts()[host].in_flight)
    }

    fn relieve_host(&mut self, host: usize, contention: &Contention) {
        let (mut singles, left_out) = self.search.singles(host);
        let nothing_fits = singles.is_empty();
        if nothing_fits {
            for (_, target, refusal) in &left_out {
                if target.is_some() {
                    *self.excluded.entry(refusal.filter).or_insert(0) += 1;
                }
            }
        }
        self.refuse(left_out);
        let mut chosen: Vec<(usize, usize)> = Vec::new();
        // What was weighed first, and the best of it, if it was worth its cost.
        let mut weighed: Option<(Vec<Found>, Option<Found>)> = None;
        loop {
            let room = self.room(host).min(self.free.saturating_sub(chosen.len()));
            let least = usize::from(weighed.is_none());
            let best = self.best(host, &singles, room.max(least));
            let worth = best
                .as_ref()
                .is_some_and(|best| best.is_worth_it(self.search.demanded));
            if weighed.is_none() {
                let best = best.clone().filter(|_| worth);
                weighed = Some((std::mem::take(&mut singles), best));
            }
            let Some(best) = best.filter(|_| worth) else {
                break;
            };
            if room < best.moves.len() {
                self.postpone(&best);
                break;
            }
            self.search.accept(&best.moves);
            chosen.extend(best.moves.iter().copied());
            if best.suffices {
                break;
            }
            singles = self.search.singles(host).0;
        }
        let from_here: Vec<(usize, usize)> = chosen.clone();
        let simple = from_here.iter().all(|&(_, to)| to != host)
            && from_here
                .iter()
                .all(|&(row, _)| self.search.pool.instance(row).replica.host == contention.host);
        if simple && !chosen.is_empty() {
            let most = self.free.min(chosen.len() + self.room(host));
            self.search.exchange(host, &mut chosen, most);
        }
        if let Some((singles, best)) = weighed {
            self.pass_over(host, &singles, best.as_ref(), &chosen);
        }
        self.write_down(host, &chosen, contention);
    }

    fn best(&mut self, host: usize, singles: &[Found], room: usize) -> Option<Found> {
        let single = singles.first().cloned();
        if single.as_ref().is_some_and(|single| single.suffices) || room < 2 {
            return single;
        }
        let together = self.search.combined(host, singles).into_iter().next();
        match (single, together) {
            (Some(single), Some(together)) => {
                let value = |found: &Found| found.gain - found.cost;
                let better = together.suffices || value(&together) > 1.2 * value(&single);
                Some(if better { together } else { single })
            }
            (single, together) => single.or(together),
        }
    }

    /// Writes what was chosen into the decision. The chosen ones are on paper already: they are
    /// taken back, weighed and accepted one after another, so each has reasons of its own.
    fn write_down(&mut self, host: usize, chosen: &[(usize, usize)], contention: &Contention) {
        let homes: Vec<(usize, usize)> = chosen
            .iter()
            .filter_map(|&(row, _)| {
                let home = &self.search.pool.instance(row).replica.host;
                let index = |row: &crate::pool::HostRow<'_>| row.host.id == *home;
                Some((row, self.search.pool.hosts().iter().position(index)?))
            })
            .collect();
        self.search.accept(&homes);
        for &(row, to) in chosen {
            let found = self.search.weigh(host, &[(row, to)]);
            self.take(host, &found, "", Some(contention));
        }
    }

    fn take(&mut self, host: usize, found: &Found, why: &str, contention: Option<&Contention>) {
        for &(row, to) in &found.moves {
            self.moves
                .push(self.intent(host, row, to, found, why, contention));
            self.free = self.free.saturating_sub(1);
        }
        self.search.accept(&found.moves);
    }

    fn intent(
        &self,
        host: usize,
        row: usize,
        to: usize,
        found: &Found,
        why: &str,
        contention: Option<&Contention>,
    ) -> Move {
        let pool = &self.search.pool;
        let instance = pool.instance(row);
        let id = &instance.spec.id;
        let source = &pool.hosts()[host].host.id;
        let target = &pool.hosts()[to].host.id;
        let resource = contention.map_or(Resource::Cpu, |found| found.resource);
        let ahead = contention.map_or(pool.ahead(0), |found| found.ahead_ms);
        let now = self.world.present_demand(id, resource).unwrap_or(0.0);
        let (then, variance) = self.world.demand(id, resource, ahead);
        let enough = if found.suffices {
            "it is enough"
        } else {
            "not enough by itself"
        };
        let mib = instance.spec.memory_bytes as f64 / (1024.0 * 1024.0);
        let [relief, rise, priority, cost] = found.parts;
        let mut reasons = vec![
            format!(
                "relief {relief:+.1}: risk on {source} falls from {:.0} % to {:.0} % ({enough}), on {target} it is {:.0} %",
                found.before * 100.0,
                found.left * 100.0,
                found.there * 100.0
            ),
            format!(
                "rise {rise:+.1}: its {resource} goes from {now:.0} to {then:.0} {}",
                resource.unit()
            ),
            format!("priority {priority:+.1}: {:?}", instance.spec.priority),
            format!("cost {cost:+.1}: {mib:.0} MiB of memory to copy, both replicas at a time"),
            format!(
                "spares {:.1} % of the window in contention, at least {:.1} %; costs {:.1} %, at most {:.1} %",
                found.gain * 100.0,
                found.gain_low * 100.0,
                found.cost * 100.0,
                found.cost_high * 100.0
            ),
        ];
        if !why.is_empty() {
            reasons.insert(0, why.to_owned());
        }
        Move {
            instance: id.clone(),
            from: instance.replica.host.clone(),
            target: target.clone(),
            ramp: self.settings.ramp.clone(),
            reserve: reserve(self.world, instance, now, then, variance, ahead),
            score: found.score,
            reasons,
            expected: Expected {
                benefit: found.gain,
                benefit_low: found.gain_low,
                cost: found.cost,
                cost_high: found.cost_high,
                window_ms: self.settings.window_ms,
            },
        }
    }

    fn alternative(&self, found: &Found, reason: String) -> Option<Alternative> {
        let &(row, to) = found.moves.first()?;
        Some(Alternative {
            instance: self.search.pool.id(row).clone(),
            target: Some(self.search.pool.hosts()[to].host.id.clone()),
            score: Some(found.score),
            reason,
            filter: None,
        })
    }

    /// Says why each of the moves that were weighed is not among the chosen ones.
    fn pass_over(
        &mut self,
        host: usize,
        singles: &[Found],
        best: Option<&Found>,
        chosen: &[(usize, usize)],
    ) {
        let from = &self.search.pool.hosts()[host].host.id;
        let mut others = Vec::new();
        for found in singles.iter().take(KEPT_ALTERNATIVES) {
            let reason = match best {
                _ if found.moves.iter().all(|one| chosen.contains(one)) => continue,
                Some(best) if best.moves == found.moves && !chosen.is_empty() => {
                    "what is done instead spares more, and scores no less".to_owned()
                }
                Some(best) if best.moves == found.moves => continue,
                Some(best) if best.suffices && !found.suffices => format!(
                    "would not be enough: the risk on {from} stays at {:.0} %",
                    found.left * 100.0
                ),
                Some(best) => format!("a better one scores {:.1}", best.score),
                None => format!(
                    "it costs more than it relieves: spares at least {:.2} % of the window, costs up to {:.2} %",
                    found.gain_low * 100.0,
                    found.cost_high * 100.0
                ),
            };
            others.extend(self.alternative(found, reason));
        }
        self.passed_over.append(&mut others);
    }

    fn postpone(&mut self, best: &Found) {
        let reason = "as many migrations as allowed are under way".to_owned();
        let late = self.alternative(best, reason);
        self.late.extend(late);
    }

    fn refuse(&mut self, left_out: Vec<LeftOut>) {
        for (row, target, refusal) in left_out {
            if self.refused.len() >= KEPT_ALTERNATIVES {
                return;
            }
            self.refused.push(Alternative {
                instance: self.search.pool.id(row).clone(),
                target: target.map(|to| self.search.pool.hosts()[to].host.id.clone()),
                score: None,
                reason: refusal.why,
                filter: Some(refusal.filter),
            });
        }
    }

    fn into_decision(self, contention: Vec<Contention>) -> Decision {
        let mut alternatives = self.late;
        alternatives.extend(self.passed_over);
        // The best three that were weighed stay; so do filters, of which a few explain more.
        let weighed = alternatives.len().min(KEPT_ALTERNATIVES - 4);
        alternatives.truncate(weighed.max(KEPT_ALTERNATIVES.saturating_sub(self.refused.len())));
        alternatives.extend(self.refused);
        alternatives.truncate(KEPT_ALTERNATIVES);
        let mut summary = summary(
            self.settings.policy,
            &contention,
            &self.moves,
            &self.excluded,
        );
        for alarm in self.alarms {
            summary.push_str("; ");
            summary.push_str(&alarm);
        }
        Decision {
            at: self.world.at,
            policy: self.settings.policy,
            contention,
            moves: self.moves,
            alternatives,
            summary,
        }
    }
}

fn summary(
    policy: Policy,
    contention: &[Contention],
    moves: &[Move],
    excluded: &BTreeMap<Filter, usize>,
) -> String {
    match (policy, contention.first(), moves.first()) {
        (Policy::None, _, _) => "policy none: nothing is ever moved".to_owned(),
        (Policy::Reactive | Policy::Predictive, None, None) => {
            "no contention in sight: nothing to do".to_owned()
        }
        (Policy::Reactive | Policy::Predictive, None, Some(best)) => {
            format!(
                "move {} to {}: {} is to be emptied",
                best.instance, best.target, best.from
            )
        }
        (Policy::Reactive | Policy::Predictive, Some(contention), None) => {
            let mut text = format!(
                "contention on {} is {}, but nothing can be moved",
                contention.host,
                when(contention)
            );
            for (filter, count) in excluded {
                // Writing to a text cannot fail.
                let _ = write!(text, "; {} excludes {count}", filter.name());
            }
            text
        }
        (Policy::Reactive | Policy::Predictive, Some(first), Some(best)) => {
            let of_move = contention.iter().find(|found| found.host == best.from);
            let contention = of_move.unwrap_or(first);
            format!(
                "contention on {} is {}: move {} to {}",
                contention.host,
                when(contention),
                best.instance,
                best.target
            )
        }
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
    if !world.hosts.contains_key(target) {
        return Err(format!("host {target} is unknown"));
    }
    if found.replica.host == *target {
        return Err(format!("instance {instance} is on host {target} already"));
    }
    if found.state != InstanceState::Running {
        return Err(format!("instance {instance} does not run"));
    }
    if let Some(refusal) = select::fixed(world, found) {
        return Err(format!("instance {instance} cannot move: {}", refusal.why));
    }
    if world.migrations.len() >= settings.max_migrations {
        return Err("as many migrations as allowed are under way".to_owned());
    }
    if let Some(why) = unfit(world, settings, instance, target) {
        return Err(format!("host {target} cannot take {instance}: {why}"));
    }
    let ahead = settings.lead_ms;
    let (demand, variance) = world.demand(instance, Resource::Cpu, ahead);
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
            reserve: reserve(world, found, now, demand, variance, ahead),
            score: 0.0,
            reasons: vec!["an operator asked for it".to_owned()],
            expected: Expected::default(),
        }],
        alternatives: Vec::new(),
        summary: format!("an operator asked: move {instance} to {target}"),
    })
}

fn unfit(
    world: &World,
    settings: &Settings,
    instance: &InstanceId,
    target: &HostId,
) -> Option<String> {
    let belief = crate::belief::Belief::default();
    let pool = Pool::compile(world, settings, &belief);
    let row = pool.row(instance)?;
    let host = pool.hosts().iter().position(|row| row.host.id == *target)?;
    let accepted = detect::accepted_risk(settings, pool.load()) * settings.planning.target_share;
    let changes = [crate::pool::Change::Plus(row)];
    place::forbidden(world, &pool, settings, row, host)
        .or_else(|| place::crowded(&pool, &belief, host, &changes, accepted))
        .map(|refusal| refusal.why)
}

/// What is held on the target: memory as declared, the rest for the upper end of the forecast.
fn reserve(
    world: &World,
    instance: &Instance,
    now: f64,
    then: f64,
    variance: f64,
    ahead: u64,
) -> Resources<f64> {
    let id = &instance.spec.id;
    let upper = |resource| {
        let (mean, variance) = world.demand(id, resource, ahead);
        (mean + 1.645 * variance.sqrt()).max(world.present_demand(id, resource).unwrap_or(0.0))
    };
    Resources {
        cpu: (then + 1.645 * variance.sqrt())
            .max(now)
            .max(upper(Resource::Cpu)),
        memory: instance.spec.memory_bytes as f64,
        net_rx: upper(Resource::NetRx),
        net_tx: upper(Resource::NetTx),
    }
}
