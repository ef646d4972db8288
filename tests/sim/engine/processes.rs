//! The migrators: started, paused, ended, started again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::migration::Limits;
use domain::{BasisPoints, HolderId, Policy, RampPlan, Stage};
use migrator::{AtDeadline, JudgeSettings, Migrator, Settings};

use super::clock::SimClock;
use super::driver::SimDriver;
use super::faulty_store::FaultyStore;
use super::pause::Pause;
use super::rng::Rng;
use super::world::World;

/// How many there are.
const MIGRATORS: usize = 2;
/// How far a clock may be off.
const SKEW_MS: u64 = 400;

/// A migrator's process.
#[derive(Clone)]
pub(crate) struct Process {
    pub(crate) migrator: Arc<Migrator>,
    pub(crate) pause: Arc<Pause>,
    /// The place that it fills: no two that live have the same, nor the same name.
    place: usize,
}

/// All processes that were started; the number is the one in the history.
pub(crate) struct Processes {
    world: Arc<World>,
    seed: u64,
    all: Mutex<BTreeMap<usize, Process>>,
}

impl Processes {
    pub(crate) fn start(world: &Arc<World>, seed: u64) -> Option<Arc<Self>> {
        let processes = Arc::new(Self {
            world: Arc::clone(world),
            seed,
            all: Mutex::default(),
        });
        (0..MIGRATORS).try_for_each(|_| processes.start_one())?;
        Some(processes)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<usize, Process>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts one more process, with a clock and a name of its own.
    pub(crate) fn start_one(&self) -> Option<()> {
        let number = self.lock().len();
        let place = (0..MIGRATORS).find(|place| {
            let all = self.lock();
            !all.values()
                .any(|process| process.place == *place && !process.pause.is_dead())
        })?;
        let mut rng = Rng::new(self.seed, 100 + number as u64);
        let (ahead, behind) = (rng.between(0, SKEW_MS), rng.between(0, SKEW_MS));
        let clock = SimClock::new(self.world.began, ahead, behind);
        let pause = Arc::new(Pause::new());
        let store = FaultyStore::new(Arc::clone(&self.world), number, Arc::clone(&pause));
        let driver = SimDriver {
            world: Arc::clone(&self.world),
            pause: Arc::clone(&pause),
        };
        // Some come back under their old name, and some under a new one.
        let name = if rng.in_thousand(500) { number } else { place };
        let holder = HolderId::new(format!("migrator-{name}")).ok()?;
        let migrator = Migrator::start(
            settings()?,
            Arc::new(store),
            Arc::new(driver),
            Arc::new(clock),
            holder,
            Duration::from_secs(2),
        );
        let migrator = Arc::new(migrator);
        self.world
            .state()
            .history
            .say(&format!("process  migrator {number} starts"));
        let process = Process {
            migrator,
            pause,
            place,
        };
        self.lock().insert(number, process);
        Some(())
    }

    /// Whoever leads by the store's word, or the oldest one that lives.
    pub(crate) fn leader(&self) -> Option<(usize, Process)> {
        let leader = self.world.state().leader.map(|(client, _)| client);
        let all = self.lock();
        let lives = |number: &usize| {
            all.get(number)
                .is_some_and(|process| !process.pause.is_dead())
        };
        let number = leader
            .filter(lives)
            .or_else(|| all.keys().copied().find(lives))?;
        all.get(&number).cloned().map(|process| (number, process))
    }

    /// All end, and as many new ones start.
    pub(crate) fn replace_all(&self) {
        for process in self.lock().values() {
            process.pause.kill();
        }
        for _ in 0..MIGRATORS {
            let _ = self.start_one();
        }
    }

    /// Everybody who stands still goes on, and as many live as there should be.
    pub(crate) fn heal(&self) {
        for process in self.lock().values() {
            process.pause.go_on();
        }
        let alive = self.lock().values().filter(|p| !p.pause.is_dead()).count();
        for _ in alive..MIGRATORS {
            let _ = self.start_one();
        }
    }
}

/// Short stages, so that much happens in little time.
fn settings() -> Option<Settings> {
    let stage = |shadow, hold_ms| {
        let shadow = BasisPoints::new(shadow).ok()?;
        Some(Stage { shadow, hold_ms })
    };
    let stages = vec![
        stage(2_500, 1_000)?,
        stage(5_000, 1_000)?,
        stage(10_000, 100)?,
    ];
    Some(Settings {
        policy: Policy::None,
        tick_ms: 5_000,
        cool_down_ms: 0,
        retry_ms: 0,
        max_migrations: 2,
        ramp: RampPlan::new(stages).ok()?,
        limits: Limits {
            lag_bytes: 1_024,
            ..Limits::default()
        },
        judge: JudgeSettings {
            min_requests: 10,
            deadline_ms: 20_000,
            mirror_ms: 700,
            // Stages last seconds here: proof of more than this would take minutes of requests.
            epoch_ms: 250,
            prove_error_margin: 0.3,
            prove_slow_margin: 1.0,
            at_deadline: AtDeadline::RollBack,
            ..JudgeSettings::default()
        },
        drain_deadline_ms: 15_000,
        lease_ms: 2_000,
        ..Settings::default()
    })
}
