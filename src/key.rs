use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

/// The address of an item or a lock: a partition key and a sort key, borrowed.
///
/// A key is a pair, never a joined string: `("a:b", "c")` and `("a", "b:c")` are two keys. Both
/// parts may be any string, including the empty one. A database that cannot store some keys
/// documents which, and refuses them with an error (guarantee 1).
///
/// A `Key` is `Copy` and owns nothing, so a look-up allocates nothing. [`KeyBuf`] is the owned form.
///
/// Keys are ordered by the bytes of `pk`, then by the bytes of `sk`.
///
/// ```
/// use atomic_db::Key;
///
/// let key = Key::new("user#123", "profile");
/// assert_eq!(key, Key::from(("user#123", "profile")));
/// let user = String::from("user#123");
/// assert_eq!(key, Key::from((&user, "profile")));
/// assert_ne!(Key::new("a:b", "c"), Key::new("a", "b:c"));
/// ```
///
/// # Passing keys
///
/// The methods of [`AtomicDb`](crate::AtomicDb) take a `Key`. Those of
/// [`Transaction`](crate::Transaction) and [`AtomicDbExt`](crate::AtomicDbExt) take anything that
/// converts into one: a pair of references to strings, and a reference to a [`KeyBuf`], an item or a
/// lock. A pair with an owned `String` in it does not convert, so a function that computes a key returns
/// a `KeyBuf`:
///
/// ```
/// use atomic_db::{AtomicDb, AtomicDbExt, Item, KeyBuf, MemoryDb};
///
/// fn lock_of(user: &str) -> KeyBuf {
///     KeyBuf::new(format!("user#{user}"), "lock")
/// }
///
/// let db = MemoryDb::new();
/// db.get_lock(lock_of("Ada").as_key())?;
///
/// let locks: Vec<KeyBuf> = ["Ada", "Bob"].map(lock_of).into();
/// db.transact(|tx| {
///     tx.lock(&lock_of("Eve"))?;
///     tx.lock_all(&locks.iter().collect::<Vec<_>>())?; // of an array: `&locks.each_ref()`
///     tx.set(Item::new("team", "size", 3))
/// })?;
/// # Ok::<(), atomic_db::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(clippy::exhaustive_structs, reason = "an address is a pair of keys")]
pub struct Key<'a> {
    /// The partition key.
    pub pk: &'a str,
    /// The sort key, which orders the items of one partition.
    pub sk: &'a str,
}

impl<'a> Key<'a> {
    /// Creates the key `(pk, sk)`.
    #[must_use]
    pub const fn new(pk: &'a str, sk: &'a str) -> Self {
        Key { pk, sk }
    }

    /// Returns the bytes of both parts.
    #[inline]
    pub(crate) fn bytes(&self) -> (&'a [u8], &'a [u8]) {
        (self.pk.as_bytes(), self.sk.as_bytes())
    }

    /// Returns an owned copy of this key.
    ///
    /// ```
    /// use atomic_db::{Key, KeyBuf};
    ///
    /// let owned: KeyBuf = Key::new("user#123", "profile").to_buf();
    /// assert_eq!(owned.as_key(), Key::new("user#123", "profile"));
    /// ```
    #[must_use]
    pub fn to_buf(self) -> KeyBuf {
        KeyBuf::from_parts(self.pk, self.sk)
    }
}

impl<'a, P, S> From<(&'a P, &'a S)> for Key<'a>
where
    P: AsRef<str> + ?Sized,
    S: AsRef<str> + ?Sized,
{
    fn from((pk, sk): (&'a P, &'a S)) -> Self {
        Key::new(pk.as_ref(), sk.as_ref())
    }
}

impl<'a> From<&'a KeyBuf> for Key<'a> {
    fn from(key: &'a KeyBuf) -> Self {
        key.as_key()
    }
}

/// Writes both parts quoted and escaped, such as `("a:b", "c")`, so that different keys have
/// different texts.
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

/// An owned [`Key`].
///
/// A key of at most 29 bytes is stored in place, a longer one in one allocation.
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
pub struct KeyBuf(Text);

/// `pk` and `sk`, one after the other, in 32 bytes or behind them.
#[derive(Clone)]
enum Text {
    InPlace {
        pk_len: u8,
        len: u8,
        bytes: [u8; IN_PLACE],
    },
    Allocated {
        pk_len: usize,
        text: Box<str>,
    },
}

const IN_PLACE: usize = 29;

impl KeyBuf {
    /// Creates an owned key `(pk, sk)`.
    #[must_use]
    pub fn new(pk: impl AsRef<str>, sk: impl AsRef<str>) -> Self {
        KeyBuf::from_parts(pk.as_ref(), sk.as_ref())
    }

    #[inline]
    fn from_parts(pk: &str, sk: &str) -> Self {
        let (pk_len, len) = (pk.len(), pk.len() + sk.len());
        if len > IN_PLACE {
            let mut text = String::with_capacity(len);
            text.push_str(pk);
            text.push_str(sk);
            let text = text.into_boxed_str();
            return KeyBuf(Text::Allocated { pk_len, text });
        }
        let mut bytes = [0; IN_PLACE];
        bytes[..pk_len].copy_from_slice(pk.as_bytes());
        bytes[pk_len..len].copy_from_slice(sk.as_bytes());
        KeyBuf(Text::InPlace {
            pk_len: pk_len as u8,
            len: len as u8,
            bytes,
        })
    }

    /// Returns the partition key.
    #[must_use]
    pub fn pk(&self) -> &str {
        match &self.0 {
            Text::InPlace { .. } => validated(self.bytes().0),
            Text::Allocated { pk_len, text } => &text[..*pk_len],
        }
    }

    /// Returns the sort key.
    #[must_use]
    pub fn sk(&self) -> &str {
        match &self.0 {
            Text::InPlace { .. } => validated(self.bytes().1),
            Text::Allocated { pk_len, text } => &text[*pk_len..],
        }
    }

    /// Borrows this key.
    #[must_use]
    pub fn as_key(&self) -> Key<'_> {
        let (pk, sk) = match &self.0 {
            Text::InPlace { .. } => {
                let (pk, sk) = self.bytes();
                (validated(pk), validated(sk))
            }
            Text::Allocated { pk_len, text } => text.split_at(*pk_len),
        };
        Key { pk, sk }
    }

    /// Returns the bytes of both parts. Unlike [`as_key`](KeyBuf::as_key), this validates nothing.
    #[inline]
    pub(crate) fn bytes(&self) -> (&[u8], &[u8]) {
        match &self.0 {
            Text::InPlace { pk_len, len, bytes } => {
                bytes[..usize::from(*len)].split_at(usize::from(*pk_len))
            }
            Text::Allocated { pk_len, text } => text.as_bytes().split_at(*pk_len),
        }
    }

    /// Returns `true` if this is the key with these [`bytes`](Key::bytes).
    #[inline(always)]
    pub(crate) fn has_bytes(&self, (pk, sk): (&[u8], &[u8])) -> bool {
        let own = self.bytes();
        // Keys of one partition differ in `sk` only.
        bytes_eq(own.1, sk) && bytes_eq(own.0, pk)
    }
}

/// Returns the text with these bytes, which are those of a `str`: only `unsafe` code could return it
/// without validating it again, which is cheap for a short text.
fn validated(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

/// Returns `true` if both slices are equal. Slices of up to 16 bytes, as in most keys, are compared
/// as two numbers that may overlap, which is cheaper than a call of the C library's `memcmp`.
#[inline(always)]
fn bytes_eq(one: &[u8], other: &[u8]) -> bool {
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
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        // A key has one representation. The unused bytes of a short one are zero, so that all of them
        // can be compared, which needs no loop.
        match (&self.0, &other.0) {
            (
                Text::InPlace { pk_len, len, bytes },
                Text::InPlace {
                    pk_len: other_pk_len,
                    len: other_len,
                    bytes: other_bytes,
                },
            ) => bytes == other_bytes && pk_len == other_pk_len && len == other_len,
            (Text::Allocated { .. }, Text::Allocated { .. }) => self.has_bytes(other.bytes()),
            _ => false,
        }
    }
}

impl Eq for KeyBuf {}

impl PartialEq<Key<'_>> for KeyBuf {
    #[inline(always)]
    fn eq(&self, other: &Key<'_>) -> bool {
        self.has_bytes(other.bytes())
    }
}

impl PartialEq<KeyBuf> for Key<'_> {
    fn eq(&self, other: &KeyBuf) -> bool {
        other.has_bytes(self.bytes())
    }
}

impl PartialOrd for KeyBuf {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for KeyBuf {
    fn cmp(&self, other: &Self) -> Ordering {
        // The order of strings is that of their bytes.
        self.bytes().cmp(&other.bytes())
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
    use super::*;

    #[test]
    fn a_key_of_any_length_and_split_is_stored_and_compared_as_it_is() {
        let text = "aä\u{10ffff}\0 of some forty bytes: 0123456789";
        let cuts: Vec<usize> = (0..=text.len())
            .filter(|cut| text.is_char_boundary(*cut))
            .collect();
        let mut keys = Vec::new();
        for end in &cuts {
            for split in cuts.iter().filter(|split| *split <= end) {
                let key = Key::new(&text[..*split], &text[*split..*end]);
                let owned = key.to_buf();
                assert_eq!(owned.as_key(), key);
                assert_eq!((owned.pk(), owned.sk()), (key.pk, key.sk));
                assert_eq!(owned, owned.clone());
                keys.push((key, owned));
            }
        }
        for (key, owned) in &keys {
            for (other_key, other) in &keys {
                assert_eq!(owned == other, key == other_key, "{key} and {other_key}");
                assert_eq!(
                    owned.cmp(other),
                    key.cmp(other_key),
                    "{key} and {other_key}"
                );
            }
        }
        let in_place = keys
            .iter()
            .filter(|(_, key)| matches!(key.0, Text::InPlace { .. }));
        let longest = in_place.map(|(key, _)| key.pk.len() + key.sk.len()).max();
        assert_eq!(longest, Some(IN_PLACE));
        assert_eq!(size_of::<KeyBuf>(), 32);
    }

    #[test]
    fn slices_are_equal_only_if_all_bytes_are() {
        for length in 0..40 {
            let one = vec![b'a'; length];
            assert!(bytes_eq(&one, &one.clone()), "{length}");
            for index in 0..length {
                let mut other = one.clone();
                other[index] = b'b';
                assert!(!bytes_eq(&one, &other), "{index} of {length}");
                assert!(!bytes_eq(&one[..index], &one), "{index} and {length}");
            }
        }
    }
}
