//! A person: orders moves, answers parked migrations, and once in a while asks for what must be
//! refused.

use std::sync::Arc;
use std::time::Duration;

use domain::{HostId, InstanceId, Migration, MigrationId, Phase};
use migrator::Answer;
use store::Kind;

use super::checks::is_over;
use super::clock::millis;
use super::plane::all;
use super::processes::Processes;
use super::rng::Rng;
use super::world::World;

/// Orders are given until then.
const LAST_ORDER_MS: u64 = 20_000;
/// Everything must have come to rest so long after everything is healed.
const REST_MS: u64 = 300_000;

/// The person.
pub(crate) struct Operator {
    pub(crate) world: Arc<World>,
    pub(crate) processes: Arc<Processes>,
    pub(crate) rng: Rng,
    pub(crate) parked: u64,
}

impl Operator {
    /// Works until everything is at rest, or should be.
    pub(crate) async fn run(&mut self) {
        super::nemesis::until(&self.world, 1_200).await;
        while millis(self.world.began) < LAST_ORDER_MS && !self.looks_on() {
            self.order_something().await;
            let pause = self.rng.between(200, 3_000);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            if self.rng.in_thousand(100) {
                self.answer_one().await;
            }
        }
        super::nemesis::until(&self.world, self.world.healed_ms + 100).await;
        let mut calm = 0;
        while calm < 12 {
            calm = if self.is_at_rest().await { calm + 1 } else { 0 };
            if millis(self.world.began) > self.world.healed_ms + REST_MS {
                return self.complain().await;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
            self.answer_one().await;
        }
    }

    /// A person who has acknowledged a loss gives no orders, and answers nothing, until everything has
    /// been compared: here, never.
    fn looks_on(&self) -> bool {
        let state = self.world.state();
        state.era > 0 || state.is(super::faults::Fault::StoreRewind)
    }

    async fn order_something(&mut self) {
        let (instance, hosts): (_, &[&str]) = match self.rng.between(0, 20) {
            0 => ("vault-1", &["a", "c"]),
            1 => ("shop-2", &["isolated"]),
            2..=10 => ("shop-1", &["a", "b", "c"]),
            _ => ("cart-1", &["a", "b", "c"]),
        };
        let host = hosts[self.rng.index(hosts.len())];
        let (Ok(id), Ok(target)) = (InstanceId::new(instance), HostId::new(host)) else {
            return;
        };
        let Some((number, process)) = self.processes.leader() else {
            return;
        };
        let answer = process.migrator.order(id, target).await;
        let mut state = self.world.state();
        let forbidden = instance == "vault-1" || host == "isolated";
        if answer.is_ok() && forbidden {
            state.violate(format!("I6, I11: {instance} was moved to {host}"));
        }
        let told = answer.map_or_else(|error| error.to_string(), |id| format!("begun as {id}"));
        state.history.say(&format!(
            "operator {instance} to {host}, asked of {number}: {told}"
        ));
    }

    async fn migrations(&self) -> Vec<Migration> {
        all(&self.world, Kind::Migration).await.unwrap_or_default()
    }

    async fn is_at_rest(&self) -> bool {
        let waits = self.world.state().era > 0;
        let rests = |phase| is_over(phase) || (waits && phase == Phase::Parked);
        self.migrations()
            .await
            .iter()
            .all(|migration| rests(migration.phase))
    }

    async fn answer_one(&mut self) {
        if self.looks_on() {
            return;
        }
        let migrations = self.migrations().await;
        let Some(parked) = migrations.iter().find(|m| m.phase == Phase::Parked) else {
            return;
        };
        let back = self.rng.in_thousand(400);
        let answer = if back {
            Answer::RollBack
        } else {
            Answer::Retry
        };
        self.parked += 1;
        self.give(parked.id.clone(), answer).await;
    }

    async fn give(&self, id: MigrationId, answer: Answer) {
        let Some((number, process)) = self.processes.leader() else {
            return;
        };
        let told = process.migrator.answer(id.clone(), answer).await;
        let told = told.map_or_else(|error| error.to_string(), |_| "taken".to_owned());
        let text = format!("operator answers {answer:?} to {id}, asked of {number}: {told}");
        self.world.state().history.say(&text);
    }

    async fn complain(&self) {
        for migration in self.migrations().await {
            let waits = self.world.state().era > 0 && migration.phase == Phase::Parked;
            if !is_over(migration.phase) && !waits {
                let (id, phase) = (&migration.id, migration.phase.name());
                let text = format!("liveness: {id} is still {phase} long after healing");
                self.world.state().violate(text);
            }
        }
    }
}
