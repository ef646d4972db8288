//! From the server's messages to the watchers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use ::redis::{PushInfo, PushKind, Value};

use super::codec;
use super::keys::Keys;
use crate::key::Kind;
use crate::watch::Watchers;

/// The messages of one connection. They arrive in order and are numbered per kind; a number that
/// was skipped, or a message that is not understood, makes the watchers list anew.
#[derive(Debug)]
pub(super) struct Feed {
    keys: Keys,
    watchers: Arc<Watchers>,
    last: Mutex<BTreeMap<Kind, u64>>,
}

impl Feed {
    pub(super) fn new(keys: Keys, watchers: Arc<Watchers>) -> Self {
        Self {
            keys,
            watchers,
            last: Mutex::default(),
        }
    }

    /// Handles one message; never waits, since the connection does.
    pub(super) fn handle(&self, push: &PushInfo) {
        if push.kind != PushKind::Message {
            return;
        }
        let [Value::BulkString(channel), Value::BulkString(body)] = push.data.as_slice() else {
            return;
        };
        if let Some(kind) = self.keys.kind_of(channel) {
            self.tell(kind, body);
        }
    }

    fn tell(&self, kind: Kind, body: &[u8]) {
        let Ok((number, changes)) = codec::message(kind, body) else {
            self.watchers.missed(kind);
            return;
        };
        let previous = self
            .last
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(kind, number);
        if previous.is_some_and(|previous| previous + 1 != number) {
            self.watchers.missed(kind);
        }
        self.watchers.tell_all(changes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Key;
    use crate::watch::Change;

    fn deletion(number: u64) -> PushInfo {
        PushInfo {
            kind: PushKind::Message,
            data: vec![
                Value::BulkString(b"{p}:changes:host".to_vec()),
                Value::BulkString(format!("{number}\nD 1 0\na").into_bytes()),
            ],
        }
    }

    #[tokio::test]
    async fn a_skipped_or_broken_message_makes_the_watchers_list_anew() {
        let watchers = Arc::new(Watchers::new());
        let feed = Feed::new(Keys::new("p"), Arc::clone(&watchers));
        let mut watch = watchers.watch(Kind::Host);
        feed.handle(&deletion(4));
        feed.handle(&deletion(5));
        feed.handle(&deletion(7));
        let mut broken = deletion(8);
        broken.data[1] = Value::BulkString(b"8\nP 1".to_vec());
        feed.handle(&broken);
        let gone = || Some(Change::Deleted(Key::new(Kind::Host, "a")));
        assert_eq!(watch.next().await, gone());
        assert_eq!(watch.next().await, gone());
        assert_eq!(watch.next().await, Some(Change::Missed), "6 is missing");
        assert_eq!(watch.next().await, gone());
        assert_eq!(watch.next().await, Some(Change::Missed), "8 is broken");
    }
}
