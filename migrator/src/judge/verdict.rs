//! From evidence to a verdict and its reason.

use domain::migration::{JudgeScope, Verdict};

use super::alarm::Trouble;
use super::state::{JudgeState, Past};
use super::stream::{Bad, Stream};
use crate::settings::{AtDeadline, JudgeSettings};

/// So many failed requests and no other make a dead shadow, at the beginning of a stage …
const DEAD: u64 = 5;
/// … and so many, over at least so many milliseconds, at any time.
const DIED: u64 = 8;
const DIED_MS: u64 = 1_000;

/// The verdict. `Hold` and `Inconclusive` mean: look again.
pub(super) fn of(
    state: &JudgeState,
    elapsed_ms: u64,
    age_ms: u64,
    settings: &JudgeSettings,
) -> Verdict {
    if let Some(reason) = harm(state, settings) {
        return Verdict::Rollback { reason };
    }
    if let Some(reason) = wait(state, elapsed_ms, age_ms, settings) {
        return Verdict::Hold { reason };
    }
    let answered = state.seen.shadow.ended();
    match missing(state, settings) {
        None => Verdict::Promote {
            reason: format!(
                "{answered} requests, {} failed: no worse (p = {:.2})",
                state.seen.shadow.error,
                state.p_value()
            ),
        },
        Some(_) if copies_are_over(state, elapsed_ms, settings) => Verdict::Promote {
            reason: format!("{answered} copied requests; the ramp goes on carefully without more"),
        },
        Some(reason) if elapsed_ms >= settings.deadline_ms => {
            let reason = format!("inconclusive after {elapsed_ms} ms: {reason}");
            match settings.at_deadline {
                AtDeadline::RollBack => Verdict::Rollback { reason },
                AtDeadline::Promote if !suspicious(state, settings) => Verdict::Promote { reason },
                AtDeadline::Promote | AtDeadline::Hold => Verdict::Inconclusive { reason },
            }
        }
        Some(reason) => Verdict::Inconclusive { reason },
    }
}

/// Few copies are no reason to wait for ever, suspicious ones are.
fn copies_are_over(state: &JudgeState, elapsed_ms: u64, settings: &JudgeSettings) -> bool {
    state.task.scope == JudgeScope::Mirror
        && elapsed_ms >= settings.mirror_ms
        && !suspicious(state, settings)
}

/// In which way the shadow is worse, if it is.
pub(super) fn harm(state: &JudgeState, settings: &JudgeSettings) -> Option<String> {
    let (shadow, original) = (&state.seen.shadow, &state.seen.original);
    // Outside of alpha, and for the first requests of a stage only. Where the original fails as
    // well, something that both share is ill.
    let shared = original.ended() > 0 && original.error.saturating_mul(2) >= original.ended();
    let alone = original.ended() == 0;
    if shadow.error >= DEAD && shadow.success == 0 && !shared && !alone {
        return Some(format!("all of {} requests failed", shadow.error));
    }
    let dying = state.dying;
    let lasted = dying.last_ms.saturating_sub(dying.since_ms);
    let alone = dying.original < DEAD;
    let shared = dying.original_failed.saturating_mul(2) >= dying.original;
    if dying.failed >= DIED && lasted >= DIED_MS && !alone && !shared {
        let failed = dying.failed;
        return Some(format!(
            "nothing but failures for {lasted} ms: {failed} requests, while the original answers"
        ));
    }
    if state.highest.0 < -settings.alpha.ln() {
        return None;
    }
    let words = state.words.as_deref().unwrap_or("worse");
    Some(format!("{words} (p = {:.1e})", state.p_value()))
}

/// Why nothing can be said for the shadow now.
fn wait(
    state: &JudgeState,
    elapsed_ms: u64,
    age_ms: u64,
    settings: &JudgeSettings,
) -> Option<String> {
    if let Some(reason) = unknown(state, age_ms, settings) {
        return Some(reason);
    }
    let hold_ms = state.task.hold_ms;
    (elapsed_ms < hold_ms).then(|| format!("held for at least {hold_ms} ms"))
}

/// Why what was reported is no ground to go on.
pub(super) fn unknown(state: &JudgeState, age_ms: u64, settings: &JudgeSettings) -> Option<String> {
    if let Some(trouble) = &state.trouble {
        return Some(format!("{trouble}: what is unknown is not good"));
    }
    (age_ms > settings.max_age_ms)
        .then(|| format!("telemetry is {age_ms} ms old: late is not the same as good"))
}

/// Half of the way to a roll-back: no promotion until that is over.
pub(super) fn suspicious(state: &JudgeState, settings: &JudgeSettings) -> bool {
    state.ln.0 >= -settings.alpha.ln() / 2.0
}

/// What a promotion lacks.
fn missing(state: &JudgeState, settings: &JudgeSettings) -> Option<String> {
    let answered = state.seen.shadow.ended();
    if answered < settings.min_requests {
        return Some(format!(
            "{answered} of {} requests so far",
            settings.min_requests
        ));
    }
    if suspicious(state, settings) {
        let words = state.words.as_deref().unwrap_or("worse");
        return Some(format!("suspicious: {words}"));
    }
    match state.alarm().0 {
        Trouble::None => {}
        Trouble::Shared => return Some("both sides are worse than before".to_owned()),
        Trouble::Shadow => return Some("worse than before just now".to_owned()),
    }
    let wanted = -settings.beta.ln();
    let open = state.proofs.iter().find(|proof| proof.ln() < wanted)?;
    let more = (wanted - open.ln()) / open.bad.proof_margin(settings).share;
    let what = match open.bad {
        Bad::Failed => "failures".to_owned(),
        Bad::SlowerThan(us) | Bad::Stalled(us) => format!("requests over {} ms", us / 1_000),
    };
    Some(format!(
        "not yet shown to be no worse in {what}: at least {:.0} more requests",
        more.ceil()
    ))
}

/// What a stream has seen.
pub(super) fn words(stream: &Stream, past: &Past) -> String {
    let seen = stream.seen;
    let (before_bad, before) = (
        stream.bad.bad(past.counted()),
        stream.bad.all(past.counted()),
    );
    format!(
        "{} of {} requests {}, on the original {} of {}, before {before_bad} of {before}",
        seen.shadow_bad,
        seen.shadow,
        stream.bad.did(),
        seen.original_bad,
        seen.original
    )
}
