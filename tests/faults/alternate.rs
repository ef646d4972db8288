//! Two builds take turns as leader in the middle of migrations: base, new, base, new. Each must
//! read what the other wrote, and go on with it.

use std::path::{Path, PathBuf};

use domain::Phase;

use crate::campaign::{Blow, Campaign, Shown};
use crate::history::What;
use crate::lab::{Backing, Lab, SetUp, active, within};

/// Where one build is killed and the other one goes on.
const SWAPS: [fn(Phase) -> bool; 4] = [
    |phase| matches!(phase, Phase::Mirroring | Phase::Ramping { .. }),
    |phase| matches!(phase, Phase::Ramping { stage } if stage > 0) || phase == Phase::Soaking,
    |phase| matches!(phase, Phase::Soaking | Phase::Draining | Phase::Terminating),
    // Between two migrations, too.
    |phase| phase.is_over(),
];

/// Runs `rounds` migrations in which the builds take turns.
pub(crate) async fn run(base: &Path, rounds: usize, rate: u32, folder: &Path) -> Shown {
    let set_up = SetUp {
        backing: Backing::Redis,
        controls: 1,
        rate,
    };
    let file = folder.join("alternate.jsonl");
    let _ = std::fs::remove_file(&file);
    let new = foreshadow_tests::binary();
    let builds = [base.to_owned(), new];
    let mut lab = Lab::start_with(set_up, &file, |lab| {
        lab.controls[0].program.clone_from(&builds[0]);
    })
    .await;
    let mut turn = 0;
    for round in 0..rounds {
        one(&mut lab, &builds, &mut turn, round).await;
    }
    let history = lab.history.clone();
    let failures = lab.end().await;
    println!("{}: {turn} changes of the build", file.display());
    Shown {
        campaign: Campaign {
            set_up,
            blow: Blow::Kill,
            count: 0,
            seed: 0,
        },
        history: history.all(),
        failures,
    }
}

async fn one(lab: &mut Lab, builds: &[PathBuf; 2], turn: &mut usize, round: usize) {
    let ordered = async || {
        let status = lab.status().await?;
        lab.order(&status).await.ok()
    };
    let Some(id) = within(60_000, ordered).await else {
        lab.history
            .wrong(format!("round {round}: no order is taken"));
        return;
    };
    let back = round % 3 == 2;
    for (number, swap) in SWAPS.iter().enumerate() {
        let reached = async || {
            let status = lab.status().await?;
            let found = status.migrations.iter().find(|m| m.migration.id == id)?;
            let phase = found.migration.phase;
            (swap(phase) || phase.is_over()).then_some(phase)
        };
        let Some(phase) = within(60_000, reached).await else {
            lab.history.wrong(format!(
                "round {round}: {id} does not come to swap {number}"
            ));
            return;
        };
        lab.controls[0].kill();
        *turn += 1;
        lab.controls[0].program.clone_from(&builds[*turn % 2]);
        lab.controls[0].start();
        lab.answers(0).await;
        lab.history.trouble(
            &format!("build {} takes over at {}", *turn % 2, phase.name()),
            true,
        );
        if back && number == 1 && !phase.is_over() {
            let _ = within(5_000, async || lab.tell(&id, "abort").await.ok()).await;
        }
    }
    let recovered = lab.history.now();
    let rests = async || {
        let status = lab.status().await?;
        if active(&status).is_some() {
            return None;
        }
        let found = status.migrations.iter().find(|m| m.migration.id == id)?;
        let phase = found.migration.phase.name().to_owned();
        let left = lab.left_over(&status).await;
        left.is_none().then_some(phase)
    };
    match within(crate::campaign::REST_MS, rests).await {
        Some(phase) => {
            let now = lab.history.now();
            lab.history.add(What::Rest {
                migration: id.to_string(),
                phase,
                ended_after: now - recovered,
                rest_after: now - recovered,
            });
        }
        None => lab
            .history
            .wrong(format!("round {round}: {id} is not at rest")),
    }
}
