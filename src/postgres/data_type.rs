//! The type of the column `data`.

/// JSON is stored as text, so that it can be read in `psql`, and everything else as bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DataType {
    Text,
    Bytea,
}

impl DataType {
    /// Returns the type for the codec `name`.
    pub(super) fn of_codec(name: &str) -> Self {
        if name == "json" {
            DataType::Text
        } else {
            DataType::Bytea
        }
    }

    /// Returns the name of the type in SQL.
    pub(super) fn name(self) -> &'static str {
        match self {
            DataType::Text => "text",
            DataType::Bytea => "bytea",
        }
    }
}
