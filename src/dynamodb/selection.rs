//! Which rows of a partition a request asks for.
//!
//! A query has a prefix, a range and a sort key to begin after, but a request has at most one
//! condition on the sort key. Each of the three is an interval of sort keys, and so is what they
//! select together: the request asks for that interval. A condition with two bounds includes both.
//! Where the request begins, a start key excludes the bound. Where it ends, one row may be read that
//! is not selected.

use super::table::{MAX_SK_BYTES, check_pk, check_sk};
use crate::{Query, Result};
use std::ops::{Bound, RangeBounds};

/// The rows that a request asks for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Selection {
    pub(super) condition: SortKeyCondition,
    /// The sort key after which the request begins. It satisfies the condition, because DynamoDB
    /// rejects any other.
    pub(super) start: Option<String>,
    /// A sort key that satisfies the condition, but is not selected.
    pub(super) excluded: Option<String>,
}

impl Selection {
    /// Returns the rows that `query` selects if it continues after `after`, or `None` if no table
    /// can contain any.
    ///
    /// # Errors
    ///
    /// `InvalidInput` or `LimitExceeded` if the table cannot contain such keys.
    pub(super) fn from_query(query: &Query, after: Option<&str>) -> Result<Option<Self>> {
        let after = after.or(query.after.as_deref());
        check_query(query, after)?;
        let prefix = Interval::from_prefix(&query.prefix);
        let (lower, upper) = query.range.clone();
        let whole = prefix.clone().intersection(Interval { lower, upper });
        let rest = match after {
            Some(after) => whole
                .clone()
                .intersection(Interval::from_start(after, query.reverse)),
            None => whole.clone(),
        };
        if rest.is_empty() {
            return Ok(None);
        }
        // The condition does not depend on `after`, so that all pages of a query have the same.
        let condition = if whole == prefix && !query.prefix.is_empty() {
            SortKeyCondition::BeginsWith(query.prefix.clone())
        } else {
            SortKeyCondition::from_interval(whole)
        };
        let excluded = |bound: Bound<String>| match bound {
            Bound::Excluded(sk) if condition.allows(&sk) => Some(sk),
            _ => None,
        };
        let (first, last) = if query.reverse {
            (rest.upper, rest.lower)
        } else {
            (rest.lower, rest.upper)
        };
        Ok(Some(Selection {
            start: excluded(first),
            excluded: excluded(last),
            condition,
        }))
    }
}

fn check_query(query: &Query, after: Option<&str>) -> Result<()> {
    check_pk(&query.pk)?;
    check_sk("the length in bytes of a sort key prefix", &query.prefix)?;
    for bound in [&query.range.0, &query.range.1] {
        if let Bound::Included(sk) | Bound::Excluded(sk) = bound {
            check_sk("the length in bytes of a bound of a sort key range", sk)?;
        }
    }
    check_sk(
        "the length in bytes of the sort key to begin after",
        after.unwrap_or_default(),
    )
}

/// The condition of a request on the sort key.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum SortKeyCondition {
    BeginsWith(String),
    /// A lower and an upper bound; if there are both, both are included.
    Bounds(Bound<String>, Bound<String>),
}

impl SortKeyCondition {
    /// Returns the strongest condition that all of `interval` satisfies. It allows at most the
    /// bounds in addition.
    fn from_interval(interval: Interval) -> Self {
        match (interval.lower, interval.upper) {
            (
                Bound::Included(lower) | Bound::Excluded(lower),
                Bound::Included(upper) | Bound::Excluded(upper),
            ) => SortKeyCondition::Bounds(Bound::Included(lower), Bound::Included(upper)),
            (lower, upper) => SortKeyCondition::Bounds(lower, upper),
        }
    }

    fn allows(&self, sk: &str) -> bool {
        match self {
            SortKeyCondition::BeginsWith(prefix) => sk.starts_with(prefix),
            SortKeyCondition::Bounds(lower, upper) => {
                let bounds = (
                    lower.as_ref().map(String::as_str),
                    upper.as_ref().map(String::as_str),
                );
                RangeBounds::<str>::contains(&bounds, sk)
            }
        }
    }

    /// Returns the expression, where `#s` is the sort key, and the values in it. `None` if every
    /// sort key satisfies the condition.
    pub(super) fn expression(&self) -> Option<(&'static str, Vec<(&'static str, &str)>)> {
        use Bound::{Excluded, Included, Unbounded};
        let (expression, from, to) = match self {
            SortKeyCondition::BeginsWith(prefix) => ("begins_with(#s, :from)", Some(prefix), None),
            SortKeyCondition::Bounds(lower, upper) => match (lower, upper) {
                (Unbounded, Unbounded) => return None,
                (Included(from), Unbounded) => ("#s >= :from", Some(from), None),
                (Excluded(from), Unbounded) => ("#s > :from", Some(from), None),
                (Unbounded, Included(to)) => ("#s <= :to", None, Some(to)),
                (Unbounded, Excluded(to)) => ("#s < :to", None, Some(to)),
                (Included(from) | Excluded(from), Included(to) | Excluded(to)) => {
                    ("#s BETWEEN :from AND :to", Some(from), Some(to))
                }
            },
        };
        let values = [(":from", from), (":to", to)];
        let values = values.into_iter();
        let given = values.filter_map(|(name, sk)| Some((name, sk?.as_str())));
        Some((expression, given.collect()))
    }
}

/// All sort keys between two bounds.
#[derive(Clone, Debug, PartialEq)]
struct Interval {
    lower: Bound<String>,
    upper: Bound<String>,
}

impl Interval {
    /// Returns the sort keys that begin with `prefix`.
    fn from_prefix(prefix: &str) -> Self {
        Interval {
            lower: Bound::Included(prefix.to_owned()),
            upper: end_of_prefix(prefix),
        }
        .without_empty_bound()
    }

    /// Returns the sort keys after `sk`, in descending order if `reverse`.
    fn from_start(sk: &str, reverse: bool) -> Self {
        let start = Bound::Excluded(sk.to_owned());
        if reverse {
            Interval {
                lower: Bound::Unbounded,
                upper: start,
            }
        } else {
            Interval {
                lower: start,
                upper: Bound::Unbounded,
            }
        }
    }

    fn intersection(self, other: Self) -> Self {
        Interval {
            lower: if lower_order(&self.lower) < lower_order(&other.lower) {
                other.lower
            } else {
                self.lower
            },
            upper: if upper_order(&other.upper) < upper_order(&self.upper) {
                other.upper
            } else {
                self.upper
            },
        }
        .without_empty_bound()
    }

    /// Removes a lower bound that every sort key satisfies, because none is empty: DynamoDB rejects
    /// an empty value in a condition.
    fn without_empty_bound(mut self) -> Self {
        if let Bound::Included(sk) | Bound::Excluded(sk) = &self.lower
            && sk.is_empty()
        {
            self.lower = Bound::Unbounded;
        }
        self
    }

    /// Returns whether the bounds exclude every sort key.
    fn is_empty(&self) -> bool {
        match (&self.lower, &self.upper) {
            (_, Bound::Included(upper) | Bound::Excluded(upper)) if upper.is_empty() => true,
            (Bound::Included(lower), Bound::Included(upper)) => lower > upper,
            (
                Bound::Included(lower) | Bound::Excluded(lower),
                Bound::Included(upper) | Bound::Excluded(upper),
            ) => lower >= upper,
            (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        }
    }
}

/// Returns what lower bounds are ordered by: the greater one excludes more.
fn lower_order(bound: &Bound<String>) -> impl PartialOrd {
    match bound {
        Bound::Unbounded => None,
        Bound::Included(sk) => Some((sk, false)),
        Bound::Excluded(sk) => Some((sk, true)),
    }
}

/// Returns what upper bounds are ordered by: the smaller one excludes more.
fn upper_order(bound: &Bound<String>) -> impl PartialOrd {
    match bound {
        Bound::Excluded(sk) => (false, sk.as_str(), false),
        Bound::Included(sk) => (false, sk.as_str(), true),
        Bound::Unbounded => (true, "", false),
    }
}

/// Returns the upper bound of the sort keys that begin with `prefix`. It is at most as long as a
/// sort key: the next character has at most one byte more.
fn end_of_prefix(prefix: &str) -> Bound<String> {
    if prefix.len() >= MAX_SK_BYTES {
        // No longer sort key exists.
        return Bound::Included(prefix.to_owned());
    }
    let mut end = prefix.to_owned();
    while let Some(last) = end.pop() {
        // The order of characters is that of their bytes in UTF-8. The last one has no successor.
        if let Some(next) = (last..=char::MAX).nth(1) {
            end.push(next);
            return Bound::Excluded(end);
        }
    }
    Bound::Unbounded
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Error, Key};
    use proptest::prelude::*;

    const LONGEST: usize = MAX_SK_BYTES;

    /// One of 21 strings, so that sort keys, bounds and prefixes are often equal. One character's
    /// successor has more bytes, one has none.
    fn any_text() -> impl Strategy<Value = String> {
        let chars = prop::sample::select(vec!['a', '\u{7f}', '\u{80}', '\u{10ffff}']);
        prop::collection::vec(chars, 0..3).prop_map(String::from_iter)
    }

    fn any_bound() -> impl Strategy<Value = Bound<String>> {
        prop_oneof![
            Just(Bound::Unbounded),
            any_text().prop_map(Bound::Included),
            any_text().prop_map(Bound::Excluded),
        ]
    }

    prop_compose! {
        fn any_query()(
            prefix in prop_oneof![Just(String::new()), any_text()],
            range in (any_bound(), any_bound()),
            after in prop::option::of(any_text()),
            reverse in any::<bool>(),
        ) -> Query {
            let mut query = Query::new("pk").prefix(prefix).range(range);
            query.after = after;
            query.reverse = reverse;
            query
        }
    }

    fn value<'v>(values: &[(&str, &'v str)], name: &str) -> &'v str {
        let value = values.iter().find(|(given, _)| *given == name);
        let (_, sk) = value.expect("a value for each placeholder");
        assert!((1..=LONGEST).contains(&sk.len()), "{sk:?}");
        sk
    }

    /// A table's answer to a request.
    struct Response {
        read: Vec<String>,
        last_evaluated: Option<String>,
    }

    /// Answers a request for at most `limit` rows as DynamoDB does, and panics where it refuses the
    /// request.
    fn respond(sks: &[String], selection: &Selection, reverse: bool, limit: usize) -> Response {
        let (expression, values) = selection.condition.expression().unwrap_or_default();
        let matches = |sk: &str| match expression {
            "" => true,
            "begins_with(#s, :from)" => sk.starts_with(value(&values, ":from")),
            "#s >= :from" => sk >= value(&values, ":from"),
            "#s > :from" => sk > value(&values, ":from"),
            "#s <= :to" => sk <= value(&values, ":to"),
            "#s < :to" => sk < value(&values, ":to"),
            "#s BETWEEN :from AND :to" => {
                let (from, to) = (value(&values, ":from"), value(&values, ":to"));
                assert!(from <= to, "{selection:?}");
                (from..=to).contains(&sk)
            }
            other => panic!("{other}"),
        };
        let start = selection.start.as_deref();
        assert!(start.is_none_or(|sk| matches(sk) && !sk.is_empty()));
        let mut ordered: Vec<&String> = sks.iter().collect();
        ordered.sort_unstable();
        if reverse {
            ordered.reverse();
        }
        let is_after = |sk: &str| start.is_none_or(|start| (sk > start) != reverse && sk != start);
        let found = ordered.into_iter().filter(|sk| is_after(sk) && matches(sk));
        let mut read: Vec<String> = found.cloned().collect();
        let more = read.len() > limit;
        read.truncate(limit);
        let last_evaluated = read.last().filter(|_| more).cloned();
        Response {
            read,
            last_evaluated,
        }
    }

    fn keep_selected(read: Vec<String>, selection: &Selection) -> impl Iterator<Item = String> {
        let excluded = selection.excluded.clone();
        read.into_iter()
            .filter(move |sk| Some(sk) != excluded.as_ref())
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(3_000) })]

        /// Guarantee 5.
        #[test]
        fn requests_read_what_the_query_matches_and_at_most_one_row_more(
            query in any_query(),
            sks in prop::collection::btree_set(any_text(), 0..20),
            page_size in 1..5_usize,
        ) {
            let sks: Vec<String> = sks.into_iter().filter(|sk| !sk.is_empty()).collect();
            let mut expected = sks.clone();
            expected.retain(|sk| query.matches(Key::new("pk", sk)));
            if query.reverse {
                expected.reverse();
            }
            match Selection::from_query(&query, None).unwrap() {
                None => prop_assert_eq!(&expected, &[""; 0]),
                Some(selection) => {
                    let response = respond(&sks, &selection, query.reverse, usize::MAX);
                    prop_assert!(response.read.len() <= expected.len() + 1);
                    let found: Vec<String> = keep_selected(response.read, &selection).collect();
                    prop_assert_eq!(&found, &expected);
                }
            }

            let mut found = Vec::new();
            let mut after = None;
            while let Some(selection) = Selection::from_query(&query, after.as_deref()).unwrap() {
                let response = respond(&sks, &selection, query.reverse, page_size);
                found.extend(keep_selected(response.read, &selection));
                after = response.last_evaluated;
                if after.is_none() {
                    break;
                }
            }
            prop_assert_eq!(found, expected);
        }
    }

    /// Returns the request for `query` as a text: the expression with its values, the start key and
    /// the excluded key.
    fn request(query: &Query) -> Option<String> {
        let selection = Selection::from_query(query, None).unwrap()?;
        let (expression, values) = selection.condition.expression().unwrap_or_default();
        let mut text = expression.to_owned();
        for (name, sk) in values {
            text = text.replace(name, sk);
        }
        if let Some(start) = &selection.start {
            text += &format!(", after {start}");
        }
        if let Some(excluded) = &selection.excluded {
            text += &format!(", without {excluded}");
        }
        Some(text)
    }

    #[test]
    fn the_condition_is_the_strongest_single_one() {
        let all = || Query::new("pk");
        let m = || all().prefix("m");
        let above = |sk| all().range((Bound::Excluded(sk), Bound::Unbounded));
        let between = |lower, upper| all().range((Bound::Excluded(lower), Bound::Excluded(upper)));
        for (query, expected) in [
            (all(), ""),
            (all().after("k"), ", after k"),
            (all().after(""), ""),
            (all().reverse().after("k"), ", after k"),
            (all().range(""..), ""),
            (above(""), ""),
            (m(), "begins_with(#s, m)"),
            (m().after("m1"), "begins_with(#s, m), after m1"),
            (m().after("m"), "begins_with(#s, m), after m"),
            (m().after("a"), "begins_with(#s, m)"),
            (m().reverse().after("z"), "begins_with(#s, m)"),
            (m().range("a".."z"), "begins_with(#s, m)"),
            (m().range("m".."n"), "begins_with(#s, m)"),
            (m().range("m5"..), "#s BETWEEN m5 AND n, without n"),
            (m().range("m5"..).reverse(), "#s BETWEEN m5 AND n, after n"),
            (m().range(..="m5"), "#s BETWEEN m AND m5"),
            (
                m().range("a".."m5").after("m1"),
                "#s BETWEEN m AND m5, after m1, without m5",
            ),
            // The next character is after the surrogates.
            (
                all().prefix("\u{d7ff}").range("\u{d7ff}1"..),
                "#s BETWEEN \u{d7ff}1 AND \u{e000}, without \u{e000}",
            ),
            // The last character has none after it.
            (
                all().prefix("\u{10ffff}").range("\u{10ffff}1"..),
                "#s >= \u{10ffff}1",
            ),
            (
                all().prefix("a\u{10ffff}").range("a\u{10ffff}1"..),
                "#s BETWEEN a\u{10ffff}1 AND b, without b",
            ),
            (all().range("a"..), "#s >= a"),
            (above("a"), "#s > a"),
            (above("a").after("a"), "#s > a"),
            (above("a").after("b"), "#s > a, after b"),
            (all().range(.."b"), "#s < b"),
            (all().range(..="b"), "#s <= b"),
            (all().range(..="b").reverse().after("b"), "#s <= b, after b"),
            (all().range("a".."b"), "#s BETWEEN a AND b, without b"),
            (
                all().range("a".."b").after("0"),
                "#s BETWEEN a AND b, without b",
            ),
            (
                all().range("a".."b").reverse(),
                "#s BETWEEN a AND b, after b",
            ),
            (
                all().range("a".."b").reverse().after("a1"),
                "#s BETWEEN a AND b, after a1",
            ),
            (all().range("a"..="a"), "#s BETWEEN a AND a"),
            (between("a", "c"), "#s BETWEEN a AND c, after a, without c"),
            (
                between("a", "c").reverse(),
                "#s BETWEEN a AND c, after c, without a",
            ),
        ] {
            assert_eq!(request(&query).as_deref(), Some(expected), "{query:?}");
        }
    }

    #[test]
    fn what_no_sort_key_matches_is_not_requested() {
        let query = || Query::new("pk");
        let excluded = |sk: &'static str| Bound::Excluded(sk);
        for query in [
            query().range("b".."a"),
            query().range("a".."a"),
            query().range((excluded("a"), Bound::Included("a"))),
            query().range((excluded("a"), excluded("a"))),
            query().range(..""),
            query().range(..=""),
            query().range(""..=""),
            query().prefix("m").range("n"..),
            query().prefix("m").range(.."m"),
            query().prefix("m").after("n"),
            query().prefix("m").after("z"),
            query().prefix("m").reverse().after("m"),
            query().prefix("m").reverse().after("a"),
            query().prefix("m").range(..="m5").after("m5"),
            query().range("a".."b").after("b"),
            query().range("a".."b").reverse().after("a"),
            query().reverse().after(""),
        ] {
            assert_eq!(
                Selection::from_query(&query, None).unwrap(),
                None,
                "{query:?}"
            );
        }
    }

    #[test]
    fn a_page_begins_after_its_own_key_instead_of_the_query_s() {
        let query = Query::new("pk").after("k");
        for (after, start) in [(None, "k"), (Some("x"), "x"), (Some("a"), "a")] {
            let selection = Selection::from_query(&query, after).unwrap().unwrap();
            assert_eq!(selection.start.as_deref(), Some(start));
        }
    }

    #[test]
    fn bounds_of_the_greatest_length_are_requested() {
        let longest = "k".repeat(LONGEST);
        let longest = longest.as_str();
        let query = Query::new("pk").range(longest..=longest);
        let expected = format!("#s BETWEEN {longest} AND {longest}");
        assert_eq!(request(&query), Some(expected));
        // Only the prefix itself begins with a prefix of the greatest length.
        let query = Query::new("pk").prefix(longest);
        let expected = format!("begins_with(#s, {longest})");
        assert_eq!(request(&query.clone().range(longest..)), Some(expected));
        let above = (Bound::Excluded(longest), Bound::Unbounded);
        assert_eq!(request(&query.range(above)), None);
        // A shorter prefix, but its last character has one byte less than the next one.
        let part = "k".repeat(LONGEST - 2);
        let query = Query::new("pk").prefix(format!("{part}\u{7f}"));
        let query = query.range(format!("{part}\u{7f}1")..);
        let expected = format!("#s BETWEEN {part}\u{7f}1 AND {part}\u{80}, without {part}\u{80}");
        assert_eq!(request(&query), Some(expected));
    }

    #[test]
    fn keys_that_no_row_can_have_are_refused() {
        let query = || Query::new("pk");
        let long = "k".repeat(LONGEST + 1);
        let long = long.as_str();
        for query in [
            Query::new(""),
            Query::new("k".repeat(2_049)),
            query().prefix(long),
            query().range(long..),
            query().range(..long),
            query().range(..=long),
            // Nor are they ignored where nothing is selected.
            query().prefix("a").range(long..),
            query().after(long),
        ] {
            let outcome = Selection::from_query(&query, None);
            assert!(
                matches!(
                    outcome,
                    Err(Error::InvalidInput(_) | Error::LimitExceeded { .. })
                ),
                "{query:?}"
            );
        }
        assert!(Selection::from_query(&query(), Some(long)).is_err());
    }
}
