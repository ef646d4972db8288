//! What the server is, and whether it may be trusted with state.

use ::redis::aio::MultiplexedConnection;
use ::redis::{Cmd, Value};

use super::fault;
use super::options::Persistence;
use crate::error::StoreError;

/// What the server says of itself.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Server {
    /// Made anew at each start of a server process.
    pub(super) run: String,
    append_only: bool,
    policy: String,
    replica: bool,
}

impl Server {
    /// Asks it.
    pub(super) async fn inspect(connection: &MultiplexedConnection) -> Result<Self, StoreError> {
        const OPERATION: &str = "inspect the server";
        let value = Cmd::new()
            .arg("INFO")
            .arg("server")
            .arg("persistence")
            .arg("memory")
            .arg("replication")
            .query_async::<Value>(&mut connection.clone())
            .await
            .map_err(|error| fault::name(OPERATION, &error))?;
        let Value::VerbatimString { text, .. } = value else {
            return Err(super::script::unexpected(OPERATION));
        };
        Self::parse(&text)
            .ok_or_else(|| fault::unavailable(OPERATION, "INFO says less than that of Redis 7"))
    }

    fn parse(info: &str) -> Option<Self> {
        let field = |name: &str| {
            info.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .map(|value| value.trim_end().to_owned())
        };
        Some(Self {
            run: field("run_id")?,
            append_only: field("aof_enabled")? == "1",
            policy: field("maxmemory_policy")?,
            replica: field("role")? != "master",
        })
    }

    /// Whether state may be kept there.
    ///
    /// # Errors
    /// [`StoreError::ReadOnly`] for a replica, [`StoreError::NotDurable`] for a server that would
    /// forget, by a crash or by eviction.
    pub(super) fn check(&self, persistence: Persistence, store: &str) -> Result<(), StoreError> {
        if self.replica {
            return Err(StoreError::ReadOnly {
                operation: "open the store",
                reason: "the server is a replica".to_owned(),
            });
        }
        let reason = match persistence {
            Persistence::Required if !self.append_only => {
                "the server keeps no append-only file; set `appendonly yes`".to_owned()
            }
            Persistence::Required if self.policy.starts_with("allkeys") => format!(
                "the server evicts keys (`maxmemory-policy {}`); set `noeviction`",
                self.policy
            ),
            Persistence::Required | Persistence::MayForget => return Ok(()),
        };
        Err(StoreError::NotDurable {
            store: store.to_owned(),
            reason,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: &str = "# Server\r\nrun_id:ab12\r\n# Memory\r\nmaxmemory_policy:noeviction\r\n\
                        # Persistence\r\naof_enabled:1\r\n# Replication\r\nrole:master\r\n";

    fn verdict(info: &str) -> Result<(), StoreError> {
        Server::parse(info)
            .unwrap()
            .check(Persistence::Required, "s")
    }

    #[test]
    fn only_a_master_that_keeps_everything_is_accepted() {
        assert_eq!(Server::parse(INFO).unwrap().run, "ab12");
        assert_eq!(verdict(INFO), Ok(()));
        for (wrong, instead) in [("enabled:1", "enabled:0"), ("noeviction", "allkeys-lru")] {
            let verdict = verdict(&INFO.replace(wrong, instead));
            assert!(
                matches!(verdict, Err(StoreError::NotDurable { .. })),
                "{instead}: {verdict:?}"
            );
        }
        let replica = verdict(&INFO.replace("role:master", "role:slave"));
        assert!(matches!(replica, Err(StoreError::ReadOnly { .. })));
        assert_eq!(Server::parse("run_id:ab12\r\n"), None);
    }
}
