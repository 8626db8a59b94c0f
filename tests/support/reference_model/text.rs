//! Versions and keys as text: what is written can be read, no two are written alike, and the order
//! of the texts is the order of what they stand for.

use super::bytes::Bytes;
use atomic_db::{Error, Key, KeyBuf, Version};
use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::str::Chars;

/// What a version may be written with, and a few that it may not.
const DIGITS: &[u8] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZabcdefghjkmnpqrstvwxyzILOUilou -_";

/// What keys are made of: much of what a text form must escape, and what its own punctuation is.
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

/// What a fuzzer runs: the first byte chooses what the others stand for.
///
/// # Panics
///
/// Panics if a text form is wrong.
pub fn text(bytes: &[u8]) {
    let mut bytes = Bytes::new(bytes);
    match bytes.byte() % 4 {
        0 => {
            let versions = [number(&mut bytes), number(&mut bytes)].map(Version::from_u128);
            versions.iter().for_each(|version| written(*version));
            let texts = versions.map(|version| version.to_string());
            assert_eq!(versions[0].cmp(&versions[1]), texts[0].cmp(&texts[1]));
        }
        1 => {
            let digit = |bytes: &mut Bytes<'_>| DIGITS[bytes.below(DIGITS.len())];
            let mut text = String::new();
            while !bytes.is_empty() {
                text.push(char::from(digit(&mut bytes)));
            }
            read(&text);
        }
        2 => {
            let mut any = Vec::new();
            while !bytes.is_empty() {
                any.push(bytes.byte());
            }
            read(&String::from_utf8_lossy(&any));
        }
        _ => {
            let texts = [(); 4].map(|()| string(&mut bytes));
            let [a, b, c, d] = &texts;
            keys((a, b), (c, d));
            // The same text, divided elsewhere.
            keys((a, b), ("", &format!("{a}{b}")));
        }
    }
}

fn number(bytes: &mut Bytes<'_>) -> u128 {
    (0..16).fold(0, |bits, _| bits << 8 | u128::from(bytes.byte()))
}

fn string(bytes: &mut Bytes<'_>) -> String {
    let length = bytes.below(6);
    (0..length)
        .map(|_| CHARS[bytes.below(CHARS.len())])
        .collect()
}

fn written(version: Version) {
    assert_eq!(Version::from_u128(version.as_u128()), version);
    let text = version.to_string();
    assert_eq!(text.len(), 26);
    for text in [&text, &text.to_lowercase()] {
        assert_eq!(text.parse::<Version>().unwrap(), version, "{text}");
    }
    assert_eq!(format!("{version:?}"), format!("Version({text})"));
}

fn read(text: &str) {
    let digit = |char: char| char.is_ascii_alphanumeric() && !"ILOUilou".contains(char);
    let first = text.chars().next();
    let is_version = text.chars().count() == 26
        && text.chars().all(digit)
        && first.is_some_and(|first| ('0'..='7').contains(&first));
    match text.parse::<Version>() {
        Ok(version) => {
            assert!(is_version, "{text:?}");
            assert_eq!(version.to_string(), text.to_ascii_uppercase());
            written(version);
        }
        Err(Error::InvalidInput(_)) => assert!(!is_version, "{text:?}"),
        Err(error) => panic!("{text:?}: {error}"),
    }
}

fn keys(left: (&str, &str), right: (&str, &str)) {
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
    // It can be read back, so it says all there is.
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

/// Reads up to and over the closing quote.
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
