//! What is published at this moment.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::resources::{Resource, configuration};

/// What is published at this moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Published {
    /// Clusters by name.
    pub clusters: BTreeMap<Arc<str>, Arc<Resource>>,
    /// Endpoints by the name of their cluster.
    pub endpoints: BTreeMap<Arc<str>, Arc<Resource>>,
    /// The one route configuration.
    pub routes: Arc<Resource>,
    /// The clusters that the routes name.
    pub named: BTreeSet<Arc<str>>,
    /// Grows with every change of the routes.
    pub generation: u64,
}

impl Default for Published {
    fn default() -> Self {
        Self {
            clusters: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            routes: Arc::new(configuration([])),
            named: BTreeSet::new(),
            generation: 1,
        }
    }
}
