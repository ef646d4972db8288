//! A control plane's process (`foreshadow serve`), and what can be done to it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use foreshadow::config::Config;
use foreshadow_tests::binary;
use rustix::process::{Pid, Signal, kill_process};

use crate::history::{Did, History, What};

/// A control plane: its configuration, and its process if one runs.
pub(crate) struct Control {
    pub(crate) name: &'static str,
    pub(crate) page: SocketAddr,
    pub(crate) xds: SocketAddr,
    folder: PathBuf,
    history: History,
    child: Option<Child>,
    stands: bool,
    /// Where it stood last.
    pub(crate) place: String,
    /// Whether it has answered since it was started.
    pub(crate) answered: bool,
    /// The binary that it runs.
    pub(crate) program: PathBuf,
    /// Environment on top, as the clock's library.
    pub(crate) environment: Vec<(String, String)>,
}

impl Control {
    pub(crate) fn new(name: &'static str, folder: &Path, config: &Config, to: History) -> Self {
        let text = serde_json::to_string_pretty(&lean(config)).unwrap();
        std::fs::write(folder.join(format!("{name}.yaml")), text).unwrap();
        Self {
            name,
            page: config.page,
            xds: config.xds,
            folder: folder.to_owned(),
            history: to,
            child: None,
            stands: false,
            place: String::new(),
            answered: false,
            program: binary(),
            environment: Vec::new(),
        }
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.folder.join(format!("{}.log", self.name))
    }

    fn say(&self, did: Did, place: Option<String>) {
        self.history.add(What::Process {
            name: self.name.to_owned(),
            pid: self.pid(),
            did,
            place,
        });
    }

    fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    pub(crate) const fn runs(&self) -> bool {
        self.child.is_some()
    }

    pub(crate) const fn stands(&self) -> bool {
        self.stands
    }

    pub(crate) fn start(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log())
            .unwrap();
        let child = Command::new(&self.program)
            .args(["serve", "--config"])
            .arg(self.folder.join(format!("{}.yaml", self.name)))
            .env("FORESHADOW_FAULT_FILE", self.folder.join("fault"))
            // Two control planes and an earlier build share the data planes.
            .env("FORESHADOW_INSECURE_PLAINTEXT", "true")
            .envs(self.environment.iter().cloned())
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        self.stands = false;
        self.answered = false;
        self.say(Did::Start, None);
    }

    /// It answers for the first time.
    pub(crate) fn answers(&mut self) {
        if !self.answered {
            self.answered = true;
            self.say(Did::Answer, None);
        }
    }

    /// Whether it has died since the last look; `place` is where it was asked to.
    pub(crate) fn died(&mut self, place: Option<&str>) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().unwrap()?;
        self.say(Did::Die, place.map(str::to_owned));
        self.child = None;
        Some(status)
    }

    /// Whether it has ended by itself since the last look.
    pub(crate) fn gave_up(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().unwrap()?;
        self.say(Did::End, None);
        self.child = None;
        Some(status)
    }

    /// The end of its log.
    pub(crate) fn last_words(&self) -> String {
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<_> = log.lines().rev().take(3).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
    }

    /// Whether it has come to a stand since the last look.
    pub(crate) fn stood(&mut self, place: Option<&str>) -> bool {
        if self.stands || self.child.is_none() {
            return false;
        }
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid()));
        let stat = stat.unwrap_or_default();
        let state = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        self.stands = state.starts_with('T');
        if self.stands {
            place.unwrap_or_default().clone_into(&mut self.place);
            self.say(Did::Stand, place.map(str::to_owned));
        }
        self.stands
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().unwrap();
        kill_process(Pid::from_child(child), signal).unwrap();
    }

    /// Gives it this much way to others for the processor.
    pub(crate) fn renice(&self, nice: &str) {
        let _ = Command::new("renice")
            .args(["-n", nice, "-p", &self.pid().to_string()])
            .stdout(Stdio::null())
            .status();
    }

    pub(crate) fn go_on(&mut self) {
        self.signal(Signal::CONT);
        self.stands = false;
        self.say(Did::GoOn, None);
    }

    /// Kills it, as a power cut would.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
            self.history.add(What::Process {
                name: self.name.to_owned(),
                pid: child.id(),
                did: Did::Die,
                place: None,
            });
        }
    }

    /// Asks it to end, and waits for that.
    pub(crate) async fn end(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        let pid = Pid::from_child(&child);
        for signal in [Signal::CONT, Signal::TERM] {
            let _ = kill_process(pid, signal);
        }
        let history = self.history.clone();
        let name = self.name;
        let ended = crate::lab::within(20_000, async || child.try_wait().unwrap()).await;
        match ended {
            Some(status) if status.success() => {}
            Some(status) => history.wrong(format!("{name}, asked to end, ended with {status}")),
            None => {
                history.wrong(format!("{name}, asked to end, did not within 20 s"));
                let _ = child.kill();
                let _ = child.wait();
            }
        }
        history.add(What::Process {
            name: name.to_owned(),
            pid: child.id(),
            did: Did::End,
            place: None,
        });
    }
}

/// A configuration without what is as usual anyway: an earlier build reads it too.
fn lean(config: &Config) -> serde_json::Value {
    let mut lean = serde_json::to_value(config).unwrap();
    let usual = serde_json::to_value(migrator::Settings::default()).unwrap();
    if let Some(settings) = lean.get_mut("migrator") {
        drop_usual(settings, &usual);
    }
    if let Some(fields) = lean.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    lean
}

fn drop_usual(value: &mut serde_json::Value, usual: &serde_json::Value) {
    let (Some(fields), Some(usual)) = (value.as_object_mut(), usual.as_object()) else {
        return;
    };
    fields.retain(|name, value| usual.get(name) != Some(value));
    if let (Some(judge), Some(usual)) = (fields.get_mut("judge"), usual.get("judge")) {
        drop_usual(judge, usual);
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
