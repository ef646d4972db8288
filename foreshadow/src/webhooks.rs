//! Tells others over HTTP what the planner signals: plans, assignments, isolation.
//!
//! Every entry of the signals' log from the start of this process on is posted as JSON, in order,
//! to every address. One that does not answer is tried again a few times, then that entry is
//! dropped for it with a warning: a deaf listener holds nothing up.
//!
//! With a secret every request is signed: `x-foreshadow-signature` is `sha256=` and the HMAC-SHA-256,
//! in hexadecimal, of the text of `x-foreshadow-timestamp` (seconds since 1970), a dot, and the body.
//! A listener that refuses old times is safe from requests that are played again.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use migrator::events;
use ring::hmac;
use store::{Clock, SharedStore, StoreError};
use tokio_util::sync::CancellationToken;

use crate::error::Failure;

/// Entries read at a time.
const BATCH: usize = 100;
/// How often the log is looked at.
const PAUSE: Duration = Duration::from_millis(500);
/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often one entry is sent to one address.
const ATTEMPTS: u32 = 4;

/// Shortest secret.
const SHORTEST: usize = 16;

/// Signs what is told.
#[derive(Clone)]
pub struct Signer {
    // It shows its algorithm only.
    key: hmac::Key,
    clock: Arc<dyn Clock>,
}

impl Signer {
    /// Reads the secret from a file that nobody else may read.
    ///
    /// # Errors
    /// [`Failure::Config`] naming the file and what is allowed, never the secret.
    pub fn read(file: &Path, clock: Arc<dyn Clock>) -> Result<Self, Failure> {
        let text = crate::storage::private_text(file)?;
        if text.len() < SHORTEST {
            let length = text.len();
            return Err(crate::door::bad(file)(format!(
                "it has {length} characters; allowed are {SHORTEST} and more"
            )));
        }
        let key = hmac::Key::new(hmac::HMAC_SHA256, text.as_bytes());
        Ok(Self { key, clock })
    }

    /// The time and the signature of a body that is sent now.
    fn sign(&self, body: &[u8]) -> (String, String) {
        let time = (self.clock.now().0 / 1_000).to_string();
        let mut context = hmac::Context::with_key(&self.key);
        for part in [time.as_bytes(), b".", body] {
            context.update(part);
        }
        let mut text = "sha256=".to_owned();
        for byte in context.sign().as_ref() {
            // Writing to a text cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        (time, text)
    }
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signer(…)")
    }
}

/// Follows the log until cancelled.
pub async fn follow(
    store: SharedStore,
    addresses: Vec<String>,
    signer: Option<Signer>,
    cancel: CancellationToken,
) {
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
                            let body = Bytes::from(entry.value.clone());
                            tell(&client, address, body, signer.as_ref()).await;
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

async fn tell(
    client: &Client<HttpConnector, Full<Bytes>>,
    address: &str,
    body: Bytes,
    signer: Option<&Signer>,
) {
    for attempt in 1..=ATTEMPTS {
        let mut request = Request::post(address).header("content-type", "application/json");
        if let Some(signer) = signer {
            let (time, signature) = signer.sign(&body);
            request = request
                .header("x-foreshadow-timestamp", time)
                .header("x-foreshadow-signature", signature);
        }
        let request = request.body(Full::new(body.clone()));
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
    use domain::HostId;
    use migrator::events::Signal;
    use store::{MemoryStore, Transaction};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const SECRET: &str = "a secret of some length";

    struct At;

    impl Clock for At {
        fn now(&self) -> domain::Timestamp {
            domain::Timestamp(1_700_000_000_999)
        }
    }

    fn signer(secret: &str) -> Signer {
        use std::os::unix::fs::PermissionsExt as _;
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), secret).unwrap();
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o600)).unwrap();
        Signer::read(file.path(), Arc::new(At)).unwrap()
    }

    #[test]
    fn a_signature_is_the_hmac_of_time_and_body_and_the_secret_is_never_shown() {
        let signer = signer(SECRET);
        let (time, signature) = signer.sign(b"{}");
        assert_eq!(time, "1700000000");
        // printf '1700000000.{}' | openssl dgst -sha256 -hmac 'a secret of some length'
        assert_eq!(
            signature,
            "sha256=9008b8e96ac884fb56cbbbb39d8c4b578c2c6de7951cbcce7f1f18311f3cd9f2"
        );
        assert!(!format!("{signer:?}").contains("secret"));
    }

    #[tokio::test]
    async fn what_is_signalled_is_told_and_a_listener_that_fails_once_is_told_again() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}/hook", listener.local_addr().unwrap());
        let store: SharedStore = Arc::new(MemoryStore::default());
        let signer = signer(SECRET);
        let cancel = CancellationToken::new();
        let signal = Signal::Isolation {
            host: HostId::new("a").unwrap(),
            owner: "ops".to_owned(),
            reason: Some("kernel".to_owned()),
            isolated: true,
            drain: false,
        };
        let follower = tokio::spawn(follow(
            Arc::clone(&store),
            vec![address],
            Some(signer),
            cancel.clone(),
        ));
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
        assert!(told[0].contains("x-foreshadow-timestamp: 1700000000\r\n"));
        assert!(
            told[0].contains("x-foreshadow-signature: sha256="),
            "{told:?}"
        );
        cancel.cancel();
        follower.await.unwrap();
    }
}
