//! The items of the workload: their keys and their contents.

use super::recording::Value;
use crate::{Item, KeyBuf};

pub(super) fn account(number: usize) -> KeyBuf {
    KeyBuf::new(format!("account {number}"), "balance")
}

pub(super) fn place(shelf: usize, place: usize) -> KeyBuf {
    KeyBuf::new(format!("shelf {shelf}"), format!("place {place}"))
}

pub(super) fn note(shelf: usize, note: usize) -> KeyBuf {
    KeyBuf::new(format!("shelf {shelf}"), format!("note {note}"))
}

/// The lock of an item, in the same partition.
pub(super) fn guard_of(key: &KeyBuf) -> KeyBuf {
    KeyBuf::new(key.pk(), "lock")
}

/// The contents of an item: its unique value, and a balance.
pub(super) fn contents(value: Value, sum: i64) -> String {
    format!("{value} {sum}")
}

fn parse(item: &Item<String>) -> Option<(Value, i64)> {
    let (value, sum) = item.data()?.split_once(' ')?;
    Some((value.parse().ok()?, sum.parse().ok()?))
}

/// The value of an item. Contents that the workload has not written have one that it does not write.
pub(super) fn value_of(item: &Item<String>) -> Value {
    parse(item).map_or(Value::MAX, |(value, _)| value)
}

/// The balance of an item, and zero without one.
pub(super) fn balance(item: Option<&Item<String>>) -> i64 {
    item.and_then(parse).map_or(0, |(_, sum)| sum)
}
