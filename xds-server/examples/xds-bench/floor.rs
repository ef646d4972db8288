//! The floor: the same bytes on as many connections, and nothing else.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

/// Bytes of a push and of its acknowledgement on the wire, as measured of ours.
const PUSH: usize = 1_100;
const ACK: usize = 90;

pub(crate) async fn server() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap().port());
    let (pushes, push) = watch::channel(0_u64);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            let mut push = push.clone();
            tokio::spawn(async move {
                let (mut bytes, mut answer) = ([7_u8; PUSH], [0_u8; ACK]);
                while push.changed().await.is_ok() {
                    bytes[0] = 1;
                    if stream.write_all(&bytes).await.is_err()
                        || stream.read_exact(&mut answer).await.is_err()
                    {
                        return;
                    }
                }
            });
        }
    });
    let mut lines = crate::process::lines();
    while lines.recv().await.is_some() {
        pushes.send_modify(|number| *number += 1);
    }
}

pub(crate) async fn client(streams: usize, port: u16) {
    let (done, mut all) = mpsc::channel(streams);
    for _ in 0..streams {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let done = done.clone();
        tokio::spawn(async move {
            let (mut bytes, answer) = ([0_u8; PUSH], [9_u8; ACK]);
            while stream.read_exact(&mut bytes).await.is_ok() {
                let at = crate::report::now_us();
                stream.write_all(&answer).await.unwrap();
                done.send(at).await.unwrap();
            }
        });
    }
    println!("ready");
    loop {
        let mut times = Vec::new();
        while times.len() < streams {
            times.push(all.recv().await.unwrap());
        }
        crate::client::print(&times);
    }
}
