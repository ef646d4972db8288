//! What is left when everything has ended: processes (and with them ports), folders, control groups.

use std::path::Path;

use crate::history::History;
use foreshadow_tests::processes;

use crate::lab::within;

/// Notes what is left over.
pub(crate) async fn look(folder: &Path, instances: &Path, history: &History) {
    let name = folder.to_string_lossy().into_owned();
    let gone = async || processes(&name).is_empty().then_some(());
    if within(5_000, gone).await.is_none() {
        history.wrong(format!("processes are left: {:#?}", processes(&name)));
    }
    for entry in std::fs::read_dir(instances.join("replicas")).unwrap() {
        history.wrong(format!(
            "a folder is left: {}",
            entry.unwrap().path().display()
        ));
    }
    for group in groups(instances) {
        history.wrong(format!("a control group is left: {group}"));
    }
}

/// The driver's control groups: their name holds the hash of its folder.
fn groups(instances: &Path) -> Vec<String> {
    let root = std::fs::canonicalize(instances).unwrap();
    let hash = blake3::hash(root.as_os_str().as_encoded_bytes());
    let base = format!("foreshadow-{}", &hash.to_hex()[..8]);
    let trees = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten();
    let tops = trees.flatten().map(|tree| tree.path());
    tops.chain([std::path::PathBuf::from("/sys/fs/cgroup")])
        .map(|top| top.join(&base))
        .filter(|group| group.exists())
        .map(|group| group.display().to_string())
        .collect()
}
