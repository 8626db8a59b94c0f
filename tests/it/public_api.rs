//! The public API as a whole: the traits of each public type, and the results that must be used.
//!
//! What is `pub` in the source is public, because the lint `unreachable_pub` is denied. So the source
//! has the complete list of types and functions.

#[cfg(feature = "json-lines")]
use atomic_db::json_lines::{BadLine, Import, ImportProgress};
use atomic_db::testing::history::*;
use atomic_db::testing::*;
use atomic_db::*;
use std::collections::BTreeSet;
use std::error::Error as StdError;
use std::fmt::{Debug, Display};
use std::fs;
use std::hash::Hash;
use std::marker::PhantomData;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::path::Path;

/// Returns the names of those of the traits that a type implements.
macro_rules! implemented {
    ($type:ty: $($trait:ident)*) => {{
        let mut names = Vec::new();
        $({
            // An inherent constant takes precedence over one of a trait.
            #[allow(dead_code)]
            trait Otherwise {
                const IS_IMPLEMENTED: bool = false;
            }
            struct Of<T: ?Sized>(PhantomData<T>);
            impl<T: ?Sized> Otherwise for Of<T> {}
            #[allow(dead_code)]
            impl<T: ?Sized + $trait> Of<T> {
                const IS_IMPLEMENTED: bool = true;
            }
            if <Of<$type>>::IS_IMPLEMENTED {
                names.push(stringify!($trait));
            }
        })*
        names
    }};
}

/// The traits that say how threads may use a value, and that it may be used after a caught panic.
const AUTO_TRAITS: [&str; 5] = ["Send", "Sync", "Unpin", "UnwindSafe", "RefUnwindSafe"];

/// Makes a table of the public types with their traits. `Auto` stands for all of [`AUTO_TRAITS`].
macro_rules! public_types {
    ($($(#[$attribute:meta])* $name:ident $(<$($argument:tt),+>)?: $($trait:ident)*;)*) => {
        const NAMES: &[&str] = &[$(stringify!($name)),*];

        /// Returns each type with the traits that it must have, and those that it has.
        fn rows() -> Vec<(&'static str, Vec<&'static str>, Vec<&'static str>)> {
            vec![$(
                $(#[$attribute])*
                {
                    type Type = $name $(<$($argument),+>)?;
                    let auto = implemented!(Type: Send Sync Unpin UnwindSafe RefUnwindSafe);
                    let mut found = implemented!(
                        Type: Debug Clone Copy Default PartialEq Eq PartialOrd Ord Hash Display StdError
                    );
                    found.extend(if auto == AUTO_TRAITS { vec!["Auto"] } else { auto });
                    (stringify!($name), vec![$(stringify!($trait)),*], found)
                },
            )*]
        }
    };
}

type Db = MemoryDb<String>;
type Text = String;

// A builder holds a clock, and an error its source, which may not be unwind-safe. The callbacks of an
// `Import` run on the calling thread.
public_types! {
    Action: Debug Clone PartialEq Eq Hash Auto;
    Anomaly: Debug Clone PartialEq Eq Hash Display StdError Auto;
    AnomalyKind: Debug Clone Copy PartialEq Eq Hash Display Auto;
    Batch<Text>: Debug Clone Default PartialEq Eq Auto;
    #[cfg(feature = "json-lines")]
    BadLine: Debug Clone PartialEq Eq Hash Display StdError Auto;
    #[cfg(feature = "json-lines")]
    Bytes: Debug Clone Copy Default PartialEq Eq Hash Auto;
    CacheStats: Debug Clone Copy Default PartialEq Eq Hash Auto;
    CallEvent<'static>: Debug Clone Copy Send Sync Unpin;
    Capabilities: Debug Clone Copy Default PartialEq Eq Hash Auto;
    Case<Db>: Debug Auto;
    Commit: Debug Clone PartialEq Eq Hash Auto;
    ConflictEvent<'static>: Debug Clone Copy Auto;
    Counters: Debug Clone Default Auto;
    CountersSnapshot: Debug Clone PartialEq Eq Hash Display Auto;
    #[cfg(feature = "redb")]
    Durability: Debug Clone Copy Default PartialEq Eq Hash Auto;
    #[cfg(feature = "dynamodb")]
    DynamoDb<Text>: Debug Clone Auto;
    #[cfg(feature = "dynamodb")]
    DynamoDbBuilder<Text>: Debug Send Sync Unpin;
    #[cfg(feature = "dynamodb")]
    DynamoDbError: Debug Display StdError Send Sync Unpin;
    Error: Debug Display StdError Send Sync Unpin;
    ErrorKind: Debug Clone Copy PartialEq Eq PartialOrd Ord Hash Display Auto;
    Evidence: Debug Clone Copy Default PartialEq Eq Hash Display Auto;
    Fault: Debug Clone Copy PartialEq Eq Hash Auto;
    FaultRule: Debug Clone Auto;
    FaultyDb<Db>: Debug Clone Auto;
    Fixture<Db>: Debug Auto;
    History: Debug Clone Default PartialEq Eq Hash Auto;
    HotLock: Debug Clone PartialEq Eq Hash Auto;
    #[cfg(feature = "json-lines")]
    Import<'static>: Debug Default Unpin;
    #[cfg(feature = "json-lines")]
    ImportProgress: Debug Clone Copy Default PartialEq Eq Hash Auto;
    Injection: Debug Clone PartialEq Eq Hash Auto;
    Item<Text>: Debug Clone PartialEq Eq Auto;
    #[cfg(feature = "json-lines")]
    Json: Debug Clone Copy Default PartialEq Eq Hash Auto;
    Key<'static>: Debug Clone Copy PartialEq Eq PartialOrd Ord Hash Display Auto;
    KeyBuf: Debug Clone PartialEq Eq PartialOrd Ord Hash Display Auto;
    Lock: Debug Clone PartialEq Eq Auto;
    LruCache<Db>: Debug Clone Auto;
    LruCacheBuilder<Db>: Debug Send Sync Unpin;
    ManualClock: Debug Clone Default Auto;
    MemoryDb<Text>: Debug Clone Default Auto;
    MemoryDbBuilder<Text>: Debug Send Sync Unpin;
    Observed<Db, Counters>: Debug Clone Auto;
    Op: Debug Clone PartialEq Eq Hash Display Auto;
    Operation: Debug Clone Copy PartialEq Eq PartialOrd Ord Hash Display Auto;
    OperationStats: Debug Clone PartialEq Eq Hash Auto;
    Outcome: Debug Clone PartialEq Eq Hash Auto;
    Page<Text>: Debug Clone PartialEq Eq Auto;
    #[cfg(feature = "postgres")]
    PostgresDb<Text>: Debug Clone Auto;
    #[cfg(feature = "postgres")]
    PostgresDbBuilder<Text>: Debug Send Sync Unpin;
    #[cfg(feature = "postgres")]
    PostgresDbError: Debug Display StdError Send Sync Unpin;
    PredicateRead: Debug Clone PartialEq Eq Hash Display Auto;
    Quantiles<u64>: Debug Clone Copy Default PartialEq Eq Hash Auto;
    Query: Debug Clone PartialEq Eq Hash Auto;
    ReadSet: Debug Clone Default PartialEq Eq Hash Display Auto;
    Recorded<Db>: Debug Clone Auto;
    Recorder<Text>: Debug Auto;
    #[cfg(feature = "redb")]
    RedbDb<Text>: Debug Clone Auto;
    #[cfg(feature = "redb")]
    RedbDbBuilder<Text>: Debug Send Sync Unpin;
    Retry: Debug Clone Default Auto;
    RetryQueue: Debug Default Auto;
    Sweeper: Debug Send Sync Unpin;
    SystemClock: Debug Clone Copy Default PartialEq Eq Hash Auto;
    Transaction<'static, Db>: Debug Send Sync Unpin;
    TransactionEnd: Debug Clone Copy PartialEq Eq PartialOrd Ord Hash Display Auto;
    TransactionEvent<'static>: Debug Clone Copy Auto;
    TransactionStats: Debug Clone Copy PartialEq Eq Hash Auto;
    TransferError: Debug Display StdError Send Sync Unpin;
    Version: Debug Clone Copy PartialEq Eq PartialOrd Ord Hash Display Auto;
    VersionGenerator: Debug Default Auto;
    Versions: Debug Clone Copy Default PartialEq Eq Hash Auto;
    Violation: Debug Clone PartialEq Eq Hash Display StdError Auto;
    Workload: Debug Clone Copy Default PartialEq Eq Hash Auto;
    Write: Debug Clone PartialEq Eq Hash Display Auto;
}

/// The traits that must stay dyn-compatible.
type _Objects = (
    &'static dyn Clock,
    &'static dyn Observer,
    &'static dyn AtomicDb<Data = Text>,
    &'static dyn Scan<Data = Text>,
);

#[test]
fn every_public_type_has_the_listed_traits() {
    let wrong: Vec<String> = rows()
        .into_iter()
        .filter(|(_, listed, found)| listed != found)
        .map(|(name, _, found)| format!("{name}: {};", found.join(" ")))
        .collect();
    assert!(wrong.is_empty(), "other traits:\n{}", wrong.join("\n"));
}

/// Returns the text of all files of the crate.
fn sources() -> Vec<String> {
    fn read(folder: &Path, texts: &mut Vec<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                read(&path, texts);
            } else {
                texts.push(fs::read_to_string(&path).unwrap());
            }
        }
    }
    let mut texts = Vec::new();
    read(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        &mut texts,
    );
    texts
}

/// Returns the name at the beginning of `text`.
fn name(text: &str) -> &str {
    text.split(|letter: char| !letter.is_alphanumeric() && letter != '_')
        .next()
        .unwrap()
}

/// Returns the name of the type that `line` declares.
fn type_name(line: &str) -> Option<&str> {
    let declaration = line.trim_start().strip_prefix("pub ")?;
    let mut kinds = ["struct ", "enum ", "union "].iter();
    kinds
        .find_map(|kind| declaration.strip_prefix(kind))
        .map(name)
}

#[test]
fn every_public_type_is_listed() {
    let sources = sources();
    let lines = sources.iter().flat_map(|text| text.lines());
    let declared: BTreeSet<&str> = lines.filter_map(type_name).collect();
    assert_eq!(declared, NAMES.iter().copied().collect());
}

/// Returns the lines above the line of this number that are attributes or documentation.
fn attributes<'a>(lines: &'a [&str], number: usize) -> impl Iterator<Item = &'a str> {
    let above = lines[..number].iter().rev().map(|line| line.trim_start());
    above.take_while(|line| line.starts_with('#') || line.starts_with("///"))
}

/// Returns the result type of the function that begins `text`, if it has one.
fn result(text: &str) -> Option<&str> {
    let mut depth = 0;
    let end = text.find(|letter| {
        depth += i32::from(letter == '(') - i32::from(letter == ')');
        letter == ')' && depth == 0
    });
    let (_, after) = text.split_at(end.unwrap());
    let after = after.strip_prefix(") -> ")?;
    after.split([';', '{']).next()
}

/// The functions that are called for their effect as well as for their result.
const CALLED_FOR_THEIR_EFFECT: [&str; 3] = ["purge_expired", "run_concurrently", "with_timeout"];

/// Clippy finds the simple ones.
#[test]
fn results_without_an_effect_must_be_used() {
    let sources = sources();
    let is_marked = |lines: &[&str], number| {
        attributes(lines, number).any(|attribute| attribute.starts_with("#[must_use"))
    };
    let mut marked_types = vec!["Result", "impl Iterator"];
    let mut functions = Vec::new();
    for source in &sources {
        let lines: Vec<&str> = source.lines().collect();
        let mut implementor = "";
        for (number, line) in lines.iter().enumerate() {
            if line.starts_with("impl") {
                implementor = line;
            }
            marked_types.extend(type_name(line).filter(|_| is_marked(&lines, number)));
            let line = line.trim_start();
            let Some(declared) = line.strip_prefix("pub ") else {
                continue;
            };
            let declared = declared.strip_prefix("const ").unwrap_or(declared);
            if let Some(declared) = declared.strip_prefix("fn ") {
                let text = lines[number..].join(" ");
                let result = result(&text).unwrap_or_default().to_owned();
                let is_marked = is_marked(&lines, number) || result.is_empty();
                functions.push((name(declared), result, implementor, is_marked));
            }
        }
    }
    let is_unmarked = |(name, result, implementor, is_marked): &(&str, String, &str, bool)| {
        let has_type = |marked: &&str| {
            result.starts_with(marked) || (result.trim() == "Self" && implementor.contains(marked))
        };
        !is_marked && !marked_types.iter().any(has_type) && !CALLED_FOR_THEIR_EFFECT.contains(name)
    };
    functions.retain(is_unmarked);
    assert_eq!(functions, []);
}
