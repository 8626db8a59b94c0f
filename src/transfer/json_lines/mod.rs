//! Export and import of items as JSON lines: one item a line.
//!
//! ```
//! use atomic_db::{AtomicDb, Item, Key, MemoryDb, json_lines};
//!
//! let db = MemoryDb::new();
//! db.set(&[Item::new("user#1", "name", "Ada".to_string()).expires_at(1_900_000_000)])?;
//!
//! let mut file = Vec::new();
//! json_lines::export(&db, &mut file, |_| {})?;
//! let line = r#"{"pk":"user#1","sk":"name","data":"Ada","ttl":1900000000}"#;
//! assert_eq!(file, format!("{line}\n").into_bytes());
//!
//! let other: MemoryDb<String> = MemoryDb::new();
//! json_lines::import(&other, file.as_slice())?;
//! assert!(other.get(Key::new("user#1", "name"))?.is_some());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Format
//!
//! Each line is a JSON object in UTF-8, in any order and with any insignificant whitespace:
//!
//! | field | value |
//! | --- | --- |
//! | `pk`, `sk` | the partition key and the sort key, as strings |
//! | `data` | the data in its serde representation; missing if the item has none |
//! | `ttl` | the last epoch second at which the item is live; missing if it never expires |
//!
//! An import ignores empty lines and a byte-order mark at the beginning. It reports all other lines
//! that are not items, among them those with other fields, and lines of more than
//! [`MAX_LINE_BYTES`] bytes.
//!
//! Locks are not exported, for the reasons that [`copy`](crate::copy) gives.
//!
//! # Files
//!
//! - `line`: an item as a line.
//! - `reader`: splits the input into lines.
//! - `export`, `import`.

mod export;
mod import;
mod line;
mod reader;

pub use export::export;
pub use import::{Import, ImportProgress, import};
pub use reader::MAX_LINE_BYTES;

pub use super::error::BadLine;
