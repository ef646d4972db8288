//! Tells others over HTTP what the planner signals: plans, assignments, isolation.
//!
//! Every entry of the signals' log from the start of this process on is posted as JSON, in order,
//! to every address. One that does not answer is tried again a few times, then that entry is
//! dropped for it with a warning: a deaf listener holds nothing up.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use migrator::events;
use store::{SharedStore, StoreError};
use tokio_util::sync::CancellationToken;

/// Entries read at a time.
const BATCH: usize = 100;
/// How often the log is looked at.
const PAUSE: Duration = Duration::from_millis(500);
/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often one entry is sent to one address.
const ATTEMPTS: u32 = 4;

/// Follows the log until cancelled.
pub async fn follow(store: SharedStore, addresses: Vec<String>, cancel: CancellationToken) {
    if addresses.is_empty() {
        return;
    }
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let work = async {
        let mut from = end(&store).await;
        loop {
            match store.read_log(&events::log_name(), from, BATCH).await {
                Ok(entries) => {
                    for entry in entries {
                        from = entry.sequence + 1;
                        for address in &addresses {
                            tell(&client, address, Bytes::from(entry.value.clone())).await;
                        }
                    }
                }
                Err(error) => tracing::warn!(%error, "signals cannot be read"),
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::select! {
        biased;
        () = cancel.cancelled() => {}
        () = work => {}
    }
}

/// The number after the newest entry.
async fn end(store: &SharedStore) -> u64 {
    let mut from = 0;
    loop {
        let read: Result<_, StoreError> = store.read_log(&events::log_name(), from, 1_000).await;
        match read {
            Ok(entries) => match entries.last() {
                Some(last) => from = last.sequence + 1,
                None => return from,
            },
            Err(error) => {
                tracing::warn!(%error, "signals cannot be read");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn tell(client: &Client<HttpConnector, Full<Bytes>>, address: &str, body: Bytes) {
    for attempt in 1..=ATTEMPTS {
        let request = Request::post(address)
            .header("content-type", "application/json")
            .body(Full::new(body.clone()));
        let Ok(request) = request else {
            tracing::warn!(address, "is no address");
            return;
        };
        let why = match tokio::time::timeout(PATIENCE, client.request(request)).await {
            Ok(Ok(answer)) if answer.status().is_success() => return,
            Ok(Ok(answer)) => answer.status().to_string(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer".to_owned(),
        };
        if attempt == ATTEMPTS {
            tracing::warn!(address, why, "a signal was not taken");
            return;
        }
        tokio::time::sleep(PAUSE * 2_u32.pow(attempt)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use domain::HostId;
    use migrator::events::Signal;
    use store::{MemoryStore, Transaction};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn what_is_signalled_is_told_and_a_listener_that_fails_once_is_told_again() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}/hook", listener.local_addr().unwrap());
        let store: SharedStore = Arc::new(MemoryStore::default());
        let cancel = CancellationToken::new();
        let signal = Signal::Isolation {
            host: HostId::new("a").unwrap(),
            owner: "ops".to_owned(),
            reason: Some("kernel".to_owned()),
            isolated: true,
            drain: false,
        };
        let follower = tokio::spawn(follow(Arc::clone(&store), vec![address], cancel.clone()));
        let mut told = Vec::new();
        let mut answered = 0;
        while told.is_empty() {
            if answered == 0 {
                // The follower begins at the end of the log: what is written later it tells.
                let add = Transaction::new()
                    .append(events::log_name(), &signal)
                    .unwrap();
                store.commit(add).await.unwrap();
            }
            let Ok(accepted) =
                tokio::time::timeout(Duration::from_millis(300), listener.accept()).await
            else {
                continue;
            };
            let (mut stream, _) = accepted.unwrap();
            let mut text = String::new();
            while !text.contains("\"signal\"") {
                let mut chunk = [0; 1_024];
                let read = stream.read(&mut chunk).await.unwrap();
                text.push_str(&String::from_utf8_lossy(&chunk[..read]));
            }
            answered += 1;
            let answer: &[u8] = if answered == 1 {
                b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            } else {
                told.push(text);
                b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            };
            stream.write_all(answer).await.unwrap();
        }
        assert!(told[0].contains("\"host\":\"a\"") && told[0].contains("kernel"));
        cancel.cancel();
        follower.await.unwrap();
    }
}
