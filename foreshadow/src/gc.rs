//! `foreshadow gc`: what belongs to nothing, shown and removed.
//!
//! The leading migrator looks and removes, under its fence; this only asks. Exit code 0: nothing is
//! left, or it was only shown; 1: something was not removed, or the store is not believed.

use std::fmt::Write as _;
use std::process::ExitCode;

use migrator::gc::{Fate, Mode, Report};

use crate::cli::GcOptions;
use crate::client;
use crate::error::Failure;
use crate::http::Collect;

/// `foreshadow gc`.
///
/// # Errors
/// As [`client::get`]; [`Failure::Failed`] when something that should go stays.
pub async fn run(options: GcOptions) -> Result<ExitCode, Failure> {
    let mode = match (options.yes, options.include_unknown) {
        (false, _) => Mode::Look,
        (true, false) => Mode::Remove,
        (true, true) => Mode::RemoveUnknown,
    };
    let body = serde_json::to_vec(&Collect { mode }).map_err(Failure::failed("write the wish"))?;
    let answer = client::post(&options.client, "/api/gc", body.into()).await?;
    let report: Report =
        serde_json::from_slice(&answer).map_err(Failure::failed("read the report"))?;
    let stays = report.orphans.iter().any(|o| o.fate != Fate::Removed);
    client::print(options.client.output, &report, || describe(&report, mode))?;
    Ok(if options.yes && stays {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn describe(report: &Report, mode: Mode) -> String {
    let mut text = String::new();
    if report.orphans.is_empty() {
        text.push_str("nothing belongs to nothing\n");
    }
    for orphan in &report.orphans {
        let fate = match &orphan.fate {
            Fate::Found => "found".to_owned(),
            Fate::Removed => "removed".to_owned(),
            Fate::Failed { error } => format!("not removed: {error}"),
        };
        let _ = write!(
            text,
            "{} {}: {} ({fate})",
            orphan.kind.name(),
            orphan.name,
            orphan.reason
        );
        if !orphan.parts.is_empty() {
            let _ = write!(text, " [{}]", orphan.parts.join(", "));
        }
        text.push('\n');
    }
    if let Some(doubt) = &report.distrust {
        let _ = writeln!(
            text,
            "the store looks lost or rewound: {doubt}. Nothing is removed; compare the store with \
             the world, then use --yes --include-unknown"
        );
    } else if mode == Mode::Look && !report.orphans.is_empty() {
        text.push_str("nothing was removed: this only shows; --yes removes\n");
    }
    for shard in &report.elsewhere {
        let _ = writeln!(text, "not looked at: {shard}");
    }
    text
}
