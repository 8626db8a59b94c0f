//! Why a command failed.

use atomic_db::{Error, TransferError};
use std::error::Error as StdError;
use std::io;

pub(crate) enum CommandError {
    /// The arguments or the input are invalid.
    Input(String),
    /// The ledger refuses the command.
    Refused(String),
    Database(Error),
    /// The result cannot be written. Nothing was booked.
    Output(io::Error),
}

impl From<Error> for CommandError {
    fn from(error: Error) -> Self {
        CommandError::Database(error)
    }
}

impl From<io::Error> for CommandError {
    fn from(error: io::Error) -> Self {
        CommandError::Output(error)
    }
}

impl From<TransferError> for CommandError {
    fn from(error: TransferError) -> Self {
        match error {
            TransferError::Read(error) | TransferError::Write(error) => error.into(),
            TransferError::Io(error) => error.into(),
            TransferError::BadLine(line) => CommandError::Input(line.to_string()),
            error => CommandError::Refused(with_sources(&error)),
        }
    }
}

impl CommandError {
    /// Returns the message and the exit code.
    pub(crate) fn report(&self) -> (String, u8) {
        match self {
            CommandError::Input(message) => (message.clone(), 2),
            CommandError::Refused(message) => (message.clone(), 1),
            CommandError::Output(error) => (format!("cannot write the result: {error}"), 1),
            CommandError::Database(Error::OutcomeUnknown(source)) => (
                format!(
                    "the disk failed: {source}. The entry may have been booked: check the balance \
                     before you try again"
                ),
                3,
            ),
            CommandError::Database(error) => (with_sources(error), 1),
        }
    }
}

fn with_sources(error: &dyn StdError) -> String {
    match error.source() {
        None => error.to_string(),
        Some(source) => format!("{error}: {}", with_sources(source)),
    }
}
