//! The one migration that is explored, and the proof of zero traffic for it.

use std::collections::BTreeMap;

use domain::migration::Limits;
use domain::routing::{DrainDeadline, Hold};
use domain::{
    BasisPoints, Endpoint, Epoch, HostId, Instance, InstanceId, InstanceState, Migration,
    MigrationId, MigrationRouting, Move, PlanId, RampPlan, Replica, Resources, Routing,
    RoutingState, RoutingStatus, ServiceId, Stage, Timestamp, ZeroTraffic,
};

use super::config::Config;
use super::words::Way;

/// The production proof, for a routing `way` that was asked for as `revision`, when everybody has
/// applied `applied`.
pub(super) fn prove(
    revision: u8,
    applied: u8,
    way: Way,
    in_progress: u64,
    deadline: DrainDeadline,
) -> Option<ZeroTraffic> {
    let Way::Split { shadow: split, .. } = way else {
        return None;
    };
    let service = service();
    let routing = Routing {
        service: service.clone(),
        revision: revision.into(),
        epoch: Epoch(0),
        migration: Some(MigrationRouting {
            migration: MigrationId::new("m").expect("valid"),
            instance: InstanceId::new("i").expect("valid"),
            original: original().endpoint,
            shadow: shadow().endpoint,
            split,
            mirror: false,
            hold: Hold::Off,
        }),
    };
    let status = RoutingStatus {
        service,
        revision: applied.into(),
        state: RoutingState::Applied,
        nodes: BTreeMap::new(),
        at: Timestamp(0),
    };
    ZeroTraffic::prove(&routing, &status, in_progress, deadline)
}
fn service() -> ServiceId {
    ServiceId::new("s").expect("valid")
}

fn replica(host: &str, port: u16) -> Replica {
    Replica {
        host: HostId::new(host).expect("valid"),
        endpoint: Endpoint(([127, 0, 0, 1], port).into()),
        handle: String::new(),
        tag: host.to_owned(),
    }
}

fn original() -> Replica {
    replica("a", 1)
}

pub(super) fn shadow() -> Replica {
    replica("b", 2)
}

pub(super) fn limits(config: &Config) -> Limits {
    Limits {
        attempts: config.attempts.into(),
        sync_rounds: config.rounds.into(),
        ..Limits::default()
    }
}

/// A ramp whose last stage is everything.
fn ramp(config: &Config) -> RampPlan {
    let stage = |share: BasisPoints| Stage {
        shadow: share,
        hold_ms: 1,
    };
    let rising = (1..u16::from(config.stages)).map(|n| BasisPoints::PERCENT.times(n));
    let stages = rising.chain([BasisPoints::ALL]).map(stage).collect();
    RampPlan::new(stages).expect("it rises to everything")
}

/// The migration before anything happened.
pub(super) fn template(config: &Config) -> Migration {
    let spec = serde_json::json!({"id": "i", "service": "s", "argv": ["x"]});
    let mut spec: domain::InstanceSpec = serde_json::from_value(spec).expect("a specification");
    spec.class = config.class;
    let instance = Instance {
        spec,
        replica: original(),
        state: InstanceState::Running,
        placed_at: Timestamp(0),
    };
    let intent = Move {
        instance: instance.spec.id.clone(),
        from: HostId::new("a").expect("valid"),
        target: HostId::new("b").expect("valid"),
        ramp: ramp(config),
        reserve: Resources::default(),
        score: 1.0,
        reasons: Vec::new(),
        expected: domain::Expected::default(),
    };
    Migration::new(
        MigrationId::new("m").expect("valid"),
        PlanId::new("p").expect("valid"),
        &instance,
        &intent,
        limits(config),
        Epoch(1),
        Timestamp(0),
    )
}
