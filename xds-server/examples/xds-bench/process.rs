//! A process of the bench: started by its own program, spoken to in lines, measured from outside.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

/// A clock tick of `/proc`, in microseconds: the kernel shows hundredths of a second.
const TICK_US: f64 = 10_000.0;
/// A process that uses less than this in a while is at rest.
const AT_REST_US: f64 = 20_000.0;

/// The lines of this process's own input.
pub(crate) fn lines() -> tokio::sync::mpsc::Receiver<String> {
    let (sender, lines) = tokio::sync::mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines() {
            let Ok(line) = line else { return };
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    lines
}

pub(crate) struct Process {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Process {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let program = std::env::current_exe().unwrap();
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self {
            child,
            input,
            output,
        }
    }

    pub(crate) fn say(&mut self, line: &str) {
        writeln!(self.input, "{line}").unwrap();
    }

    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "the process has ended");
        line.trim().to_owned()
    }

    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).unwrap()
    }

    /// CPU time used so far.
    pub(crate) fn cpu_us(&self) -> f64 {
        let stat = self.read("stat");
        let fields = stat.rsplit_once(')').unwrap().1;
        let ticks = fields.split_whitespace().skip(11).take(2);
        ticks
            .map(|ticks| ticks.parse::<f64>().unwrap() * TICK_US)
            .sum()
    }

    /// Memory in use.
    pub(crate) fn rss_kib(&self) -> f64 {
        let status = self.read("status");
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        line.unwrap()
            .split_whitespace()
            .nth(1)
            .unwrap()
            .parse()
            .unwrap()
    }

    /// Waits until it has nothing to do.
    pub(crate) fn rest(&self) {
        for _ in 0..100 {
            let before = self.cpu_us();
            std::thread::sleep(Duration::from_millis(300));
            if self.cpu_us() - before < AT_REST_US {
                return;
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // SIGKILL to a process that was started here, by its own handle.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
