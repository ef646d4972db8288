//! Looks a history through, after the fact: the invariants that show in records and processes.
//!
//! | | what is looked at |
//! |---|---|
//! | I1, I3 | the original lives until its termination is recorded, the shadow lives from the commit on |
//! | I2 | no routing gives weight to a shadow that is not verified |
//! | I4 | epochs of migrations and routings never go back |
//! | I5 | routings' revisions only grow |
//! | I6 | one migration per instance at a time; reservations fit on their hosts |
//! | I7 | everything comes to rest, and nothing is left |
//! | I8 | nothing counts as applied before both data planes have it |
//! | I9 | after a roll-back Envoy routes by what it had before |
//! | I10 | every change of a migration's record has its line in the log |
//! | I11 | no single writer is moved without a cut-over |
//! | commit | nothing is undone after it |
//!
//! Records and processes are seen by different eyes: between the two, [`BLUR_MS`] are allowed.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::history::{Did, Seen, What};
use crate::lab::LEASE_MS;

/// How far two observers may be apart, in milliseconds.
const BLUR_MS: u64 = 1_000;
/// Longest take-over: the lease, and two seconds.
pub(crate) const TAKE_OVER_MS: u64 = LEASE_MS + 2_000;
/// Memory of a host of the lab.
const ROOM: f64 = 2.0 * 1024.0 * 1024.0 * 1024.0;

/// What a history shows.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) violations: Vec<String>,
    /// Processes that were killed or stood still, by place.
    pub(crate) places: BTreeMap<String, u64>,
    pub(crate) killed: u64,
    pub(crate) stood: u64,
    /// Records of a stale epoch that were accepted.
    pub(crate) stale: u64,
    /// Migrations at rest, by phase.
    pub(crate) ended: BTreeMap<String, u64>,
    /// How often a migration was parked.
    pub(crate) parked: u64,
    /// Milliseconds from a blow until another leader had taken the migration over.
    pub(crate) take_overs: Vec<u64>,
    /// Milliseconds from the last recovery until nothing was left.
    pub(crate) rests: Vec<u64>,
    pub(crate) sent: u64,
    pub(crate) failed: u64,
    pub(crate) shed: u64,
    /// Requests a second, from the first number that was noted to the last one.
    pub(crate) rate: f64,
    pub(crate) wrong: Vec<String>,
}

/// How many processes were killed or stood still.
pub(crate) fn struck(history: &[Seen]) -> usize {
    let struck = |seen: &&Seen| {
        matches!(
            seen.what,
            What::Process {
                did: Did::Die | Did::Stand,
                ..
            }
        )
    };
    history.iter().filter(struck).count()
}

/// The highest epoch of a migration's record.
pub(crate) fn highest_epoch(history: &[Seen]) -> u64 {
    let epochs = history.iter().filter_map(|seen| {
        let (kind, _, value) = seen.record()?;
        (kind == "migration")
            .then(|| value?.get("epoch")?.as_u64())
            .flatten()
    });
    epochs.max().unwrap_or(0)
}

impl Seen {
    fn record(&self) -> Option<(&str, &str, Option<&Value>)> {
        match &self.what {
            What::Record {
                kind, id, value, ..
            } => Some((kind, id, value.as_ref())),
            _ => None,
        }
    }
}

/// A migration as its records tell.
#[derive(Debug, Default)]
struct Story {
    instance: String,
    original: String,
    class: String,
    epoch: u64,
    generation: u64,
    verified: bool,
    phase: String,
    committed_at: Option<u64>,
    terminating_at: Option<u64>,
    rolling_back: bool,
    began_at: u64,
    over_at: Option<u64>,
    cut_over: bool,
}

fn text(value: &Value, path: &str) -> String {
    let found = value.pointer(path).and_then(Value::as_str);
    found.unwrap_or_default().to_owned()
}

fn number(value: &Value, path: &str) -> u64 {
    value.pointer(path).and_then(Value::as_u64).unwrap_or(0)
}

struct Checker {
    found: Findings,
    stories: BTreeMap<String, Story>,
    routing: BTreeMap<String, (u64, u64)>,
    reserved: BTreeMap<String, (String, f64)>,
    alive: Vec<(u64, BTreeSet<String>)>,
    routes: BTreeMap<String, String>,
    /// Blows that nobody has taken over from yet: when, and the epochs of what was under way.
    open: Option<(u64, BTreeMap<String, u64>)>,
    first_requests: Option<(u64, u64)>,
}

/// Looks a history through.
pub(crate) fn check(history: &[Seen]) -> Findings {
    let mut checker = Checker {
        found: Findings::default(),
        stories: BTreeMap::new(),
        routing: BTreeMap::new(),
        reserved: BTreeMap::new(),
        alive: Vec::new(),
        routes: BTreeMap::new(),
        open: None,
        first_requests: None,
    };
    for seen in history {
        checker.take(seen);
    }
    checker.replicas();
    checker.found
}

impl Checker {
    fn violate(&mut self, what: String) {
        self.found.violations.push(what);
    }

    fn take(&mut self, seen: &Seen) {
        match &seen.what {
            What::Process { did, place, .. } => self.process(seen.at, *did, place.as_deref()),
            What::Record {
                kind,
                id,
                generation,
                value,
            } => match (kind.as_str(), value) {
                ("migration", Some(value)) => self.migration(seen.at, id, *generation, value),
                ("routing", Some(value)) => self.routing(seen.at, id, value),
                ("reservation", Some(value)) => {
                    let host = text(value, "/host");
                    let memory = value.pointer("/amount/memory").and_then(Value::as_f64);
                    self.reserve(seen.at, id, &host, memory.unwrap_or(0.0));
                }
                ("reservation", None) => {
                    self.reserved.remove(id);
                }
                ("routing-status", Some(value)) => self.status(seen.at, id, value),
                _ => {}
            },
            What::Alive { tags } => {
                let tags = tags.iter().cloned().collect();
                self.alive.push((seen.at, tags));
            }
            What::Rest {
                phase, rest_after, ..
            } => {
                *self.found.ended.entry(phase.clone()).or_default() += 1;
                self.found.rests.push(*rest_after);
            }
            What::Routes {
                migration,
                before,
                digest,
            } => self.routes(migration, *before, digest),
            What::Log {
                migration,
                lines,
                generation,
            } => {
                if lines + 1 != *generation {
                    self.violate(format!(
                        "I10: {migration} changed {} times, its log has {lines} lines",
                        generation.saturating_sub(1)
                    ));
                }
            }
            What::Requests {
                sent, failed, shed, ..
            } => {
                self.found.sent = *sent;
                self.found.failed = *failed;
                self.found.shed = *shed;
                let (at, first) = *self.first_requests.get_or_insert((seen.at, *sent));
                let seconds = seen.at.saturating_sub(at) as f64 / 1_000.0;
                if seconds > 0.0 {
                    self.found.rate = sent.saturating_sub(first) as f64 / seconds;
                }
            }
            What::Wrong { what } => self.found.wrong.push(what.clone()),
            What::Missed { .. } | What::Asked { .. } | What::Trouble { .. } => {}
        }
    }

    fn process(&mut self, at: u64, did: Did, place: Option<&str>) {
        match did {
            Did::Die => self.found.killed += 1,
            Did::Stand => self.found.stood += 1,
            Did::Start | Did::Answer | Did::GoOn | Did::End => return,
        }
        if let Some(place) = place {
            *self.found.places.entry(place.to_owned()).or_default() += 1;
        }
        let under_way = self.stories.iter().filter(|(_, s)| s.over_at.is_none());
        let epochs: BTreeMap<_, _> = under_way.map(|(id, s)| (id.clone(), s.epoch)).collect();
        self.open = (!epochs.is_empty()).then_some((at, epochs));
    }

    fn migration(&mut self, at: u64, id: &str, generation: u64, value: &Value) {
        let epoch = number(value, "/epoch");
        let phase = text(value, "/phase/name");
        let known = self.stories.contains_key(id);
        let story = self.stories.entry(id.to_owned()).or_default();
        let mut wrong = Vec::new();
        if epoch < story.epoch {
            self.found.stale += 1;
            wrong.push(format!(
                "I4: {id} was written in epoch {epoch} after {}",
                story.epoch
            ));
        }
        // 0: looked at from time to time only.
        if generation != 0 && story.generation != 0 && generation < story.generation {
            wrong.push(format!(
                "I5: generation {generation} of {id} after {}",
                story.generation
            ));
        }
        if !known {
            story.instance = text(value, "/instance");
            story.original = text(value, "/original/tag");
            story.class = text(value, "/class");
            story.began_at = at;
        }
        story.epoch = epoch.max(story.epoch);
        story.generation = generation.max(story.generation);
        story.verified |= value.pointer("/verified") == Some(&Value::Bool(true));
        let was_parked = story.phase == "parked";
        match phase.as_str() {
            "committed" | "terminating" | "done" => {
                story.committed_at.get_or_insert(at);
                if phase != "committed" {
                    story.terminating_at.get_or_insert(at);
                }
                if story.rolling_back {
                    wrong.push(format!("commit: {id} is {phase} after it was rolled back"));
                }
            }
            "rolling_back" | "rolled_back" => {
                story.rolling_back = true;
                if story.committed_at.is_some() {
                    wrong.push(format!("commit: {id} is {phase} after its commit"));
                }
            }
            "cut_over" => story.cut_over = true,
            "parked" if !was_parked => self.found.parked += 1,
            _ => {}
        }
        if phase == "done" && story.class == "single_writer" && !story.cut_over {
            wrong.push(format!(
                "I11: {id} moved a single writer without a cut-over"
            ));
        }
        let is_over = matches!(phase.as_str(), "done" | "rolled_back");
        if is_over {
            story.over_at.get_or_insert(at);
        }
        story.phase = phase;
        let instance = story.instance.clone();
        let others = self.stories.iter().filter(|(other, story)| {
            other.as_str() != id && story.instance == instance && story.over_at.is_none()
        });
        let others: Vec<_> = others.map(|(other, _)| other.clone()).collect();
        if !is_over && !others.is_empty() {
            wrong.push(format!("I6: {id} and {others:?} move {instance} at once"));
        }
        self.found.violations.extend(wrong);
        self.taken_over(at, id, epoch, is_over);
    }

    fn taken_over(&mut self, at: u64, id: &str, epoch: u64, is_over: bool) {
        let Some((since, epochs)) = &mut self.open else {
            return;
        };
        let since = *since;
        let Some(&before) = epochs.get(id) else {
            return;
        };
        if epoch > before {
            self.found.take_overs.push(at.saturating_sub(since));
            self.open = None;
        } else if is_over {
            // It had ended already when the blow struck.
            epochs.remove(id);
        }
    }

    fn routing(&mut self, at: u64, id: &str, value: &Value) {
        let (epoch, revision) = (number(value, "/epoch"), number(value, "/revision"));
        let (old_epoch, old_revision) = self.routing.get(id).copied().unwrap_or_default();
        if epoch < old_epoch {
            self.found.stale += 1;
            self.violate(format!(
                "I4: routing {id} of epoch {epoch} after {old_epoch}"
            ));
        }
        if revision < old_revision {
            self.violate(format!(
                "I5: revision {revision} of routing {id} after {old_revision}"
            ));
        }
        self.routing.insert(
            id.to_owned(),
            (epoch.max(old_epoch), revision.max(old_revision)),
        );
        let weight = number(value, "/migration/split/shadow");
        let migration = text(value, "/migration/migration");
        let verified = self.stories.get(&migration).is_some_and(|s| s.verified);
        if weight > 0 && !verified {
            self.violate(format!(
                "I2: at {at} ms {weight} of 10000 for the shadow of {migration}, not verified"
            ));
        }
    }

    fn reserve(&mut self, at: u64, id: &str, host: &str, memory: f64) {
        self.reserved
            .insert(id.to_owned(), (host.to_owned(), memory));
        let on_host = self.reserved.values().filter(|(on, _)| on == host);
        let sum: f64 = on_host.map(|(_, memory)| memory).sum();
        if sum > ROOM {
            self.violate(format!("I6: at {at} ms {sum} bytes are reserved on {host}"));
        }
    }

    fn status(&mut self, at: u64, id: &str, value: &Value) {
        if text(value, "/state") != "applied" || number(value, "/revision") < 2 {
            return;
        }
        let nodes = value.pointer("/nodes").and_then(Value::as_object);
        let applied = nodes.map_or(0, |nodes| {
            let states = nodes.values().map(|node| text(node, "/state"));
            states.filter(|state| state == "applied").count()
        });
        if applied < 2 {
            let revision = number(value, "/revision");
            self.violate(format!(
                "I8: at {at} ms revision {revision} of {id} counts as applied by {applied} of 2 nodes"
            ));
        }
    }

    fn routes(&mut self, migration: &str, before: bool, digest: &str) {
        if before {
            self.routes.insert(migration.to_owned(), digest.to_owned());
            return;
        }
        let rolled_back = self.stories.get(migration).is_some_and(|s| s.rolling_back);
        let other = self.routes.get(migration).is_some_and(|was| was != digest);
        if rolled_back && other {
            self.violate(format!(
                "I9: after {migration} Envoy does not route as before it"
            ));
        }
    }

    /// I1 and I3: who must live, against who lived.
    fn replicas(&mut self) {
        let mut wrong = Vec::new();
        for (id, story) in &self.stories {
            let to = story.terminating_at.unwrap_or(u64::MAX);
            let end = self.end_of(&story.original, story.began_at);
            self.lives(
                &story.original,
                story.began_at,
                to.min(end),
                "I3: the original",
                id,
                &mut wrong,
            );
            if let Some(committed) = story.committed_at {
                let end = self.end_of(id, committed);
                self.lives(id, committed, end, "I1: the shadow", id, &mut wrong);
            }
        }
        self.found.violations.extend(wrong);
    }

    /// When a later migration records the termination of the replica with this tag.
    fn end_of(&self, tag: &str, after: u64) -> u64 {
        let ends = self.stories.values().filter(|s| s.original == tag);
        let ends = ends.filter_map(|s| s.terminating_at);
        ends.filter(|end| *end >= after).min().unwrap_or(u64::MAX)
    }

    fn lives(
        &self,
        tag: &str,
        from: u64,
        to: u64,
        who: &str,
        migration: &str,
        wrong: &mut Vec<String>,
    ) {
        let samples = self.alive.iter();
        let during = samples.filter(|(at, _)| *at > from + BLUR_MS && at + BLUR_MS < to);
        // The last look is at the end of everything, where all replicas are ended.
        let Some((at, _)) = during
            .filter(|(_, tags)| !tags.is_empty())
            .find(|(_, tags)| !tags.contains(tag))
        else {
            return;
        };
        wrong.push(format!(
            "{who} of {migration} ({tag}) is not there at {at} ms"
        ));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn record(at: u64, kind: &str, id: &str, generation: u64, value: Value) -> Seen {
        let what = What::Record {
            kind: kind.to_owned(),
            id: id.to_owned(),
            generation,
            value: Some(value),
        };
        Seen { at, what }
    }

    fn migration(at: u64, generation: u64, epoch: u64, phase: &str, verified: bool) -> Seen {
        let value = json!({
            "instance": "a1", "original": {"tag": "a1"}, "class": "shared_state",
            "epoch": epoch, "phase": {"name": phase}, "verified": verified,
        });
        record(at, "migration", "m-1", generation, value)
    }

    fn routing(at: u64, epoch: u64, revision: u64, weight: u64) -> Seen {
        let value = json!({
            "epoch": epoch, "revision": revision,
            "migration": {"migration": "m-1", "split": {"shadow": weight}},
        });
        record(at, "routing", "svc-a1", revision, value)
    }

    fn status(at: u64, nodes: &[&str]) -> Seen {
        let nodes: BTreeMap<_, _> = nodes
            .iter()
            .map(|node| (*node, json!({"state": "applied"})))
            .collect();
        let value = json!({"state": "applied", "revision": 2, "nodes": nodes});
        record(at, "routing-status", "svc-a1", 1, value)
    }

    fn alive(at: u64, tags: &[&str]) -> Seen {
        let tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
        let what = What::Alive { tags };
        Seen { at, what }
    }

    fn process(at: u64, did: Did) -> Seen {
        let what = What::Process {
            name: "one".to_owned(),
            pid: 1,
            did,
            place: Some("fork/after effect".to_owned()),
        };
        Seen { at, what }
    }

    fn log(lines: u64, generation: u64) -> Seen {
        let what = What::Log {
            migration: "m-1".to_owned(),
            lines,
            generation,
        };
        Seen { at: 20_000, what }
    }

    fn good() -> Vec<Seen> {
        vec![
            alive(0, &["a1", "b1"]),
            migration(1_000, 1, 1, "planned", false),
            migration(2_000, 2, 1, "forking", false),
            process(2_100, Did::Die),
            migration(3_000, 3, 2, "forking", false),
            alive(4_000, &["a1", "b1", "m-1"]),
            migration(5_000, 4, 2, "mirroring", true),
            routing(6_000, 2, 2, 5_000),
            status(6_100, &["envoy", "proxy"]),
            migration(9_000, 5, 2, "committed", true),
            migration(10_000, 6, 2, "terminating", true),
            alive(12_000, &["b1", "m-1"]),
            migration(13_000, 7, 2, "done", true),
            log(6, 7),
        ]
    }

    #[test]
    fn a_good_history_has_no_violation_and_its_take_over_is_measured() {
        let found = check(&good());
        assert_eq!(found.violations, Vec::<String>::new());
        assert_eq!(found.take_overs, [900]);
        assert_eq!((found.killed, found.places["fork/after effect"]), (1, 1));
    }

    #[test]
    fn every_violation_is_found() {
        let insert = |at: u64, seen: Seen| {
            let mut history = good();
            let index = history.iter().position(|other| other.at > at).unwrap();
            history.insert(index, seen);
            history
        };
        for (name, history) in [
            ("I3", insert(7_000, alive(7_000, &["b1", "m-1"]))),
            ("I1", insert(12_500, alive(12_500, &["b1"]))),
            ("I2", insert(4_500, routing(4_500, 2, 1, 100))),
            (
                "I4",
                insert(5_500, migration(5_500, 5, 1, "mirroring", true)),
            ),
            ("I4", insert(6_500, routing(6_500, 1, 3, 100))),
            ("I5", insert(6_500, routing(6_500, 2, 1, 100))),
            ("I8", insert(6_500, status(6_500, &["envoy"]))),
            ("I8", insert(6_500, status(6_500, &[]))),
            (
                "commit",
                insert(9_500, migration(9_500, 6, 2, "rolling_back", true)),
            ),
        ] {
            let found = check(&history).violations;
            assert!(
                found.iter().any(|what| what.starts_with(name)),
                "{name}: {found:#?}"
            );
        }
        let mut history = good();
        history.pop();
        history.push(log(5, 7));
        assert!(check(&history).violations[0].starts_with("I10"));
    }
}
