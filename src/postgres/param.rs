//! Parameters of statements.

use super::data_type::DataType;
use tokio_postgres::types::{ToSql, Type};

/// A value that a statement is given for a `$n`.
#[derive(Clone, Debug)]
pub(super) enum Param {
    Text(String),
    Int(i64),
    /// A limit, or none.
    MaybeInt(Option<i64>),
    Texts(Vec<String>),
    MaybeTexts(Vec<Option<String>>),
    MaybeBytes(Vec<Option<Vec<u8>>>),
    MaybeInts(Vec<Option<i64>>),
    /// The kinds of a commit's rows.
    Kinds(Vec<&'static str>),
}

impl Param {
    /// Returns the parameter for the encoded data of several items.
    pub(super) fn data(data_type: DataType, data: Vec<Option<Vec<u8>>>) -> Self {
        match data_type {
            DataType::Bytea => Param::MaybeBytes(data),
            DataType::Text => {
                // Checked to be UTF-8 when it was encoded.
                let text = |data: Vec<u8>| String::from_utf8_lossy(&data).into_owned();
                Param::MaybeTexts(data.into_iter().map(|data| data.map(text)).collect())
            }
        }
    }

    pub(super) fn sql(&self) -> &(dyn ToSql + Sync) {
        match self {
            Param::Text(value) => value,
            Param::Int(value) => value,
            Param::MaybeInt(value) => value,
            Param::Texts(value) => value,
            Param::MaybeTexts(value) => value,
            Param::MaybeBytes(value) => value,
            Param::MaybeInts(value) => value,
            Param::Kinds(value) => value,
        }
    }

    pub(super) fn sql_type(&self) -> Type {
        match self {
            Param::Text(_) => Type::TEXT,
            Param::Int(_) | Param::MaybeInt(_) => Type::INT8,
            Param::Texts(_) | Param::MaybeTexts(_) | Param::Kinds(_) => Type::TEXT_ARRAY,
            Param::MaybeBytes(_) => Type::BYTEA_ARRAY,
            Param::MaybeInts(_) => Type::INT8_ARRAY,
        }
    }
}
