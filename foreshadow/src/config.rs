//! The configuration file of `foreshadow serve`.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use domain::{Host, HostId, InstanceSpec, Service};
use forecaster::calendar::{Calendar, CalendarError};
use migrator::Settings;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Failure;
use crate::ingest::settings::IngestSettings;
use crate::lines::{Step, line_of};
use crate::security::Security;
use crate::storage::StoreChoice;

/// What `foreshadow serve` runs. Fields that are not known are refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Folder for the store, instances and history.
    pub data: PathBuf,
    /// Folder for what the driver keeps of instances, if not `instances` in the data folder.
    /// Several control planes on one machine, each with its own data folder, share it.
    #[serde(default)]
    pub replicas: Option<PathBuf>,
    /// Where state is kept.
    #[serde(default)]
    pub store: StoreChoice,
    /// Where the control plane answers Envoy and the proxy.
    #[serde(default = "default_xds")]
    pub xds: SocketAddr,
    /// Where health, metrics and the progress of the data planes are shown, to this machine alone;
    /// nowhere if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xds_admin: Option<SocketAddr>,
    /// Where the page and the control API are served.
    #[serde(default = "default_page")]
    pub page: SocketAddr,
    /// Time between readings, in milliseconds; also the step of the forecasts.
    #[serde(default = "default_step")]
    pub step_ms: u64,
    /// How often data planes report, in milliseconds.
    #[serde(default = "default_report")]
    pub report_ms: u64,
    /// How this control plane proves itself, and whom it believes.
    #[serde(default, skip_serializing_if = "Security::is_default")]
    pub security: Security,
    /// Serve to others what is not encrypted or asks nobody for a proof.
    #[serde(default)]
    pub insecure_remote: bool,
    /// Addresses (`http://…`) to which plans, assignments and isolation are posted as JSON.
    #[serde(default)]
    pub webhooks: Vec<String>,
    /// What is taken in of what Prometheus and OpenTelemetry send.
    #[serde(default, skip_serializing_if = "IngestSettings::is_default")]
    pub ingest: IngestSettings,
    /// Local time for the forecasts: people work by day and rest on holidays. Only with steps of five
    /// minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calendar: Option<CalendarSettings>,
    /// The hosts.
    pub hosts: Vec<Host>,
    /// The services.
    pub services: Vec<Service>,
    /// The instances, each with the host it starts on.
    pub instances: Vec<Placed>,
    /// The migrator's settings.
    #[serde(default)]
    pub migrator: Settings,
}

/// Where the users are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CalendarSettings {
    /// Their time zone: its name, as Europe/Berlin, or an offset, as +02:00.
    pub zone: String,
    /// Days, as 2026-12-25, that are like a Sunday.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holidays: Vec<String>,
}

impl CalendarSettings {
    /// The calendar, checked.
    ///
    /// # Errors
    /// [`CalendarError`] naming field and value.
    pub fn calendar(&self) -> Result<Calendar, CalendarError> {
        Calendar::new(&self.zone, &self.holidays)
    }
}

/// An instance and where it starts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Placed {
    /// The host.
    pub host: HostId,
    /// The instance.
    pub spec: InstanceSpec,
}

fn default_xds() -> SocketAddr {
    ([127, 0, 0, 1], 18_000).into()
}

fn default_page() -> SocketAddr {
    ([127, 0, 0, 1], 8_088).into()
}

const fn default_step() -> u64 {
    300_000
}

const fn default_report() -> u64 {
    250
}

impl Config {
    /// Folder for what the driver keeps of instances.
    pub fn replicas(&self) -> PathBuf {
        let own = || self.data.join("instances");
        self.replicas.clone().unwrap_or_else(own)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`Failure::Config`] naming file, line, field and what is allowed.
    pub fn load(path: &Path) -> Result<Self, Failure> {
        let at = |reason: &dyn std::fmt::Display| {
            Failure::Config(format!("configuration {}: {reason}", path.display()))
        };
        let text = std::fs::read_to_string(path).map_err(|error| at(&error))?;
        if text.trim().is_empty() {
            return Err(at(
                &"it is empty; it needs data, hosts, services and instances",
            ));
        }
        let config: Self = serde_saphyr::from_str(&text).map_err(|error| at(&error))?;
        config.validate().map_err(|mistake| {
            let reason = &mistake.reason;
            match line_of(&text, &mistake.path) {
                Some(line) => at(&format_args!("line {line}: {reason}")),
                None => at(reason),
            }
        })?;
        Ok(config)
    }

    /// Checks what types cannot.
    ///
    /// # Errors
    /// The first mistake: where it is, the field, its value and what is allowed.
    pub fn validate(&self) -> Result<(), Mistake> {
        if self.hosts.is_empty() {
            let reason = "hosts is empty; at least one is needed";
            return Err(Mistake::new(["hosts".into()], reason));
        }
        let mut hosts = BTreeSet::new();
        for (index, host) in self.hosts.iter().enumerate() {
            let id = &host.id;
            if !hosts.insert(id) {
                let path = ["hosts".into(), index.into(), "id".into()];
                return Err(Mistake::new(path, format!("hosts: {id} occurs twice")));
            }
            let told = match host.capacity.cpu {
                Some(cpu) if cpu.is_finite() && cpu > 0.0 => continue,
                Some(cpu) => format!("is {cpu}"),
                None => "is not given".to_owned(),
            };
            return Err(Mistake::new(
                [
                    "hosts".into(),
                    index.into(),
                    "capacity".into(),
                    "cpu".into(),
                ],
                format!(
                    "hosts: {id}: capacity.cpu {told}; allowed is a number of millicores above 0"
                ),
            ));
        }
        self.validate_instances(&hosts)?;
        self.store
            .validate(self.insecure_remote)
            .map_err(|reason| Mistake::new(["store".into()], reason))?;
        self.security
            .validate(self.xds, self.page, self.insecure_remote)
            .map_err(|(path, reason)| Mistake::new(path, reason))?;
        if let Some(admin) = self.xds_admin
            && !admin.ip().is_loopback()
            && !self.insecure_remote
        {
            return Err(Mistake::new(
                ["xds_admin".into()],
                format!(
                    "xds_admin is {admin}; allowed is an address of this machine alone, as \
                     127.0.0.1, or set insecure_remote: true"
                ),
            ));
        }
        self.ingest.rules().map_err(|error| {
            let path = [
                "ingest".into(),
                "series".into(),
                error.index.into(),
                error.field.into(),
            ];
            let reason = format!("ingest.series[{}].{error}", error.index);
            Mistake::new(path, reason)
        })?;
        if let Some(settings) = &self.calendar {
            settings.calendar().map_err(|error| {
                let path = ["calendar".into(), error.field.into()];
                Mistake::new(path, format!("calendar.{error}"))
            })?;
            if self.step_ms != forecaster::TRAINED_MS {
                let reason = format!(
                    "step_ms is {} and calendar is given; allowed with it is {}",
                    self.step_ms,
                    forecaster::TRAINED_MS
                );
                return Err(Mistake::new(["step_ms".into()], reason));
            }
        }
        for (index, address) in self.webhooks.iter().enumerate() {
            let known: Result<hyper::Uri, _> = address.parse();
            if !known.is_ok_and(|uri| uri.scheme_str() == Some("http") && uri.host().is_some()) {
                let reason = format!(
                    "webhooks: {address:?} is no address; allowed is http://host:port/path"
                );
                return Err(Mistake::new(["webhooks".into(), index.into()], reason));
            }
        }
        for (field, value, allowed) in [
            ("step_ms", self.step_ms, 100..=86_400_000),
            ("report_ms", self.report_ms, 50..=60_000),
        ] {
            if !allowed.contains(&value) {
                let (from, to) = (allowed.start(), allowed.end());
                let reason = format!("{field} is {value}; allowed is {from} to {to}");
                return Err(Mistake::new([field.into()], reason));
            }
        }
        self.migrator.validate().map_err(|words| {
            // Its reasons begin with the field.
            let field = words.split([' ', ':', '.', '[']).next().unwrap_or_default();
            Mistake::new(
                ["migrator".into(), field.into()],
                format!("migrator.{words}"),
            )
        })
    }

    fn validate_instances(&self, hosts: &BTreeSet<&HostId>) -> Result<(), Mistake> {
        let services: BTreeSet<_> = self.services.iter().map(|service| &service.id).collect();
        let mut instances = BTreeSet::new();
        for (index, Placed { host, spec }) in self.instances.iter().enumerate() {
            let (id, service) = (&spec.id, &spec.service);
            let (field, reason) = if !instances.insert(id) {
                ("id", format!("instances: {id} occurs twice"))
            } else if !hosts.contains(host) {
                ("host", format!("instances: {id}: host {host} is unknown"))
            } else if !services.contains(service) {
                (
                    "service",
                    format!("instances: {id}: service {service} is unknown"),
                )
            } else if spec.argv.is_empty() {
                (
                    "argv",
                    format!(
                        "instances: {id}: argv is empty; allowed is a program and its arguments"
                    ),
                )
            } else {
                continue;
            };
            let mut path = vec!["instances".into(), index.into()];
            if field != "host" {
                path.push("spec".into());
            }
            path.push(field.into());
            return Err(Mistake::new(path, reason));
        }
        Ok(())
    }
}

/// What is wrong in a configuration, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Mistake {
    path: Vec<Step>,
    reason: String,
}

impl Mistake {
    fn new(path: impl Into<Vec<Step>>, reason: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            reason: reason.into(),
        }
    }
}

/// The JSON Schema of the configuration file, as text.
///
/// # Errors
/// [`Failure::Failed`] when it cannot be written as JSON.
pub fn schema() -> Result<String, Failure> {
    let schema = schemars::schema_for!(Config);
    let text = serde_json::to_string_pretty(&schema).map_err(Failure::failed("write JSON"))?;
    Ok(text + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "
data: state
hosts:
  - id: a
    capacity: {cpu: 1000, memory: null, net_rx: null, net_tx: null}
services:
  - id: shop
instances:
  - host: a
    spec: {id: shop-1, service: shop, argv: [server]}
";

    fn load(text: &str) -> Result<Config, Failure> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Config::load(file.path())
    }

    fn message(text: &str) -> String {
        load(text).unwrap_err().to_string()
    }

    #[test]
    fn a_small_file_is_enough() {
        let config = load(GOOD).unwrap();
        assert_eq!(config.xds.port(), 18_000);
    }

    #[test]
    fn every_mistake_is_named() {
        assert!(message("").contains("empty"));
        assert!(message(": [").contains("configuration"));
        let typo = message(&GOOD.replace("services:", "servces:"));
        assert!(typo.contains("servces"), "{typo}");
        let host = message(&GOOD.replace("host: a", "host: b"));
        assert!(
            host.contains("line 9: instances: shop-1: host b is unknown"),
            "{host}"
        );
        let capacity = message(&GOOD.replace("cpu: 1000", "cpu: 0"));
        assert!(
            capacity.contains("line 5: hosts: a: capacity.cpu is 0"),
            "{capacity}"
        );
        let service = message(&GOOD.replace("service: shop", "service: shoe"));
        assert!(service.contains("service shoe is unknown"), "{service}");
        for (field, value) in [
            ("lease_ms", "0"),
            ("accepted_risk", ".nan"),
            ("utilisation_limit", "1.5"),
            ("confirm_ticks", "9"),
            (
                "ramp",
                "[{shadow: 5000, hold_ms: 1}, {shadow: 1000, hold_ms: 1}]",
            ),
        ] {
            let words = message(&format!("{GOOD}migrator: {{{field}: {value}}}\n"));
            let named = words.contains(field) || field == "ramp";
            // What is no number in YAML's own core schema has no line.
            let placed = words.contains("line 11") || value == ".nan";
            assert!(named && placed, "{words}");
        }
        let remote = message(&format!("{GOOD}page: 192.0.2.1:80\n"));
        assert!(remote.contains("page is 192.0.2.1:80"), "{remote}");
        assert!(
            load(&format!(
                "{GOOD}page: 192.0.2.1:80\ninsecure_remote: true\n"
            ))
            .is_ok()
        );
        let plain = message(&format!(
            "{GOOD}xds: 192.0.2.1:80\nsecurity:\n  xds_plaintext: true\n"
        ));
        assert!(
            plain.contains("line 13: security.xds_plaintext is true and xds is 192.0.2.1:80"),
            "{plain}"
        );
        let admin = message(&format!("{GOOD}xds_admin: 192.0.2.1:80\n"));
        assert!(admin.contains("line 11: xds_admin is"), "{admin}");
        let factor = message(&format!(
            "{GOOD}ingest:\n  series:\n    - metric: cpu\n      instance: pod\n      quantity: cpu\n      factor: 0\n"
        ));
        assert!(
            factor.contains("line 16: ingest.series[0].factor is 0; allowed is"),
            "{factor}"
        );
        let zone = message(&format!("{GOOD}calendar:\n  zone: Atlantis\n"));
        assert!(
            zone.contains("line 12: calendar.zone is \"Atlantis\""),
            "{zone}"
        );
        let step = message(&format!("{GOOD}step_ms: 1000\ncalendar: {{zone: UTC}}\n"));
        assert!(
            step.contains("line 11: step_ms is 1000 and calendar"),
            "{step}"
        );
        let typo = message(&format!("{GOOD}security: {{tokenfile: x}}\n"));
        assert!(typo.contains("tokenfile"), "{typo}");
    }

    #[test]
    fn the_shipped_example_is_valid_and_the_schema_is_up_to_date() {
        let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
        Config::load(&deploy.join("foreshadow.example.yaml")).unwrap();
        let shipped = std::fs::read_to_string(deploy.join("config.schema.json")).unwrap();
        let now = schema().unwrap();
        assert!(
            shipped == now,
            "deploy/config.schema.json is old: write it anew with `foreshadow schema`"
        );
        assert!(now.contains("utilisation_limit") && now.contains("additionalProperties"));
    }
}
