use crate::sync::Arc;
use crate::{Clock, Key, KeyBuf};
use std::fmt;
use std::time::Duration;

/// A key, optional data and an optional expiry.
///
/// An `Item` is a cheap handle: cloning increments a reference count and does not require
/// `T: Clone`. It is immutable; to change a stored item, write another one under its key.
///
/// The expiry, `ttl`, is in epoch seconds. An item is live up to and including that second. After
/// that no read of any database returns it, even if it is still stored (guarantee 3).
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
    inner: Arc<Inner<T>>,
    /// Stored outside `inner`, so that an item can be given another expiry without copying its
    /// data. `NEVER` if there is none.
    ttl: u64,
}

struct Inner<T> {
    key: KeyBuf,
    data: Option<T>,
}

/// No clock can show a later second, so an item with this expiry never expires.
const NEVER: u64 = u64::MAX;

impl<T> Item<T> {
    /// Creates an item that holds `data` and never expires.
    #[must_use]
    pub fn new(pk: impl AsRef<str>, sk: impl AsRef<str>, data: T) -> Self {
        Item::from_parts(KeyBuf::new(pk, sk), Some(data))
    }

    /// Creates an item without data that never expires.
    #[must_use]
    pub fn without_data(pk: impl AsRef<str>, sk: impl AsRef<str>) -> Self {
        Item::from_parts(KeyBuf::new(pk, sk), None)
    }

    /// Creates an item at `key` that never expires.
    ///
    /// ```
    /// use atomic_db::{Item, Key};
    ///
    /// let key = Key::new("user#123", "profile");
    /// assert_eq!(Item::at(key, "Ada"), Item::new("user#123", "profile", "Ada"));
    /// ```
    #[must_use]
    pub fn at(key: impl Into<KeyBuf>, data: T) -> Self {
        Item::from_parts(key.into(), Some(data))
    }

    fn from_parts(key: KeyBuf, data: Option<T>) -> Self {
        Item {
            inner: Arc::new(Inner { key, data }),
            ttl: NEVER,
        }
    }

    /// Returns this item with the expiry `epoch_seconds`, the last second at which it is live. The
    /// data is shared with the original, not copied. `u64::MAX` means that it never expires.
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

    /// Returns this item with an expiry after `duration`, by the time of `clock`: it is live for at
    /// least `duration`, and for less than a second longer. Use the clock of the database.
    ///
    /// ```
    /// use atomic_db::{Item, SystemClock};
    /// use std::time::Duration;
    ///
    /// let session = Item::new("session", "abc", 1).expires_in(Duration::from_secs(60), &SystemClock);
    /// assert!(session.ttl().is_some());
    /// ```
    #[must_use]
    pub fn expires_in(self, duration: Duration, clock: &(impl Clock + ?Sized)) -> Self {
        self.expires_at(clock.now().saturating_add(duration).as_secs())
    }

    /// Returns an item with the same key **and expiry** and other data. This is how a stored item is
    /// rewritten: a new item at its key would never expire.
    ///
    /// ```
    /// use atomic_db::Item;
    ///
    /// let session = Item::new("session", "abc", 1).expires_at(1_900_000_000);
    /// let next = session.with_data(2);
    /// assert_eq!((next.key(), next.ttl()), (session.key(), session.ttl()));
    /// assert_eq!(next.data(), Some(&2));
    /// ```
    #[must_use]
    pub fn with_data<U>(&self, data: U) -> Item<U> {
        Item::at(self.inner.key.clone(), data).expires_at(self.ttl)
    }

    /// Returns the item's key.
    #[must_use]
    pub fn key(&self) -> Key<'_> {
        self.inner.key.as_key()
    }

    /// Returns the partition key.
    #[must_use]
    pub fn pk(&self) -> &str {
        self.inner.key.pk()
    }

    /// Returns the sort key.
    #[must_use]
    pub fn sk(&self) -> &str {
        self.inner.key.sk()
    }

    /// Returns the data, or `None` if the item has none.
    #[must_use]
    pub fn data(&self) -> Option<&T> {
        self.inner.data.as_ref()
    }

    /// Returns the last epoch second at which the item is live, or `None` if it never expires.
    #[must_use]
    pub fn ttl(&self) -> Option<u64> {
        (self.ttl != NEVER).then_some(self.ttl)
    }

    /// Returns `true` if the item is live at `now`, in epoch seconds. Backends call this before they
    /// return an item.
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

    /// Returns the data by value: moved out if this is the last handle, cloned otherwise.
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
        match Arc::try_unwrap(self.inner) {
            Ok(inner) => inner.data,
            Err(shared) => shared.data.clone(),
        }
    }

    #[inline]
    pub(crate) fn has_key(&self, bytes: (&[u8], &[u8])) -> bool {
        self.inner.key.has_bytes(bytes)
    }

    pub(crate) fn key_buf(&self) -> &KeyBuf {
        &self.inner.key
    }
}

impl<T> Clone for Item<T> {
    fn clone(&self) -> Self {
        Item {
            inner: Arc::clone(&self.inner),
            ttl: self.ttl,
        }
    }
}

impl<'a, T> From<&'a Item<T>> for Key<'a> {
    fn from(item: &'a Item<T>) -> Self {
        item.key()
    }
}

/// Equal items have equal keys, data and expiries.
impl<T: PartialEq> PartialEq for Item<T> {
    fn eq(&self, other: &Self) -> bool {
        self.ttl == other.ttl
            && self.inner.key == other.inner.key
            && self.inner.data == other.inner.data
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
