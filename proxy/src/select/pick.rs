//! The choices of one request, first and after failures.

use std::net::SocketAddr;
use std::sync::Arc;

use super::by_weight;
use crate::config::{Endpoint, EndpointSet, Route};

/// Most retries of a request.
pub const MAX_RETRIES: u32 = 3;
/// Other endpoints of the same cluster that are tried before another cluster is.
const ALTERNATIVES: u32 = 1;

/// Where a request goes.
#[derive(Debug, Clone)]
pub struct Picked {
    /// Index of the cluster among the route's targets.
    pub target: usize,
    /// The endpoint.
    pub endpoint: Arc<Endpoint>,
}

/// The choices of one request.
#[derive(Debug)]
pub struct Selection {
    point: u64,
    first: Option<usize>,
    current: Option<usize>,
    alternatives: u32,
    excluded: Vec<usize>,
    tried: Vec<SocketAddr>,
    retries: u32,
}

impl Selection {
    /// The choices that begin at a point: the hash of a header, or the next of the sequence.
    pub const fn new(point: u64) -> Self {
        Self {
            point,
            first: None,
            current: None,
            alternatives: 0,
            excluded: Vec::new(),
            tried: Vec::new(),
            retries: 0,
        }
    }

    /// The cluster that the weights chose, whether or not it could serve.
    pub const fn first_choice(&self) -> Option<usize> {
        self.first
    }

    /// The next endpoint to try; `None` if there is nothing left.
    pub fn next(&mut self, route: &Route, now_ms: u64) -> Option<Picked> {
        loop {
            let target = self.current.or_else(|| self.choose(route))?;
            self.first.get_or_insert(target);
            let endpoints = &route.targets.get(target)?.cluster.endpoints;
            let may_try_here = self.alternatives <= ALTERNATIVES || self.is_last(route, target);
            let endpoint = if may_try_here {
                self.endpoint(endpoints, now_ms)
            } else {
                None
            };
            if let Some(endpoint) = endpoint {
                self.current = Some(target);
                return Some(Picked { target, endpoint });
            }
            self.excluded.push(target);
            self.current = None;
            self.alternatives = 0;
        }
    }

    /// Connecting to an endpoint failed, and nothing was sent. Gives whether another may be tried.
    pub fn failed(&mut self, address: SocketAddr) -> bool {
        self.tried.push(address);
        self.alternatives += 1;
        self.retries += 1;
        self.retries <= MAX_RETRIES
    }

    fn weights<'a>(&'a self, route: &'a Route) -> impl Iterator<Item = u64> + Clone + 'a {
        route.targets.iter().enumerate().map(|(index, target)| {
            if self.excluded.contains(&index) {
                0
            } else {
                u64::from(target.weight)
            }
        })
    }

    fn choose(&self, route: &Route) -> Option<usize> {
        by_weight(self.weights(route), self.point)
    }

    /// Whether no other cluster is left.
    fn is_last(&self, route: &Route, target: usize) -> bool {
        let mut weights = self.weights(route).enumerate();
        !weights.any(|(index, weight)| index != target && weight > 0)
    }

    /// An endpoint that was not tried, preferably one that is not suspect.
    fn endpoint(&self, set: &EndpointSet, now_ms: u64) -> Option<Arc<Endpoint>> {
        let point = set.sequence.next_point();
        let weigh = |fits: &dyn Fn(&Endpoint) -> bool| {
            let usable = |one: &Endpoint| fits(one) && !self.tried.contains(&one.address);
            let weights = set.endpoints.iter();
            let weights = weights.map(|one| {
                if usable(one) {
                    u64::from(one.weight)
                } else {
                    0
                }
            });
            by_weight(weights, point)
        };
        let index = weigh(&|one| !one.suspicion.is_suspect(now_ms)).or_else(|| weigh(&|_| true))?;
        set.endpoints.get(index).cloned()
    }
}
