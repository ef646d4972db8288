//! A single writer's migration that has come as far as the cut-over.

use domain::migration::{Event, Limits, Outcome, Verdict, What};
use domain::{
    BasisPoints, ConsistencyClass, EffectKind, Endpoint, Epoch, HostId, Instance, InstanceSpec,
    InstanceState, Migration, MigrationId, Move, Phase, PlanId, RampPlan, Replica, Resources,
    Stage, Timestamp, step,
};

fn replica(host: &str, port: u16) -> Replica {
    Replica {
        host: HostId::new(host).unwrap(),
        endpoint: Endpoint(([127, 0, 0, 1], port).into()),
        handle: String::new(),
        tag: host.to_owned(),
    }
}

fn planned() -> Migration {
    let spec = serde_json::json!({"id": "i", "service": "s", "argv": ["x"]});
    let mut spec: InstanceSpec = serde_json::from_value(spec).unwrap();
    spec.class = ConsistencyClass::SingleWriter;
    let instance = Instance {
        spec,
        replica: replica("a", 1),
        state: InstanceState::Running,
        placed_at: Timestamp(0),
    };
    let all = Stage {
        shadow: BasisPoints::ALL,
        hold_ms: 1,
    };
    let intent = Move {
        instance: instance.spec.id.clone(),
        from: HostId::new("a").unwrap(),
        target: HostId::new("b").unwrap(),
        ramp: RampPlan::new(vec![all]).unwrap(),
        reserve: Resources::default(),
        score: 1.0,
        reasons: Vec::new(),
        expected: domain::Expected::default(),
    };
    let limits = Limits {
        attempts: 6,
        freeze_ms: 4_000,
        ..Limits::default()
    };
    Migration::new(
        MigrationId::new("m").unwrap(),
        PlanId::new("p").unwrap(),
        &instance,
        &intent,
        limits,
        Epoch(1),
        Timestamp(0),
    )
}

/// The migration at the beginning of its cut-over.
pub(crate) fn copied() -> Migration {
    let at = |what| Event {
        at: Timestamp(0),
        what,
    };
    let mut record = step(&planned(), at(What::Start)).unwrap().0;
    while record.phase != Phase::CutOver {
        let pending = record.pending.clone().unwrap();
        let outcome = match pending.kind {
            EffectKind::PrepareShadow => Outcome::Prepared(replica("b", 2).endpoint),
            EffectKind::SyncRound => Outcome::Synced { lag_bytes: 0 },
            EffectKind::Fork => Outcome::Forked(replica("b", 2)),
            EffectKind::Judge(_) => Outcome::Judged(Verdict::Promote {
                reason: String::new(),
            }),
            _ => Outcome::Done,
        };
        let op = pending.op;
        record = step(&record, at(What::Succeeded { op, outcome }))
            .unwrap()
            .0;
    }
    record
}
