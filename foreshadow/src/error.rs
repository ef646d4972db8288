//! What ends the program, and with which exit code.

use std::process::ExitCode;

/// What ends the program.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The configuration or an option's value is wrong.
    #[error("{0}")]
    Config(String),
    /// Something needed is missing or in use.
    #[error("{0}")]
    Unavailable(String),
    /// It failed while running.
    #[error("{0}")]
    Failed(String),
}

impl Failure {
    /// The exit code; see the command line's help.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Config(_) => 64,
            Self::Unavailable(_) => 69,
            Self::Failed(_) => 1,
        })
    }

    /// A failure while doing something.
    pub fn failed<E: std::fmt::Display>(doing: &str) -> impl Fn(E) -> Self {
        move |source| Self::Failed(format!("cannot {doing}: {source}"))
    }

    /// Something needed that is not there.
    pub fn unavailable<E: std::fmt::Display>(doing: &str) -> impl Fn(E) -> Self {
        move |source| Self::Unavailable(format!("cannot {doing}: {source}"))
    }
}
