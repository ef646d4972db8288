//! Requests: sent by each proxy to where its applied routes say, answered some time later by
//! whatever runs there, or lost.

use std::collections::BTreeSet;

use domain::{Endpoint, NodeTraffic, Timestamp};

use super::faults::Fault;
use super::rng::Rng;
use super::world::State;

/// Services that clients call.
const SERVICES: [&str; 2] = ["shop", "cart"];

/// The longest request: shorter than the way from the first split to the drain, because requests
/// that began in the shared cluster are not waited for (`tests/TRACK_RECORD.md`).
const LONGEST_MS: u64 = 2_500;

/// A request in progress.
#[derive(Debug, Clone)]
struct Open {
    proxy: usize,
    cluster: String,
    endpoint: Endpoint,
    ends_at: u64,
    took_ms: u64,
}

/// All requests in progress.
#[derive(Debug)]
pub(crate) struct Load {
    rng: Rng,
    open: Vec<Open>,
    /// Replicas whose failures are injected, or whose requests a policy let go of.
    pub(crate) excused: BTreeSet<Endpoint>,
    next_report: u64,
}

impl Load {
    pub(crate) const fn new(rng: Rng) -> Self {
        Self {
            rng,
            open: Vec::new(),
            excused: BTreeSet::new(),
            next_report: 0,
        }
    }

    /// A proxy ends, and its requests with it.
    pub(crate) fn end_with(&mut self, proxy: usize) {
        self.open.retain(|open| open.proxy != proxy);
    }

    /// Requests in progress at a replica.
    pub(crate) fn at(&self, endpoint: Endpoint) -> usize {
        self.open
            .iter()
            .filter(|open| open.endpoint == endpoint)
            .count()
    }
}

/// Ends, sends and reports what is due.
pub(crate) fn step(state: &mut State, now: u64, at: Timestamp) {
    end(state, now);
    for index in 0..state.proxies.len() {
        while state.proxies[index].next_request <= now {
            let gap = state.proxies[index].rng.between(20, 40);
            state.proxies[index].next_request += gap;
            send(state, index, now);
        }
    }
    if now >= state.load.next_report {
        state.load.next_report = now + 150;
        report(state, at);
    }
}

fn send(state: &mut State, index: usize, now: u64) {
    let service = SERVICES[state.load.rng.index(SERVICES.len())];
    if !state.proxies[index].serves {
        return;
    }
    state.counters.requests += 1;
    let proxy = &mut state.proxies[index];
    let Some((cluster, endpoint)) = proxy.choose(service) else {
        let (node, lacks) = (proxy.node.clone(), proxy.lacks());
        let text = format!("a request for {service} found no endpoint at {node}");
        state
            .history
            .say(&format!("{text}: it routes to {lacks}, which is not there"));
        state.violate(text);
        return;
    };
    let long = state.load.rng.in_thousand(80);
    let took_ms = if long {
        state.load.rng.between(300, LONGEST_MS)
    } else {
        state.load.rng.between(3, 40)
    };
    proxy.counts.entry(cluster.clone()).or_default().in_progress += 1;
    state
        .history
        .note(now ^ (u64::from(endpoint.0.port()) << 32));
    let mut open = Open {
        proxy: index,
        cluster,
        endpoint,
        ends_at: now + took_ms,
        took_ms,
    };
    if state.machines.serves(endpoint) {
        state.load.open.push(open);
    } else {
        open.ends_at = now;
        finish(state, &open);
    }
}

fn end(state: &mut State, now: u64) {
    let open = std::mem::take(&mut state.load.open);
    let (over, left) = open
        .into_iter()
        .partition::<Vec<_>, _>(|open| open.ends_at <= now);
    state.load.open = left;
    for open in over {
        finish(state, &open);
    }
}

fn finish(state: &mut State, open: &Open) {
    let machine = state
        .machines
        .running
        .get(&open.endpoint)
        .filter(|machine| machine.alive);
    let failed = match machine {
        None => true,
        Some(machine) => machine.bad && state.load.rng.in_thousand(600),
    };
    let counts = state.proxies[open.proxy]
        .counts
        .entry(open.cluster.clone())
        .or_default();
    counts.in_progress = counts.in_progress.saturating_sub(1);
    counts.latency.record(open.took_ms * 1_000);
    if failed {
        counts.error += 1;
    } else {
        counts.success += 1;
    }
    if open.cluster.ends_with("~shadow") {
        state.counters.by_shadow += 1;
    }
    if failed && machine.is_none() && !state.load.excused.contains(&open.endpoint) {
        let node = state.proxies[open.proxy].node.clone();
        state.violate(format!(
            "a request through {node} ({}) was lost: {} does not run",
            open.cluster, open.endpoint
        ));
    } else if failed {
        state.counters.explained += 1;
    }
}

/// Every connected proxy that is not mute says what it has counted.
fn report(state: &mut State, at: Timestamp) {
    for index in 0..state.proxies.len() {
        if state.is(Fault::ProxyMute(index)) {
            continue;
        }
        let State {
            proxies,
            net,
            wire,
            plane,
            ..
        } = &mut *state;
        let proxy = &mut proxies[index];
        if let Some(lines) = net.lines.get_mut(&index) {
            lines.report(&proxy.node, &proxy.counts);
            continue;
        }
        if *wire || proxy.stream.is_none() {
            continue;
        }
        proxy.reports += 1;
        let told = NodeTraffic {
            session: proxy.session,
            reported_at: at,
            reports: proxy.reports,
            clusters: proxy.counts.clone(),
            ..NodeTraffic::default()
        };
        plane.telemetry.insert(proxy.node.clone(), told);
    }
}
