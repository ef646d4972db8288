//! What is kept under the root: replicas, directories, control groups.

use std::collections::BTreeMap;

use domain::HostId;

use super::record::is_tag;
use super::{ProcessDriver, transient};
use crate::driver::{DriverError, Found};

impl ProcessDriver {
    /// Everything, by tag. A directory whose record cannot be read is there, too, and so is a
    /// control group without a directory.
    pub(super) async fn found(&self) -> Result<Vec<Found>, DriverError> {
        let (folders, groups) = (self.folders.clone(), self.cgroups.tags());
        let listed = tokio::task::spawn_blocking(move || {
            let mut found = BTreeMap::new();
            for tag in folders.tags() {
                let record = folders.load(&tag).ok().flatten();
                let running = record.as_ref().and_then(super::record::Record::running);
                let mut parts = vec!["directory".to_owned()];
                if let Some(record) = record.as_ref().filter(|record| record.port > 0) {
                    parts.push(format!("port {}", record.port));
                }
                if let Some(replica) = &running {
                    parts.push(format!("process {}", replica.handle));
                }
                let entry = Found {
                    tag: tag.clone(),
                    side: record.as_ref().map(|record| record.side),
                    instance: record.as_ref().map(|record| record.spec.id.clone()),
                    host: record.map(|record| record.host.id),
                    running,
                    parts,
                };
                found.insert(tag, entry);
            }
            found
        })
        .await;
        let mut found = listed.map_err(|error| transient("list", "replicas", error))?;
        for (host, tag) in groups.into_iter().filter(|(_, tag)| is_tag(tag)) {
            let entry = found.entry(tag.clone()).or_insert_with(|| Found {
                tag,
                side: None,
                instance: None,
                host: HostId::new(host.as_str()).ok(),
                running: None,
                parts: Vec::new(),
            });
            entry.parts.push(format!("control groups on {host}"));
        }
        Ok(found.into_values().collect())
    }
}
