//! Serialization of the vocabulary types, as JSON (feature `serde`).

use atomic_db::{Item, Key, KeyBuf, Page, Version};
use serde_json::{from_str, to_string};

#[test]
fn keys_versions_items_and_pages_are_read_back_as_written() {
    let key = KeyBuf::new("user#1", "na\"me\0");
    let json = to_string(&key).unwrap();
    assert_eq!(json, r#"{"pk":"user#1","sk":"na\"me\u0000"}"#);
    assert_eq!(from_str::<KeyBuf>(&json).unwrap(), key);
    assert_eq!(to_string(&key.as_key()).unwrap(), json);

    let json = to_string(&Key::new("user#1", "name")).unwrap();
    assert_eq!(
        from_str::<Key<'_>>(&json).unwrap(),
        Key::new("user#1", "name")
    );

    let version: Version = "01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap();
    let json = to_string(&version).unwrap();
    assert_eq!(json, r#""01ARZ3NDEKTSV4RRFFQ69G5FAV""#);
    assert_eq!(from_str::<Version>(&json).unwrap(), version);

    let items = [
        (Item::new("a", "1", 7), r#"{"pk":"a","sk":"1","data":7}"#),
        (
            Item::without_data("a", "2").expires_at(9),
            r#"{"pk":"a","sk":"2","ttl":9}"#,
        ),
    ];
    for (item, json) in &items {
        assert_eq!(&to_string(item).unwrap(), json);
        assert_eq!(&from_str::<Item<u32>>(json).unwrap(), item);
    }

    let page = Page {
        items: items.map(|(item, _)| item).into(),
        next: Some("2".to_owned()),
    };
    let json = to_string(&page).unwrap();
    assert_eq!(from_str::<Page<u32>>(&json).unwrap(), page);
}

#[test]
fn other_texts_are_refused_with_an_error() {
    assert!(from_str::<Version>(r#""not a version""#).is_err());
    assert!(from_str::<KeyBuf>(r#"{"pk":"a"}"#).is_err());
    assert!(from_str::<Item<u32>>(r#"{"pk":"a","sk":"b","data":"text"}"#).is_err());
    assert!(from_str::<Item<u32>>(r#"{"pk":"a","sk":"b","date":1}"#).is_err());
}
