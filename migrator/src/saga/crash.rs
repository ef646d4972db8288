//! Where a test lets this process die or stand still. Not part of release builds.
//!
//! `FORESHADOW_CRASH_AT=fork/after effect` ends the process (SIGKILL to itself) when a fork has
//! taken effect and its outcome is not in the log yet; `route#3/before effect` at the third route.
//!
//! `FORESHADOW_FAULT_FILE=path` names a file that says the same for several processes, and may
//! change while they run: `kill fork/after effect`, or `stop route#2/before effect` for a process
//! that stands still (SIGSTOP to itself) as a leader does whose machine freezes. Whoever comes there
//! first takes the file away, so that it happens once.

/// A moment in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    /// The intent is in the record, the effect has not begun.
    BeforeEffect,
    /// The effect is done, the record does not say so.
    AfterEffect,
    /// The record says so.
    AfterLog,
}

/// Dies or stands still here if a test wants it.
#[cfg(not(debug_assertions))]
pub(super) fn point(_step: &str, _moment: Moment) {}

#[cfg(debug_assertions)]
pub(super) use armed::point;

#[cfg(debug_assertions)]
mod armed {
    use std::path::{Path, PathBuf};
    use std::sync::{Mutex, PoisonError};

    use rustix::process::{Signal, getpid, kill_process};

    use super::Moment;

    /// What was asked for last, and how often its step has come by since.
    static SEEN: Mutex<(String, u32)> = Mutex::new((String::new(), 0));

    /// Dies or stands still here if a test wants it.
    pub(in crate::saga) fn point(step: &str, moment: Moment) {
        let Some((asked, file)) = asked() else {
            return;
        };
        let (signal, place) = match asked.split_once(' ') {
            Some(("kill", place)) => (Signal::KILL, place),
            Some(("stop", place)) => (Signal::STOP, place),
            Some(_) | None => return,
        };
        if !comes(&asked, place, step, moment) {
            return;
        }
        // One file for several processes: only one of them can take it away.
        if file.is_none_or(|file| taken(&file)) {
            // No destructor, no flush, no farewell.
            let _ = kill_process(getpid(), signal);
        }
    }

    /// What is asked for now, and the file that says so.
    fn asked() -> Option<(String, Option<PathBuf>)> {
        if let Some(file) = std::env::var_os("FORESHADOW_FAULT_FILE") {
            let file = PathBuf::from(file);
            let text = std::fs::read_to_string(&file).ok()?;
            return Some((text.trim().to_owned(), Some(file)));
        }
        let place = std::env::var("FORESHADOW_CRASH_AT").ok()?;
        Some((format!("kill {place}"), None))
    }

    fn taken(file: &Path) -> bool {
        let mine = file.with_extension(format!("taken-{}", std::process::id()));
        std::fs::rename(file, &mine).is_ok() && std::fs::remove_file(mine).is_ok()
    }

    /// Whether this is the place: `step/moment`, or `step#nth/moment`.
    fn comes(asked: &str, place: &str, step: &str, moment: Moment) -> bool {
        let Some((name, when)) = place.split_once('/') else {
            return false;
        };
        let (name, nth) = name.split_once('#').unwrap_or((name, "1"));
        let now = match moment {
            Moment::BeforeEffect => "before effect",
            Moment::AfterEffect => "after effect",
            Moment::AfterLog => "after log",
        };
        if name != step || when != now {
            return false;
        }
        let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.0 != asked {
            *seen = (asked.to_owned(), 0);
        }
        seen.1 += 1;
        nth.parse() == Ok(seen.1)
    }
}
