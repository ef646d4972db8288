//! `foreshadow models`.

use std::process::ExitCode;

use forecaster::registry::{Registry, RegistryError};

use super::options::{ModelsCommand, ModelsOptions};
use crate::error::Failure;

/// Runs the command.
///
/// # Errors
/// [`Failure`] naming the version and what is wrong with it; nothing is changed then.
pub fn run(options: &ModelsOptions) -> Result<ExitCode, Failure> {
    let registry = Registry::open(&options.registry).map_err(|error| failed(&error))?;
    match &options.command {
        ModelsCommand::List => {
            let active = registry.active().map_err(|error| failed(&error))?;
            println!(
                "{:<2}{:<32} {:<20} {:<12} state",
                "", "version", "model", "sha-256"
            );
            for entry in registry.list().map_err(|error| failed(&error))? {
                let mark = if active.as_deref() == Some(entry.name.as_str()) {
                    "*"
                } else {
                    ""
                };
                let (id, hash, state) = match &entry.model {
                    Ok((id, hash)) => (id.as_str(), hash.as_str(), "ready".to_owned()),
                    Err(error) => ("-", "-", error.to_string()),
                };
                println!("{mark:<2}{:<32} {id:<20} {hash:<12} {state}", entry.name);
            }
        }
        ModelsCommand::Show { version } => print!(
            "{}",
            registry.show(version).map_err(|error| failed(&error))?
        ),
        ModelsCommand::Promote { version } => {
            registry.promote(version).map_err(|error| failed(&error))?;
            println!("{version} is in use");
        }
        ModelsCommand::Rollback => {
            let version = registry.rollback().map_err(|error| failed(&error))?;
            println!("{version} is in use again");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn failed(error: &RegistryError) -> Failure {
    match error {
        RegistryError::Io { .. } => Failure::Unavailable(error.to_string()),
        RegistryError::Version { .. } | RegistryError::Model { .. } | RegistryError::Nothing => {
            Failure::Config(error.to_string())
        }
    }
}
