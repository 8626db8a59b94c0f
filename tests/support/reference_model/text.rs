//! The text forms of versions and keys: each parses back to its value, two values have two texts,
//! and the texts of versions are ordered as the versions are.

use super::choices::Choices;
use atomic_db::{Error, Key, KeyBuf, Version};
use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::str::Chars;

/// Characters of versions, and a few that no version has.
const DIGITS: &[u8] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZabcdefghjkmnpqrstvwxyzILOUilou -_";

/// Characters of keys: those that a text form escapes, its own punctuation, and others.
const CHARS: [char; 24] = [
    'a',
    'b',
    '"',
    '\\',
    '\'',
    ',',
    ' ',
    '(',
    ')',
    '\0',
    '\n',
    '\r',
    '\t',
    '\u{7f}',
    '\u{80}',
    'ä',
    '\u{301}',
    '\u{200b}',
    '\u{feff}',
    '\u{ffff}',
    '\u{10000}',
    '\u{10ffff}',
    '{',
    '}',
];

/// The body of the fuzz target `text`: the first byte chooses what the others stand for.
///
/// # Panics
///
/// Panics if a text form is wrong.
pub fn fuzz_text(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    match choices.byte() % 4 {
        0 => {
            let versions = [number(&mut choices), number(&mut choices)].map(Version::from_u128);
            versions.iter().for_each(|version| check_version(*version));
            let texts = versions.map(|version| version.to_string());
            assert_eq!(versions[0].cmp(&versions[1]), texts[0].cmp(&texts[1]));
        }
        1 => {
            let mut text = String::new();
            while !choices.is_empty() {
                text.push(char::from(choices.one_of(DIGITS)));
            }
            check_parsing(&text);
        }
        2 => {
            let mut any = Vec::new();
            while !choices.is_empty() {
                any.push(choices.byte());
            }
            check_parsing(&String::from_utf8_lossy(&any));
        }
        _ => {
            let texts = [(); 4].map(|()| string(&mut choices));
            let [a, b, c, d] = &texts;
            check_keys((a, b), (c, d));
            // The same text, split elsewhere.
            check_keys((a, b), ("", &format!("{a}{b}")));
        }
    }
}

fn number(choices: &mut Choices<'_>) -> u128 {
    (0..16).fold(0, |bits, _| bits << 8 | u128::from(choices.byte()))
}

fn string(choices: &mut Choices<'_>) -> String {
    let chars = choices.list(6, |choices| choices.one_of(&CHARS));
    chars.into_iter().collect()
}

fn check_version(version: Version) {
    assert_eq!(Version::from_u128(version.as_u128()), version);
    let text = version.to_string();
    assert_eq!(text.len(), 26);
    for text in [&text, &text.to_lowercase()] {
        assert_eq!(text.parse::<Version>().unwrap(), version, "{text}");
    }
    assert_eq!(format!("{version:?}"), format!("Version({text})"));
}

fn check_parsing(text: &str) {
    let digit = |char: char| char.is_ascii_alphanumeric() && !"ILOUilou".contains(char);
    let first = text.chars().next();
    let is_version = text.chars().count() == 26
        && text.chars().all(digit)
        && first.is_some_and(|first| ('0'..='7').contains(&first));
    match text.parse::<Version>() {
        Ok(version) => {
            assert!(is_version, "{text:?}");
            assert_eq!(version.to_string(), text.to_ascii_uppercase());
            check_version(version);
        }
        Err(Error::InvalidInput(_)) => assert!(!is_version, "{text:?}"),
        Err(error) => panic!("{text:?}: {error}"),
    }
}

fn check_keys(left: (&str, &str), right: (&str, &str)) {
    let (a, b) = (Key::from(left), Key::from(right));
    let bytes = |key: (&str, &str)| (key.0.as_bytes().to_vec(), key.1.as_bytes().to_vec());
    let order = bytes(left).cmp(&bytes(right));
    assert_eq!(a.cmp(&b), order, "{a} and {b}");
    assert_eq!(a == b, order.is_eq());

    let (owned_a, owned_b) = (a.to_buf(), KeyBuf::from(right));
    assert_eq!((owned_a.pk(), owned_a.sk()), left);
    assert_eq!(owned_a.as_key(), a);
    assert_eq!(owned_a.cmp(&owned_b), order);
    assert_eq!(owned_a == owned_b, order.is_eq());
    assert_eq!(owned_a == b, order.is_eq());
    assert_eq!(b == owned_a, order.is_eq());

    let state = RandomState::new();
    assert_eq!(state.hash_one(a), state.hash_one(&owned_a));
    let different: HashSet<KeyBuf> = [owned_a.clone(), owned_b].into_iter().collect();
    assert_eq!(different.len(), 1 + usize::from(order.is_ne()));

    let text = a.to_string();
    assert_eq!(text, owned_a.to_string());
    assert_eq!(text == b.to_string(), order.is_eq(), "{text}");
    assert_eq!(format!("{a:?}"), format!("Key{text}"));
    assert_eq!(format!("{owned_a:?}"), format!("KeyBuf{text}"));
    // It can be parsed, so it is unambiguous.
    let parts = pair(&text);
    let parts = parts.as_ref().map(|(pk, sk)| (pk.as_str(), sk.as_str()));
    assert_eq!(parts, Some(left), "{text}");
}

/// The two texts of `("…", "…")`.
fn pair(text: &str) -> Option<(String, String)> {
    let mut chars = text.chars();
    expect(&mut chars, "(\"")?;
    let pk = unquote(&mut chars)?;
    expect(&mut chars, ", \"")?;
    let sk = unquote(&mut chars)?;
    expect(&mut chars, ")")?;
    chars.next().is_none().then_some((pk, sk))
}

fn expect(chars: &mut Chars<'_>, text: &str) -> Option<()> {
    *chars = chars.as_str().strip_prefix(text)?.chars();
    Some(())
}

/// Parses up to and including the closing quote.
fn unquote(chars: &mut Chars<'_>) -> Option<String> {
    let mut text = String::new();
    loop {
        match chars.next()? {
            '"' => return Some(text),
            '\\' => text.push(match chars.next()? {
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                '0' => '\0',
                'u' => {
                    let (code, rest) = chars.as_str().strip_prefix('{')?.split_once('}')?;
                    *chars = rest.chars();
                    char::from_u32(u32::from_str_radix(code, 16).ok()?)?
                }
                other => other,
            }),
            other => text.push(other),
        }
    }
}
