//! Finding the master through Sentinel.
//!
//! Each attempt to connect asks the sentinels in order who the master is, and goes there. After a
//! fail-over the old connection breaks or becomes read-only, the keeper connects anew, and the new
//! master is a new era: what the old one had not passed on is noticed as a rewind.

use std::io;

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, Cmd, RedisConnectionInfo};

use super::connect::{Address, Connector, NetConnector, Stream, Tls};
use super::keeper::Task;
use crate::error::StoreError;

/// Opens streams to the server that the sentinels call the master. The sentinels themselves are
/// asked without a password.
pub struct SentinelConnector {
    sentinels: Vec<Address>,
    master: String,
    tls: Option<Tls>,
}

impl SentinelConnector {
    /// Without encryption.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] for an empty list.
    pub fn plain(sentinels: Vec<Address>, master: impl Into<String>) -> Result<Self, StoreError> {
        if sentinels.is_empty() {
            return Err(StoreError::Invalid {
                what: "the list of sentinels",
                reason: "it is empty".to_owned(),
            });
        }
        Ok(Self {
            sentinels,
            master: master.into(),
            tls: None,
        })
    }

    /// With TLS to sentinels and master, which carry one name.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] for an empty list, or a certificate, key or name that is not one.
    pub fn tls(
        sentinels: Vec<Address>,
        master: impl Into<String>,
        tls: Tls,
    ) -> Result<Self, StoreError> {
        let plain = Self::plain(sentinels, master)?;
        for address in &plain.sentinels {
            NetConnector::tls(address.clone(), &tls)?;
        }
        Ok(Self {
            tls: Some(tls),
            ..plain
        })
    }

    async fn open(&self, address: Address) -> io::Result<Box<dyn Stream>> {
        let connector = match &self.tls {
            Some(tls) => NetConnector::tls(address, tls).map_err(io::Error::other)?,
            None => NetConnector::plain(address),
        };
        connector.connect().await
    }

    async fn ask(&self, sentinel: &Address) -> io::Result<Address> {
        let stream = self.open(sentinel.clone()).await?;
        let login = RedisConnectionInfo::default().set_skip_set_lib_name();
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let (mut connection, driver) =
            MultiplexedConnection::new_with_config(&login, stream, config)
                .await
                .map_err(io::Error::other)?;
        let _driver = Task::spawn(driver);
        let found: Option<(String, u16)> = Cmd::new()
            .arg("SENTINEL")
            .arg("get-master-addr-by-name")
            .arg(&self.master)
            .query_async(&mut connection)
            .await
            .map_err(io::Error::other)?;
        let (host, port) = found.ok_or_else(|| {
            io::Error::other(format!("sentinel {sentinel} knows no {:?}", self.master))
        })?;
        Ok(Address::Tcp(host, port))
    }
}

#[async_trait::async_trait]
impl Connector for SentinelConnector {
    async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        let mut last = io::Error::other("no sentinel was asked");
        for sentinel in &self.sentinels {
            match self.ask(sentinel).await {
                Ok(master) => return self.open(master).await,
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn name(&self) -> String {
        format!("master {:?} of the sentinels", self.master)
    }
}
