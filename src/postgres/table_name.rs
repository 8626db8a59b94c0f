//! The name of the table, as it is written in SQL.

use crate::{Error, Result};
use std::fmt;

/// PostgreSQL cuts names after 63 bytes. The index has a suffix.
const MAX_NAME_LEN: usize = 50;

/// The table, and its schema if it is not found by the search path. Displayed with quotes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct TableName {
    schema: Option<String>,
    name: String,
}

impl TableName {
    /// Parses `[schema.]name`.
    ///
    /// # Errors
    ///
    /// `InvalidInput` if there are more parts, or if one is empty, too long or has a NUL.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let (schema, name) = match text.split_once('.') {
            Some((schema, name)) => (Some(schema), name),
            None => (None, text),
        };
        let is_valid =
            |part: &str| (1..=MAX_NAME_LEN).contains(&part.len()) && !part.contains(['.', '\0']);
        if !is_valid(name) || !schema.is_none_or(is_valid) {
            return Err(Error::InvalidInput(format!(
                "{text:?} is not a table name: it is `name` or `schema.name`, each of 1 to {MAX_NAME_LEN} bytes, without `.` or NUL"
            )));
        }
        Ok(TableName {
            schema: schema.map(str::to_owned),
            name: name.to_owned(),
        })
    }

    /// Returns the index of expiries. `CREATE INDEX` accepts no schema: it is that of the table.
    pub(super) fn expiry_index(&self) -> String {
        quoted(&format!("{}_ttl", self.name))
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(schema) = &self.schema {
            write!(f, "{}.", quoted(schema))?;
        }
        f.write_str(&quoted(&self.name))
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_so_that_no_sql_can_be_in_them() {
        for (text, shown) in [
            ("items", r#""items""#),
            ("Über.Items", r#""Über"."Items""#),
            (r#"a"; DROP TABLE b; --"#, r#""a""; DROP TABLE b; --""#),
        ] {
            assert_eq!(TableName::parse(text).unwrap().to_string(), shown);
        }
        let index = TableName::parse("a.b\"c").unwrap().expiry_index();
        assert_eq!(index, r#""b""c_ttl""#);
    }

    #[test]
    fn names_that_postgresql_would_cut_or_cannot_represent_are_refused() {
        let longest = "n".repeat(MAX_NAME_LEN);
        TableName::parse(&format!("{longest}.{longest}")).unwrap();
        let too_long = format!("{longest}n");
        for text in ["", ".", "a.", ".a", "a.b.c", "a\0b", &too_long] {
            assert!(matches!(
                TableName::parse(text),
                Err(Error::InvalidInput(_))
            ));
        }
    }
}
