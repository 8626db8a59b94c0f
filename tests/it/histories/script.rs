//! Histories as text.

use atomic_db::testing::history::{
    Action, Commit, History, LockVersion, Observation, Op, Outcome, PredicateRead, ReadSet, Write,
};
use atomic_db::{KeyBuf, Query, Version};

/// Items `a.x`, `a.y` and `b.x`, each written once under the lock of its letter.
pub(super) const WRITTEN: &str = "get_lock a@10
    get_lock b@20
    commit lock a@10 set a.x=1 a.y=2 -> 30
    commit lock b@20 set b.x=3 -> 31";

/// Reads a history from text, one call a line, as in [`WRITTEN`], which the word inserts.
///
/// A call without times begins after the previous one has returned. Times such as `0..9` count from
/// the end of the last call without times. `-` stands for absence.
pub(super) fn parse(script: &str) -> History {
    let mut history = History::default();
    let mut now = 0;
    let script = script.replace("WRITTEN", WRITTEN);
    for line in script.lines().map(str::trim) {
        let times = line.split_once(' ').and_then(|(times, call)| {
            let (begin, end) = times.split_once("..")?;
            Some((now + number(begin), now + number(end), call))
        });
        let (invoked, returned, call) = times.unwrap_or_else(|| {
            now += 2;
            (now - 2, now - 1, line)
        });
        history.ops.push(Op {
            thread: history.ops.len(),
            invoked,
            returned,
            action: parse_action(call),
        });
    }
    history
}

fn parse_action(call: &str) -> Action {
    let words: Vec<&str> = call.split(' ').collect();
    match words[..] {
        ["read", ref items @ ..] => {
            let items = items.iter().copied().map(parse_item);
            parse_read("get_many", ReadSet::from_items(items.collect()))
        }
        ["query", query, ref found @ ..] => {
            let mut read = parse_query(query);
            read.found.extend(found.iter().copied().map(parse_found));
            let predicates = vec![read];
            let reads = ReadSet {
                predicates,
                ..ReadSet::default()
            };
            parse_read("query", reads)
        }
        ["get_lock", lock] => Action::GetLock(parse_lock(lock)),
        ["set", item] => Action::Write("set", parse_write(item, None)),
        ["set", item, "until", ttl] => Action::Write("set", parse_write(item, Some(number(ttl)))),
        ["delete", item] => Action::Write("delete", parse_write(item, None)),
        ["clock", second] => Action::AdvanceClock(number(second)),
        ["commit", ref words @ ..] => Action::Commit(parse_commit(words)),
        _ => panic!("not a call: {call}"),
    }
}

fn parse_read(method: &'static str, reads: ReadSet) -> Action {
    Action::Read {
        method,
        atomic: true,
        reads,
    }
}

/// `a.*` selects a partition and `a.x*` a prefix; `a.*!x` leaves out an item that the transaction
/// has written itself; `a.*..x` ends with `x`, because of a limit.
fn parse_query(text: &str) -> PredicateRead {
    let (pk, rest) = text.split_once('.').unwrap();
    let (prefix, rest) = rest.split_once('*').unwrap();
    PredicateRead {
        query: Query::new(pk).prefix(prefix),
        found: Vec::new(),
        through: rest.strip_prefix("..").map(str::to_owned),
        own: Vec::from_iter(rest.strip_prefix('!').map(|sk| KeyBuf::new(pk, sk))),
        missing: Vec::new(),
    }
}

fn parse_found(item: &str) -> (KeyBuf, u64) {
    let (key, value) = parse_item(item);
    (key, value.expect("a query finds items"))
}

fn parse_commit(words: &[&str]) -> Commit {
    const KEYWORDS: [&str; 12] = [
        "lock", "check", "read", "query", "set", "create", "delete", "->", "conflict", "exists",
        "ok", "failed",
    ];
    let mut commit = Commit {
        locks: Vec::new(),
        checks: Vec::new(),
        reads: ReadSet::default(),
        writes: Vec::new(),
        outcome: Outcome::Conflict(Vec::new()),
    };
    let mut keyword = "";
    for word in words.iter().copied() {
        match keyword {
            _ if KEYWORDS.contains(&word) => {
                keyword = word;
                match word {
                    "ok" => commit.outcome = Outcome::Validated,
                    "failed" => commit.outcome = Outcome::Failed,
                    _ => {}
                }
            }
            "lock" => commit.locks.push(parse_lock(word)),
            "check" => commit.checks.push(parse_lock(word)),
            "read" => commit.reads.items.push(parse_item(word)),
            "query" if word.contains('*') => commit.reads.predicates.push(parse_query(word)),
            "query" => {
                let read = commit.reads.predicates.last_mut().unwrap();
                read.found.push(parse_found(word));
            }
            "->" => commit.outcome = Outcome::Committed(version(word)),
            "exists" => commit.outcome = Outcome::AlreadyExists(parse_item(word).0),
            "conflict" => {
                if let Outcome::Conflict(keys) = &mut commit.outcome {
                    keys.push(KeyBuf::new(word, "lock"));
                }
            }
            _ => {
                let mut write = parse_write(word, None);
                write.create = keyword == "create";
                commit.writes.push(write);
            }
        }
    }
    commit
}

fn parse_write(item: &str, ttl: Option<u64>) -> Write {
    let (key, value) = parse_item(item);
    Write {
        key,
        value,
        ttl,
        create: false,
    }
}

/// `a.x=1`, `a.x=-` or `a.x`.
fn parse_item(text: &str) -> Observation {
    let (key, value) = text.split_once('=').unwrap_or((text, "-"));
    let (pk, sk) = key.split_once('.').unwrap();
    (KeyBuf::new(pk, sk), (value != "-").then(|| number(value)))
}

/// `a@10`.
fn parse_lock(text: &str) -> LockVersion {
    let (letter, text) = text.split_once('@').unwrap();
    (KeyBuf::new(letter, "lock"), version(text))
}

fn version(text: &str) -> Version {
    Version::from_u128(number(text).into())
}

fn number(text: &str) -> u64 {
    text.parse()
        .unwrap_or_else(|_| panic!("not a number: {text}"))
}
