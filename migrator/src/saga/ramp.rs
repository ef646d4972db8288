//! A ramp under way: what the pure pilot says is published, and what it rests on is stored.
//!
//! # Flow
//! ```text
//! traffic ─▶ ledger ─▶ look ─▶ pilot ─▶ answer ─▶ store (state + record of the look) ─▶ routing
//!             ▲                  ▲
//!             └── Kind::Ramp ────┘   both come back from the store as one, so that a new leader goes
//!                                    on with the same evidence and counts nothing twice
//! ```
//! Looks are stored at least once a second, and before anything that follows from them is done. What
//! a crash takes is neither in the state nor in the record, and is counted again by the next look.

use std::collections::BTreeMap;
use std::time::Duration;

use domain::migration::{JudgeScope, RouteTo, Verdict};
use domain::routing::side_cluster;
use domain::{
    BasisPoints, ConsistencyClass, Hold, Migration, NodeId, Pairs, RoutingState, RoutingStatus,
    ServiceId, Side, Timestamp, WeightSplit,
};
use serde::{Deserialize, Serialize};
use store::{Expect, Key, Kind, LogName, Store, StoreError, Transaction};

use super::effects::{self, EffectError};
use super::{Context, Progress, guard, traffic};
use crate::judge::{
    Answer, Evidence, Increment, Ledger, Look, Neighbour, Past, Pilot, RampLine, Steering,
};
use crate::pairs::{self, Finding, PairLedger};
use crate::settings::JudgeSettings;

/// How often the world is looked at.
const TICK: Duration = Duration::from_millis(50);
/// Looks are no nearer to each other than this, in milliseconds: each leaves a line in the record.
const APART_MS: u64 = 50;
/// A look without anything new is taken, looks are stored, and guards are asked, this often in
/// milliseconds.
const LEAST_MS: u64 = 1_000;
/// A service with fewer sessions before the ramp is judged by requests.
const LEAST_SESSIONS: u64 = 20;
/// Data planes that have not applied a weight by then are a failure, in milliseconds.
const APPLY_MS: u64 = 60_000;

/// What is stored of a ramp, by migration id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RampRecord {
    /// When it began.
    pub began: Timestamp,
    /// Judge and weight.
    pub pilot: Pilot,
    /// What the data planes' totals were.
    pub ledger: Ledger,
    /// The settings of the last look.
    pub settings: JudgeSettings,
    /// The services beside the shadow, as they were when it began.
    #[serde(default)]
    pub neighbours: BTreeMap<ServiceId, Neighbour>,
}

/// Name of the record of a ramp's looks: [`RampLine`]s.
pub fn log_name(migration: &domain::MigrationId) -> LogName {
    LogName(format!("ramp/{migration}"))
}

fn key(migration: &Migration) -> Key {
    Key::new(Kind::Ramp, migration.id.as_str())
}

/// The split that a route effect means now: that of the stage, unless the weight is computed or an
/// alarm has lowered it.
pub(super) async fn split(
    context: &Context,
    migration: &Migration,
    to: RouteTo,
) -> Result<WeightSplit, EffectError> {
    use domain::Phase;
    let scope = match migration.phase {
        Phase::Ramping { stage } => JudgeScope::Stage { stage },
        Phase::Soaking => JudgeScope::Soak,
        Phase::Planned
        | Phase::HostReserved
        | Phase::ShadowCreating
        | Phase::Syncing
        | Phase::Forking
        | Phase::Reidentifying
        | Phase::Verifying
        | Phase::Mirroring
        | Phase::CutOver
        | Phase::Draining
        | Phase::Committed
        | Phase::Terminating
        | Phase::Done
        | Phase::RollingBack
        | Phase::RolledBack
        | Phase::Parked => return Ok(to.split),
    };
    let Some(record) = context.store.get(&key(migration)).await? else {
        return Ok(to.split);
    };
    let ramp: RampRecord = record.parse()?.value;
    let weight = ramp.pilot.weight_of(scope, &context.settings.judge);
    Ok(share(weight).min(to.split))
}

/// Whether the shadow of a migration is known or thought to do harm.
pub(super) async fn harms(context: &Context, migration: &Migration) -> Result<bool, EffectError> {
    let Some(record) = context.store.get(&key(migration)).await? else {
        return Ok(false);
    };
    let ramp: RampRecord = record.parse()?.value;
    Ok(ramp.pilot.harms(&ramp.settings))
}

fn share(weight: u32) -> WeightSplit {
    WeightSplit::shadow_share(BasisPoints::new(weight).unwrap_or(BasisPoints::ALL))
}

/// A ramp that is looked after.
pub(super) struct Ramp<'a> {
    context: &'a Context,
    migration: &'a Migration,
    scope: JudgeScope,
    record: RampRecord,
    /// Lines that are not stored yet.
    lines: Vec<RampLine>,
    stored_ms: u64,
    looked_ms: Option<u64>,
    /// The weight that is published, and its revision and time while it is not applied.
    weight: u32,
    asked: Option<(u64, u64)>,
    /// What the guards said, and when.
    guarded: Option<(u64, Option<String>)>,
    /// While requests are copied: what both sides answered to them.
    pairs: Option<PairLedger>,
}

impl<'a> Ramp<'a> {
    /// Takes up the ramp from the store, or begins it.
    pub(super) async fn take_up(
        context: &'a Context,
        migration: &'a Migration,
        scope: JudgeScope,
    ) -> Result<Self, EffectError> {
        let settings = context.settings.judge;
        let mut lines = Vec::new();
        let record = match context.store.get(&key(migration)).await? {
            Some(record) => record.parse::<RampRecord>()?.value,
            None => begin(context, migration, &mut lines).await?,
        };
        let mut ramp = Self {
            context,
            migration,
            scope,
            record,
            lines,
            stored_ms: 0,
            looked_ms: None,
            weight: 0,
            asked: None,
            guarded: None,
            pairs: None,
        };
        if scope == JudgeScope::Mirror {
            let start = traffic::traffic(context, migration).await?;
            let shadow = side_cluster(&migration.service, &migration.instance, Side::Shadow);
            ramp.pairs = Some(PairLedger::begin(shadow, start.as_ref()));
        }
        if ramp.record.settings != settings {
            ramp.record.settings = settings;
            ramp.lines.push(RampLine::Settings { settings });
        }
        let at_ms = ramp.at_ms();
        ramp.record.pilot.enter(scope, at_ms, &settings);
        ramp.lines.push(RampLine::Entered { scope, at_ms });
        ramp.weight = effects::current_routing(context, migration)
            .await?
            .and_then(|routing| routing.value.migration)
            .map_or(0, |routing| routing.split.shadow().get());
        Ok(ramp)
    }

    /// Looks until there is a verdict.
    pub(super) async fn judge(mut self) -> Result<Verdict, EffectError> {
        let mut tick = tokio::time::interval(TICK);
        loop {
            tick.tick().await;
            let Some(answer) = self.look().await? else {
                continue;
            };
            match answer.verdict {
                Verdict::Promote { .. } | Verdict::Rollback { .. } => return Ok(answer.verdict),
                Verdict::Hold { .. } | Verdict::Inconclusive { .. } => {}
            }
            if let Some(weight) = self.wants(&answer) {
                self.publish(weight).await?;
            }
        }
    }

    /// The weight that an answer asks for, if it is another one.
    fn wants(&self, answer: &Answer) -> Option<u32> {
        let may = self.scope != JudgeScope::Mirror && may_be_shared(self.migration.class);
        Some(answer.weight).filter(|weight| may && *weight != self.weight)
    }

    fn at_ms(&self) -> u64 {
        self.context.clock.now().since(self.record.began)
    }

    /// Takes in what was reported since the last look, unless that is nothing.
    async fn look(&mut self) -> Result<Option<Answer>, EffectError> {
        let (context, migration) = (self.context, self.migration);
        let apart = |last: u64| self.at_ms().saturating_sub(last) < APART_MS;
        if self.looked_ms.is_some_and(apart) {
            return Ok(None);
        }
        let traffic = traffic::traffic(context, migration).await?;
        let nodes = traffic::nodes(context, migration).await?;
        let began = self.record.began;
        let reported = |node: &NodeId| {
            let state = traffic.as_ref().and_then(|t| t.nodes.get(node));
            state.map_or(began, |state| state.reported_at)
        };
        // The oldest word counts: a node that is silent may be seeing errors.
        let oldest = nodes.iter().map(reported).min().unwrap_or(began);
        let now = context.clock.now();
        let at_ms = self.at_ms();
        let finding = self.pairs.as_mut().map(|pairs| {
            let none = Pairs::default();
            let seen = traffic.as_ref().map_or(&none, |t| pairs.take(t));
            pairs::judge(seen, at_ms, &context.settings.pairs)
        });
        let mut ledger = self.record.ledger.clone();
        let more = traffic.map_or_else(Increment::default, |t| ledger.take(&t));
        let idle = more == Increment::default();
        let fresh = |last: u64| at_ms.saturating_sub(last) < LEAST_MS;
        let proven = matches!(finding, Some(Finding::Proven(_)));
        if idle && !proven && self.looked_ms.is_some_and(fresh) {
            return Ok(None);
        }
        self.looked_ms = Some(at_ms);
        let guarded = self.guard(at_ms).await?;
        let look = Look {
            at_ms,
            clock: now,
            more,
            age_ms: now.since(oldest),
            applied: self.applied(at_ms).await?,
            steering: steering(context, migration).await?,
            guard: match &finding {
                // While pairs are missing the ramp does not begin.
                Some(Finding::Wait(reason)) => Some(reason.clone()),
                Some(Finding::Proven(_) | Finding::Fine(_)) => None,
                None => guarded,
            },
        };
        self.record.ledger = ledger;
        let mut answer = self.record.pilot.look(&look, &self.record.settings);
        let evidence = self
            .record
            .pilot
            .judge()
            .evidence(look.age_ms, &self.record.settings);
        self.lines.push(RampLine::Looked {
            look: Box::new(look),
            answer: answer.clone(),
            ln_bits: self.record.pilot.ln_bits(),
        });
        answer.verdict = with_pairs(answer.verdict, finding);
        self.store(at_ms, &answer, evidence).await?;
        Ok(Some(answer))
    }

    /// What the guards say; while requests are copied they only begin to watch.
    async fn guard(&mut self, at_ms: u64) -> Result<Option<String>, EffectError> {
        if let Some((last, said)) = &self.guarded
            && at_ms.saturating_sub(*last) < LEAST_MS
        {
            return Ok(said.clone());
        }
        let neighbours = &mut self.record.neighbours;
        let (context, migration) = (self.context, self.migration);
        let said = guard::against_more(context, migration, self.weight, neighbours).await?;
        self.guarded = Some((at_ms, said.clone()));
        Ok(said)
    }

    /// Stores state, record and what is shown, where something follows or it is time.
    async fn store(
        &mut self,
        at_ms: u64,
        answer: &Answer,
        evidence: Evidence,
    ) -> Result<(), EffectError> {
        let note = match &answer.verdict {
            Verdict::Rollback { reason }
            | Verdict::Hold { reason }
            | Verdict::Promote { reason }
            | Verdict::Inconclusive { reason } => reason.clone(),
        };
        let progress = Progress {
            migration: self.migration.id.clone(),
            step: "judge".to_owned(),
            note,
            evidence: Some(evidence),
        };
        let shown = Key::new(Kind::Progress, self.migration.id.as_str());
        let mut put = Transaction::new().put(shown, Expect::Any, &progress)?;
        let follows = match &answer.verdict {
            Verdict::Promote { .. } | Verdict::Rollback { .. } => true,
            Verdict::Hold { .. } | Verdict::Inconclusive { .. } => self.wants(answer).is_some(),
        };
        if follows || at_ms.saturating_sub(self.stored_ms) >= LEAST_MS {
            put = put.fenced(&self.context.lease).put(
                key(self.migration),
                Expect::Any,
                &self.record,
            )?;
            for line in &self.lines {
                put = put.append(log_name(&self.migration.id), line)?;
            }
            self.context.store.commit(put).await?;
            self.lines.clear();
            self.stored_ms = at_ms;
        } else if let Err(error) = self.context.store.commit(put).await {
            // Losing what is shown loses nothing.
            tracing::debug!(%error, "progress was not stored");
        }
        Ok(())
    }

    /// Whether every data plane has the weight that was published last.
    async fn applied(&mut self, at_ms: u64) -> Result<bool, EffectError> {
        let Some((revision, since)) = self.asked else {
            return Ok(true);
        };
        let status: Option<RoutingStatus> = traffic::status(self.context, self.migration).await?;
        let Some(status) = status else {
            return Ok(false);
        };
        if status.has_applied(revision) {
            self.asked = None;
            return Ok(true);
        }
        if status.revision >= revision && status.state == RoutingState::Rejected {
            let reasons = format!("{:?}", status.nodes);
            return Err(EffectError::Refused(format!(
                "a data plane refused it: {reasons}"
            )));
        }
        if at_ms.saturating_sub(since) > APPLY_MS {
            return Err(EffectError::NotYet(format!(
                "revision {revision} is not applied everywhere after {APPLY_MS} ms"
            )));
        }
        Ok(false)
    }

    async fn publish(&mut self, weight: u32) -> Result<(), EffectError> {
        let to = RouteTo {
            split: share(weight),
            mirror: false,
            hold: Hold::Off,
        };
        let routing = effects::publish(self.context, self.migration, Some(to)).await?;
        tracing::info!(
            migration = %self.migration.id, from = self.weight, to = weight, "weight"
        );
        self.weight = weight;
        self.asked = Some((routing.revision, self.at_ms()));
        Ok(())
    }
}

/// The judge's verdict on the copies, and what comparing them found: a proof rolls back.
fn with_pairs(verdict: Verdict, finding: Option<Finding>) -> Verdict {
    match (verdict, finding) {
        (_, Some(Finding::Proven(reason))) => Verdict::Rollback { reason },
        (Verdict::Promote { reason }, Some(Finding::Fine(pairs))) => Verdict::Promote {
            reason: format!("{reason}; {pairs}"),
        },
        (verdict, None | Some(Finding::Wait(_) | Finding::Fine(_))) => verdict,
    }
}

/// Whether both sides may be given requests. A single writer's shadow has all of them: a share
/// beside the writer would read what is old, and write nowhere.
pub(super) const fn may_be_shared(class: ConsistencyClass) -> bool {
    match class {
        ConsistencyClass::Stateless
        | ConsistencyClass::SharedState
        | ConsistencyClass::Sessions => true,
        ConsistencyClass::SingleWriter => false,
    }
}

async fn begin(
    context: &Context,
    migration: &Migration,
    lines: &mut Vec<RampLine>,
) -> Result<RampRecord, EffectError> {
    let settings = context.settings.judge;
    let name = |side| side_cluster(&migration.service, &migration.instance, side);
    let start = traffic::traffic(context, migration).await?;
    // The service's own cluster holds what was answered before the instance was split off.
    let total = |cluster: &str| start.as_ref().map(|t| t.cluster(cluster));
    let past = Past {
        baseline: total(migration.service.as_str()).unwrap_or_default(),
        sessions: start
            .as_ref()
            .map(|traffic| traffic.sessions(migration.service.as_str()))
            .filter(|sessions| sessions.ended() >= LEAST_SESSIONS),
    };
    let plan = if may_be_shared(migration.class) {
        migration.ramp.clone()
    } else {
        // The shadow has been given everything at once when it is judged.
        migration.ramp.at_once()
    };
    let rate = 0.0;
    let pilot = Pilot::begin(plan.clone(), past.clone(), rate, &settings);
    let pilot = pilot.map_err(EffectError::Refused)?;
    lines.push(RampLine::Began {
        plan,
        past: Box::new(past),
        rate,
        settings,
    });
    Ok(RampRecord {
        began: context.clock.now(),
        pilot,
        ledger: Ledger::begin(name(Side::Original), name(Side::Shadow), start.as_ref()),
        settings,
        neighbours: BTreeMap::new(),
    })
}

async fn steering(context: &Context, migration: &Migration) -> Result<Steering, EffectError> {
    let key = Key::new(Kind::Steering, migration.id.as_str());
    let found = context.store.get(&key).await?;
    let parsed = found.map(|record| record.parse()).transpose()?;
    Ok(parsed.map_or_else(Steering::default, |typed| typed.value))
}

/// What a person may ask of a ramp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Word {
    /// Keep the weight; harm is still rolled back.
    Pause,
    /// Keep the weight whatever happens: harm is told, not rolled back.
    Freeze,
    /// Take both back.
    Resume,
    /// Advance to the next stage now, unless harm is shown.
    Step,
    /// Advance every stage at once, unless harm is shown.
    Promote,
}

impl Word {
    fn apply(self, steering: &mut Steering, reason: &str) {
        match self {
            Self::Pause => steering.paused = true,
            Self::Freeze => steering.frozen = true,
            Self::Resume => (steering.paused, steering.frozen) = (false, false),
            Self::Step => steering.steps += 1,
            Self::Promote => steering.promote = Some(reason.to_owned()),
        }
    }

    /// The word in a log.
    const fn told(self) -> &'static str {
        match self {
            Self::Pause => "paused",
            Self::Freeze => "froze",
            Self::Resume => "resumed",
            Self::Step => "advanced",
            Self::Promote => "promoted",
        }
    }
}

/// Why a ramp cannot be told anything.
#[derive(Debug, thiserror::Error)]
pub enum SteerError {
    /// It cannot be done.
    #[error("{0}")]
    Refused(String),
    /// The store's words.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Tells a ramp a word, whoever leads: what people want stands in the store, with an entry in the
/// migration's log, and the leader reads it at its next look.
///
/// # Errors
/// [`SteerError`] when the migration is unknown or over, a promotion has no reason, or the store
/// does not answer.
pub async fn steer(
    store: &dyn Store,
    at: Timestamp,
    id: &domain::MigrationId,
    word: Word,
    reason: &str,
) -> Result<Steering, SteerError> {
    let refused = |words: String| Err(SteerError::Refused(words));
    if word == Word::Promote && reason.trim().is_empty() {
        return refused("a promotion needs a reason".to_owned());
    }
    let Some(record) = store.get(&Key::new(Kind::Migration, id.as_str())).await? else {
        return refused(format!("migration {id} is unknown"));
    };
    let migration: Migration = record.parse()?.value;
    if migration.phase.is_final() {
        let phase = migration.phase.name();
        return refused(format!(
            "migration {id} is {phase}: there is no ramp to steer"
        ));
    }
    let key = Key::new(Kind::Steering, id.as_str());
    let found = store.get(&key).await?;
    let expect = found.as_ref().map_or(Expect::Absent, |record| {
        Expect::Generation(record.generation)
    });
    let before: Option<Steering> = found.map(|r| r.parse()).transpose()?.map(|t| t.value);
    let mut steering = before.unwrap_or_default();
    word.apply(&mut steering, reason);
    let told = word.told();
    let line = super::LogLine {
        at,
        event: format!("an operator {told} the ramp: {reason}"),
        phase: migration.phase,
        next: Vec::new(),
    };
    let put = Transaction::new()
        .put(key, expect, &steering)?
        .append(super::log_name(id), &line)?;
    store.commit(put).await?;
    Ok(steering)
}
