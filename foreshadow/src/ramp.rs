//! Commands about ramps: steering, replay, simulation, and what `explain` says of the judge.

use std::fmt::Write as _;
use std::process::ExitCode;

use domain::{RampPlan, RampPolicy};
use migrator::JudgeSettings;
use migrator::judge::{self, Evidence, Flips, RampLine, Replay, Steering};
use migrator::saga::ramp::{RampRecord, Word};
use migrator::simulate::{self, Trial, Tried};

use crate::cli::{ClientOptions, RampName, ReplayOptions, SimulateRampOptions, SteerOptions};
use crate::client::{get, post, print};
use crate::config::Config;
use crate::error::Failure;
use crate::http::Steer;

/// `foreshadow pause`, `freeze`, `resume`, `step` and `promote`.
///
/// # Errors
/// As [`get`]; the server's words when that is not possible now.
pub async fn tell(options: SteerOptions, word: Word) -> Result<ExitCode, Failure> {
    let id = &options.migration;
    let told = Steer {
        word,
        reason: options.reason,
    };
    let body = serde_json::to_vec(&told).map_err(Failure::failed("write the word"))?;
    let path = format!("/api/migrations/{id}/steer");
    let answer = post(&options.client, &path, body.into()).await?;
    let now: Steering = serde_json::from_slice(&answer).map_err(Failure::failed("read JSON"))?;
    print(options.client.output, &now, || {
        let state = match (&now.promote, now.frozen, now.paused) {
            (_, true, _) => "is frozen",
            (_, false, true) => "is paused",
            (Some(_), false, false) => "is promoted",
            (None, false, false) => "goes on",
        };
        format!(
            "the ramp of migration {id} {state}; advanced by hand {} times",
            now.steps
        )
    })
}

/// `foreshadow replay`: exit code 1 if a decision comes out differently.
///
/// # Errors
/// As [`get`]; [`Failure::Config`] for a record that cannot be read.
pub async fn replay(options: ReplayOptions) -> Result<ExitCode, Failure> {
    let record = match (&options.file, &options.migration) {
        (Some(path), _) => std::fs::read(path)
            .map_err(|error| Failure::Config(format!("record {}: {error}", path.display())))?
            .into(),
        (None, Some(id)) => {
            let path = format!("/api/migrations/{id}/ramp/record");
            get(&options.client, &path).await?
        }
        (None, None) => return Err(Failure::Config("give a migration or --file".to_owned())),
    };
    if options.record {
        print!("{}", String::from_utf8_lossy(&record));
        return Ok(ExitCode::SUCCESS);
    }
    let lines = read(&record)?;
    let found = judge::replay(&lines).map_err(Failure::Config)?;
    print(options.client.output, &found, || told(&found))?;
    Ok(ExitCode::from(u8::from(!found.differ.is_empty())))
}

fn read(record: &[u8]) -> Result<Vec<RampLine>, Failure> {
    let text = String::from_utf8_lossy(record);
    (1..)
        .zip(text.lines())
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(number, line)| {
            serde_json::from_str(line)
                .map_err(|error| Failure::Config(format!("record: line {number}: {error}")))
        })
        .collect()
}

fn told(found: &Replay) -> String {
    let mut text = String::new();
    for (line, words) in &found.decisions {
        let _ = writeln!(text, "  line {line:>5}  {words}");
    }
    let _ = match found.differ.first() {
        None => writeln!(text, "{} looks, all as recorded, bit for bit", found.looks),
        Some(first) => writeln!(
            text,
            "{} of {} looks come out differently, the first in line {first}",
            found.differ.len(),
            found.looks
        ),
    };
    text
}

/// `foreshadow simulate-ramp`.
///
/// # Errors
/// [`Failure::Config`] with the option, its value and what is allowed.
pub fn simulate(options: &SimulateRampOptions) -> Result<ExitCode, Failure> {
    for (name, value, least, most) in [
        ("rps", options.rps, 0.01, 100_000.0),
        ("baseline", options.baseline, 0.0, 0.5),
        ("errors", options.errors, 1.0, 10_000.0),
        ("slower", options.slower, 1.0, 1_000.0),
        ("ramps", f64::from(options.ramps), 1.0, 100_000.0),
    ] {
        if !(least..=most).contains(&value) {
            return Err(Failure::Config(format!(
                "--{name} is {value}; allowed is {least} to {most}"
            )));
        }
    }
    let (plan, settings) = match &options.config {
        Some(path) => {
            let config = Config::load(path)?;
            (config.migrator.ramp, config.migrator.judge)
        }
        None => (ramp(options.policy)?, JudgeSettings::default()),
    };
    let trial = Trial {
        rate: options.rps,
        errors: options.baseline,
        bad_errors: options.baseline * options.errors,
        bad_slower: options.slower,
        ramps: options.ramps,
        seed: options.seed,
    };
    let tried = simulate::attempt(&plan, settings, trial).map_err(Failure::Config)?;
    print(options.output, &tried, || words(&tried))
}

fn ramp(name: RampName) -> Result<RampPlan, Failure> {
    let policy = match name {
        RampName::Budget => {
            return Ok(RampPlan::budgeted(domain::HarmBudget::default(), 300_000));
        }
        RampName::Steps => return Ok(RampPlan::standard(10_000)),
        RampName::Linear => RampPolicy::Linear {
            step: 1_000,
            hold_ms: 60_000,
            soak_ms: 300_000,
            hold_windows: Vec::new(),
        },
        RampName::Exponential => RampPolicy::Exponential {
            from: 100,
            factor: 2,
            hold_ms: 30_000,
            soak_ms: 300_000,
            hold_windows: Vec::new(),
        },
    };
    RampPlan::try_from(policy).map_err(|error| Failure::Config(error.to_string()))
}

fn words(tried: &Tried) -> String {
    let after = |seconds: Option<f64>| match seconds {
        Some(seconds) => format!("median {seconds:.0} s"),
        None => "never".to_owned(),
    };
    format!(
        "good shadow, {} ramps: {:.2} % rolled back ({:.2} to {:.2} % with 95 %), {:.0} % promoted ({})\n\
         bad shadow:  {:.1} % rolled back ({}); bad answers beyond the original's: {:.1} on average, {:.1} in the worst of twenty",
        tried.ramps,
        tried.false_roll_backs,
        tried.false_between.0,
        tried.false_between.1,
        tried.promoted,
        after(tried.promoted_s),
        tried.caught,
        after(tried.caught_s),
        tried.excess.0,
        tried.excess.1
    )
}

/// What the judge knows of a migration's ramp, and what would change its verdict.
#[derive(Debug, serde::Serialize)]
pub struct Explained {
    /// The shadow's weight in basis points.
    pub weight: u32,
    /// The evidence.
    pub evidence: Evidence,
    /// What would change the verdict.
    pub flips: Flips,
}

/// Asks for a ramp; `None` if there is none yet.
///
/// # Errors
/// As [`get`].
pub async fn explained(
    server: &ClientOptions,
    id: &domain::MigrationId,
) -> Result<Option<Explained>, Failure> {
    let body = match get(server, &format!("/api/migrations/{id}/ramp")).await {
        Ok(body) => body,
        Err(Failure::Failed(_)) => return Ok(None),
        Err(other) => return Err(other),
    };
    let record: RampRecord =
        serde_json::from_slice(&body).map_err(Failure::failed("read the ramp"))?;
    let judge = record.pilot.judge();
    Ok(Some(Explained {
        weight: record.pilot.weight(),
        evidence: judge.evidence(0, &record.settings),
        flips: judge.flips(&record.settings),
    }))
}

impl Explained {
    /// In words.
    pub fn words(&self) -> String {
        let mut text = format!(
            "judge: p = {:.3} of \"no worse\" over the whole ramp; the shadow has {:.2} %\n",
            self.evidence.p_value,
            f64::from(self.weight) / 100.0
        );
        for stream in &self.evidence.streams {
            let (low, high) = stream.difference;
            let log = |ln: Option<f64>| ln.map_or("-".to_owned(), |ln| format!("{ln:+.1}"));
            let _ = writeln!(
                text,
                "  {}: shadow {} of {}, original {} of {}, before {} of {}; difference {:+.2} to {:+.2} %; ln e {} against the original, {} against before",
                stream.bad,
                stream.shadow.1,
                stream.shadow.0,
                stream.original.1,
                stream.original.0,
                stream.before.1,
                stream.before.0,
                low * 100.0,
                high * 100.0,
                log(stream.against_original),
                log(stream.against_before)
            );
        }
        for proof in &self.evidence.proofs {
            let _ = writeln!(
                text,
                "  to be shown: not more than {:.2} % more {}; ln e {:.1} of {:.1}",
                proof.margin * 100.0,
                proof.bad,
                proof.shown,
                proof.wanted
            );
        }
        if let Some(failures) = self.flips.failures_to_roll_back {
            let _ = writeln!(
                text,
                "  {failures} failed requests, one an epoch, would roll it back"
            );
        }
        if let Some(requests) = self.flips.requests_to_advance {
            let _ = writeln!(text, "  {requests} good requests would let the stage go on");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Output;

    #[test]
    fn a_record_that_cannot_be_read_is_named_by_its_line() {
        let error = read(b"\n{\"line\":\"guessed\"}\n").unwrap_err().to_string();
        assert!(error.contains("line 2"), "{error}");
        assert!(judge::replay(&[]).is_err());
    }

    #[test]
    fn options_out_of_range_are_refused_by_name() {
        let options = SimulateRampOptions {
            policy: RampName::Budget,
            config: None,
            rps: 0.0,
            baseline: 0.001,
            errors: 10.0,
            slower: 1.0,
            ramps: 1,
            seed: 1,
            output: Output::Json,
        };
        let error = simulate(&options).unwrap_err().to_string();
        assert!(error.contains("--rps is 0"), "{error}");
    }
}
