//! Where a test lets this process die, as a power cut would end it. Not part of release builds.
//!
//! `FORESHADOW_CRASH_AT=fork/after effect` ends the process (SIGKILL to itself) when a fork has
//! taken effect and its outcome is not in the log yet; `route#3/before effect` at the third route.

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

/// Dies here if a test wants it.
#[cfg(not(debug_assertions))]
pub(super) fn point(_step: &str, _moment: Moment) {}

/// Dies here if a test wants it.
#[cfg(debug_assertions)]
pub(super) fn point(step: &str, moment: Moment) {
    use std::sync::atomic::{AtomicU32, Ordering};
    static SEEN: AtomicU32 = AtomicU32::new(0);

    let Ok(wanted) = std::env::var("FORESHADOW_CRASH_AT") else {
        return;
    };
    let Some((name, when)) = wanted.split_once('/') else {
        return;
    };
    let (name, nth) = name.split_once('#').unwrap_or((name, "1"));
    let now = match moment {
        Moment::BeforeEffect => "before effect",
        Moment::AfterEffect => "after effect",
        Moment::AfterLog => "after log",
    };
    if name != step || when != now {
        return;
    }
    let seen = SEEN.fetch_add(1, Ordering::SeqCst) + 1;
    if nth.parse() == Ok(seen) {
        // No destructor, no flush, no farewell.
        let _ =
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}
