//! What was acknowledged is there after `kill -9`, and what an acknowledgement costs.
//!
//! A few kills run with every test; `make bench-store` takes a thousand of each, and prints the
//! time of a transition beside that of a bare loop of durable writes on the same disk.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests say what they expect by failing"
)]

#[path = "redis/server.rs"]
#[allow(dead_code, reason = "another suite uses the rest")]
mod server;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::HolderId;
use foreshadow_store::{
    EmbeddedStore, Expect, Generation, Key, Kind, Lease, LeaseName, LogName, Opening, Store,
    Transaction,
};
use server::{DEADLINE, Server, options};
use tokio::sync::watch;

/// Bytes of a record that holds a migration, about.
const RECORD: usize = 2_000;
/// Bytes of a log line, about.
const LINE: usize = 200;

fn kills() -> u32 {
    let wanted = std::env::var("FORESHADOW_STORE_KILLS");
    wanted.map_or(20, |text| {
        text.parse().expect("FORESHADOW_STORE_KILLS is a number")
    })
}

/// Says how a promise was met, in the form that all benches print.
fn promise(id: &str, measured: f64, unit: &str, op: &str, target: f64) {
    let met = match op {
        "<=" => measured <= target,
        ">=" => measured >= target,
        _ => (measured - target).abs() < f64::EPSILON,
    };
    let verdict = if met { "ok" } else { "short" };
    println!("promise {id} {measured} {unit} target {op} {target} {verdict}");
}

/// The same numbers for the same seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

fn key() -> Key {
    Key::new(Kind::Migration, "m")
}

fn log() -> LogName {
    LogName("migration/m".to_owned())
}

/// One transition: the record as it was read, the new one, a line; under the lease.
fn transition(lease: &Lease, generation: Option<Generation>, number: u64) -> Transaction {
    let expect = generation.map_or(Expect::Absent, Expect::Generation);
    let (record, line) = ((number, "r".repeat(RECORD)), (number, "l".repeat(LINE)));
    let put = Transaction::new().fenced(lease).put(key(), expect, &record);
    put.unwrap().append(log(), &line).unwrap()
}

async fn lead(store: &dyn Store) -> Lease {
    let name = LeaseName("migrator/default".to_owned());
    let holder = HolderId::new("me").unwrap();
    let ttl = Duration::from_hours(1);
    store.acquire(&name, &holder, ttl).await.unwrap().unwrap()
}

/// Commits number after number until one fails; tells which was acknowledged last.
async fn commit_until_it_fails(store: Arc<dyn Store>, from: u64, mut told: impl FnMut(u64)) {
    let lease = lead(&*store).await;
    let mut generation = (from > 0).then_some(Generation(from));
    for number in from + 1.. {
        let next = transition(&lease, generation, number);
        match store.commit(next).await {
            Ok(committed) => generation = committed.generations[0],
            Err(_) => return,
        }
        told(number);
    }
}

/// What is there: the record and the log must be of one transaction.
async fn found(store: &dyn Store, acknowledged: u64) -> u64 {
    let record = store.get(&key()).await.unwrap();
    let number = record.map_or(0, |record| {
        let parsed = record.parse::<(u64, String)>().unwrap();
        assert_eq!(parsed.generation, Generation(parsed.value.0));
        parsed.value.0
    });
    let from = acknowledged.max(1);
    let entries = store.read_log(&log(), from, 1_000).await.unwrap();
    let last = entries.last().map_or(0, |entry| entry.sequence);
    assert_eq!(last, number, "record and log are of one transaction");
    number
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_of_the_process_that_has_the_file_loses_no_acknowledged_transition() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let mut chance = Chance(11);
    let (mut there, mut lost) = (0_u64, 0_u64);
    for _ in 0..kills() {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "commit_to_the_file", "--ignored", "--nocapture"])
            .env("STORE_FILE", &path)
            .env("STORE_FROM", there.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let wanted = chance.below(20) + 1;
        let number = |line: String| line.strip_prefix("done ").and_then(|n| n.parse().ok());
        let mut acknowledged = there;
        for _ in 0..wanted {
            let next: Option<u64> = lines.by_ref().find_map(|line| number(line.unwrap()));
            acknowledged = next.expect("it commits until it is killed");
        }
        tokio::time::sleep(Duration::from_micros(chance.below(4_000))).await;
        child.kill().unwrap();
        child.wait().unwrap();
        // What was said before the kill was acknowledged; a line that was cut was not.
        for line in lines.map_while(Result::ok) {
            acknowledged = number(line).unwrap_or(acknowledged);
        }
        let store = EmbeddedStore::open(&path).unwrap();
        there = found(&store, acknowledged).await;
        assert!(there <= acknowledged + 1, "{there} of {acknowledged}");
        lost += acknowledged.saturating_sub(there);
    }
    println!("embedded: {} kills, {there} transitions", kills());
    promise(
        "S11-kills-embedded",
        f64::from(kills()),
        "kills",
        ">=",
        1_000.0,
    );
    promise("S11-lost-embedded", lost as f64, "transitions", "=", 0.0);
    assert_eq!(lost, 0);
    assert!(there > u64::from(kills()), "hardly anything was committed");
}

/// Not a test: a process that commits until it is killed.
#[test]
#[ignore = "another test starts it as a process"]
fn commit_to_the_file() {
    let (Ok(path), Ok(from)) = (std::env::var("STORE_FILE"), std::env::var("STORE_FROM")) else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = Arc::new(EmbeddedStore::open(Path::new(&path)).unwrap());
        // The harness has printed the test's name without a new line.
        let mut out = std::io::stdout();
        out.write_all(b"\n").unwrap();
        commit_until_it_fails(store, from.parse().unwrap(), |number| {
            out.write_all(format!("done {number}\n").as_bytes())
                .unwrap();
            out.flush().unwrap();
        })
        .await;
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_of_redis_loses_no_acknowledged_transition() {
    let mut server = Server::durable().await;
    let mut chance = Chance(13);
    let (mut there, mut lost) = (0_u64, 0_u64);
    let mut witness = None;
    for _ in 0..kills() {
        // Short, because a commit that finds the server gone waits for it to come back.
        let mut how = options().timeout(Duration::from_millis(500));
        if let Some(seen) = witness.take() {
            how = foreshadow_store::RedisOptions::new(Opening::Existing)
                .prefix("t")
                .witness(seen);
        }
        let store = Arc::new(open(&server, how).await);
        assert_eq!(
            found(&*store, there).await,
            there,
            "nothing came back later"
        );
        let (sender, mut count) = watch::channel(there);
        let writer = tokio::spawn(commit_until_it_fails(
            Arc::clone(&store) as _,
            there,
            move |number| {
                sender.send_replace(number);
            },
        ));
        let wanted = there + chance.below(40) + 1;
        tokio::time::timeout(DEADLINE, count.wait_for(|count| *count >= wanted))
            .await
            .expect("it commits")
            .unwrap();
        tokio::time::sleep(Duration::from_micros(chance.below(4_000))).await;
        server.kill();
        writer.await.unwrap();
        let acknowledged = *count.borrow();
        witness = Some(store.witness().unwrap());
        drop(store);
        server.start().await;
        let seen = witness.clone().unwrap();
        let how = foreshadow_store::RedisOptions::new(Opening::Existing)
            .prefix("t")
            .witness(seen);
        there = found(&open(&server, how).await, acknowledged).await;
        assert!(there <= acknowledged + 1, "{there} of {acknowledged}");
        lost += acknowledged.saturating_sub(there);
    }
    println!("redis: {} kills, {there} transitions", kills());
    promise(
        "S11-kills-redis",
        f64::from(kills()),
        "kills",
        ">=",
        1_000.0,
    );
    promise("S11-lost-redis", lost as f64, "transitions", "=", 0.0);
    assert_eq!(lost, 0);
    assert!(there > u64::from(kills()), "hardly anything was committed");
}

/// Opens the store; a server that has just begun on a busy machine may need a second try.
async fn open(
    server: &Server,
    how: foreshadow_store::RedisOptions,
) -> foreshadow_store::RedisStore {
    server::eventually("the store opens", async || {
        match server.open(how.clone()).await {
            Ok(store) => Some(store),
            Err(
                foreshadow_store::StoreError::TimedOut { .. }
                | foreshadow_store::StoreError::Unavailable { .. },
            ) => None,
            Err(error) => panic!("{error}"),
        }
    })
    .await
}

/// Times of one kind of write, in milliseconds.
#[derive(Default)]
struct Times(Vec<f64>);

impl Times {
    fn took(&mut self, began: Instant) {
        self.0.push(began.elapsed().as_secs_f64() * 1_000.0);
    }

    fn quantile(&mut self, level: f64) -> f64 {
        self.0.sort_by(f64::total_cmp);
        let last = self.0.len() - 1;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a level between 0 and 1 of a length"
        )]
        let index = (last as f64 * level).round() as usize;
        self.0[index]
    }
}

const BLOCKS: u64 = 20;
const PER_BLOCK: u64 = 100;

/// Prints both sides; the ratio of their medians is the promise.
fn beside(name: &str, ours: &mut Times, bare: &mut Times, peer: &str, most: f64) {
    for (who, times) in [("a transition", &mut *ours), (peer, &mut *bare)] {
        println!(
            "{name}: {who}: p50 {:.3} ms, p99 {:.3} ms, {} times",
            times.quantile(0.5),
            times.quantile(0.99),
            times.0.len()
        );
    }
    let ratio = |level: f64, ours: &mut Times, bare: &mut Times| {
        (ours.quantile(level) / bare.quantile(level) * 100.0).round() / 100.0
    };
    let (median, tail) = (ratio(0.5, ours, bare), ratio(0.99, ours, bare));
    promise(&format!("S12-p50-{name}"), median, "times", "<=", most);
    promise(&format!("S12-p99-{name}"), tail, "times", "<=", most);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement: make bench-store"]
async fn what_a_transition_costs_beside_a_bare_loop_of_durable_writes() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let store = EmbeddedStore::open(&folder.path().join("store.redb")).unwrap();
    let mut file = std::fs::File::create(folder.path().join("bare")).unwrap();
    let bytes = vec![b'x'; RECORD + LINE];
    let (mut ours, mut bare) = (Times::default(), Times::default());
    let lease = lead(&store).await;
    let mut generation = None;
    for number in 0..BLOCKS * PER_BLOCK {
        let began = Instant::now();
        let next = transition(&lease, generation, number);
        generation = store.commit(next).await.unwrap().generations[0];
        ours.took(began);
        if number % PER_BLOCK == 0 {
            for _ in 0..PER_BLOCK {
                let began = Instant::now();
                file.write_all(&bytes).unwrap();
                file.sync_data().unwrap();
                bare.took(began);
            }
        }
    }
    let peer = "write and fdatasync of as many bytes";
    beside("embedded", &mut ours, &mut bare, peer, 4.0);

    let server = Server::durable().await;
    let store = server.store().await;
    let (mut ours, mut bare) = (Times::default(), Times::default());
    let lease = lead(&store).await;
    let mut raw = server.connection().await;
    let mut generation = None;
    for number in 0..BLOCKS * PER_BLOCK {
        let began = Instant::now();
        let next = transition(&lease, generation, number);
        generation = store.commit(next).await.unwrap().generations[0];
        ours.took(began);
        if number % PER_BLOCK == 0 {
            for _ in 0..PER_BLOCK {
                let mut set = redis::Cmd::new();
                set.arg("SET").arg("bare").arg(bytes.as_slice());
                let began = Instant::now();
                let _: String = set.query_async(&mut raw).await.unwrap();
                bare.took(began);
            }
        }
    }
    let peer = "SET of as many bytes, append-only file with fsync always";
    beside("redis", &mut ours, &mut bare, peer, 3.0);
}
