//! How much a change costs, beside plain sockets that carry the same bytes on as many connections.
//!
//! ```text
//! make bench-xds                 # 1 000 and 10 000 streams, 2 and 10 000 clusters
//! make bench-xds ARGS='200 2'    # so many streams and clusters only
//! ```
//!
//! Server and clients are processes of their own, so that the server's CPU time and memory (from
//! `/proc`) are its own. Each stream has a TCP connection of its own, subscribes to every cluster
//! and its endpoints, and to the routes of one service, and acknowledges all of it. A push changes
//! that service's weights: about 1 KB of routes.
//!
//! No server to compare with builds from the crate registry (decision 0001), so the peer here is
//! the floor: two programs that write and read the same bytes on sockets and know nothing of xDS.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a bench that cannot go on says so by ending"
)]

mod client;
mod floor;
mod process;
mod report;
mod server;

use process::Process;
use report::{Figures, promise};

/// Pushes that are measured.
const PUSHES: u32 = 10;

fn main() {
    raise_limit();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let number = |text: &str| -> usize { text.parse().expect("a number") };
    match words.as_slice() {
        ["server", clusters, port] => runtime(server::run(number(clusters), port.parse().unwrap())),
        ["client", streams, port] => runtime(client::run(number(streams), port.parse().unwrap())),
        ["reports", streams, port] => {
            runtime(client::report(number(streams), port.parse().unwrap()));
        }
        ["floor-server"] => runtime(floor::server()),
        ["floor-client", streams, port] => {
            runtime(floor::client(number(streams), port.parse().unwrap()));
        }
        [streams, clusters] => {
            compare(number(streams), number(clusters));
        }
        [] => all(),
        _ => panic!("use no arguments, or two numbers: streams and clusters"),
    }
}

fn runtime(work: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(work);
}

/// As many files as the system lets this user have.
fn raise_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let all = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, all) {
        eprintln!("the limit of open files stays as it is: {error}");
    }
}

/// One size: ours, and the floor.
fn compare(streams: usize, clusters: usize) -> (Figures, Figures) {
    let floor = push(
        "floor",
        streams,
        0,
        Process::start(&["floor-server"]),
        "floor-client",
    );
    let clusters_text = clusters.to_string();
    let server = Process::start(&["server", &clusters_text, "0"]);
    let ours = push("foreshadow", streams, clusters, server, "client");
    println!(
        "{:<12} {streams:>6} streams: {:.2} x the floor's CPU",
        "ratio",
        ours.cpu_us / floor.cpu_us.max(0.01)
    );
    (ours, floor)
}

/// Starts clients, pushes, and measures.
fn push(name: &str, streams: usize, clusters: usize, mut server: Process, client: &str) -> Figures {
    let port = server.line();
    let idle = server.rss_kib();
    let before = server.cpu_us();
    let mut clients = Process::start(&[client, &streams.to_string(), &port]);
    assert_eq!(clients.line(), "ready");
    let per_stream = |value: f64| value / report::float(streams);
    let connect_us = per_stream(server.cpu_us() - before);
    // What the connecting left to do is done, and not the pushes' cost.
    server.rest();
    let rss_kib = per_stream(server.rss_kib() - idle);
    let before = server.cpu_us();
    let mut times = Vec::new();
    let mut walls = Vec::new();
    for _ in 0..PUSHES {
        let began = report::now_us();
        server.say("push");
        let line = clients.line();
        walls.push(report::now_us() - began);
        times.extend(
            line.split_whitespace()
                .map(|at| at.parse::<f64>().unwrap() - began),
        );
    }
    server.rest();
    let cpu_us = per_stream(server.cpu_us() - before) / f64::from(PUSHES);
    let figures = Figures {
        connect_us,
        rss_kib,
        cpu_us,
        received_ms: report::quantiles(times),
        last_ms: report::quantiles(walls),
    };
    println!("{}", figures.line(name, streams, clusters));
    figures
}

/// A server is killed, and another takes its place.
fn storm(streams: usize) -> (f64, u64) {
    let mut server = Process::start(&["server", "2", "0"]);
    let port = server.line();
    let mut clients = Process::start(&["client", &streams.to_string(), &port]);
    assert_eq!(clients.line(), "ready");
    let began = report::now_us();
    drop(server);
    let mut server = Process::start(&["server", "2", &port]);
    assert_eq!(server.line(), port);
    let line = clients.line();
    let seconds = (report::now_us() - began) / 1e6;
    let resent: u64 = line.strip_prefix("back ").unwrap().parse().unwrap();
    println!(
        "reconnect    {streams:>6} streams: all back after {seconds:.2} s, {resent} unchanged resources sent again"
    );
    (seconds, resent)
}

fn reports(streams: usize) -> f64 {
    let mut server = Process::start(&["server", "2", "0"]);
    let port = server.line();
    let before = server.cpu_us();
    let mut clients = Process::start(&["reports", &streams.to_string(), &port]);
    let line = clients.line();
    let mut words = line
        .split_whitespace()
        .map(|word| word.parse::<f64>().unwrap());
    let (count, seconds) = (words.next().unwrap(), words.next().unwrap());
    let cpu = (server.cpu_us() - before) / count;
    let rate = count / seconds;
    println!("load reports {streams:>6} streams: {rate:.0} reports/s, {cpu:.1} us CPU each");
    rate
}

fn all() {
    let (small, small_floor) = compare(1_000, 2);
    let (idle, _) = compare(1_000, 10_000);
    let (large, large_floor) = compare(10_000, 2);
    let (seconds, resent) = storm(10_000);
    let rate = reports(500);
    promise(
        "X20",
        large.cpu_us / large_floor.cpu_us,
        "x floor CPU, 10 000 streams",
        "<=",
        4.0,
    );
    promise(
        "X21",
        small.cpu_us / small_floor.cpu_us,
        "x floor CPU, 1 000 streams",
        "<=",
        4.0,
    );
    promise(
        "X22",
        idle.cpu_us / small.cpu_us,
        "x CPU with 10 000 unrelated clusters",
        "<=",
        1.1,
    );
    promise("X23", large.rss_kib, "KiB a stream, 2 clusters", "<=", 40.0);
    promise(
        "X24",
        idle.rss_kib,
        "KiB a stream, 10 000 clusters",
        "<=",
        60.0,
    );
    promise(
        "X25",
        seconds,
        "s until 10 000 streams are back",
        "<=",
        15.0,
    );
    let resent = report::float(usize::try_from(resent).unwrap_or(usize::MAX));
    promise("X26", resent, "unchanged resources sent again", "<=", 0.0);
    promise("X27", rate, "load reports a second", ">=", 20_000.0);
}
