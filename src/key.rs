use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

/// The address of an item or a lock: a partition key and a sort key, borrowed.
///
/// A key is a pair and never a joined text: `("a:b", "c")` and `("a", "b:c")` are two keys. Both
/// parts may be any text, the empty one included; a database that cannot hold some key refuses it
/// with an error and says so in its documentation. A `Key` is `Copy` and owns nothing, so looking
/// something up allocates nothing; where a key must be kept, [`KeyBuf`] owns one.
///
/// Keys are ordered by the bytes of `pk`, then by the bytes of `sk`.
///
/// ```
/// use atomic_db::Key;
///
/// let key = Key::new("user#123", "profile");
/// assert_eq!(key, Key::from(("user#123", "profile")));
/// assert_ne!(Key::new("a:b", "c"), Key::new("a", "b:c"));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key<'a> {
    /// The partition key.
    pub pk: &'a str,
    /// The sort key, which orders the items of one partition.
    pub sk: &'a str,
}

impl<'a> Key<'a> {
    /// The key `(pk, sk)`.
    #[must_use]
    pub const fn new(pk: &'a str, sk: &'a str) -> Self {
        Key { pk, sk }
    }

    #[inline]
    pub(crate) fn bytes(&self) -> (&'a [u8], &'a [u8]) {
        (self.pk.as_bytes(), self.sk.as_bytes())
    }

    /// An owned copy of this key.
    ///
    /// ```
    /// use atomic_db::{Key, KeyBuf};
    ///
    /// let kept: KeyBuf = Key::new("user#123", "profile").to_buf();
    /// assert_eq!(kept.as_key(), Key::new("user#123", "profile"));
    /// ```
    #[must_use]
    pub fn to_buf(self) -> KeyBuf {
        KeyBuf::new(self.pk, self.sk)
    }
}

impl<'a> From<(&'a str, &'a str)> for Key<'a> {
    fn from((pk, sk): (&'a str, &'a str)) -> Self {
        Key { pk, sk }
    }
}

impl<'a> From<&'a KeyBuf> for Key<'a> {
    fn from(key: &'a KeyBuf) -> Self {
        key.as_key()
    }
}

/// Writes both parts quoted and escaped, so that no key can be mistaken for another:
/// `("a:b", "c")`.
impl fmt::Display for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({:?}, {:?})", self.pk, self.sk)
    }
}

impl fmt::Debug for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key{self}")
    }
}

/// A [`Key`] that owns its text: what an error names, and what a batch deletes.
///
/// Both parts lie in one allocation.
///
/// ```
/// use atomic_db::{Key, KeyBuf};
///
/// let key = KeyBuf::new("user#123", "profile");
/// assert_eq!((key.pk(), key.sk()), ("user#123", "profile"));
/// assert_eq!(key.to_string(), r#"("user#123", "profile")"#);
/// assert_eq!(key, Key::new("user#123", "profile"));
/// ```
#[derive(Clone)]
pub struct KeyBuf {
    /// `pk` and `sk`, one after the other.
    text: Box<str>,
    /// The length of `pk` in bytes, which is where `sk` begins.
    split: usize,
}

impl KeyBuf {
    /// A key of its own, `(pk, sk)`.
    #[must_use]
    pub fn new(pk: impl AsRef<str>, sk: impl AsRef<str>) -> Self {
        let (pk, sk) = (pk.as_ref(), sk.as_ref());
        let mut text = String::with_capacity(pk.len() + sk.len());
        text.push_str(pk);
        text.push_str(sk);
        KeyBuf {
            text: text.into_boxed_str(),
            split: pk.len(),
        }
    }

    /// The partition key.
    #[must_use]
    pub fn pk(&self) -> &str {
        &self.text[..self.split]
    }

    /// The sort key.
    #[must_use]
    pub fn sk(&self) -> &str {
        &self.text[self.split..]
    }

    /// This key, borrowed.
    #[must_use]
    pub fn as_key(&self) -> Key<'_> {
        let (pk, sk) = self.text.split_at(self.split);
        Key { pk, sk }
    }

    /// The bytes of both parts: unlike [`as_key`](KeyBuf::as_key) without a check that the split is
    /// at a character.
    #[inline]
    pub(crate) fn bytes(&self) -> (&[u8], &[u8]) {
        self.text.as_bytes().split_at(self.split)
    }

    /// Whether this is the key of which these are the [`bytes`](Key::bytes).
    #[inline(always)]
    pub(crate) fn is(&self, (pk, sk): (&[u8], &[u8])) -> bool {
        let text = self.bytes();
        same_bytes(text.1, sk) && same_bytes(text.0, pk)
    }
}

/// Whether two slices are equal. Up to 16 bytes, which most keys are, are compared as two numbers
/// that may overlap: a call of the C library's `memcmp` costs more than that.
#[inline(always)]
fn same_bytes(one: &[u8], other: &[u8]) -> bool {
    if one.len() != other.len() {
        return false;
    }
    match one.len() {
        0 => true,
        len @ 1..4 => {
            one[0] == other[0] && one[len / 2] == other[len / 2] && one[len - 1] == other[len - 1]
        }
        4..8 => {
            one.first_chunk::<4>() == other.first_chunk::<4>()
                && one.last_chunk::<4>() == other.last_chunk::<4>()
        }
        8..=16 => {
            one.first_chunk::<8>() == other.first_chunk::<8>()
                && one.last_chunk::<8>() == other.last_chunk::<8>()
        }
        _ => one == other,
    }
}

impl From<Key<'_>> for KeyBuf {
    fn from(key: Key<'_>) -> Self {
        key.to_buf()
    }
}

impl From<&KeyBuf> for KeyBuf {
    fn from(key: &KeyBuf) -> Self {
        key.clone()
    }
}

impl<P: AsRef<str>, S: AsRef<str>> From<(P, S)> for KeyBuf {
    fn from((pk, sk): (P, S)) -> Self {
        KeyBuf::new(pk, sk)
    }
}

impl PartialEq for KeyBuf {
    fn eq(&self, other: &Self) -> bool {
        self.split == other.split && self.text == other.text
    }
}

impl Eq for KeyBuf {}

impl PartialEq<Key<'_>> for KeyBuf {
    fn eq(&self, other: &Key<'_>) -> bool {
        self.is(other.bytes())
    }
}

impl PartialEq<KeyBuf> for Key<'_> {
    fn eq(&self, other: &KeyBuf) -> bool {
        other.is(self.bytes())
    }
}

impl PartialOrd for KeyBuf {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for KeyBuf {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_key().cmp(&other.as_key())
    }
}

/// Hashes like the [`Key`] that it owns.
impl Hash for KeyBuf {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_key().hash(state);
    }
}

impl fmt::Display for KeyBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_key().fmt(f)
    }
}

impl fmt::Debug for KeyBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyBuf{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::same_bytes;

    #[test]
    fn bytes_are_the_same_only_if_each_of_them_is() {
        for length in 0..40 {
            let one = vec![b'a'; length];
            assert!(same_bytes(&one, &one.clone()), "{length}");
            for place in 0..length {
                let mut other = one.clone();
                other[place] = b'b';
                assert!(!same_bytes(&one, &other), "{place} of {length}");
                assert!(!same_bytes(&one[..place], &one), "{place} and {length}");
            }
        }
    }
}
