use crate::sync::Arc;
use crate::{Key, KeyBuf};
use std::fmt;

/// A key, optional data and an optional time to live.
///
/// An `Item` is a cheap handle: a clone is one reference count, whatever `T` is, and `T: Clone` is
/// not needed. What it refers to never changes; to change an item, write another one under its key.
///
/// The time to live is in epoch seconds. An item is live up to and including that second, and
/// after it exists on no read path of any database, whatever the store still holds.
///
/// ```
/// use atomic_db::{Item, Key};
///
/// let item = Item::new("user#123", "profile", "Ada".to_string()).expires_at(1_900_000_000);
/// assert_eq!(item.key(), Key::new("user#123", "profile"));
/// assert_eq!(item.data().map(String::as_str), Some("Ada"));
/// assert_eq!(item.ttl(), Some(1_900_000_000));
///
/// let bare: Item<String> = Item::without_data("user#123", "was-here");
/// assert_eq!(bare.data(), None);
/// ```
pub struct Item<T> {
    body: Arc<Body<T>>,
    /// Beside the body and not in it, so that an item can be given another time to live without
    /// copying its data. `NEVER` where there is none.
    ttl: u64,
}

struct Body<T> {
    key: KeyBuf,
    data: Option<T>,
}

/// No clock reads a later second, so an item that expires then never expires.
const NEVER: u64 = u64::MAX;

impl<T> Item<T> {
    /// An item that holds `data` and never expires.
    #[must_use]
    pub fn new(pk: impl AsRef<str>, sk: impl AsRef<str>, data: T) -> Self {
        Item::from_parts(KeyBuf::new(pk, sk), Some(data))
    }

    /// An item that is there, holds nothing and never expires.
    #[must_use]
    pub fn without_data(pk: impl AsRef<str>, sk: impl AsRef<str>) -> Self {
        Item::from_parts(KeyBuf::new(pk, sk), None)
    }

    fn from_parts(key: KeyBuf, data: Option<T>) -> Self {
        Item {
            body: Arc::new(Body { key, data }),
            ttl: NEVER,
        }
    }

    /// This item with another time to live, in epoch seconds. The data is shared with the item it
    /// was made from, not copied. `u64::MAX` is the same as no time to live.
    ///
    /// ```
    /// use atomic_db::Item;
    ///
    /// let item = Item::new("session", "abc", 1);
    /// let longer = item.clone().expires_at(1_900_000_000);
    /// assert_eq!((item.ttl(), longer.ttl()), (None, Some(1_900_000_000)));
    /// ```
    #[must_use]
    pub fn expires_at(mut self, epoch_seconds: u64) -> Self {
        self.ttl = epoch_seconds;
        self
    }

    /// The item's address.
    #[must_use]
    pub fn key(&self) -> Key<'_> {
        self.body.key.as_key()
    }

    /// The partition key.
    #[must_use]
    pub fn pk(&self) -> &str {
        self.body.key.pk()
    }

    /// The sort key.
    #[must_use]
    pub fn sk(&self) -> &str {
        self.body.key.sk()
    }

    /// What the item holds, if anything.
    #[must_use]
    pub fn data(&self) -> Option<&T> {
        self.body.data.as_ref()
    }

    /// The last epoch second at which the item exists, or `None` if it never expires.
    #[must_use]
    pub fn ttl(&self) -> Option<u64> {
        (self.ttl != NEVER).then_some(self.ttl)
    }

    /// Whether the item exists at `now`, in epoch seconds. Every database asks this before it
    /// shows an item.
    ///
    /// ```
    /// use atomic_db::Item;
    ///
    /// let item = Item::new("session", "abc", ()).expires_at(100);
    /// assert!(item.is_live(100));
    /// assert!(!item.is_live(101));
    /// ```
    #[must_use]
    pub fn is_live(&self, now: u64) -> bool {
        now <= self.ttl
    }

    /// What the item holds, by value: moved out if this is the last handle, cloned otherwise.
    ///
    /// ```
    /// use atomic_db::Item;
    ///
    /// let item = Item::new("user#123", "profile", "Ada".to_string());
    /// assert_eq!(item.into_data().as_deref(), Some("Ada"));
    /// ```
    #[must_use]
    pub fn into_data(self) -> Option<T>
    where
        T: Clone,
    {
        match Arc::try_unwrap(self.body) {
            Ok(body) => body.data,
            Err(shared) => shared.data.clone(),
        }
    }

    #[inline]
    pub(crate) fn has_key(&self, bytes: (&[u8], &[u8])) -> bool {
        self.body.key.is(bytes)
    }

    pub(crate) fn key_buf(&self) -> &KeyBuf {
        &self.body.key
    }
}

impl<T> Clone for Item<T> {
    fn clone(&self) -> Self {
        Item {
            body: Arc::clone(&self.body),
            ttl: self.ttl,
        }
    }
}

/// Equal items have equal keys, data and times to live.
impl<T: PartialEq> PartialEq for Item<T> {
    fn eq(&self, other: &Self) -> bool {
        self.ttl == other.ttl
            && self.body.key == other.body.key
            && self.body.data == other.body.data
    }
}

impl<T: Eq> Eq for Item<T> {}

impl<T: fmt::Debug> fmt::Debug for Item<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Item")
            .field("pk", &self.pk())
            .field("sk", &self.sk())
            .field("data", &self.data())
            .field("ttl", &self.ttl())
            .finish()
    }
}
