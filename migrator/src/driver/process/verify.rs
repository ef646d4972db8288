//! A shadow's own identity, and the checks that it is an exact replica.

use std::io;
use std::time::Duration;

use domain::{Instance, Replica, Side};

use super::hooks::{self, StateAnswer};
use super::launch::Template;
use super::proc::ProcessId;
use super::record::Record;
use super::{ProcessDriver, failed, transient};
use crate::driver::{DriverError, OpContext, Verified};

/// Time for the re-identify hook.
const HOOK_LIMIT: Duration = Duration::from_secs(5);

/// Longest wait for the shadow to reach the original's position.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(5);

/// How often a new position is tried when the shadow has passed the last one.
const POSITIONS: usize = 3;

impl ProcessDriver {
    pub(super) async fn give_identity(
        &self,
        ctx: &OpContext,
        instance: &Instance,
        shadow: &Replica,
    ) -> Result<(), DriverError> {
        const OPERATION: &str = "re-identify";
        if instance.spec.hooks.writer.is_some() {
            self.follow(ctx, &instance.replica, shadow).await?;
        }
        let Some(path) = &instance.spec.hooks.reidentify else {
            return Ok(());
        };
        // Two clones that share a random state are a security hole, so the seed comes from the
        // kernel; it is handed over and kept nowhere.
        let seed = random_seed().map_err(|error| transient(OPERATION, &shadow.tag, error))?;
        let identity = format!("{}~{}", instance.spec.id, ctx.migration);
        let body = serde_json::json!({ "identity": identity, "seed": seed }).to_string();
        hooks::post(
            shadow.endpoint,
            path,
            Some(body),
            HOOK_LIMIT.min(ctx.deadline),
        )
        .await
        .map_err(|error| transient(OPERATION, &shadow.tag, error))
    }

    pub(super) async fn check_shadow(
        &self,
        ctx: &OpContext,
        instance: &Instance,
        shadow: &Replica,
    ) -> Result<Verified, DriverError> {
        const OPERATION: &str = "verify";
        let copy = self.record_of(OPERATION, shadow)?;
        let original = self.record_of(OPERATION, &instance.replica)?;
        if copy.side != Side::Shadow || copy.tag != ctx.migration.as_str() {
            return Err(failed(
                OPERATION,
                &shadow.tag,
                "this is not the migration's shadow",
            ));
        }
        let mut checks = vec![self.check_identity(OPERATION, &original, &copy)?];
        checks.push(check_health(OPERATION, &copy).await?);
        checks.push(match &instance.spec.hooks.state {
            Some(path) => check_state(OPERATION, ctx, path, &original, &copy).await?,
            None => check_fork(OPERATION, &copy)?,
        });
        Ok(Verified { checks })
    }

    pub(super) fn record_of(
        &self,
        operation: &'static str,
        replica: &Replica,
    ) -> Result<Record, DriverError> {
        let loaded = self.folders.load(&replica.tag);
        let record = loaded.map_err(|error| transient(operation, &replica.tag, error))?;
        record
            .filter(|record| {
                record
                    .running()
                    .is_some_and(|now| now.handle == replica.handle)
            })
            .ok_or_else(|| failed(operation, &replica.tag, "its process does not run any more"))
    }

    /// Both run the same program with the same arguments and environment, but for port, state
    /// directory and role.
    fn check_identity(
        &self,
        operation: &'static str,
        original: &Record,
        shadow: &Record,
    ) -> Result<String, DriverError> {
        let differs = |what: String| failed(operation, &shadow.tag, what);
        if original.spec.argv != shadow.spec.argv || original.spec.env != shadow.spec.env {
            return Err(differs("it was made from another specification".to_owned()));
        }
        let running = |record: &Record| record.alive()?.arguments();
        let (Some(ours), Some(theirs)) = (running(original), running(shadow)) else {
            return Err(transient(
                operation,
                &shadow.tag,
                "the arguments cannot be read",
            ));
        };
        if ours.len() != theirs.len() {
            return Err(differs(format!(
                "{} arguments against {}",
                theirs.len(),
                ours.len()
            )));
        }
        let template = self.template(shadow);
        // An interpreter named in a script's first line stands before what the specification says.
        let before = ours.len().saturating_sub(shadow.spec.argv.len());
        let mut hasher = blake3::Hasher::new();
        for (index, (our, their)) in ours.iter().zip(&theirs).enumerate() {
            let word = index
                .checked_sub(before)
                .and_then(|at| shadow.spec.argv.get(at));
            let expected = match word.filter(|word| Template::is_in(word)) {
                Some(word) => template.fill(word),
                None => our.clone(),
            };
            if *their != expected {
                return Err(differs(format!("argument {index} is not as specified")));
            }
            hasher.update(word.unwrap_or(our).as_bytes()).update(b"\0");
        }
        let Some(environment) = shadow.alive().and_then(ProcessId::environment) else {
            return Err(transient(
                operation,
                &shadow.tag,
                "the environment cannot be read",
            ));
        };
        for (name, value) in self.environment(shadow) {
            if !environment.contains(&format!("{name}={value}")) {
                return Err(differs(format!(
                    "environment variable {name} is not as specified"
                )));
            }
            hasher.update(name.as_bytes()).update(b"\0");
        }
        let digest = hasher.finalize().to_hex();
        Ok(format!(
            "identity: same program, arguments and environment ({})",
            &digest[..16]
        ))
    }
}

async fn check_health(operation: &'static str, shadow: &Record) -> Result<String, DriverError> {
    let path = &shadow.spec.health_path;
    if hooks::is_healthy(shadow.endpoint(), path).await {
        Ok(format!("health: {path} answers 200"))
    } else {
        Err(transient(
            operation,
            &shadow.tag,
            format!("{path} does not answer 200"),
        ))
    }
}

/// Both sides' state at one position of the original.
async fn check_state(
    operation: &'static str,
    ctx: &OpContext,
    path: &str,
    original: &Record,
    shadow: &Record,
) -> Result<String, DriverError> {
    let limit = CATCH_UP_LIMIT.min(ctx.deadline);
    let error = |tag: &str| {
        let tag = tag.to_owned();
        move |error: String| transient(operation, tag, error)
    };
    for _ in 0..POSITIONS {
        let ours = hooks::state(original.endpoint(), path, limit).await;
        let Some(ours) = ours.map_err(error(&original.tag))? else {
            continue;
        };
        let query = format!(
            "position={}&timeout_ms={}",
            ours.position,
            limit.as_millis()
        );
        let asked = hooks::with_query(path, &query);
        let theirs = hooks::state(shadow.endpoint(), &asked, limit + HOOK_LIMIT).await;
        let Some(theirs) = theirs.map_err(error(&shadow.tag))? else {
            continue;
        };
        return compare(operation, &shadow.tag, &ours, &theirs);
    }
    let reason = format!("it had passed each of {POSITIONS} positions of the original");
    Err(transient(operation, &shadow.tag, reason))
}

fn compare(
    operation: &'static str,
    tag: &str,
    ours: &StateAnswer,
    theirs: &StateAnswer,
) -> Result<String, DriverError> {
    let short = |digest: &str| digest.chars().take(16).collect::<String>();
    if ours.position != theirs.position {
        let reason = format!(
            "asked at {}, answered at {}",
            ours.position, theirs.position
        );
        return Err(transient(operation, tag, reason));
    }
    if ours.digest != theirs.digest {
        let (ours, theirs, at) = (short(&ours.digest), short(&theirs.digest), ours.position);
        return Err(failed(
            operation,
            tag,
            format!("state at {at}: {theirs} against {ours}"),
        ));
    }
    Ok(format!(
        "state: equal at position {} ({})",
        ours.position,
        short(&ours.digest)
    ))
}

/// Without a state hook only the instant of the fork is known.
fn check_fork(operation: &'static str, shadow: &Record) -> Result<String, DriverError> {
    let Some(note) = &shadow.fork else {
        return Err(failed(operation, &shadow.tag, "no fork is recorded for it"));
    };
    let digest: String = note.digest.chars().take(16).collect();
    Ok(format!(
        "state: both directories equal at the fork ({digest}); without a state hook nothing \
         newer can be compared"
    ))
}

fn random_seed() -> io::Result<String> {
    let mut seed = [0_u8; 32];
    let mut source = std::fs::File::open("/dev/urandom")?;
    io::Read::read_exact(&mut source, &mut seed)?;
    Ok(blake3::Hash::from_bytes(seed).to_hex().to_string())
}
