//! Everything else that goes wrong around a migration: the network, Redis, the disk, the
//! processor, the clock, a data plane that starts again. One trouble at a time, in the middle of a
//! ramp; then everything is well, and must come to rest.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use domain::{MigrationId, Phase};
use rustix::process::Signal;

use crate::campaign::{Blow, Campaign, REST_MS, Shown};
use crate::history::What;
use crate::lab::{Backing, Lab, SetUp, active, within};
use crate::link::Weather;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The leader cannot reach Redis, for longer than its lease.
    StoreCutOff,
    /// What the leader says does not reach Redis.
    StoreCutOffUp,
    /// What Redis answers does not reach the leader.
    StoreCutOffDown,
    /// Each answer of Redis takes this much longer than usual.
    StoreSlow,
    /// Connections to Redis are reset, again and again.
    StoreResets,
    /// Redis dies, and comes back with what it kept.
    RedisDies,
    /// Redis stands still.
    RedisStands,
    /// Data planes cannot reach the control plane.
    PlanesCutOff,
    /// One of two data planes cannot reach the control plane.
    PlaneCutOff,
    /// What the control plane says reaches a data plane late.
    PlaneSlow,
    /// Streams of data planes are reset, again and again.
    PlaneResets,
    /// Processes that only burn take all processors, and the control plane comes last.
    Starved,
    /// The disk of the control plane is full.
    DiskFull,
    /// The wall clock of the control plane jumps an hour ahead, and back.
    ClockJumps,
}

/// All of them that need a Redis.
pub(crate) const ON_REDIS: [Trouble; 14] = [
    Trouble::StoreCutOff,
    Trouble::StoreCutOffUp,
    Trouble::StoreCutOffDown,
    Trouble::StoreSlow,
    Trouble::StoreResets,
    Trouble::RedisDies,
    Trouble::RedisStands,
    Trouble::PlanesCutOff,
    Trouble::PlaneCutOff,
    Trouble::PlaneSlow,
    Trouble::PlaneResets,
    Trouble::Starved,
    Trouble::DiskFull,
    Trouble::ClockJumps,
];

/// And on the embedded store.
pub(crate) const EMBEDDED: [Trouble; 4] = [
    Trouble::PlanesCutOff,
    Trouble::Starved,
    Trouble::DiskFull,
    Trouble::ClockJumps,
];

/// The library that shifts clocks, if there is one: Debian's package `libfaketime`.
fn clock() -> Option<PathBuf> {
    let told = std::env::var_os("FORESHADOW_FAKETIME").map(PathBuf::from);
    let folders = std::fs::read_dir("/usr/lib")
        .into_iter()
        .flatten()
        .flatten();
    let found = folders.map(|entry| entry.path().join("faketime/libfaketime.so.1"));
    told.into_iter().chain(found).find(|file| file.is_file())
}

/// Whether this machine and this user can bring it about.
fn is_possible(lab: &Lab, trouble: Trouble) -> Result<(), &'static str> {
    match trouble {
        Trouble::ClockJumps if clock().is_none() => Err("libfaketime is missing"),
        // Never on a disk of somebody else.
        Trouble::DiskFull if lab.mounted.is_none() => Err("a disk of its own needs root"),
        _ => Ok(()),
    }
}

/// Runs troubles, one after another, in one lab.
pub(crate) async fn run(
    backing: Backing,
    troubles: &[Trouble],
    lasts: Duration,
    rate: u32,
    folder: &Path,
) -> Shown {
    let set_up = SetUp {
        backing,
        controls: 1,
        rate,
    };
    let file = folder.join(format!("{backing:?}-troubles.jsonl").to_lowercase());
    let _ = std::fs::remove_file(&file);
    let mut lab = Lab::start_with(set_up, &file, prepare).await;
    for &trouble in troubles {
        match is_possible(&lab, trouble) {
            Ok(()) => one(&mut lab, trouble, lasts).await,
            Err(why) => println!("left out: {trouble:?}: {why}"),
        }
    }
    let history = lab.history.clone();
    let failures = lab.end().await;
    println!("{}: {} troubles", file.display(), troubles.len());
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

/// A small disk for the control plane, and a clock that can be shifted, where that is possible.
fn prepare(lab: &mut Lab) {
    let data = lab.folder.path().join("one");
    if rustix::process::getuid().is_root() {
        let links = std::fs::read_link(data.join("instances")).unwrap();
        std::fs::remove_file(data.join("instances")).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=24m", "foreshadow-faults"])
            .arg(&data)
            .status();
        lab.mounted = mounted
            .is_ok_and(|status| status.success())
            .then(|| data.clone());
        std::os::unix::fs::symlink(links, data.join("instances")).unwrap();
    }
    if let Some(library) = clock() {
        let time = lab.folder.path().join("time");
        std::fs::write(&time, "+0").unwrap();
        let control = &mut lab.controls[0];
        control.environment = vec![
            ("LD_PRELOAD".to_owned(), library.display().to_string()),
            (
                "FAKETIME_TIMESTAMP_FILE".to_owned(),
                time.display().to_string(),
            ),
            ("FAKETIME_NO_CACHE".to_owned(), "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC".to_owned(), "1".to_owned()),
        ];
    }
}

async fn one(lab: &mut Lab, trouble: Trouble, lasts: Duration) {
    let name = format!("{trouble:?}");
    let Some(id) = begin(lab).await else {
        lab.history.wrong(format!("{name}: nothing could be moved"));
        return;
    };
    lab.history.trouble(&name, true);
    let mut hogs = Vec::new();
    strike(lab, trouble, &mut hogs);
    let until = tokio::time::Instant::now() + lasts;
    while tokio::time::Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(250)).await;
        again(lab, trouble);
    }
    for hog in &mut hogs {
        let _ = hog.kill();
        let _ = hog.wait();
    }
    heal(lab, trouble);
    lab.history.trouble(&name, false);
    let failed = lab.requests();
    if failed > 0 {
        lab.history
            .wrong(format!("{failed} requests failed by the end of {name}"));
    }
    rest(lab, &id, &name).await;
}

/// Begins a migration, and waits for its ramp.
async fn begin(lab: &mut Lab) -> Option<MigrationId> {
    let ordered = async || {
        let status = lab.status().await?;
        lab.order(&status).await.ok()
    };
    let id = within(30_000, ordered).await?;
    let ramps = async || {
        let status = lab.status().await?;
        let phase = active(&status)?.migration.phase;
        matches!(phase, Phase::Ramping { .. }).then_some(())
    };
    within(30_000, ramps).await.map(|()| id)
}

fn strike(lab: &mut Lab, trouble: Trouble, hogs: &mut Vec<Child>) {
    let longer = Duration::from_millis(300);
    match trouble {
        Trouble::StoreCutOff => lab.to_store[0].set(Weather::Partition),
        Trouble::StoreCutOffUp => lab.to_store[0].set(Weather::PartitionUp),
        Trouble::StoreCutOffDown => lab.to_store[0].set(Weather::PartitionDown),
        Trouble::StoreSlow => lab.to_store[0].set(Weather::Slow(longer / 2)),
        Trouble::StoreResets => lab.to_store[0].set(Weather::Reset),
        Trouble::RedisDies => lab.redis.as_mut().unwrap().restart(),
        Trouble::RedisStands => lab.redis.as_ref().unwrap().signal(Signal::STOP),
        Trouble::PlanesCutOff => lab
            .to_control
            .iter()
            .for_each(|link| link.set(Weather::Partition)),
        Trouble::PlaneCutOff => lab.to_control[0].set(Weather::PartitionDown),
        Trouble::PlaneSlow => lab.to_control[1].set(Weather::Slow(longer)),
        Trouble::PlaneResets => lab.to_control[0].set(Weather::Reset),
        Trouble::Starved => {
            lab.controls[0].renice("19");
            hogs.extend((0..8).map(|_| hog()));
        }
        Trouble::DiskFull => fill(&lab.folder.path().join("one/full")),
        Trouble::ClockJumps => jump(lab, "+3600"),
    }
}

/// What is done every quarter of a second.
fn again(lab: &Lab, trouble: Trouble) {
    match trouble {
        Trouble::StoreResets => {
            lab.to_store[0].set(Weather::Fair);
            lab.to_store[0].set(Weather::Reset);
        }
        Trouble::PlaneResets => {
            lab.to_control[0].set(Weather::Fair);
            lab.to_control[0].set(Weather::Reset);
        }
        _ => {}
    }
}

fn heal(lab: &mut Lab, trouble: Trouble) {
    for link in lab.to_store.iter().chain(&lab.to_control) {
        link.set(Weather::Fair);
    }
    match trouble {
        Trouble::RedisStands => lab.redis.as_ref().unwrap().signal(Signal::CONT),
        Trouble::DiskFull => {
            let _ = std::fs::remove_file(lab.folder.path().join("one/full"));
        }
        Trouble::ClockJumps => jump(lab, "+0"),
        _ => {}
    }
}

/// A process that only burns, before everybody else.
fn hog() -> Child {
    Command::new("nice")
        .args(["-n", "0", "sh", "-c", "while :; do :; done"])
        .stdin(Stdio::null())
        .spawn()
        .unwrap()
}

/// Fills a disk to its last byte.
fn fill(file: &Path) {
    use std::io::Write as _;
    let Ok(mut file) = std::fs::File::create(file) else {
        return;
    };
    for size in [64 * 1024, 512, 1] {
        let block = vec![0; size];
        while file.write_all(&block).is_ok() {}
    }
}

fn jump(lab: &Lab, to: &str) {
    let fresh = lab.folder.path().join("time.new");
    std::fs::write(&fresh, to).unwrap();
    std::fs::rename(fresh, lab.folder.path().join("time")).unwrap();
}

/// Waits until the migration is over, and nothing is left of it.
async fn rest(lab: &mut Lab, id: &MigrationId, name: &str) {
    let healed = lab.history.now();
    let mut over_at = None;
    loop {
        let now = lab.history.now();
        if now - healed > REST_MS + 30_000 {
            lab.history
                .wrong(format!("{name}: {id} is not at rest after {REST_MS} ms"));
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        if let Some(status) = lab.controls[0].died(None) {
            lab.history.wrong(format!("{name}: it ended with {status}"));
            lab.controls[0].start();
            continue;
        }
        let Some(status) = lab.status().await else {
            continue;
        };
        if let Some(found) = active(&status) {
            if found.migration.phase == Phase::Parked {
                let _ = lab.tell(&found.migration.id.clone(), "retry").await;
            }
            continue;
        }
        let Some(found) = status.migrations.iter().find(|m| m.migration.id == *id) else {
            continue;
        };
        let over_at = *over_at.get_or_insert(now);
        if lab.left_over(&status).await.is_none() {
            lab.history.add(What::Rest {
                migration: id.to_string(),
                phase: found.migration.phase.name().to_owned(),
                ended_after: over_at - healed,
                rest_after: now - healed,
            });
            return;
        }
    }
}
