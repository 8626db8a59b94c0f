//! Which sort keys a query selects: its prefix, its range and its `after` as two bounds.

use super::statement::{Bounds, Lower, Upper};
use crate::Query;
use std::ops::Bound;

/// The bounds of a query, which are not empty as far as can be seen.
#[derive(Debug, PartialEq)]
pub(super) struct Selection {
    pub(super) bounds: Bounds,
    /// The values of the bounds that there are, the lower one first.
    pub(super) values: Vec<String>,
}

impl Selection {
    /// Returns what `query` selects after the sort key `after`, or `None` if it selects nothing.
    pub(super) fn from_query(query: &Query, after: Option<&str>) -> Option<Self> {
        let mut lowers = vec![as_ref(&query.range.0)];
        let mut uppers = vec![as_ref(&query.range.1)];
        // No sort key has a NUL, so none begins with such a prefix.
        if query.prefix.contains('\0') {
            return None;
        }
        let prefix_end = end_of_prefix(&query.prefix);
        if !query.prefix.is_empty() {
            lowers.push(Bound::Included(query.prefix.as_str()));
        }
        if let Some(end) = &prefix_end {
            uppers.push(Bound::Excluded(end.as_str()));
        }
        let edges = if query.reverse {
            &mut uppers
        } else {
            &mut lowers
        };
        edges.extend(query.after.as_deref().map(Bound::Excluded));
        edges.extend(after.map(Bound::Excluded));

        let lower = lowers.into_iter().map(lower_without_nul);
        let lower = lower.fold(None, |tightest, lower| match (tightest, lower) {
            (None, lower) => lower,
            (tightest, None) => tightest,
            // Of equal ones, the excluded one is tighter.
            (Some(a), Some(b)) => Some(a.max(b)),
        });
        let upper = uppers.into_iter().map(upper_without_nul);
        let upper = upper.fold(None, |tightest, upper| match (tightest, upper) {
            (None, upper) => upper,
            (tightest, None) => tightest,
            (Some(a), Some(b)) => Some(a.min(b)),
        });
        if let (Some((lower, is_lower_excluded)), Some((upper, is_upper_included))) = (lower, upper)
        {
            let is_single = lower == upper && !is_lower_excluded && is_upper_included;
            if lower >= upper && !is_single {
                return None;
            }
        }
        let bounds = Bounds {
            lower: lower.map(|(_, is_excluded)| match is_excluded {
                false => Lower::Included,
                true => Lower::Excluded,
            }),
            upper: upper.map(|(_, is_included)| match is_included {
                false => Upper::Excluded,
                true => Upper::Included,
            }),
            reverse: query.reverse,
        };
        let values = lower.into_iter().chain(upper);
        Some(Selection {
            bounds,
            values: values.map(|(value, _)| value.to_owned()).collect(),
        })
    }
}

fn as_ref(bound: &Bound<String>) -> Bound<&str> {
    bound.as_ref().map(String::as_str)
}

/// Returns the value of a lower bound, and whether it is excluded.
///
/// No sort key has a NUL. Of those that begin with the text before the first NUL of a bound, only that
/// text itself is smaller than the bound.
fn lower_without_nul(bound: Bound<&str>) -> Option<(&str, bool)> {
    let (value, is_excluded) = match bound {
        Bound::Unbounded => return None,
        Bound::Included(value) => (value, false),
        Bound::Excluded(value) => (value, true),
    };
    Some(match value.split_once('\0') {
        Some((before, _)) => (before, true),
        None => (value, is_excluded),
    })
}

/// Returns the value of an upper bound, and whether it is included.
fn upper_without_nul(bound: Bound<&str>) -> Option<(&str, bool)> {
    let (value, is_included) = match bound {
        Bound::Unbounded => return None,
        Bound::Included(value) => (value, true),
        Bound::Excluded(value) => (value, false),
    };
    Some(match value.split_once('\0') {
        Some((before, _)) => (before, true),
        None => (value, is_included),
    })
}

/// Returns the smallest text that is greater than all that begin with `prefix`, if there is one.
fn end_of_prefix(prefix: &str) -> Option<String> {
    let mut end = prefix.to_owned();
    while let Some(last) = end.pop() {
        let next = match last {
            // The surrogates are not characters.
            '\u{d7ff}' => Some('\u{e000}'),
            _ => char::from_u32(u32::from(last) + 1),
        };
        if let Some(next) = next {
            end.push(next);
            return Some(end);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn selects(selection: Option<&Selection>, sk: &str) -> bool {
        let Some(Selection { bounds, values }) = selection else {
            return false;
        };
        let mut values = values.iter().map(String::as_str);
        let is_above = match bounds.lower {
            None => true,
            Some(Lower::Included) => sk >= values.next().unwrap(),
            Some(Lower::Excluded) => sk > values.next().unwrap(),
        };
        let is_below = match bounds.upper {
            None => true,
            Some(Upper::Included) => sk <= values.next().unwrap(),
            Some(Upper::Excluded) => sk < values.next().unwrap(),
        };
        is_above && is_below
    }

    /// Characters at the edges of UTF-8, and NUL if it is allowed.
    fn text(with_nul: bool) -> impl Strategy<Value = String> {
        let first = usize::from(!with_nul);
        let characters = &[
            '\0',
            '\u{1}',
            'a',
            'b',
            '\u{7f}',
            '\u{d7ff}',
            '\u{e000}',
            '\u{10ffff}',
        ][first..];
        prop::collection::vec(prop::sample::select(characters), 0..4)
            .prop_map(|characters| characters.into_iter().collect())
    }

    fn bound() -> impl Strategy<Value = Bound<String>> {
        prop_oneof![
            Just(Bound::Unbounded),
            text(true).prop_map(Bound::Included),
            text(true).prop_map(Bound::Excluded),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn a_selection_has_the_keys_that_the_query_matches(
            prefix in text(true),
            range in (bound(), bound()),
            own_after in prop::option::of(text(true)),
            after in prop::option::of(text(true)),
            reverse: bool,
            sks in prop::collection::vec(text(false), 20),
        ) {
            let mut query = Query::new("pk").prefix(prefix).range(range);
            query.after = own_after;
            query.reverse = reverse;
            let selection = Selection::from_query(&query, after.as_deref());
            if let Some(selection) = &selection {
                prop_assert!(selection.values.iter().all(|value| !value.contains('\0')));
            }
            for sk in sks {
                let is_after = after.as_deref().is_none_or(|after| {
                    if reverse { sk.as_str() < after } else { sk.as_str() > after }
                });
                let expected = query.matches(("pk", sk.as_str())) && is_after;
                prop_assert_eq!(selects(selection.as_ref(), &sk), expected, "{:?}", sk);
            }
        }
    }
}
