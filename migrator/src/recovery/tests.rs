use std::collections::BTreeMap;

use domain::migration::{Event, Frozen, Limits, Outcome, Verdict as Judged, What};
use domain::routing::DrainDeadline;
use domain::{
    Capacity, ConsistencyClass, Endpoint, Epoch, HostId, InstanceId, InstanceState, MigrationId,
    MigrationRouting, Move, PlanId, RampPlan, Resources, RoutingState, RoutingStatus, Timestamp,
    ZeroTraffic, step,
};

use super::*;

fn replica(tag: &str, host: &str, port: u16) -> Replica {
    Replica {
        host: HostId::new(host).unwrap(),
        endpoint: Endpoint(([127, 0, 0, 1], port).into()),
        handle: String::new(),
        tag: tag.to_owned(),
    }
}

fn instance() -> Instance {
    let spec = serde_json::json!({
        "id": "shop-1", "service": "shop", "argv": ["server"], "class": "stateless"
    });
    Instance {
        spec: serde_json::from_value(spec).unwrap(),
        replica: replica("shop-1", "a", 1),
        state: InstanceState::Running,
        placed_at: Timestamp(0),
    }
}

fn fresh() -> Migration {
    fresh_of(ConsistencyClass::Stateless)
}

fn fresh_of(class: ConsistencyClass) -> Migration {
    let mut instance = instance();
    instance.spec.class = class;
    let intent = Move {
        instance: InstanceId::new("shop-1").unwrap(),
        from: HostId::new("a").unwrap(),
        target: HostId::new("b").unwrap(),
        ramp: RampPlan::standard(1),
        reserve: Resources::default(),
        score: 0.0,
        reasons: Vec::new(),
        expected: domain::Expected::default(),
    };
    Migration::new(
        MigrationId::new("m-1").unwrap(),
        PlanId::new("p-1").unwrap(),
        &instance,
        &intent,
        Limits::default(),
        Epoch(1),
        Timestamp(0),
    )
}

fn shadow() -> Replica {
    replica("m-1", "b", 2)
}

fn proof(record: &Migration) -> ZeroTraffic {
    let routing = split(record, WeightSplit::SHADOW);
    let status = RoutingStatus {
        service: record.service.clone(),
        revision: routing.revision,
        state: RoutingState::Applied,
        nodes: BTreeMap::new(),
        at: Timestamp(0),
    };
    ZeroTraffic::prove(&routing, &status, 0, DrainDeadline::Ahead).unwrap()
}

fn split(record: &Migration, split: WeightSplit) -> Routing {
    Routing {
        service: record.service.clone(),
        revision: 5,
        epoch: Epoch(1),
        migration: Some(MigrationRouting {
            migration: record.id.clone(),
            instance: record.instance.clone(),
            original: record.original.endpoint,
            shadow: shadow().endpoint,
            split,
            mirror: false,
            hold: domain::Hold::Off,
        }),
    }
}

fn usual(record: &Migration) -> Routing {
    Routing {
        migration: None,
        ..split(record, WeightSplit::ORIGINAL)
    }
}

/// Every record on the way forward, from its creation to its end: ramped, and cut over.
fn way_forward() -> Vec<Migration> {
    let mut records = way_of(ConsistencyClass::Stateless);
    records.extend(way_of(ConsistencyClass::SingleWriter));
    records
}

fn way_of(class: ConsistencyClass) -> Vec<Migration> {
    let mut record = fresh_of(class);
    let mut records = vec![record.clone()];
    let mut what = What::Start;
    loop {
        let event = Event {
            at: Timestamp(1),
            what,
        };
        let (next, effects) = step(&record, event).unwrap();
        record = next;
        let Some(effect) = effects.into_iter().next() else {
            return records;
        };
        records.push(record.clone());
        let outcome = match &effect.kind {
            EffectKind::PrepareShadow => Outcome::Prepared(shadow().endpoint),
            EffectKind::SyncRound => Outcome::Synced { lag_bytes: 0 },
            EffectKind::Fork => Outcome::Forked(shadow()),
            EffectKind::Judge(_) => Outcome::Judged(Judged::Promote {
                reason: String::new(),
            }),
            EffectKind::AwaitDrain => Outcome::Drained(proof(&record)),
            EffectKind::FreezeWrites => Outcome::Frozen(Frozen {
                writer: 2,
                position: 1,
            }),
            EffectKind::Reserve
            | EffectKind::CatchUp
            | EffectKind::OpenWrites
            | EffectKind::Reidentify
            | EffectKind::Verify
            | EffectKind::Route(_)
            | EffectKind::Adopt
            | EffectKind::Terminate { .. }
            | EffectKind::Release
            | EffectKind::Undo(_) => Outcome::Done,
        };
        what = What::Succeeded {
            op: effect.op,
            outcome,
        };
    }
}

/// The world as it is before, and as it is after, a record's pending effect.
fn worlds(record: &Migration) -> Vec<Observed> {
    let line = LogLine {
        at: Timestamp(0),
        event: String::new(),
        phase: record.phase,
        next: Vec::new(),
    };
    let reservation = Reservation {
        migration: record.id.clone(),
        host: record.target.clone(),
        amount: record.reserve,
    };
    let target: Host = serde_json::from_value(serde_json::json!({
        "id": "b", "capacity": Capacity::default()
    }))
    .unwrap();
    let pending = record.pending.as_ref().map(|pending| &pending.kind);
    let forked = record.shadow.is_some();
    let adopted = record.phase == Phase::Terminating;
    let routed = matches!(
        record.phase,
        Phase::Ramping { .. }
            | Phase::Soaking
            | Phase::CutOver
            | Phase::Draining
            | Phase::Committed
    ) || (record.phase == Phase::Mirroring
        && matches!(pending, Some(EffectKind::Judge(_))));
    let mut own = instance();
    if adopted {
        own.replica = shadow();
    }
    let released = matches!(pending, Some(EffectKind::Release));
    let before = Observed {
        original: (!released).then(|| record.original.clone()),
        shadow: forked.then(shadow),
        instance: Some(own),
        target: Some(target),
        reservation: (record.phase != Phase::Planned).then(|| reservation.clone()),
        routing: Some(if routed {
            split(record, record.split())
        } else {
            usual(record)
        }),
        published: Some(5),
        last_line: (record.pending.is_some()).then_some(line),
        loss: None,
    };
    let mut after = before.clone();
    match pending {
        Some(EffectKind::Reserve) => after.reservation = Some(reservation),
        Some(EffectKind::Fork) => after.shadow = Some(shadow()),
        Some(EffectKind::Route(to)) => after.routing = Some(split(record, to.split)),
        Some(EffectKind::Adopt) => {
            after.routing = Some(usual(record));
            after.instance = Some(Instance {
                replica: shadow(),
                ..instance()
            });
        }
        Some(EffectKind::Terminate { .. }) => after.original = None,
        Some(EffectKind::Release) => after.reservation = None,
        _ => {}
    }
    vec![before, after]
}

#[test]
fn a_crash_at_any_step_before_or_after_its_effect_is_gone_on_from() {
    let records = way_forward();
    assert!(records.len() > 40, "{}", records.len());
    for record in &records {
        for world in worlds(record) {
            let verdict = compare(record, &world);
            assert_eq!(verdict, Verdict::Resume, "{record:#?}\n{world:#?}");
        }
    }
}

#[test]
fn a_crash_while_rolling_back_from_anywhere_is_gone_on_from() {
    let mut seen = 0;
    for record in way_forward() {
        let abort = Event {
            at: Timestamp(2),
            what: What::Abort {
                reason: "test".to_owned(),
            },
        };
        let Ok((back, _)) = step(&record, abort) else {
            continue;
        };
        if back.phase != Phase::RollingBack {
            continue;
        }
        for mut world in worlds(&record) {
            if let Some(line) = &mut world.last_line {
                line.phase = back.phase;
            }
            world.last_line = world.last_line.or(Some(LogLine {
                at: Timestamp(0),
                event: String::new(),
                phase: back.phase,
                next: Vec::new(),
            }));
            assert_eq!(compare(&back, &world), Verdict::Resume, "{back:#?}");
            seen += 1;
        }
    }
    assert!(seen > 20, "{seen}");
}

/// The question that a meddled world leads to, at every record where it is one.
fn questions(meddle: impl Fn(&mut Observed), phase: impl Fn(&Migration) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for record in way_forward().iter().filter(|record| phase(record)) {
        for mut world in worlds(record) {
            meddle(&mut world);
            match compare(record, &world) {
                Verdict::Park(question) => found.push(question),
                other @ (Verdict::Resume | Verdict::RollBack(_)) => {
                    panic!("{other:?}: {record:#?}\n{world:#?}")
                }
            }
        }
    }
    assert!(!found.is_empty(), "no record was in such a phase");
    found
}

fn all_say(questions: &[String], words: &str) {
    for question in questions {
        assert!(question.contains(words), "{question}");
    }
}

fn is_pending(record: &Migration, wanted: impl Fn(&EffectKind) -> bool) -> bool {
    record.pending.as_ref().is_some_and(|p| wanted(&p.kind))
}

#[test]
fn the_original_is_not_taken_away_when_the_shadow_is_gone() {
    let about_to_end = |record: &Migration| {
        is_pending(record, |kind| {
            matches!(kind, EffectKind::Adopt | EffectKind::Terminate { .. })
        })
    };
    let questions = questions(|world| world.shadow = None, about_to_end);
    all_say(
        &questions,
        "the shadow, which has all traffic, does not run",
    );
}

#[test]
fn the_shadow_is_not_taken_away_when_the_original_is_gone() {
    let before_commit =
        |record: &Migration| !matches!(record.phase, Phase::Committed | Phase::Terminating);
    let questions = questions(|world| world.original = None, before_commit);
    all_say(&questions, "the original does not run");
}

#[test]
fn a_shadow_that_died_before_the_commit_is_rolled_back_without_a_person() {
    let mut seen = 0;
    for record in way_forward() {
        let serves = matches!(
            record.phase,
            Phase::Reidentifying
                | Phase::Verifying
                | Phase::Mirroring
                | Phase::Ramping { .. }
                | Phase::Soaking
                | Phase::CutOver
                | Phase::Draining
        );
        for mut world in worlds(&record).into_iter().filter(|_| serves) {
            world.shadow = None;
            let verdict = compare(&record, &world);
            assert!(matches!(verdict, Verdict::RollBack(_)), "{verdict:?}");
            seen += 1;
        }
    }
    assert!(seen > 10, "{seen}");
}

#[test]
fn a_record_that_is_behind_the_world_is_parked() {
    let early = |record: &Migration| matches!(record.phase, Phase::ShadowCreating | Phase::Syncing);
    all_say(
        &questions(|world| world.shadow = Some(shadow()), early),
        "a shadow runs already",
    );
    let record = fresh();
    let routed = move |world: &mut Observed| {
        world.routing = Some(split(&record, WeightSplit::SHADOW));
    };
    all_say(&questions(routed, early), "shop is split for it");
}

#[test]
fn a_store_that_went_back_is_parked_by_what_data_planes_have() {
    let any = |record: &Migration| record.pending.is_some();
    let newer = |world: &mut Observed| world.published = Some(9);
    all_say(
        &questions(newer, any),
        "data planes have revision 9 of shop, the store only 5",
    );
    all_say(
        &questions(|world| world.routing = None, any),
        "routing of shop is gone",
    );
}

#[test]
fn what_is_missing_or_of_another_is_named() {
    let any = |record: &Migration| record.pending.is_some();
    all_say(
        &questions(|world| world.last_line = None, any),
        "its log is gone",
    );
    all_say(
        &questions(|world| world.instance = None, any),
        "instance shop-1 is unknown",
    );
    all_say(
        &questions(|world| world.target = None, any),
        "host b is unknown",
    );
    let stranger = |world: &mut Observed| {
        let record = Migration {
            id: MigrationId::new("m-2").unwrap(),
            ..fresh()
        };
        world.routing = Some(split(&record, WeightSplit::ORIGINAL));
    };
    all_say(&questions(stranger, any), "split for migration m-2");
    let reserved = |record: &Migration| {
        any(record)
            && record.phase != Phase::Planned
            && !is_pending(record, |kind| matches!(kind, EffectKind::Release))
    };
    all_say(
        &questions(|world| world.reservation = None, reserved),
        "nothing is reserved on b",
    );
    let split_gone = |world: &mut Observed| world.routing = Some(usual(&fresh()));
    let ramps =
        |record: &Migration| matches!(record.phase, Phase::Ramping { .. } | Phase::Draining);
    let ramps = |record: &Migration| {
        ramps(record) && !is_pending(record, |kind| matches!(kind, EffectKind::Route(_)))
    };
    all_say(&questions(split_gone, ramps), "shop is not split");
    let other_line = |world: &mut Observed| {
        if let Some(line) = &mut world.last_line {
            line.phase = Phase::Done;
        }
    };
    all_say(&questions(other_line, any), "its log ends with done");
}

#[test]
fn what_is_older_than_an_acknowledged_loss_waits_for_a_person_whatever_it_looks_like() {
    let record = fresh();
    let mut observed = Observed {
        original: Some(record.original.clone()),
        instance: Some(instance()),
        target: serde_json::from_value(serde_json::json!({
            "id": "b", "capacity": Capacity::default()
        }))
        .unwrap(),
        ..Observed::default()
    };
    assert_eq!(compare(&record, &observed), Verdict::Resume);
    observed.loss = Some(Timestamp(7));
    let verdict = compare(&record, &observed);
    let Verdict::Park(question) = &verdict else {
        panic!("{verdict:?}");
    };
    assert!(question.contains("lost something since"), "{question}");
    // Once a person has answered, the record is younger.
    let mut younger = record;
    younger.history[0].at = Timestamp(8);
    assert_eq!(compare(&younger, &observed), Verdict::Resume);
}

#[tokio::test]
async fn the_last_loss_counts() {
    let store = store::MemoryStore::new();
    assert_eq!(last_loss(&store).await, Ok(None));
    for at in [3, 9] {
        note_loss(&store, Timestamp(at)).await.unwrap();
    }
    assert_eq!(last_loss(&store).await, Ok(Some(Timestamp(9))));
}
