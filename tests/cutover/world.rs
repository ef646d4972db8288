//! A single writer, its shadow, two proxies, clients and a coordinator that dies: everything that may
//! happen next happens in an order that the seed chooses.
//!
//! The decisions are production's `step()`. What surrounds it keeps the contracts that the real parts
//! are tested for: a replica's standing and fence (`foreshadow` `workload::single`), the driver's
//! calls (`migrator` `driver::process::writer`), the proxy's hold and its acknowledgement
//! (`proxy` `hold`), the gate's "all have applied".

use std::collections::BTreeMap;

use domain::migration::{Event, Frozen, Outcome, RouteTo, Undo, Verdict, What};
use domain::routing::DrainDeadline;
use domain::{
    Effect, EffectKind, Epoch, Hold, Migration, MigrationId, MigrationRouting, NodeId, Phase,
    Routing, RoutingState, RoutingStatus, Timestamp, WeightSplit, ZeroTraffic, step,
};

use super::history::{Did, Op};
use super::setup;

/// SplitMix64.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(limit.max(1)).unwrap()).unwrap()
    }

    pub(crate) fn one_in(&mut self, many: usize) -> bool {
        self.below(many) == 0
    }
}

/// A bug that is planted, to see that it is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Planted {
    /// The position is noted before writes are refused.
    PositionBeforeFreeze,
    /// The shadow is opened before every proxy reads from it.
    ReleasedBeforeAllFlipped,
    /// What the shadow took is not brought back.
    NoReverseSync,
    /// A call to open that comes late is obeyed.
    NoFence,
    /// What is followed is now and then taken over twice.
    CopiedTwice,
}

/// What a replica holds, in its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    /// The register is this.
    Set(u64),
    /// The counter is one more.
    Add,
}

/// What a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ask {
    Change(Entry),
    ReadRegister,
    ReadCounter,
}

impl Ask {
    /// The change that it may have made, if nobody knows.
    fn perhaps(self) -> Option<Did> {
        match self {
            Self::Change(Entry::Set(value)) => Some(Did::Wrote(value)),
            Self::Change(Entry::Add) => Some(Did::Added),
            Self::ReadRegister | Self::ReadCounter => None,
        }
    }

    fn is_change(self) -> bool {
        matches!(self, Self::Change(_))
    }
}

const O: usize = 0;
const S: usize = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Writer,
    Frozen,
    Follower,
}

#[derive(Debug, Clone)]
struct Replica {
    exists: bool,
    up: bool,
    mode: Mode,
    epoch: u64,
    wrote: bool,
    log: Vec<Entry>,
}

impl Replica {
    fn register(&self) -> u64 {
        let sets = self.log.iter().rev().find_map(|entry| match entry {
            Entry::Set(value) => Some(*value),
            Entry::Add => None,
        });
        sets.unwrap_or(0)
    }

    fn counter(&self) -> u64 {
        let adds = self.log.iter().filter(|entry| **entry == Entry::Add);
        u64::try_from(adds.count()).unwrap()
    }

    /// Answers a request, or turns it away.
    fn answer(&mut self, ask: Ask) -> Option<Did> {
        match ask {
            Ask::Change(_) if self.mode != Mode::Writer => None,
            Ask::Change(entry) => {
                self.log.push(entry);
                ask.perhaps()
            }
            Ask::ReadRegister => Some(Did::Read(self.register())),
            Ask::ReadCounter => Some(Did::Counted(self.counter())),
        }
    }

    /// `false` when it writes under another epoch than the one that the freeze is of.
    fn freeze_of(&mut self, of: u64) -> bool {
        if self.mode == Mode::Writer && self.epoch != of {
            return false;
        }
        self.freeze(0);
        true
    }

    fn freeze(&mut self, at_least: u64) {
        if self.mode == Mode::Writer {
            self.mode = Mode::Frozen;
            self.epoch += 1;
        }
        self.epoch = self.epoch.max(at_least);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Way {
    to: usize,
    hold: bool,
}

#[derive(Debug, Clone)]
struct Proxy {
    way: Way,
    revision: u64,
    acked: u64,
    connected: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Held,
    OnTheWay(usize),
    Answered { done: Option<Did> },
}

#[derive(Debug, Clone, Copy)]
struct Request {
    proxy: usize,
    ask: Ask,
    at: At,
    begun: u64,
}

/// A driver call on its way.
#[derive(Debug, Clone)]
struct Call {
    effect: Effect,
    /// Whose answer somebody waits for.
    awaited: bool,
    frozen: Option<Frozen>,
    opened: bool,
    /// The original's epoch when it was sent: what a freeze is of.
    of: u64,
}

enum Doing {
    Work(Effect),
    Asked,
    Published(Effect, u64),
    Got(What),
}

/// What faults there may be, one in so many steps; 0: none.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Faults {
    pub(crate) crash: usize,
    pub(crate) replica: usize,
    pub(crate) partition: usize,
    pub(crate) clock: usize,
}

pub(crate) struct World {
    dice: Dice,
    faults: Faults,
    planted: Option<Planted>,
    now: u64,
    clock: u64,
    pub(crate) record: Migration,
    doing: Doing,
    calls: Vec<Call>,
    seen_epoch: u64,
    early_position: Option<u64>,
    published: Way,
    revision: u64,
    proxies: [Proxy; 2],
    replicas: [Replica; 2],
    requests: BTreeMap<usize, Request>,
    next_value: u64,
    pub(crate) history: Vec<Op>,
    pub(crate) faults_struck: u64,
    pub(crate) turned_away: u64,
    pub(crate) frozen_steps: u64,
}

const CLIENTS: usize = 4;
/// After so many steps faults end, so that everything comes to rest.
const STORMY: u64 = 1_500;
const MOST: u64 = 40_000;

impl World {
    pub(crate) fn new(seed: u64, faults: Faults, planted: Option<Planted>) -> Self {
        let dice = Dice(seed.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1));
        let way = Way { to: O, hold: false };
        let proxy = Proxy {
            way,
            revision: 0,
            acked: 0,
            connected: true,
        };
        let replica = |mode| Replica {
            exists: true,
            up: true,
            mode,
            epoch: 1,
            wrote: mode == Mode::Writer,
            log: Vec::new(),
        };
        // As far as to the copies everything goes well: this is about what comes then.
        let record = setup::copied();
        let effect = Effect {
            op: record.pending.as_ref().unwrap().op,
            epoch: record.epoch,
            kind: record.pending.as_ref().unwrap().kind.clone(),
        };
        Self {
            dice,
            faults,
            planted,
            now: 0,
            clock: 0,
            record,
            doing: Doing::Work(effect),
            calls: Vec::new(),
            seen_epoch: 0,
            early_position: None,
            published: way,
            revision: 0,
            proxies: [proxy.clone(), proxy],
            replicas: [replica(Mode::Writer), replica(Mode::Follower)],
            requests: BTreeMap::new(),
            next_value: 1,
            history: Vec::new(),
            faults_struck: 0,
            turned_away: 0,
            frozen_steps: 0,
        }
    }

    /// Runs until everything is at rest. Gives what is wrong.
    pub(crate) fn run(&mut self) -> Result<(), String> {
        while self.now < MOST {
            self.now += 1;
            self.clock += 1;
            let calm = self.now > STORMY;
            if calm {
                for replica in &mut self.replicas {
                    replica.up = replica.exists;
                }
                for proxy in &mut self.proxies {
                    proxy.connected = true;
                }
            } else {
                self.strike();
            }
            match self.dice.below(10) {
                0..=2 => self.client(),
                3..=4 => self.network(),
                5 => self.replicate(),
                6 => self.proxy(),
                7 => self.arrive(),
                _ => self.coordinator(),
            }
            let writer = |one: &Replica| one.exists && one.mode == Mode::Writer;
            if self.replicas.iter().all(writer) {
                return Err(format!("two writers at step {}", self.now));
            }
            if !self.replicas.iter().any(writer) {
                self.frozen_steps += 1;
            }
            let over = matches!(self.record.phase, Phase::Done | Phase::RolledBack);
            if calm && over && self.requests.is_empty() && self.calls.is_empty() {
                return self.at_rest();
            }
        }
        Err(format!(
            "not at rest after {MOST} steps: {} {:?} {:?}",
            self.record.phase.name(),
            self.record.pending,
            self.record.question
        ))
    }

    /// Whether the original has writes again that the shadow took.
    pub(crate) fn came_back(&self) -> bool {
        self.record.phase == Phase::RolledBack && self.replicas[S].wrote
    }

    fn at_rest(&mut self) -> Result<(), String> {
        let to = if self.record.phase == Phase::Done {
            S
        } else {
            O
        };
        let writes = self.replicas[to].mode == Mode::Writer && self.replicas[to].exists;
        if !writes {
            return Err("nobody takes writes at the end".to_owned());
        }
        let way = Way { to, hold: false };
        if self.proxies.iter().any(|proxy| proxy.way != way) {
            return Err("a proxy still holds, or goes elsewhere".to_owned());
        }
        // Everybody looks once more.
        let last = [Ask::ReadRegister, Ask::ReadCounter];
        for did in last.map(|ask| self.replicas[to].answer(ask).unwrap()) {
            self.history.push(Op {
                key: did.key(),
                did,
                begun: self.now + 1,
                ended: Some(self.now + 2),
            });
        }
        Ok(())
    }

    fn strike(&mut self) {
        let mut hits = |one_in: usize| one_in > 0 && self.dice.one_in(one_in);
        let (crash, replica, partition, clock) = (
            hits(self.faults.crash),
            hits(self.faults.replica),
            hits(self.faults.partition),
            hits(self.faults.clock),
        );
        self.faults_struck += u64::from(crash || replica || partition || clock);
        if crash {
            // Whatever was asked is still on its way; nobody waits for it.
            for call in &mut self.calls {
                call.awaited = false;
            }
            if let Doing::Work(effect) = &self.doing
                && self.dice.one_in(2)
                && is_call(&effect.kind)
            {
                let call = self.call(effect.clone(), false);
                self.calls.push(call);
            }
            let epoch = Epoch(self.record.epoch.0 + 1);
            self.doing = Doing::Got(What::TakenOver { epoch });
        }
        if replica {
            let one = self.dice.below(2);
            self.replicas[one].up = !self.replicas[one].up && self.replicas[one].exists;
            if !self.replicas[one].up {
                self.drop_requests(one);
            }
        }
        if partition {
            let one = self.dice.below(2);
            self.proxies[one].connected = !self.proxies[one].connected;
        }
        if clock {
            self.clock += 5_000;
        }
    }

    /// Requests at a replica that died: nobody knows whether they were done.
    fn drop_requests(&mut self, replica: usize) {
        let lost: Vec<usize> = self
            .requests
            .iter()
            .filter(|(_, request)| request.at == At::OnTheWay(replica))
            .map(|(client, _)| *client)
            .collect();
        for client in lost {
            let request = self.requests.remove(&client).unwrap();
            self.note(&request, request.ask.perhaps(), None);
        }
    }

    fn note(&mut self, request: &Request, did: Option<Did>, ended: Option<u64>) {
        if let Some(did) = did {
            self.history.push(Op {
                key: did.key(),
                did,
                begun: request.begun,
                ended,
            });
        }
    }

    fn client(&mut self) {
        let client = self.dice.below(CLIENTS);
        let calm_end = self.now > STORMY + 200;
        if self.requests.contains_key(&client) || calm_end {
            return;
        }
        let ask = match self.dice.below(4) {
            0 => {
                self.next_value += 1;
                Ask::Change(Entry::Set(self.next_value))
            }
            1 => Ask::Change(Entry::Add),
            2 => Ask::ReadRegister,
            _ => Ask::ReadCounter,
        };
        let proxy = self.dice.below(2);
        let way = self.proxies[proxy].way;
        let at = if way.hold && ask.is_change() {
            At::Held
        } else {
            At::OnTheWay(way.to)
        };
        let begun = self.now;
        self.requests.insert(
            client,
            Request {
                proxy,
                ask,
                at,
                begun,
            },
        );
    }

    fn network(&mut self) {
        let Some(&client) = pick(&mut self.dice, self.requests.keys()) else {
            return;
        };
        let request = self.requests[&client];
        match request.at {
            At::Held => {
                let way = self.proxies[request.proxy].way;
                let too_long = self.now - request.begun > 3_000;
                if too_long {
                    self.turned_away += 1;
                    self.requests.remove(&client);
                } else if !way.hold {
                    self.requests.get_mut(&client).unwrap().at = At::OnTheWay(way.to);
                }
            }
            At::OnTheWay(to) => {
                let replica = &mut self.replicas[to];
                let here = replica.up && replica.exists;
                let done = here.then(|| replica.answer(request.ask)).flatten();
                self.turned_away += u64::from(done.is_none());
                self.requests.get_mut(&client).unwrap().at = At::Answered { done };
            }
            At::Answered { done } => {
                self.requests.remove(&client);
                let lost = self.faults.partition > 0 && self.dice.one_in(50);
                if lost && done.is_some() {
                    self.note(&request, request.ask.perhaps(), None);
                } else {
                    self.note(&request, done, Some(self.now));
                }
            }
        }
    }

    fn replicate(&mut self) {
        for (one, other) in [(O, S), (S, O)] {
            let follows = self.replicas[one].mode == Mode::Follower && self.replicas[one].up;
            let source = &self.replicas[other];
            if !follows || !source.up || !source.exists {
                continue;
            }
            let have = self.replicas[one].log.len();
            if self.planted == Some(Planted::NoReverseSync) && one == O {
                continue;
            }
            if let Some(&next) = source.log.get(have) {
                self.replicas[one].log.push(next);
                if self.planted == Some(Planted::CopiedTwice) && self.dice.one_in(50) {
                    self.replicas[one].log.push(next);
                }
            }
        }
    }

    fn proxy(&mut self) {
        let index = self.dice.below(2);
        let busy = self.requests.values().any(|request| {
            request.proxy == index && request.ask.is_change() && !matches!(request.at, At::Held)
        });
        let impatient = self.dice.one_in(20);
        let proxy = &mut self.proxies[index];
        if !proxy.connected {
            return;
        }
        if proxy.revision < self.revision {
            proxy.revision = self.revision;
            proxy.way = self.published;
        } else if proxy.acked < proxy.revision && (!proxy.way.hold || !busy || impatient) {
            proxy.acked = proxy.revision;
        }
    }

    fn call(&self, effect: Effect, awaited: bool) -> Call {
        Call {
            effect,
            awaited,
            frozen: self.record.frozen,
            opened: self.record.opened,
            of: self.replicas[O].epoch,
        }
    }

    fn arrive(&mut self) {
        if self.calls.is_empty() {
            return;
        }
        let index = self.dice.below(self.calls.len());
        // What nobody waits for any more may come much later.
        if !self.calls[index].awaited && !self.dice.one_in(40) {
            return;
        }
        let call = self.calls.remove(index);
        let what = self.perform(&call);
        if call.awaited {
            self.doing = Doing::Got(what);
        }
    }

    fn perform(&mut self, call: &Call) -> What {
        let op = call.effect.op;
        let failed = |error: &str, may_retry| What::Failed {
            op,
            error: error.to_owned(),
            may_retry,
        };
        if call.effect.epoch.0 < self.seen_epoch {
            return failed("a stale epoch", false);
        }
        self.seen_epoch = call.effect.epoch.0;
        match self.act(call) {
            Ok(outcome) => What::Succeeded { op, outcome },
            Err((error, may_retry)) => failed(error, may_retry),
        }
    }

    fn act(&mut self, call: &Call) -> Result<Outcome, (&'static str, bool)> {
        let planted = self.planted;
        let up = |world: &Self, one: usize| world.replicas[one].up && world.replicas[one].exists;
        let position = |replica: &Replica| u64::try_from(replica.log.len()).unwrap();
        match &call.effect.kind {
            EffectKind::FreezeWrites => {
                if !up(self, O) {
                    return Err(("the original does not answer", true));
                }
                if planted == Some(Planted::PositionBeforeFreeze) {
                    let at = self.early_position.unwrap_or_default();
                    return Ok(Outcome::Frozen(Frozen {
                        writer: self.replicas[O].epoch + 1,
                        position: at,
                    }));
                }
                if !self.replicas[O].freeze_of(call.of) {
                    return Err(("the freeze is of another epoch", false));
                }
                Ok(Outcome::Frozen(Frozen {
                    writer: self.replicas[O].epoch,
                    position: position(&self.replicas[O]),
                }))
            }
            EffectKind::CatchUp => {
                let frozen = call.frozen.ok_or(("nothing is frozen", false))?;
                if !up(self, O) || !up(self, S) {
                    return Err(("a replica does not answer", true));
                }
                if position(&self.replicas[S]) < frozen.position {
                    return Err(("behind", true));
                }
                if planted == Some(Planted::PositionBeforeFreeze) {
                    self.replicas[O].freeze(0);
                    // What is followed ends at the position that was noted.
                    let end = usize::try_from(frozen.position).unwrap();
                    self.replicas[S].log.truncate(end);
                    self.replicas[S].mode = Mode::Frozen;
                    return Ok(Outcome::Done);
                }
                if self.replicas[O].mode == Mode::Writer {
                    return Err(("it takes writes itself", false));
                }
                self.replicas[O].mode = Mode::Follower;
                Ok(Outcome::Done)
            }
            EffectKind::OpenWrites => {
                let frozen = call.frozen.ok_or(("nothing is frozen", false))?;
                self.open(S, frozen.writer)
            }
            EffectKind::Undo(Undo::Reopen) => {
                let frozen = call.frozen.ok_or(("nothing is frozen", false))?;
                self.open(O, frozen.writer)
            }
            EffectKind::Undo(Undo::WritesBack) => {
                if !up(self, O) {
                    return Err(("the original does not answer", true));
                }
                if !self.replicas[O].freeze_of(call.of) {
                    return Err(("the freeze is of another epoch", false));
                }
                let mut back = Frozen {
                    writer: self.replicas[O].epoch + 1,
                    position: position(&self.replicas[O]),
                };
                if !up(self, S) {
                    return if call.opened {
                        Err(("the shadow may have writes and does not answer", true))
                    } else {
                        Ok(Outcome::Frozen(back))
                    };
                }
                self.replicas[S].freeze(back.writer);
                back.writer = self.replicas[S].epoch;
                if self.replicas[S].wrote {
                    self.replicas[O].mode = Mode::Follower;
                    let there = position(&self.replicas[S]);
                    let lost = planted == Some(Planted::NoReverseSync);
                    if position(&self.replicas[O]) < there && !lost {
                        return Err(("the original is behind", true));
                    }
                    back.position = there;
                }
                Ok(Outcome::Frozen(back))
            }
            EffectKind::Undo(Undo::DestroyShadow) => {
                self.replicas[S].exists = false;
                self.replicas[S].up = false;
                self.replicas[S].mode = Mode::Frozen;
                self.drop_requests(S);
                Ok(Outcome::Done)
            }
            EffectKind::Terminate { .. } => {
                self.replicas[O].exists = false;
                self.replicas[O].up = false;
                self.drop_requests(O);
                Ok(Outcome::Done)
            }
            _ => Ok(Outcome::Done),
        }
    }

    fn open(&mut self, one: usize, writer: u64) -> Result<Outcome, (&'static str, bool)> {
        let replica = &mut self.replicas[one];
        if !replica.up || !replica.exists {
            return Err(("the replica does not answer", true));
        }
        if writer < replica.epoch && self.planted != Some(Planted::NoFence) {
            return Err(("the epoch is stale", false));
        }
        replica.epoch = writer.max(replica.epoch);
        replica.mode = Mode::Writer;
        replica.wrote = true;
        Ok(Outcome::Done)
    }

    fn publish(&mut self, effect: Effect, way: Way) {
        // Planted, as Vitess had it: the position is noted when writes begin to be locked out.
        let here = u64::try_from(self.replicas[O].log.len()).unwrap();
        self.early_position.get_or_insert(here);
        if self.published != way || self.revision == 0 {
            self.published = way;
            self.revision += 1;
        }
        self.doing = Doing::Published(effect, self.revision);
    }

    fn coordinator(&mut self) {
        match std::mem::replace(&mut self.doing, Doing::Asked) {
            Doing::Work(effect) => self.work(effect),
            Doing::Published(effect, revision) => {
                let early = self.planted == Some(Planted::ReleasedBeforeAllFlipped)
                    && self.published == (Way { to: S, hold: true });
                let all = self.proxies.iter().all(|proxy| proxy.acked >= revision);
                let any = self.proxies.iter().any(|proxy| proxy.acked >= revision);
                if all || early && any {
                    self.doing = Doing::Got(What::Succeeded {
                        op: effect.op,
                        outcome: Outcome::Done,
                    });
                } else if self.dice.one_in(60) {
                    self.doing = Doing::Got(What::Failed {
                        op: effect.op,
                        error: "not within its deadline".to_owned(),
                        may_retry: true,
                    });
                } else {
                    self.doing = Doing::Published(effect, revision);
                }
            }
            Doing::Got(what) => self.take(what),
            Doing::Asked => {
                // Nobody answers: the deadline passes, and the call may still arrive.
                let waits = self.calls.iter().any(|call| call.awaited);
                if !waits && matches!(self.record.phase, Phase::Parked) {
                    self.doing = Doing::Got(What::RetryParked);
                } else if self.dice.one_in(30)
                    && let Some(call) = self.calls.iter_mut().find(|call| call.awaited)
                {
                    call.awaited = false;
                    self.doing = Doing::Got(What::Failed {
                        op: call.effect.op,
                        error: "no answer".to_owned(),
                        may_retry: true,
                    });
                }
            }
        }
    }

    fn work(&mut self, effect: Effect) {
        let op = effect.op;
        let done = |outcome| Doing::Got(What::Succeeded { op, outcome });
        let to = |split: WeightSplit| if split == WeightSplit::SHADOW { S } else { O };
        match &effect.kind {
            EffectKind::Route(RouteTo { split, hold, .. }) => {
                let way = Way {
                    to: to(*split),
                    hold: *hold == Hold::Writes,
                };
                self.publish(effect, way);
            }
            EffectKind::Undo(Undo::HoldWrites) => {
                let way = Way {
                    hold: true,
                    ..self.published
                };
                self.publish(effect, way);
            }
            EffectKind::Undo(Undo::FlipBack) => self.publish(effect, Way { to: O, hold: true }),
            EffectKind::Undo(Undo::ShiftBack | Undo::RestoreRouting) => {
                self.publish(effect, Way { to: O, hold: false });
            }
            EffectKind::Adopt => self.publish(effect, Way { to: S, hold: false }),
            EffectKind::Judge(_) => {
                let reason = String::new;
                let verdict = match self.dice.below(8) {
                    0 => Verdict::Rollback { reason: reason() },
                    1..=4 => Verdict::Hold { reason: reason() },
                    _ => Verdict::Promote { reason: reason() },
                };
                self.doing = done(Outcome::Judged(verdict));
            }
            EffectKind::AwaitDrain => {
                let busy = self.requests.values().any(|one| one.at == At::OnTheWay(O));
                let applied = self.proxies.iter().all(|one| one.acked >= self.revision);
                if busy || !applied {
                    self.doing = Doing::Work(effect);
                } else {
                    self.doing = done(Outcome::Drained(proof(&self.record, self.revision)));
                }
            }
            EffectKind::Release | EffectKind::Undo(Undo::ReleaseReservation) => {
                self.doing = done(Outcome::Done);
            }
            _ => {
                let call = self.call(effect, true);
                self.calls.push(call);
                self.doing = Doing::Asked;
            }
        }
    }

    fn take(&mut self, what: What) {
        let event = Event {
            at: Timestamp(self.clock),
            what,
        };
        if let Ok((next, effects)) = step(&self.record, event) {
            self.record = next;
            if let Some(effect) = effects.into_iter().next() {
                self.doing = Doing::Work(effect);
            }
        } else if !self.record.phase.is_final() {
            // An answer to what is over already.
            let epoch = self.record.epoch;
            self.doing = Doing::Got(What::TakenOver { epoch });
        }
    }
}

fn is_call(kind: &EffectKind) -> bool {
    matches!(
        kind,
        EffectKind::FreezeWrites
            | EffectKind::CatchUp
            | EffectKind::OpenWrites
            | EffectKind::Terminate { .. }
            | EffectKind::Undo(Undo::WritesBack | Undo::Reopen | Undo::DestroyShadow)
    )
}

fn pick<'a, T>(dice: &mut Dice, of: impl Iterator<Item = &'a T>) -> Option<&'a T> {
    let all: Vec<_> = of.collect();
    if all.is_empty() {
        return None;
    }
    let index = dice.below(all.len());
    all.into_iter().nth(index)
}

fn proof(record: &Migration, revision: u64) -> ZeroTraffic {
    let routing = Routing {
        service: record.service.clone(),
        revision,
        epoch: record.epoch,
        migration: Some(MigrationRouting {
            migration: MigrationId::new("m").unwrap(),
            instance: record.instance.clone(),
            original: record.original.endpoint,
            shadow: record.original.endpoint,
            split: WeightSplit::SHADOW,
            mirror: false,
            hold: Hold::Off,
        }),
    };
    let status = RoutingStatus {
        service: record.service.clone(),
        revision,
        state: RoutingState::Applied,
        nodes: BTreeMap::<NodeId, _>::new(),
        at: Timestamp(0),
    };
    ZeroTraffic::prove(&routing, &status, 0, DrainDeadline::Ahead).unwrap()
}
