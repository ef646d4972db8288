//! One service on its way from what is published to what is wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::envoy::envoy::config::route::v3::VirtualHost;
use domain::{Endpoint, NodeId, ServiceId};

use super::{StreamId, endpoints_resource};
use crate::input::ServiceInput;
use crate::resources::{Resource, ResourceType, ServiceResources, validate};
use crate::stream::{Published, Stream};

/// In whose name the control plane itself refuses something.
const CONTROL_PLANE: &str = "control-plane";

/// An input with the resources that follow from it.
#[derive(Debug, Clone)]
pub(super) struct Wish {
    pub(super) input: Arc<ServiceInput>,
    pub(super) resources: Arc<ServiceResources>,
    /// The same without the migration: the way between two migrations of one instance.
    between: Option<Arc<ServiceResources>>,
}

impl Wish {
    fn new(input: &Arc<ServiceInput>) -> Self {
        let between = input.migration().map(|migration| {
            let mut calm = ServiceInput::clone(input);
            calm.running
                .insert(migration.instance.clone(), migration.original);
            if let Some(routing) = &mut calm.routing {
                routing.migration = None;
            }
            Arc::new(ServiceResources::new(&calm))
        });
        let resources = Arc::new(ServiceResources::new(input));
        Self {
            input: Arc::clone(input),
            resources,
            between,
        }
    }
}

/// A wish that a node has refused.
#[derive(Debug)]
pub(super) struct Pin {
    refused: Wish,
    pub(super) node: NodeId,
    pub(super) kind: ResourceType,
    pub(super) reason: String,
}

/// How a published resource changed.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    /// What was there before.
    pub(crate) previous: Option<Arc<Resource>>,
    /// The generation of the routes before.
    pub(crate) generation: u64,
    /// Whether everybody must have it at once.
    pub(crate) urgent: bool,
}

/// What changed in one advance.
#[derive(Debug, Default)]
pub(super) struct Changes(BTreeMap<(ResourceType, Arc<str>), Change>);

impl Changes {
    /// Adds a change; what was there before all of them counts.
    pub(super) fn add(&mut self, kind: ResourceType, name: Arc<str>, change: Change) {
        let urgent = change.urgent;
        let known = self.0.entry((kind, name)).or_insert(change);
        known.urgent |= urgent;
    }

    fn add_calmly(&mut self, kind: ResourceType, name: &Arc<str>, previous: Option<Arc<Resource>>) {
        let change = Change {
            previous,
            generation: 0,
            urgent: false,
        };
        self.add(kind, Arc::clone(name), change);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (ResourceType, &Arc<str>, &Change)> {
        self.0
            .iter()
            .map(|((kind, name), change)| (*kind, name, change))
    }
}

/// One service: what is wanted of it, what is published, what was good.
#[derive(Debug)]
pub(super) struct ServiceState {
    /// What the store says; `None` when the service is deleted.
    pub(super) wanted: Option<Wish>,
    /// What is worked towards: the wish, or the last good one while the wish is refused.
    pub(super) effective: Option<Wish>,
    pub(super) pin: Option<Pin>,
    pub(super) last_good: Option<Wish>,
    /// Published endpoints per published cluster.
    pub(super) endpoints: BTreeMap<Arc<str>, BTreeSet<Endpoint>>,
    /// The virtual host inside the published routes, and since which generation.
    pub(super) routed: Option<VirtualHost>,
    pub(super) routed_generation: u64,
    /// The clusters that this virtual host names.
    pub(super) routed_named: BTreeSet<Arc<str>>,
    /// Those of them that get traffic.
    pub(super) routed_used: BTreeSet<Arc<str>>,
    /// Clusters taken away that a stream may still have.
    pub(super) retired: BTreeSet<Arc<str>>,
    /// Whether everything is acknowledged and reported; nothing to do until something changes.
    pub(super) settled: bool,
    /// Name of the service's own route configuration.
    own_routes: Arc<str>,
    /// The shadow's share by the published routes, in basis points of the instance's share.
    routed_shadow: u32,
    /// The stream that was found lacking last: it is looked at first.
    witness: StreamId,
}

impl ServiceState {
    pub(super) fn new(id: &ServiceId) -> Self {
        Self {
            wanted: None,
            effective: None,
            pin: None,
            last_good: None,
            endpoints: BTreeMap::new(),
            routed: None,
            routed_generation: 0,
            routed_named: BTreeSet::new(),
            routed_used: BTreeSet::new(),
            retired: BTreeSet::new(),
            settled: false,
            own_routes: Arc::from(api::xds::service_route_config(id.as_str())),
            routed_shadow: 0,
            witness: StreamId(0),
        }
    }

    /// Takes a new wish in. One that amounts to what has been refused stays refused.
    pub(super) fn want(&mut self, input: Option<&Arc<ServiceInput>>) {
        let known = self.wanted.as_ref().map(|wish| &wish.input);
        if known == input && (input.is_some() || self.effective.is_none()) {
            return;
        }
        self.settled = false;
        self.wanted = input.map(Wish::new);
        let refused = match (&self.pin, &self.wanted) {
            (Some(pin), Some(wish)) => pin.refused.resources == wish.resources,
            (Some(_) | None, _) => false,
        };
        if refused {
            return;
        }
        self.pin = None;
        if let Some(wish) = &self.wanted
            && let Err(reason) = validate::check(&wish.resources)
        {
            self.refuse_unpublished(wish.clone(), &reason.to_string());
            return;
        }
        self.effective.clone_from(&self.wanted);
    }

    /// What a data plane would refuse is not even tried: what is in force stays.
    fn refuse_unpublished(&mut self, refused: Wish, reason: &str) {
        tracing::error!(service = %refused.input.service.id, reason, "not published");
        self.pin = NodeId::new(CONTROL_PLANE).ok().map(|node| Pin {
            refused,
            node,
            kind: ResourceType::Route,
            reason: format!("not published: {reason}"),
        });
    }

    /// Takes the effective wish for good without a proof.
    pub(super) fn presume_good(&mut self) {
        self.last_good.clone_from(&self.effective);
    }

    /// Whether the effective wish is not known to be good.
    pub(super) fn is_unproven(&self) -> bool {
        let resources = |wish: &Option<Wish>| wish.as_ref().map(|wish| Arc::clone(&wish.resources));
        resources(&self.effective) != resources(&self.last_good)
    }

    /// Goes back to what was good last.
    pub(super) fn refuse(&mut self, node: &NodeId, kind: ResourceType, reason: &str) {
        let Some(refused) = self.effective.take() else {
            return;
        };
        self.effective.clone_from(&self.last_good);
        let (node, reason) = (node.clone(), reason.to_owned());
        self.pin = Some(Pin {
            refused,
            node,
            kind,
            reason,
        });
        self.settled = false;
    }

    /// What is published towards now: the effective wish, or the calm state before it, while a
    /// temporary cluster of an earlier migration has the same name and another replica behind it.
    pub(super) fn goal(&self) -> Option<Arc<ServiceResources>> {
        let wish = self.effective.as_ref()?;
        let conflict = wish.resources.clusters.iter().any(|(name, parts)| {
            name.contains('~')
                && self
                    .endpoints
                    .get(name)
                    .is_some_and(|published| *published != parts.endpoints)
        });
        match &wish.between {
            Some(between) if conflict => Some(Arc::clone(between)),
            Some(_) | None => Some(Arc::clone(&wish.resources)),
        }
    }

    /// Step 1: publishes what is new beside what is there.
    pub(super) fn add(&mut self, published: &mut Published, changes: &mut Changes) {
        if let Some(goal) = self.goal() {
            self.publish(&goal, published, changes);
        }
    }

    /// Publishes what nodes may still need from before this control plane began: a service's only
    /// instance may have been split off while there was none, and its nodes route as before that.
    /// Where others are left in the shared cluster nobody needs it, and those that route by the
    /// split already must not find the original in there again.
    pub(super) fn add_before(&mut self, published: &mut Published, changes: &mut Changes) {
        let wish = self
            .effective
            .as_ref()
            .filter(|wish| wish.input.others() == 0);
        if let Some(between) = wish.and_then(|wish| wish.between.clone()) {
            self.publish(&between, published, changes);
        }
    }

    fn publish(
        &mut self,
        goal: &ServiceResources,
        published: &mut Published,
        changes: &mut Changes,
    ) {
        for (name, parts) in &goal.clusters {
            self.retired.remove(name);
            if published.clusters.get(name).map(|cluster| cluster.version)
                != Some(parts.cluster.version)
            {
                let kind = ResourceType::Cluster;
                let previous = published.put(kind, Arc::clone(&parts.cluster));
                changes.add_calmly(kind, name, previous);
            }
            let known = self.endpoints.contains_key(name);
            let endpoints = self.endpoints.entry(Arc::clone(name)).or_default();
            let before = endpoints.len();
            endpoints.extend(parts.endpoints.iter().copied());
            if !known || endpoints.len() != before {
                let kind = ResourceType::Endpoint;
                let previous = published.put(kind, endpoints_resource(name, endpoints));
                changes.add_calmly(kind, name, previous);
            }
        }
    }

    fn is_routed_to(&self, goal: Option<&Arc<ServiceResources>>) -> bool {
        self.routed.as_ref() == goal.map(|goal| &goal.virtual_host)
    }

    /// Whether every stream is so. The one that was not when this was asked last comes first, so
    /// that a fleet that answers one by one is not looked through at every answer.
    fn all(
        &mut self,
        streams: &BTreeMap<StreamId, Stream>,
        is_so: impl Fn(&Self, &Stream) -> bool,
    ) -> bool {
        let start = self.witness;
        let (after, before) = (streams.range(start..), streams.range(..start));
        let lacking = after
            .chain(before)
            .find(|(_, stream)| !is_so(self, stream))
            .map(|(id, _)| *id);
        self.witness = lacking.unwrap_or(start);
        lacking.is_none()
    }

    /// The revision that is wanted.
    pub(super) fn revision(&self) -> u64 {
        self.wanted.as_ref().map_or(0, |wish| wish.input.revision())
    }

    /// Whether step 2 is due, safe or not.
    pub(super) fn waits_to_route(&self) -> bool {
        !self.is_routed_to(self.goal().as_ref())
    }

    /// Whether step 2 is due and safe.
    pub(super) fn may_route(
        &mut self,
        streams: &BTreeMap<StreamId, Stream>,
        published: &Published,
    ) -> bool {
        let goal = self.goal();
        !self.is_routed_to(goal.as_ref())
            && self.all(streams, |_, stream| {
                is_ready(goal.as_ref(), stream, published)
            })
    }

    /// Step 2. Whether it is urgent: the shadow gets less than before.
    pub(super) fn route(&mut self, generation: u64) -> bool {
        let goal = self.goal();
        let effective = self.effective.as_ref().map(|wish| &wish.resources);
        let migration = self
            .effective
            .as_ref()
            .filter(|_| goal.as_ref() == effective)
            .and_then(|wish| wish.input.migration());
        let shadow = migration.map_or(0, |migration| migration.split.shadow().get());
        let urgent = shadow < self.routed_shadow;
        self.routed_shadow = shadow;
        self.routed = goal.as_ref().map(|goal| goal.virtual_host.clone());
        self.routed_used = goal.as_ref().map(|goal| goal.used()).unwrap_or_default();
        self.routed_named = goal.map(|goal| goal.named.clone()).unwrap_or_default();
        self.routed_generation = generation;
        urgent
    }

    pub(super) const fn routed_host(&self) -> Option<&VirtualHost> {
        self.routed.as_ref()
    }

    /// Whether step 3 is safe.
    pub(super) fn may_shrink(
        &mut self,
        streams: &BTreeMap<StreamId, Stream>,
        published: &Published,
    ) -> bool {
        let goal = self.goal();
        self.is_routed_to(goal.as_ref())
            && self.would_shrink(goal.as_deref())
            && self.all(streams, |service, stream| {
                service.has_routes(stream, published) && is_ready(goal.as_ref(), stream, published)
            })
    }

    fn would_shrink(&self, goal: Option<&ServiceResources>) -> bool {
        self.endpoints.iter().any(|(name, endpoints)| {
            goal.and_then(|goal| goal.clusters.get(name))
                .is_none_or(|parts| parts.endpoints != *endpoints)
        })
    }

    pub(super) fn has_routes(&self, stream: &Stream, published: &Published) -> bool {
        stream.has_routes(self.routed_generation, &self.own_routes, published)
            && self
                .routed_used
                .iter()
                .all(|cluster| stream.has_taken_up(cluster, &self.own_routes, published))
    }

    /// Whether every stream has all that is published.
    pub(super) fn all_have(
        &mut self,
        streams: &BTreeMap<StreamId, Stream>,
        published: &Published,
    ) -> bool {
        self.all(streams, |service, stream| {
            service.progress(stream, published, true) == domain::NodeProgress::Applied
        })
    }

    /// Step 3: takes away what is no longer wanted.
    pub(super) fn shrink(&mut self, published: &mut Published, changes: &mut Changes) {
        let goal = self.goal();
        let nothing = BTreeMap::new();
        let wanted = goal.as_ref().map_or(&nothing, |goal| &goal.clusters);
        let names: Vec<Arc<str>> = self.endpoints.keys().cloned().collect();
        for name in names {
            let Some(parts) = wanted.get(&name) else {
                self.endpoints.remove(&name);
                for kind in [ResourceType::Cluster, ResourceType::Endpoint] {
                    let previous = published.take(kind, &name);
                    changes.add_calmly(kind, &name, previous);
                }
                self.retired.insert(name);
                continue;
            };
            let Some(endpoints) = self.endpoints.get_mut(&name) else {
                continue;
            };
            if *endpoints != parts.endpoints {
                endpoints.clone_from(&parts.endpoints);
                let kind = ResourceType::Endpoint;
                let change = Change {
                    previous: published.put(kind, endpoints_resource(&name, endpoints)),
                    generation: 0,
                    // What is gone must not wait for an answer.
                    urgent: true,
                };
                changes.add(kind, name, change);
            }
        }
    }

    /// Whether exactly the effective wish is published.
    pub(super) fn is_complete(&self) -> bool {
        let wish = self.effective.as_ref().map(|wish| &wish.resources);
        let clusters = wish.map_or(0, |resources| resources.clusters.len());
        self.is_routed_to(wish)
            && clusters == self.endpoints.len()
            && wish.is_none_or(|resources| {
                resources
                    .clusters
                    .iter()
                    .all(|(name, parts)| self.endpoints.get(name) == Some(&parts.endpoints))
            })
    }

    /// Whether the service is deleted and nothing of it is left.
    pub(super) fn is_gone(&self) -> bool {
        self.wanted.is_none() && self.effective.is_none() && self.endpoints.is_empty()
    }
}

fn is_ready(goal: Option<&Arc<ServiceResources>>, stream: &Stream, published: &Published) -> bool {
    goal.is_none_or(|goal| {
        goal.named
            .iter()
            .all(|name| stream.is_ready_for(name, published))
    })
}
