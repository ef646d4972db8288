//! What is published, in the domain's words: one input per service.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use domain::{
    Endpoint, Instance, InstanceId, InstanceState, MigrationRouting, Routing, Service, ServiceId,
};

/// All that decides the resources of one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceInput {
    /// The service.
    pub service: Service,
    /// What the migrator asks for, if it asked.
    pub routing: Option<Routing>,
    /// Where its running instances answer.
    pub running: BTreeMap<InstanceId, Endpoint>,
}

impl ServiceInput {
    /// The revision of its routing; 0 while nobody has asked for one.
    pub fn revision(&self) -> u64 {
        self.routing.as_ref().map_or(0, |routing| routing.revision)
    }

    /// The instance under migration, if one is.
    pub fn migration(&self) -> Option<&MigrationRouting> {
        self.routing.as_ref()?.migration.as_ref()
    }

    /// Endpoints of the service's shared cluster: all but the instance under migration.
    pub fn shared_endpoints(&self) -> BTreeSet<Endpoint> {
        let moving = self.migration().map(|migration| &migration.instance);
        self.running
            .iter()
            .filter(|(id, _)| Some(*id) != moving)
            .map(|(_, &endpoint)| endpoint)
            .collect()
    }

    /// How many instances share the service's traffic beside the one under migration.
    pub fn others(&self) -> usize {
        let moving = self.migration().map(|migration| &migration.instance);
        self.running.keys().filter(|id| Some(*id) != moving).count()
    }
}

/// Everything that shall be published.
pub type Inputs = BTreeMap<ServiceId, Arc<ServiceInput>>;

/// Joins the records. Instances and routings of services that do not exist are left out.
pub fn join<'a>(
    services: impl IntoIterator<Item = &'a Service>,
    instances: impl IntoIterator<Item = &'a Instance>,
    routings: impl IntoIterator<Item = &'a Routing>,
) -> Inputs {
    let mut inputs: BTreeMap<ServiceId, ServiceInput> = services
        .into_iter()
        .map(|service| {
            let input = ServiceInput {
                service: service.clone(),
                routing: None,
                running: BTreeMap::new(),
            };
            (service.id.clone(), input)
        })
        .collect();
    for instance in instances {
        if instance.state == InstanceState::Running
            && let Some(input) = inputs.get_mut(&instance.spec.service)
        {
            input
                .running
                .insert(instance.spec.id.clone(), instance.replica.endpoint);
        }
    }
    for routing in routings {
        if let Some(input) = inputs.get_mut(&routing.service) {
            input.routing = Some(routing.clone());
        }
    }
    inputs
        .into_iter()
        .map(|(id, input)| (id, Arc::new(input)))
        .collect()
}
