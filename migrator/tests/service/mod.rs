//! A small stateful HTTP service with all hooks: what the driver's tests run as an instance.
//!
//! A thread writes numbers into a file of slots, one after the other, up to `LAST`; the position
//! is how many it has written, and the state at a position is a function of it alone.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

const SLOTS: u64 = 4_096;
const SLOT: u64 = 256;

#[derive(Debug, Default)]
struct Shared {
    position: u64,
    rest_until: Option<Instant>,
    /// Digest at each position since the start.
    digests: Vec<(u64, String)>,
    identity: String,
    seed: String,
    damaged: bool,
}

type State = Arc<(Mutex<Shared>, Condvar)>;

/// Serves until killed.
pub(crate) fn serve(port: u16, folder: &Path) {
    let state = State::default();
    let writer = {
        let (state, folder) = (Arc::clone(&state), folder.to_owned());
        std::thread::spawn(move || write_slots(&state, &folder))
    };
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    for stream in listener.incoming() {
        let state = Arc::clone(&state);
        std::thread::spawn(move || answer(stream.unwrap(), &state));
    }
    writer.join().unwrap();
}

fn digest(file: &File) -> String {
    let mut bytes = vec![0; usize::try_from(SLOTS * SLOT).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    blake3::hash(&bytes).to_hex().to_string()
}

fn write_slots(state: &State, folder: &Path) {
    let open = |name: &str| {
        OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(folder.join(name))
            .unwrap()
    };
    let (slots, place) = (open("slots"), open("position"));
    slots.set_len(SLOTS * SLOT).unwrap();
    let mut text = String::new();
    (&place).read_to_string(&mut text).unwrap();
    let mut position: u64 = text.trim().parse().unwrap_or(0);
    loop {
        let (lock, bell) = &**state;
        let mut shared = lock.lock().unwrap();
        while let Some(until) = shared.rest_until {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                shared.rest_until = None;
            } else {
                shared = bell.wait_timeout(shared, left).unwrap().0;
            }
        }
        position += 1;
        let slot = (position * 7_919) % SLOTS;
        slots
            .write_all_at(&position.to_le_bytes(), slot * SLOT)
            .unwrap();
        place
            .write_all_at(format!("{position:020}\n").as_bytes(), 0)
            .unwrap();
        shared.position = position;
        let digest = digest(&slots);
        shared.digests.push((position, digest));
        bell.notify_all();
        drop(shared);
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn answer(mut stream: TcpStream, state: &State) {
    let mut bytes = Vec::new();
    let mut chunk = [0; 1_024];
    let (head, body) = loop {
        let read = stream.read(&mut chunk).unwrap_or(0);
        if read == 0 {
            return;
        }
        bytes.extend_from_slice(&chunk[..read]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head
            .lines()
            .find_map(|line| {
                line.to_lowercase()
                    .strip_prefix("content-length: ")?
                    .parse()
                    .ok()
            })
            .unwrap_or(0_usize);
        if body.len() >= length {
            break (head.to_owned(), body.to_owned());
        }
    };
    let target = head.split(' ').nth(1).unwrap_or("/");
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let (status, text) = respond(path, query, &body, state);
    let mut response = String::new();
    write!(
        response,
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\n",
        text.len()
    )
    .unwrap();
    write!(response, "connection: close\r\n\r\n{text}").unwrap();
    let _gone = stream.write_all(response.as_bytes());
}

fn parameter(query: &str, name: &str) -> Option<u64> {
    query
        .split('&')
        .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
}

fn respond(path: &str, query: &str, body: &str, state: &State) -> (&'static str, String) {
    let (lock, bell) = &**state;
    let ok = |value: serde_json::Value| ("200 OK", value.to_string());
    if path == "/burn" {
        let limit = Duration::from_millis(parameter(query, "ms").unwrap_or(20));
        return ok(serde_json::json!({ "ms": burn(limit).as_millis() }));
    }
    let mut shared = lock.lock().unwrap();
    match path {
        "/healthz" => ok(serde_json::json!({})),
        "/quiesce" => {
            let limit = Duration::from_millis(parameter(query, "deadline_ms").unwrap());
            // Nothing is being written while the lock is held.
            shared.rest_until = Some(Instant::now() + limit);
            ok(serde_json::json!({}))
        }
        "/resume" => {
            shared.rest_until = None;
            bell.notify_all();
            ok(serde_json::json!({}))
        }
        "/reidentify" => {
            let given: serde_json::Value = serde_json::from_str(body).unwrap();
            given["identity"]
                .as_str()
                .unwrap()
                .clone_into(&mut shared.identity);
            given["seed"].as_str().unwrap().clone_into(&mut shared.seed);
            ok(serde_json::json!({}))
        }
        "/whoami" => ok(serde_json::json!({
            "role": std::env::var("FORESHADOW_ROLE").unwrap(),
            "identity": shared.identity,
            "seed": shared.seed,
        })),
        "/damage" => {
            shared.damaged = true;
            ok(serde_json::json!({}))
        }
        "/state" => {
            let wanted = parameter(query, "position");
            let limit = Duration::from_millis(parameter(query, "timeout_ms").unwrap_or(1_000));
            let least = wanted.unwrap_or(1);
            let (shared, _) = bell
                .wait_timeout_while(shared, limit, |now| now.position < least)
                .unwrap();
            let position = wanted.unwrap_or(shared.position);
            match shared.digests.iter().find(|(at, _)| *at == position) {
                Some((_, digest)) if !shared.damaged => {
                    ok(serde_json::json!({ "position": position, "digest": digest }))
                }
                Some(_) => ok(serde_json::json!({ "position": position, "digest": "broken" })),
                None => ("409 Conflict", String::new()),
            }
        }
        _ => ("404 Not Found", String::new()),
    }
}

/// Uses this much processor time.
fn burn(limit: Duration) -> Duration {
    let used = || {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
    };
    let began = used();
    let mut hash = blake3::hash(b"");
    while used().saturating_sub(began) < limit {
        for _ in 0..100 {
            hash = blake3::hash(hash.as_bytes());
        }
    }
    assert_ne!(hash, blake3::hash(b""));
    used().saturating_sub(began)
}

/// The body of a `GET`.
pub(crate) fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    )
    .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text.split_once("\r\n\r\n")
        .map(|(_, body)| body.to_owned())
        .unwrap_or_default()
}
