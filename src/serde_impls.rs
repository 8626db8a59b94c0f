//! Serialization of keys, versions, items and pages.
//!
//! Keys and items are maps with the fields `pk`, `sk`, `data` and `ttl`, of which the last two are
//! missing if the item has none. A version is its text form.

use crate::{Item, Key, KeyBuf, Page, Version};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;

#[derive(Deserialize, Serialize)]
#[serde(rename = "Key", deny_unknown_fields)]
struct KeyFields<'a> {
    #[serde(borrow)]
    pk: Cow<'a, str>,
    #[serde(borrow)]
    sk: Cow<'a, str>,
}

/// Borrows its text, so it can be deserialized only from text without escapes.
#[derive(Deserialize)]
#[serde(rename = "Key", deny_unknown_fields)]
struct BorrowedKeyFields<'a> {
    pk: &'a str,
    sk: &'a str,
}

#[derive(Deserialize, Serialize)]
#[serde(rename = "Item", deny_unknown_fields)]
struct ItemFields<K, D> {
    pk: K,
    sk: K,
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    data: Option<D>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ttl: Option<u64>,
}

#[derive(Deserialize, Serialize)]
#[serde(rename = "Page", deny_unknown_fields)]
struct PageFields<I> {
    items: I,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

impl Serialize for Key<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (pk, sk) = (Cow::Borrowed(self.pk), Cow::Borrowed(self.sk));
        KeyFields { pk, sk }.serialize(serializer)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Key<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let BorrowedKeyFields { pk, sk } = BorrowedKeyFields::deserialize(deserializer)?;
        Ok(Key::new(pk, sk))
    }
}

impl Serialize for KeyBuf {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.as_key().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for KeyBuf {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let KeyFields { pk, sk } = KeyFields::deserialize(deserializer)?;
        Ok(KeyBuf::new(pk, sk))
    }
}

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

impl<T: Serialize> Serialize for Item<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let fields = ItemFields {
            pk: self.pk(),
            sk: self.sk(),
            data: self.data(),
            ttl: self.ttl(),
        };
        fields.serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Item<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fields = ItemFields::<String, T>::deserialize(deserializer)?;
        let item = match fields.data {
            Some(data) => Item::new(fields.pk, fields.sk, data),
            None => Item::without_data(fields.pk, fields.sk),
        };
        Ok(item.expires_at(fields.ttl.unwrap_or(u64::MAX)))
    }
}

impl<T: Serialize> Serialize for Page<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let fields = PageFields {
            items: &self.items,
            next: self.next.clone(),
        };
        fields.serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Page<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let PageFields { items, next } = PageFields::deserialize(deserializer)?;
        Ok(Page { items, next })
    }
}
