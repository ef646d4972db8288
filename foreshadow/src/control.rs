//! The control plane in one process: store, xDS server, forecaster, driver, migrator, page.
//!
//! # Ownership
//! Parts meet only in the store and on the wire; this module starts them in order and stops them
//! in reverse. Instances outlive it: they are found again by their tags.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use domain::{HolderId, Instance, InstanceState, Resource, Routing, Timestamp};
use forecaster::intake::Sieve;
use forecaster::{Forecaster, ForecasterConfig};
use migrator::Migrator;
use migrator::driver::Driver;
use migrator::driver::process::{ProcessConfig, ProcessDriver};
use store::{Clock, Expect, Key, Kind, SharedStore, SystemClock, Transaction};
use tokio_util::sync::CancellationToken;
use xds_server::{XdsConfig, XdsServer};

use crate::config::{CalendarSettings, Config};
use crate::door::{Guard, Token};
use crate::error::Failure;
use crate::health::{self, Vitals};
use crate::http::{self, Api};
use crate::ingest::Ingest;
use crate::keyring::Keyring;
use crate::security::PageTls;
use crate::storage::{self, Opened, StoreChoice};
use crate::webhooks::{self, Signer};

/// Demand known from before: instance, and one value per step, newest last.
pub type Known = Vec<(domain::InstanceId, Vec<Option<f64>>)>;

/// A running control plane.
pub struct ControlPlane {
    /// The store.
    pub store: SharedStore,
    /// The driver.
    pub driver: Arc<ProcessDriver>,
    /// Where ADS, LRS and ALS answer.
    pub xds: SocketAddr,
    /// Where health, metrics and the data planes' progress are shown, if they are.
    pub xds_admin: Option<SocketAddr>,
    /// Where the page is.
    pub page: SocketAddr,
    /// By what it proves itself, and nodes are enrolled.
    pub keyring: Keyring,
    server: XdsServer,
    forecaster: Forecaster,
    migrator: Arc<Migrator>,
    opened: Opened,
    cancel: CancellationToken,
}

impl ControlPlane {
    /// Starts everything; instances that do not run yet are started.
    ///
    /// # Errors
    /// [`Failure`] of the part that could not start; what had started is stopped again.
    pub async fn start(config: &Config, known: &Known) -> Result<Self, Failure> {
        config
            .validate()
            .map_err(|mistake| Failure::Config(mistake.to_string()))?;
        std::fs::create_dir_all(&config.data).map_err(Failure::unavailable(&format!(
            "make the data folder {}",
            config.data.display()
        )))?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let keyring = Keyring::open(config)?;
        let (guard, signer) = secrets(config, &clock)?;
        let opened = storage::open(&config.store, &config.data).await?;
        let store = Arc::clone(&opened.store);
        let driver = ProcessDriver::open(ProcessConfig::new(config.replicas()))
            .map_err(Failure::unavailable("open the process driver"))?;
        let xds_config = XdsConfig {
            listen: config.xds,
            report_interval: Duration::from_millis(config.report_ms),
            name: name_of(config),
            insecure_remote: config.insecure_remote,
            security: keyring.xds.clone(),
            admin: config.xds_admin,
            secrets: config.security.secrets.clone(),
            ..XdsConfig::default()
        };
        let server = XdsServer::start(xds_config, Arc::clone(&store), Arc::clone(&clock))
            .await
            .map_err(Failure::unavailable("start the xDS server"))?;
        inventory(config, &store, &driver).await?;

        let calendar = config.calendar.as_ref().map(CalendarSettings::calendar);
        let calendar = calendar.transpose();
        let forecasting = ForecasterConfig {
            calendar: calendar.map_err(|error| Failure::Config(error.to_string()))?,
            step_ms: config.step_ms,
            snapshot_dir: Some(config.data.join("history")),
            ..ForecasterConfig::default()
        };
        let forecaster = Forecaster::start(&forecasting, Arc::clone(&store), Arc::clone(&clock))
            .map_err(Failure::unavailable("start the forecaster"))?;
        for (instance, values) in known {
            let last = Timestamp(clock.now().0.saturating_sub(config.step_ms));
            forecaster.preload(instance, Resource::Cpu, values, last);
        }
        let rules = config.ingest.rules();
        let rules = rules.map_err(|error| Failure::Config(error.to_string()))?;
        let sieve = Sieve::new(rules, config.step_ms);
        let holder = HolderId::new(format!("migrator-{}", std::process::id()))
            .map_err(Failure::failed("name the migrator"))?;
        let migrator = Arc::new(Migrator::start(
            config.migrator.clone(),
            Arc::clone(&store),
            Arc::clone(&driver) as Arc<dyn Driver>,
            Arc::clone(&clock),
            holder,
            Duration::from_millis(config.step_ms),
        ));
        let cancel = CancellationToken::new();
        let vitals = Vitals {
            began: clock.now(),
            step_ms: config.step_ms,
            parts: vec![
                health::part("forecaster", forecaster.pulse()),
                health::part("xds-server", server.pulse()),
            ],
        };
        let api = Api {
            store: Arc::clone(&store),
            settings: Arc::new(config.migrator.clone()),
            clock,
            migrator: Arc::clone(&migrator),
            vitals,
            ingest: Ingest::new(forecaster.intake(), sieve),
            insight: forecaster.insight(),
        };
        let files = keyring.page.clone();
        let page = http::serve(api, config.page, guard, files, cancel.clone()).await?;
        tokio::spawn(keyring.clone().renewing(cancel.clone()));
        let (listeners, ends) = (config.webhooks.clone(), cancel.clone());
        tokio::spawn(webhooks::follow(
            Arc::clone(&store),
            listeners,
            signer,
            ends,
        ));
        Ok(Self {
            xds: server.local_addr(),
            xds_admin: server.admin_addr(),
            store,
            driver,
            page,
            keyring,
            server,
            forecaster,
            migrator,
            opened,
            cancel,
        })
    }

    /// Stops the control plane; the instances go on.
    pub async fn shutdown(self) {
        self.cancel.cancel();
        self.migrator.shutdown().await;
        self.forecaster.shutdown().await;
        self.server.shutdown().await;
        self.opened.close().await;
    }
}

/// What the configuration keeps in files of their own: who may use the API, and what signs webhooks.
fn secrets(config: &Config, clock: &Arc<dyn Clock>) -> Result<(Guard, Option<Signer>), Failure> {
    let security = &config.security;
    let token = security
        .token_file
        .as_deref()
        .map(Token::read)
        .transpose()?;
    let signer = security
        .webhook_secret_file
        .as_deref()
        .map(|file| Signer::read(file, Arc::clone(clock)))
        .transpose()?;
    let guard = Guard {
        token,
        certificates: security.page.as_ref().is_some_and(PageTls::knows_clients),
        any_host: !config.page.ip().is_loopback(),
        ..Guard::default()
    };
    Ok((guard, signer))
}

/// The name of this control plane among those that share its store; on the embedded store it is the
/// only one.
fn name_of(config: &Config) -> String {
    match config.store {
        StoreChoice::Embedded | StoreChoice::EmbeddedAcknowledgeLoss => String::new(),
        StoreChoice::Redis(_) => config.xds.to_string(),
    }
}

/// Writes hosts and services, and starts the instances that are new.
async fn inventory(
    config: &Config,
    store: &SharedStore,
    driver: &Arc<ProcessDriver>,
) -> Result<(), Failure> {
    let failed = Failure::failed::<store::StoreError>("write the inventory");
    let mut records = Transaction::new();
    for host in &config.hosts {
        let key = Key::new(Kind::Host, host.id.as_str());
        records = records.put(key, Expect::Any, host).map_err(&failed)?;
    }
    for service in &config.services {
        let key = Key::new(Kind::Service, service.id.as_str());
        records = records.put(key, Expect::Any, service).map_err(&failed)?;
        let key = Key::new(Kind::Routing, service.id.as_str());
        if store.get(&key).await.map_err(&failed)?.is_none() {
            let routing = Routing {
                service: service.id.clone(),
                revision: 1,
                epoch: domain::Epoch(0),
                migration: None,
            };
            records = records
                .put(key, Expect::Absent, &routing)
                .map_err(&failed)?;
        }
    }
    store.commit(records).await.map_err(&failed)?;
    for placed in &config.instances {
        let key = Key::new(Kind::Instance, placed.spec.id.as_str());
        if store.get(&key).await.map_err(&failed)?.is_some() {
            continue;
        }
        let Some(host) = config.hosts.iter().find(|host| host.id == placed.host) else {
            continue;
        };
        let replica = driver
            .start(&placed.spec, host)
            .await
            .map_err(Failure::failed(&format!(
                "start instance {}",
                placed.spec.id
            )))?;
        tracing::info!(instance = %placed.spec.id, host = %host.id, "started");
        let instance = Instance {
            spec: placed.spec.clone(),
            replica,
            state: InstanceState::Running,
            placed_at: Timestamp(0),
        };
        let put = Transaction::new()
            .put(key, Expect::Absent, &instance)
            .map_err(&failed)?;
        store.commit(put).await.map_err(&failed)?;
    }
    Ok(())
}
