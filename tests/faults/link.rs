//! A TCP proxy between two parts of the system that makes the network bad on demand: a partition
//! (both ways or one way), latency, connections that are reset, another way to the same thing.
//!
//! What is held back in a partition arrives when it is over, as TCP's repetitions would.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// How the network is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weather {
    /// Everything arrives.
    Fair,
    /// Nothing arrives.
    Partition,
    /// What the side that connected says does not arrive.
    PartitionUp,
    /// What it is answered does not arrive.
    PartitionDown,
    /// Everything arrives this much later.
    Slow(Duration),
    /// Connections are reset, and refused.
    Reset,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct State {
    weather: Weather,
    /// Where connections lead: the first that takes them.
    targets: Vec<SocketAddr>,
    /// Connections of an earlier number are cut.
    number: u64,
}

/// A way that can be made bad.
pub(crate) struct Link {
    pub(crate) address: SocketAddr,
    state: watch::Sender<State>,
    task: JoinHandle<()>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Link {
    /// Listens at `address`, and leads to the first of `targets` that takes the connection.
    pub(crate) async fn open(address: SocketAddr, targets: Vec<SocketAddr>) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let (state, seen) = watch::channel(State {
            weather: Weather::Fair,
            targets,
            number: 0,
        });
        Self {
            address,
            state,
            task: tokio::spawn(accept(listener, seen)),
        }
    }

    pub(crate) fn set(&self, weather: Weather) {
        self.state.send_modify(|state| {
            state.weather = weather;
            if weather == Weather::Reset {
                state.number += 1;
            }
        });
    }

    /// Cuts every connection; new ones lead to these.
    pub(crate) fn lead_to(&self, targets: Vec<SocketAddr>) {
        self.state.send_modify(|state| {
            if state.targets != targets {
                state.targets = targets;
                state.number += 1;
            }
        });
    }
}

async fn accept(listener: TcpListener, state: watch::Receiver<State>) {
    // Dropping the set, with this task, ends every connection.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { continue };
                connections.spawn(connect(client, state.clone()));
            }
        }
    }
}

async fn connect(client: TcpStream, mut state: watch::Receiver<State>) {
    let now = state.borrow_and_update().clone();
    if now.weather == Weather::Reset {
        reset(&client);
        return;
    }
    let mut server = None;
    for target in now.targets {
        if let Ok(found) = TcpStream::connect(target).await {
            server = Some(found);
            break;
        }
    }
    let Some(server) = server else {
        reset(&client);
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    carry(client, server, now.number, state).await;
}

/// Ends a connection with a reset instead of a farewell.
fn reset(stream: &TcpStream) {
    let _ = rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO));
}

async fn carry(
    mut client: TcpStream,
    mut server: TcpStream,
    number: u64,
    state: watch::Receiver<State>,
) {
    let mut cut = state.clone();
    let cut_off = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let up = pass(from_client, to_server, Way::Up, state.clone());
        let down = pass(from_server, to_client, Way::Down, state);
        tokio::select! {
            biased;
            changed = cut.wait_for(|state| state.number != number) => changed.is_ok(),
            () = up => false,
            () = down => false,
        }
    };
    if cut_off {
        reset(&client);
        reset(&server);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Up,
    Down,
}

/// How long what goes this way is held back; `None` while nothing passes.
fn hold(weather: Weather, way: Way) -> Option<Duration> {
    match (weather, way) {
        (Weather::Fair | Weather::Reset, _)
        | (Weather::PartitionUp, Way::Down)
        | (Weather::PartitionDown, Way::Up) => Some(Duration::ZERO),
        (Weather::Slow(by), _) => Some(by),
        (Weather::Partition, _)
        | (Weather::PartitionUp, Way::Up)
        | (Weather::PartitionDown, Way::Down) => None,
    }
}

/// Carries bytes one way until one of the ends is gone.
async fn pass(
    mut from: tokio::net::tcp::ReadHalf<'_>,
    mut to: tokio::net::tcp::WriteHalf<'_>,
    way: Way,
    mut state: watch::Receiver<State>,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let Ok(count) = from.read(&mut buffer).await else {
            return;
        };
        let passes = |state: &State| hold(state.weather, way).is_some();
        let by = match state.wait_for(passes).await {
            Ok(state) => hold(state.weather, way).unwrap_or_default(),
            Err(_) => return,
        };
        if !by.is_zero() {
            tokio::time::sleep(by).await;
        }
        let bytes = buffer.get(..count).unwrap_or_default();
        if count == 0 || to.write_all(bytes).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        address
    }

    async fn says(stream: &mut TcpStream, byte: u8) -> std::io::Result<u8> {
        stream.write_all(&[byte]).await?;
        stream.read_u8().await
    }

    #[tokio::test]
    async fn what_a_partition_holds_back_arrives_after_it_and_a_reset_is_seen() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = TcpListener::bind(any).await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let link = Link::open(address, vec![echo().await]).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        assert_eq!(says(&mut stream, 1).await.unwrap(), 1);
        for weather in [
            Weather::Partition,
            Weather::PartitionUp,
            Weather::PartitionDown,
        ] {
            link.set(weather);
            let held = tokio::time::timeout(Duration::from_millis(50), says(&mut stream, 2));
            assert!(held.await.is_err(), "{weather:?} lets it pass");
            link.set(Weather::Fair);
            assert_eq!(stream.read_u8().await.unwrap(), 2, "{weather:?}");
        }
        link.set(Weather::Reset);
        assert!(says(&mut stream, 3).await.is_err());
        link.set(Weather::Fair);
        let mut again = TcpStream::connect(address).await.unwrap();
        assert_eq!(says(&mut again, 4).await.unwrap(), 4);
        link.lead_to(vec![echo().await]);
        assert!(says(&mut again, 5).await.is_err(), "it leads elsewhere now");
    }
}
