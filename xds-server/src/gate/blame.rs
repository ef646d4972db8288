//! Which services are at fault for a refusal.

use std::collections::BTreeSet;

use domain::{NodeId, ServiceId};

use super::Gate;
use crate::resources::ResourceType;
use crate::stream::Refusal;

impl Gate {
    /// Pins the services at fault to their last good input.
    pub(super) fn blame(&mut self, node: &NodeId, refusal: &Refusal) {
        let suspects = match refusal.kind {
            ResourceType::Cluster | ResourceType::Endpoint => self.owners_of(refusal),
            ResourceType::Route => self.changed_between(refusal.after, refusal.generation),
            // A listener or a secret is the node's own matter: no service is at fault.
            ResourceType::Listener | ResourceType::Secret => BTreeSet::new(),
        };
        for id in narrowed(suspects, &refusal.reason) {
            if let Some(service) = self.services.get_mut(&id) {
                service.refuse(node, refusal.kind, &refusal.reason);
            }
        }
    }

    /// Owners of the refused resources that are still published and not known to be good.
    fn owners_of(&self, refusal: &Refusal) -> BTreeSet<ServiceId> {
        let published = self.published.map(refusal.kind);
        refusal
            .items
            .iter()
            .filter(|(name, version)| {
                published
                    .get(name)
                    .is_some_and(|resource| resource.version == *version)
            })
            .filter_map(|(name, _)| ServiceId::new(owner(name)).ok())
            .filter(|id| {
                self.services
                    .get(id)
                    .is_some_and(super::ServiceState::is_unproven)
            })
            .collect()
    }

    /// Services whose virtual host came with a generation that the client does not have, and
    /// which are not known to be good.
    fn changed_between(&self, after: u64, generation: u64) -> BTreeSet<ServiceId> {
        self.services
            .iter()
            .filter(|(_, service)| {
                service.routed_generation > after
                    && service.routed_generation <= generation
                    && service.is_unproven()
            })
            .map(|(id, _)| id.clone())
            .collect()
    }
}

/// The service of a cluster.
pub(crate) fn owner(cluster: &str) -> &str {
    cluster.split('~').next().unwrap_or(cluster)
}

/// The suspects that the node names in its reason; all of them if it names none.
fn narrowed(suspects: BTreeSet<ServiceId>, reason: &str) -> BTreeSet<ServiceId> {
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.~".contains(c);
    let named: BTreeSet<&str> = reason
        .split(|c: char| !is_name(c))
        .map(|word| owner(word.trim_matches('.')))
        .collect();
    let guilty: BTreeSet<ServiceId> = suspects
        .iter()
        .filter(|id| named.contains(id.as_str()))
        .cloned()
        .collect();
    if guilty.is_empty() { suspects } else { guilty }
}
