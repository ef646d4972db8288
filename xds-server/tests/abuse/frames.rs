//! HTTP/2 as no client speaks it, byte by byte.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// How long an attacker goes on, at most.
const LIMIT: Duration = Duration::from_secs(20);
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What an attacker sends.
#[derive(Debug, Clone, Copy)]
pub enum Attack {
    /// Half of the preface, then silence.
    HalfAPreface,
    /// The head of a frame, and half of its body.
    HalfAFrame,
    /// Half of a gRPC message.
    HalfAMessage,
    /// No HTTP/2 at all.
    Noise,
    /// Pings without end.
    Pings,
    /// Settings without end.
    Settings,
    /// Streams that are reset as soon as they are opened.
    RapidReset,
    /// Headers that never end.
    Continuation,
    /// Data frames without data.
    EmptyData,
    /// A message that says it is compressed, and is not; and one that says it is of 4 GiB.
    Lies,
}

pub const ALL: [Attack; 10] = [
    Attack::HalfAPreface,
    Attack::HalfAFrame,
    Attack::HalfAMessage,
    Attack::Noise,
    Attack::Pings,
    Attack::Settings,
    Attack::RapidReset,
    Attack::Continuation,
    Attack::EmptyData,
    Attack::Lies,
];

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(body);
    frame
}

/// A literal header, not indexed; the name new, or from the static table.
fn literal(index: u8, name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![index];
    if index == 0 {
        bytes.push(u8::try_from(name.len()).unwrap());
        bytes.extend(name.bytes());
    }
    bytes.push(u8::try_from(value.len()).unwrap());
    bytes.extend(value.bytes());
    bytes
}

/// The headers of a discovery stream.
fn headers() -> Vec<u8> {
    // POST and http, from the static table.
    let mut block = vec![0x83, 0x86];
    let path = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
    block.extend(literal(4, "", path));
    block.extend(literal(1, "", "localhost"));
    block.extend(literal(0, "content-type", "application/grpc"));
    block.extend(literal(0, "te", "trailers"));
    block
}

fn opening() -> Vec<u8> {
    let mut bytes = PREFACE.to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    bytes
}

fn bytes(attack: Attack) -> Vec<u8> {
    let mut bytes = opening();
    let open = |stream| frame(HEADERS, END_HEADERS, stream, &headers());
    match attack {
        Attack::HalfAPreface => PREFACE[..11].to_vec(),
        Attack::Noise => (0..100_000_u32)
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect(),
        Attack::HalfAFrame => {
            let whole = open(1);
            bytes.extend(&whole[..whole.len() / 2]);
            bytes
        }
        Attack::HalfAMessage => {
            bytes.extend(open(1));
            bytes.extend(frame(DATA, 0, 1, &[0, 0, 0, 1, 0, 10, 20, 30]));
            bytes
        }
        Attack::Pings => {
            let ping = frame(PING, 0, 0, &[7; 8]);
            bytes.extend(ping.repeat(50_000));
            bytes
        }
        Attack::Settings => {
            let settings = frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]);
            bytes.extend(settings.repeat(50_000));
            bytes
        }
        Attack::RapidReset => {
            for stream in (1..40_000).step_by(2) {
                bytes.extend(open(stream));
                bytes.extend(frame(RESET, 0, stream, &[0, 0, 0, 8]));
            }
            bytes
        }
        Attack::Continuation => {
            bytes.extend(frame(HEADERS, 0, 1, &headers()));
            let more = literal(0, "x", &"y".repeat(120));
            bytes.extend(frame(CONTINUATION, 0, 1, &more.repeat(100)).repeat(500));
            bytes
        }
        Attack::EmptyData => {
            bytes.extend(open(1));
            bytes.extend(frame(DATA, 0, 1, &[]).repeat(100_000));
            bytes
        }
        Attack::Lies => {
            bytes.extend(open(1));
            bytes.extend(frame(DATA, 0, 1, &[1, 0, 0, 0, 2, 1, 2]));
            bytes.extend(open(3));
            bytes.extend(frame(DATA, 0, 3, &[0, 255, 255, 255, 255, 1, 2]));
            bytes
        }
    }
}

/// Sends it, as long as the server takes it, and reads what comes back. Whether the server ends the
/// connection or waits is its own matter.
pub async fn send(server: SocketAddr, attack: Attack) {
    let attacking = async {
        let mut stream = TcpStream::connect(server).await.unwrap();
        let (mut reader, mut writer) = stream.split();
        let reading = async {
            let mut sink = vec![0; 16 * 1024];
            while matches!(reader.read(&mut sink).await, Ok(read) if read > 0) {}
        };
        let writing = async {
            // A server that has had enough does not take the rest.
            let _ = writer.write_all(&bytes(attack)).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        };
        tokio::select! {
            () = reading => {}
            () = writing => {}
        }
    };
    let _ = tokio::time::timeout(LIMIT, attacking).await;
}
