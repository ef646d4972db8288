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
        ModelsCommand::Show { name } => {
            print!("{}", registry.show(name).map_err(|error| failed(&error))?);
        }
        ModelsCommand::Promote { name } => {
            registry.promote(name).map_err(|error| failed(&error))?;
            println!("{name} is in use");
        }
        ModelsCommand::Try { name } => {
            registry.try_version(name).map_err(|error| failed(&error))?;
            println!("{name} is tried: `foreshadow models trial` tells how it stands");
        }
        ModelsCommand::Trial => match registry.trial().map_err(|error| failed(&error))? {
            Some(report) => println!("{report}"),
            None => println!("no version was tried"),
        },
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
