//! What goes wrong in a seed: up to three faults with their times, and when everything is well.

use super::rng::Rng;

/// All faults of a seed are over by then.
pub(crate) const HEALED_MS: u64 = 26_000;

/// A bug in one of the simulation's own wrappers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Planted {
    /// The store does not look at the fence.
    NoStoreFence,
    /// The driver does not look at the epoch.
    NoDriverFence,
    /// The control plane forgets nodes that are away.
    ForgetfulGate,
    /// A node that says nothing is reported as quiet.
    SilenceIsQuiet,
    /// A write of unknown outcome is taken as not made, without reading.
    UnknownIsFailed,
}

/// What can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// The leader's process ends; another one starts at the end of the fault.
    LeaderCrash,
    /// The leader's process stands still, longer than its lease.
    LeaderPause,
    /// One leader after the other stands still between its look at the lease and an act, until
    /// another leads, and then goes on with the act.
    LeaderZombie,
    /// The store answers some calls with errors, before or after the commit.
    StoreErrors,
    /// Some calls to the store get no answer in time; some of these land, late.
    StoreHangs,
    /// The leader cannot reach the store.
    LeaderCutOff,
    /// The leader reaches the store, and no answer reaches the leader.
    LeaderDeaf,
    /// What the leader says to the store is held back, and lands when the fault is over.
    LeaderHeld,
    /// The driver fails some calls.
    DriverFails,
    /// The driver does some calls and says that it failed, or says so late.
    DriverUnclear,
    /// The driver is slow.
    DriverSlow,
    /// The driver answers nothing.
    DriverDead,
    /// A proxy loses its stream and goes on with the routes it has.
    ProxyAway(usize),
    /// A proxy applies everything late.
    ProxySlow(usize),
    /// A proxy's load reports stay out.
    ProxyMute(usize),
    /// The control plane is gone, and comes back with what the store says.
    PlaneDown,
    /// The control plane cannot reach the store.
    PlaneCutOff,
    /// Nobody can reach the store, for minutes. Never drawn: a test asks for it.
    StoreAway,
    /// An operator aborts whatever runs.
    Abort,
    /// Shadows answer with errors.
    BadShadow,
    /// A shadow that takes part of the traffic dies.
    ShadowDies,
    /// Nothing goes between a proxy and the control plane; both keep what they have to say.
    Partition(usize),
    /// What a proxy says does not arrive.
    DeafPlane(usize),
    /// What a proxy is told does not arrive.
    DeafProxy(usize),
    /// A proxy's connection breaks, once.
    NetReset(usize),
    /// A proxy's process starts anew, with nothing.
    ProxyRestart(usize),
    /// The store is put back to what it held when the fault began. Whoever saw more finds out and
    /// stops; a person starts the migrators anew and acknowledges the loss.
    StoreRewind,
}

impl Fault {
    /// One word for the tables.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::LeaderCrash => "leader crash",
            Self::LeaderPause => "leader pause",
            Self::LeaderZombie => "leader stands in the act",
            Self::StoreErrors => "store errors",
            Self::StoreHangs => "store hangs",
            Self::LeaderCutOff => "leader cut off",
            Self::LeaderDeaf => "leader deaf",
            Self::LeaderHeld => "leader held",
            Self::DriverFails => "driver fails",
            Self::DriverUnclear => "driver unclear",
            Self::DriverSlow => "driver slow",
            Self::DriverDead => "driver dead",
            Self::ProxyAway(_) => "proxy away",
            Self::ProxySlow(_) => "proxy slow",
            Self::ProxyMute(_) => "proxy mute",
            Self::PlaneDown => "plane down",
            Self::PlaneCutOff => "plane cut off",
            Self::StoreAway => "store away",
            Self::Abort => "abort",
            Self::BadShadow => "bad shadow",
            Self::ShadowDies => "shadow dies",
            Self::Partition(_) => "partition",
            Self::DeafPlane(_) => "one way: plane deaf",
            Self::DeafProxy(_) => "one way: proxy deaf",
            Self::NetReset(_) => "connection breaks",
            Self::ProxyRestart(_) => "proxy restarts",
            Self::StoreRewind => "store rewind",
        }
    }

    fn any(rng: &mut Rng, proxies: usize) -> Self {
        match rng.between(0, 21) {
            0 | 1 => Self::LeaderCrash,
            2..=4 => Self::LeaderPause,
            5 => Self::StoreErrors,
            6 => Self::StoreHangs,
            7 => Self::LeaderCutOff,
            8 => Self::DriverFails,
            9 => Self::DriverUnclear,
            10 => Self::DriverSlow,
            11 => Self::DriverDead,
            12 | 13 => Self::ProxyAway(rng.index(proxies)),
            14 => Self::ProxySlow(rng.index(proxies)),
            15 | 16 => Self::ProxyMute(rng.index(proxies)),
            17 => Self::PlaneDown,
            18 => Self::PlaneCutOff,
            19 => Self::Abort,
            _ => [Self::BadShadow, Self::ShadowDies][rng.index(2)],
        }
    }
}

impl Fault {
    /// One of the network, or of who is at its end: only where there is one.
    fn of_the_network(rng: &mut Rng, proxies: usize) -> Self {
        let proxy = rng.index(proxies);
        match rng.between(0, 5) {
            0 => Self::Partition(proxy),
            1 => Self::DeafPlane(proxy),
            2 => Self::DeafProxy(proxy),
            3 => Self::NetReset(proxy),
            _ => Self::ProxyRestart(proxy),
        }
    }

    /// The proxy that it hits.
    pub(crate) const fn proxy(self) -> Option<usize> {
        match self {
            Self::ProxyAway(proxy)
            | Self::ProxySlow(proxy)
            | Self::ProxyMute(proxy)
            | Self::Partition(proxy)
            | Self::DeafPlane(proxy)
            | Self::DeafProxy(proxy)
            | Self::NetReset(proxy)
            | Self::ProxyRestart(proxy) => Some(proxy),
            Self::LeaderCrash
            | Self::LeaderPause
            | Self::LeaderZombie
            | Self::StoreErrors
            | Self::StoreHangs
            | Self::LeaderCutOff
            | Self::LeaderDeaf
            | Self::LeaderHeld
            | Self::DriverFails
            | Self::DriverUnclear
            | Self::DriverSlow
            | Self::DriverDead
            | Self::PlaneDown
            | Self::PlaneCutOff
            | Self::StoreAway
            | Self::Abort
            | Self::BadShadow
            | Self::ShadowDies
            | Self::StoreRewind => None,
        }
    }
}

/// A fault with its time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Planned {
    pub(crate) fault: Fault,
    pub(crate) from_ms: u64,
    pub(crate) to_ms: u64,
}

/// The faults of a seed.
pub(crate) fn plan(seed: u64, proxies: usize, wire: bool) -> Vec<Planned> {
    let mut rng = Rng::new(seed, 1);
    // Drawn apart, so that the other faults stay those of their seeds.
    let mut one_way = Rng::new(seed, 9);
    let mut network = Rng::new(seed, 11);
    let mut rewind = Rng::new(seed, 12);
    let mut zombies = Rng::new(seed, 13);
    // One in twelve seeds shows how the world goes by itself.
    let count = [0, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3][rng.index(12)];
    (0..count)
        .map(|_| {
            let fault = Fault::any(&mut rng, proxies);
            let fault = if one_way.in_thousand(90) {
                [Fault::LeaderDeaf, Fault::LeaderHeld][one_way.index(2)]
            } else {
                fault
            };
            let fault = if wire && network.in_thousand(450) {
                Fault::of_the_network(&mut network, proxies)
            } else {
                fault
            };
            let fault = if rewind.in_thousand(40) {
                Fault::StoreRewind
            } else {
                fault
            };
            let from_ms = rng.between(1_500, 17_000);
            let lasts = if fault == Fault::LeaderPause {
                rng.between(2_500, 8_000)
            } else if fault.proxy().is_some() && !matches!(fault, Fault::ProxySlow(_)) {
                rng.between(2_000, 12_000)
            } else {
                rng.between(300, 9_000)
            };
            let to_ms = (from_ms + lasts).min(HEALED_MS - 500);
            if zombies.in_thousand(260) {
                return Planned {
                    fault: Fault::LeaderZombie,
                    from_ms: zombies.between(1_500, 5_000),
                    to_ms: HEALED_MS - 4_000,
                };
            }
            Planned {
                fault,
                from_ms,
                to_ms,
            }
        })
        .collect()
}
