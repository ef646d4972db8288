//! A connection's bytes on their way: late, held, or lost with the connection.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf};
use tokio::time::sleep;

use super::super::faults::Fault;
use super::super::rng::Rng;
use super::super::world::World;

/// Bytes that fit on each half of the way.
const ROOM: usize = 256 * 1024;

/// Which way bytes go.
#[derive(Debug, Clone, Copy)]
enum Way {
    Up,
    Down,
}

/// Connects a proxy, if the control plane is there: the proxy's end.
pub(super) async fn dial(world: &Arc<World>, index: usize, rng: &mut Rng) -> Option<DuplexStream> {
    let door = {
        let state = world.state();
        let away = state.is(Fault::ProxyAway(index)) || state.is(Fault::Partition(index));
        state.net.door.clone().filter(|_| !away)?
    };
    let (client, near) = tokio::io::duplex(ROOM);
    let (far, server) = tokio::io::duplex(ROOM);
    let (from_client, to_client) = tokio::io::split(near);
    let (from_server, to_server) = tokio::io::split(far);
    let mut pump = |way, from, to| {
        let own = Rng::new(rng.next(), 301);
        let world = Arc::clone(world);
        tokio::spawn(carry(world, index, way, own, from, to)).abort_handle()
    };
    let pumps = vec![
        pump(Way::Up, from_client, to_server),
        pump(Way::Down, from_server, to_client),
    ];
    {
        let mut state = world.state();
        state.net.cut(index);
        state.net.pumps.insert(index, pumps);
    }
    door.send(Box::new(server)).await.ok()?;
    Some(client)
}

/// Whether nothing goes this way now.
fn holds(world: &World, index: usize, way: Way) -> bool {
    let state = world.state();
    let one_way = match way {
        Way::Up => Fault::DeafPlane(index),
        Way::Down => Fault::DeafProxy(index),
    };
    state.is(Fault::Partition(index)) || state.is(one_way)
}

async fn carry(
    world: Arc<World>,
    index: usize,
    way: Way,
    mut rng: Rng,
    mut from: ReadHalf<DuplexStream>,
    mut to: WriteHalf<DuplexStream>,
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let Ok(count) = from.read(&mut buffer).await else {
            return;
        };
        if count == 0 {
            let _ = to.shutdown().await;
            return;
        }
        sleep(Duration::from_millis(rng.between(1, 12))).await;
        // What is sent meanwhile is kept by the sender, as TCP does.
        while holds(&world, index, way) {
            sleep(Duration::from_millis(20)).await;
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
