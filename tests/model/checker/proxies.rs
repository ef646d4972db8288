//! The proxies and the gate that knows what they have acknowledged.

use super::config::{Config, Planted};
use super::state::{Mark, Proxy, State};
use super::words::Way;

/// A side of the instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// The original.
    Original,
    /// The shadow.
    Shadow,
}

/// Whether `revision` or a later one counts as applied by every proxy.
pub(crate) fn have_applied(config: &Config, state: &State, revision: u8) -> bool {
    let newest = state.store.revision;
    let has = |proxy: &Proxy| proxy.acked && proxy.revision == newest;
    let all = if config.has(Planted::OneAckIsAll) {
        state.proxies.iter().any(has)
    } else if config.has(Planted::AbsentCountsAsApplied) {
        state.proxies.iter().all(|p| !p.connected || has(p))
    } else {
        state.proxies.iter().all(has)
    };
    all && newest >= revision
}

/// Requests in progress on the original, as the proxies report them.
pub(crate) fn in_progress(config: &Config, state: &State) -> u64 {
    let heard = |p: &&Proxy| p.connected || !config.has(Planted::AbsentCountsAsApplied);
    let busy = state.proxies.iter().filter(heard).filter(|p| p.on_original);
    u64::try_from(busy.count()).expect("two proxies")
}

/// A connected proxy takes what is published.
pub(crate) fn apply(state: &mut State, index: usize) -> Option<()> {
    let (revision, way) = (state.store.revision, state.store.way);
    let proxy = state.proxies.get_mut(index)?;
    if !proxy.connected || proxy.revision == revision {
        return None;
    }
    let back = revision < proxy.revision;
    proxy.revision = revision;
    proxy.way = way;
    proxy.acked = false;
    if back {
        state.marks.make(Mark::WentBack);
    }
    Some(())
}

/// The gate hears of it.
pub(crate) fn acknowledge(state: &mut State, index: usize) -> Option<()> {
    let proxy = state.proxies.get_mut(index)?;
    let due = proxy.connected && !proxy.acked;
    proxy.acked |= due;
    due.then_some(())
}

/// The stream ends; the proxy serves on.
pub(crate) fn lose(state: &mut State, index: usize) -> Option<()> {
    let proxy = state.proxies.get_mut(index)?;
    if !proxy.connected || state.budget.losses == 0 {
        return None;
    }
    proxy.connected = false;
    state.budget.losses -= 1;
    Some(())
}

/// It is back, with what it had; in one planted bug with what it had at first.
pub(crate) fn come_back(config: &Config, state: &mut State, index: usize) -> Option<()> {
    let proxy = state.proxies.get_mut(index)?;
    if proxy.connected {
        return None;
    }
    proxy.connected = true;
    if config.has(Planted::ProxyForgets) && proxy.revision > 0 {
        proxy.revision = 0;
        proxy.way = Way::Before;
        state.marks.make(Mark::WentBack);
    }
    Some(())
}

/// A request begins where the proxy's routing lets it.
pub(crate) fn begin(state: &mut State, index: usize, side: Side) -> Option<()> {
    let proxy = state.proxies.get_mut(index)?;
    let (fed, busy) = match side {
        Side::Original => (proxy.way.feeds_original(), &mut proxy.on_original),
        Side::Shadow => (proxy.way.feeds_shadow(), &mut proxy.on_shadow),
    };
    if !fed || *busy {
        return None;
    }
    *busy = true;
    Some(())
}

/// A client writes: the proxy lets it pass, and whoever it reaches takes it, or turns it away.
pub(crate) fn write(state: &mut State, index: usize, side: Side) -> Option<()> {
    let proxy = *state.proxies.get(index)?;
    let writers = &mut state.machines.writers;
    let (fed, takes, wrote) = match side {
        Side::Original => (
            proxy.way.feeds_original() && state.machines.original,
            writers.original,
            &mut writers.original_wrote,
        ),
        Side::Shadow => (
            proxy.way.feeds_shadow() && state.machines.shadows > 0,
            writers.shadow,
            &mut writers.shadow_wrote,
        ),
    };
    if !fed || !takes || !proxy.way.lets_writes_pass() || state.budget.writes == 0 {
        return None;
    }
    *wrote += 1;
    state.budget.writes -= 1;
    Some(())
}

/// A request ends.
pub(crate) fn end(state: &mut State, index: usize, side: Side) -> Option<()> {
    let proxy = state.proxies.get_mut(index)?;
    let busy = match side {
        Side::Original => &mut proxy.on_original,
        Side::Shadow => &mut proxy.on_shadow,
    };
    std::mem::replace(busy, false).then_some(())
}
