//! Interoperability with the TypeScript package atomic-dynamodb, which uses the same table. These tests
//! read and write rows in its format, with the AWS SDK.

use super::{START, dynamodb_error, server};
use atomic_db::testing::run_concurrently;
use atomic_db::{
    AtomicDb, AtomicDbExt, Batch, DynamoDb, DynamoDbError, Error, Item, Key, KeyBuf, LruCache,
    ManualClock, Query, Retry, Version, VersionGenerator,
};
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::{AttributeValue, Put, TransactWriteItem, Update};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::time::Duration;
use tokio::runtime::Runtime;

const HOUR: u64 = 60 * 60;
const DAY: u64 = 24 * HOUR;

type Row = HashMap<String, AttributeValue>;

/// One table, through the AWS SDK.
struct RawTable {
    runtime: Runtime,
    client: Client,
    table: String,
}

fn s(text: impl Into<String>) -> AttributeValue {
    AttributeValue::S(text.into())
}

fn n(number: impl ToString) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

fn row(pk: &str, sk: &str, attributes: &[(&str, AttributeValue)]) -> Row {
    let mut row = Row::from([("pk".to_owned(), s(pk)), ("sk".to_owned(), s(sk))]);
    row.extend(
        attributes
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone())),
    );
    row
}

impl RawTable {
    fn new(endpoint: &str, table: &str) -> Self {
        let http = aws_smithy_http_client::Builder::new()
            .tls_provider(Provider::Rustls(CryptoMode::Ring))
            .build_https();
        let config = aws_sdk_dynamodb::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .endpoint_url(endpoint)
            .region(Region::new("local"))
            .credentials_provider(Credentials::new("local", "server", None, None, "test"))
            .http_client(http)
            .build();
        let runtime = tokio::runtime::Builder::new_current_thread();
        RawTable {
            runtime: { runtime }.enable_all().build().unwrap(),
            client: Client::from_conf(config),
            table: table.to_owned(),
        }
    }

    fn put(&self, row: Row) {
        let request = self.client.put_item().table_name(&self.table);
        let request = request.set_item(Some(row)).send();
        self.runtime.block_on(request).unwrap();
    }

    fn get(&self, pk: &str, sk: &str) -> Option<Row> {
        let request = self.client.get_item().table_name(&self.table);
        let request = request.set_key(Some(row(pk, sk, &[]))).send();
        self.runtime.block_on(request).unwrap().item
    }

    /// Writes one item under one lock, as `setAtomic` of the package does. Returns false on a conflict.
    fn set_atomic(&self, item: Row, lock: (&str, &str), old: &str, new: &str) -> bool {
        let update = Update::builder()
            .table_name(&self.table)
            .set_key(Some(row(lock.0, lock.1, &[])))
            .update_expression("SET version = :newVersion")
            .condition_expression("version = :oldVersion")
            .expression_attribute_values(":newVersion", s(new))
            .expression_attribute_values(":oldVersion", s(old));
        let put = Put::builder().table_name(&self.table).set_item(Some(item));
        let actions = [
            TransactWriteItem::builder()
                .update(update.build().unwrap())
                .build(),
            TransactWriteItem::builder()
                .put(put.build().unwrap())
                .build(),
        ];
        let request = self.client.transact_write_items();
        let request = request.set_transact_items(Some(actions.into())).send();
        match self.runtime.block_on(request) {
            Ok(_) => true,
            Err(error) => {
                let error = error.into_service_error();
                assert!(error.is_transaction_canceled_exception(), "{error:?}");
                false
            }
        }
    }
}

/// Creates a new table, accessed through this crate and through the SDK.
fn new_table<T>(clock: &ManualClock) -> Option<(DynamoDb<T>, RawTable)> {
    let endpoint = server::endpoint()?;
    let table = server::unique_table_name();
    let db = server::builder_for_table(endpoint, table.as_str())
        .create_table(true)
        .clock(clock.clone())
        .open()
        .unwrap();
    Some((db, RawTable::new(endpoint, &table)))
}

fn gzipped(json: &str) -> AttributeValue {
    let mut zip = GzEncoder::new(Vec::new(), Compression::default());
    zip.write_all(json.as_bytes()).unwrap();
    AttributeValue::B(Blob::new(zip.finish().unwrap()))
}

fn gzipped_zeros(count: u64) -> AttributeValue {
    let mut zip = GzEncoder::new(Vec::new(), Compression::default());
    std::io::copy(&mut std::io::repeat(0).take(count), &mut zip).unwrap();
    AttributeValue::B(Blob::new(zip.finish().unwrap()))
}

#[test]
fn items_written_by_the_package_are_read() {
    let clock = ManualClock::new(START);
    let Some((db, raw)) = new_table::<Value>(&clock) else {
        return;
    };
    let shapes = [
        json!({"name": "Ada", "born": 1815, "tags": ["a", {"b": null}]}),
        json!("text"),
        json!(""),
        json!(1.5),
        json!(-9_007_199_254_740_991_i64),
        json!(true),
        json!(null),
        json!([]),
        json!({}),
        json!("line\nfeed \u{0} \"quoted\" 日本語 🦀"),
    ];
    let mut expected = Vec::new();
    for (number, data) in shapes.into_iter().enumerate() {
        let [plain, zip] = ["plain", "zip"].map(|kind| format!("{number:02} {kind}"));
        raw.put(row("pk", &plain, &[("data", s(data.to_string()))]));
        raw.put(row("pk", &zip, &[("data", gzipped(&data.to_string()))]));
        expected.push(Item::new("pk", plain, data.clone()));
        expected.push(Item::new("pk", zip, data));
    }
    // The quotes count, too.
    let large = json!("x".repeat(400 * 1_024 - 2));
    raw.put(row("pk", "20", &[("data", gzipped(&large.to_string()))]));
    raw.put(row("pk", "21", &[]));
    raw.put(row(
        "pk",
        "22",
        &[("data", s("7")), ("ttl", n(format!("{START}.5")))],
    ));
    raw.put(row(
        "pk",
        "23",
        &[("data", s("7")), ("other", n(5)), ("ttl", s("none"))],
    ));
    raw.put(row("pk", "24", &[("data", s("7")), ("ttl", n(START - 1))]));
    raw.put(row("pk", "25", &[("data", s("7")), ("ttl", n(0))]));
    raw.put(row(
        "pk",
        "lock",
        &[
            ("version", s("01ARZ3NDEKTSV4RRFFQ69G5FAV")),
            ("ttl", n(START + DAY)),
        ],
    ));
    raw.put(row(
        "pk",
        "odd lock",
        &[("version", n(1)), ("data", s("7"))],
    ));
    expected.push(Item::new("pk", "20", large));
    expected.push(Item::without_data("pk", "21"));
    expected.push(Item::new("pk", "22", json!(7)).expires_at(START));
    expected.push(Item::new("pk", "23", json!(7)));
    expected.push(Item::new("pk", "25", json!(7)));

    assert_eq!(db.query(&Query::new("pk")).unwrap(), expected);
    let keys: Vec<Key<'_>> = expected.iter().map(Item::key).collect();
    let many = db.get_many(&keys).unwrap();
    assert!(many.into_iter().eq(expected.iter().cloned().map(Some)));
    for item in &expected {
        assert_eq!(db.get(item.key()).unwrap().as_ref(), Some(item));
    }
    for hidden in ["24", "lock", "odd lock"] {
        assert_eq!(db.get(Key::new("pk", hidden)).unwrap(), None, "{hidden}");
    }
    clock.set(START + 1);
    assert_eq!(db.get(Key::new("pk", "22")).unwrap(), None);
    assert_eq!(db.query(&Query::new("pk").prefix("22")).unwrap(), []);
}

#[test]
fn rows_have_the_format_of_the_package() {
    let clock = ManualClock::new(START);
    let Some((db, raw)) = new_table::<Value>(&clock) else {
        return;
    };
    let data = json!({"name": "Ada", "tags": [1, null]});
    let item = Item::new("pk", "a", data.clone()).expires_at(START + 5);
    let expected = row(
        "pk",
        "a",
        &[("data", s(data.to_string())), ("ttl", n(START + 5))],
    );
    db.set(&[item.clone(), Item::without_data("pk", "bare")])
        .unwrap();
    assert_eq!(raw.get("pk", "a"), Some(expected.clone()));
    assert_eq!(raw.get("pk", "bare"), Some(row("pk", "bare", &[])));
    let lock = db.get_lock(Key::new("pk", "lock")).unwrap();
    let locked = |version: Version| {
        let version = s(version.to_string());
        row(
            "pk",
            "lock",
            &[("version", version), ("ttl", n(START + DAY))],
        )
    };
    assert_eq!(raw.get("pk", "lock"), Some(locked(lock.version())));
    db.delete(&[item.key()]).unwrap();
    let batch = Batch::new().lock(lock).create(item);
    let version = db.commit(&batch).unwrap();
    assert_eq!(raw.get("pk", "a"), Some(expected));
    assert_eq!(raw.get("pk", "lock"), Some(locked(version)));
}

#[test]
fn conflicts_with_the_package_are_detected_by_both() {
    let clock = ManualClock::new(START);
    let Some((db, raw)) = new_table::<u64>(&clock) else {
        return;
    };
    let (key, first) = (Key::new("pk", "lock"), "01ARZ3NDEKTSV4RRFFQ69G5FAV");
    let ttl = ("ttl", n(format!("{}.25", START + DAY)));
    raw.put(row("pk", "lock", &[("version", s(first)), ttl]));
    let lock = db.get_lock(key).unwrap();
    assert_eq!(
        (lock.version().to_string().as_str(), lock.ttl()),
        (first, START + DAY)
    );
    let version = db.set_atomic(&[Item::new("pk", "a", 1)], &[lock]).unwrap();
    let second = version.to_string();

    let one = |data: u64| row("pk", "a", &[("data", s(data.to_string()))]);
    let third = VersionGenerator::new()
        .next(Duration::from_secs(START))
        .to_string();
    assert!(!raw.set_atomic(one(2), ("pk", "lock"), first, &third));
    let lock = db.get_lock(key).unwrap();
    assert!(raw.set_atomic(one(3), ("pk", "lock"), &second, &third));
    match db.set_atomic(&[Item::new("pk", "a", 4)], &[lock]) {
        Err(Error::RaceCondition { keys }) => assert_eq!(keys, [KeyBuf::from(key)]),
        other => panic!("{other:?}"),
    }
    let item = db.get_fresh(Key::new("pk", "a")).unwrap();
    assert_eq!(item.and_then(Item::into_data), Some(3));

    // `get_lock` gives a lock without a `ttl` one, and extends a lock in its last hour. Both keep their
    // versions (guarantee 16). The package changes the version when it extends a lock.
    for ttl in [
        None,
        Some(n(START + HOUR - 1)),
        Some(n(format!("{}.5", START + 1))),
    ] {
        let ttl: Vec<_> = ttl.into_iter().map(|ttl| ("ttl", ttl)).collect();
        let attributes = [vec![("version", s(third.as_str()))], ttl].concat();
        raw.put(row("pk", "lock", &attributes));
        let lock = db.get_lock(key).unwrap();
        assert_eq!(
            (lock.version().to_string(), lock.ttl()),
            (third.clone(), START + DAY)
        );
        db.commit(&Batch::new().check(lock)).unwrap();
    }
    let lock = db.get_lock(key).unwrap();
    raw.put(row(
        "pk",
        "lock",
        &[("version", s(first)), ("ttl", n(START + DAY))],
    ));
    let error = db.commit(&Batch::new().check(lock)).unwrap_err();
    assert!(error.is_race_condition(), "{error:?}");

    // An expired lock is created again, even if its version is invalid.
    raw.put(row(
        "pk",
        "lock",
        &[("version", s("1")), ("ttl", n(START - 1))],
    ));
    let lock = db.get_lock(key).unwrap();
    db.commit(&Batch::new().lock(lock)).unwrap();
}

#[test]
fn undecodable_rows_are_named_and_hide_no_others() {
    let clock = ManualClock::new(START);
    let Some((db, raw)) = new_table::<String>(&clock) else {
        return;
    };
    let valid = |sk: &str| Item::new("pk", sk, sk.to_owned());
    db.set(&["a", "b", "d", "f"].map(valid)).unwrap();
    raw.put(row("pk", "c", &[("data", s("{\"broken\": "))]));
    raw.put(row(
        "pk",
        "e",
        &[("data", AttributeValue::B(Blob::new("no gzip")))],
    ));
    // JavaScript can write a lone surrogate.
    raw.put(row("pk", "g", &[("data", s(r#""\ud800""#))]));

    // Decompressed, one has a byte more than an item may have, the other is a decompression bomb.
    let too_large = json!("x".repeat(400 * 1_024 - 1)).to_string();
    raw.put(row("pk", "h", &[("data", gzipped(&too_large))]));
    raw.put(row("pk", "i", &[("data", gzipped_zeros(200_000_000))]));

    let undecodable = |error: Error| match error {
        Error::Codec { key, .. } => key.sk().to_owned(),
        other => panic!("{other:?}"),
    };
    for sk in ["c", "e", "g", "h", "i"] {
        assert_eq!(undecodable(db.get(Key::new("pk", sk)).unwrap_err()), sk);
        assert_eq!(
            undecodable(
                db.get_many(&[Key::new("pk", "a"), Key::new("pk", sk)])
                    .unwrap_err()
            ),
            sk
        );
    }
    assert_eq!(undecodable(db.query(&Query::new("pk")).unwrap_err()), "c");

    // Joins what a stream yields; an error as `!` and its key.
    let all = |items: &mut dyn Iterator<Item = atomic_db::Result<Item<String>>>| {
        items
            .map(|item| match item {
                Ok(item) => item.into_data().unwrap(),
                Err(error) => format!("!{}", undecodable(error)),
            })
            .collect::<String>()
    };
    let query = Query::new("pk");
    let mut stream = db.stream(query.clone());
    assert_eq!(all(&mut stream), "ab!cd!ef!g!h!i");
    assert!(stream.next().is_none());
    assert_eq!(
        all(&mut db.stream(query.clone().reverse())),
        "!i!h!gf!ed!cba"
    );
    // Errors do not count towards the limit.
    assert_eq!(all(&mut db.stream(query.clone().limit(3))), "ab!cd");

    // A page ends before the row. `after` its key skips it.
    let page = db.page(&query, None).unwrap();
    assert_eq!(page.items, ["a", "b"].map(valid));
    assert_eq!(
        undecodable(db.page(&query, page.next.as_deref()).unwrap_err()),
        "c"
    );
    let page = db.page(&query, Some("c")).unwrap();
    assert_eq!(page.items, [valid("d")]);
    let boxed: Box<dyn AtomicDb<Data = String>> = Box::new(db.clone());
    assert_eq!(all(&mut boxed.stream(query.clone())), "ab!c");
    assert_eq!(all(&mut boxed.stream(query.clone().after("c"))), "d!e");
    assert_eq!(all(&mut boxed.stream(query.reverse().after("c"))), "ba");

    for (sk, version) in [
        ("x", s("1")),
        ("y", s("01arz3ndektsv4rrffq69g5fav")),
        ("z", n(1)),
    ] {
        raw.put(row(
            "pk",
            sk,
            &[("version", version), ("ttl", n(START + DAY))],
        ));
        assert_eq!(
            undecodable(db.get_lock(Key::new("pk", sk)).unwrap_err()),
            sk
        );
    }
    // Undecodable rows can be replaced and deleted.
    db.set(&[valid("c")]).unwrap();
    let keys = ["e", "g", "h", "i", "x", "y", "z"].map(|sk| Key::new("pk", sk));
    db.delete(&keys).unwrap();
    assert_eq!(all(&mut db.stream(Query::new("pk"))), "abcdf");
}

#[test]
fn a_schema_mismatch_is_reported() {
    use aws_sdk_dynamodb::types::{
        AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
        TimeToLiveSpecification,
    };
    let Some(endpoint) = server::endpoint() else {
        return;
    };
    let create = |keys: &[(&str, KeyType, ScalarAttributeType)]| {
        let raw = RawTable::new(endpoint, &server::unique_table_name());
        let mut request = raw.client.create_table();
        for (name, role, kind) in keys {
            let attribute = AttributeDefinition::builder().attribute_name(*name);
            let key = KeySchemaElement::builder().attribute_name(*name);
            request = request
                .attribute_definitions(attribute.attribute_type(kind.clone()).build().unwrap())
                .key_schema(key.key_type(role.clone()).build().unwrap());
        }
        let request = request.table_name(&raw.table);
        let request = request.billing_mode(BillingMode::PayPerRequest).send();
        raw.runtime.block_on(request).unwrap();
        raw
    };
    let open = |raw: &RawTable| server::builder_for_table::<u32>(endpoint, raw.table.as_str());
    let mismatch = |outcome: atomic_db::Result<()>| {
        let error = outcome.unwrap_err();
        assert!(matches!(error, Error::Backend(_)), "{error:?}");
        match dynamodb_error(&error) {
            DynamoDbError::SchemaMismatch { detail, .. } => detail.clone(),
            other => panic!("{other:?}"),
        }
    };
    use KeyType::{Hash, Range};
    use ScalarAttributeType::{N, S};
    for keys in [
        &[("pk", Hash, S)][..],
        &[("id", Hash, S), ("sk", Range, S)],
        &[("pk", Hash, S), ("sk", Range, N)],
        &[("sk", Hash, S), ("pk", Range, S)],
    ] {
        let raw = create(keys);
        let detail = mismatch(open(&raw).create_table(true).open().map(drop));
        assert!(detail.contains("not (pk S HASH, sk S RANGE)"), "{detail}");
        // Without `create_table`, the first call reports the mismatch. There are two exceptions: swapped
        // keys are indistinguishable, and a table without a sort key accepts `sk` as an attribute.
        if keys[0].0 != "sk" {
            let db = open(&raw).open().unwrap();
            mismatch(db.get(Key::new("pk", "sk")).map(drop));
            mismatch(db.get_many(&[Key::new("pk", "sk")]).map(drop));
            mismatch(db.get_lock(Key::new("pk", "sk")).map(drop));
            mismatch(db.delete(&[Key::new("pk", "sk")]));
            if keys.len() > 1 {
                mismatch(db.set(&[Item::new("pk", "sk", 1)]));
                let batch = Batch::new().set(Item::new("pk", "sk", 1));
                mismatch(db.commit(&batch).map(drop));
            }
        }
    }
    // The keys match, but another attribute has the time to live.
    let raw = create(&[("pk", Hash, S), ("sk", Range, S)]);
    open(&raw).create_table(false).open().unwrap();
    let ttl = TimeToLiveSpecification::builder()
        .attribute_name("expires")
        .enabled(true);
    let request = raw.client.update_time_to_live().table_name(&raw.table);
    let request = request
        .time_to_live_specification(ttl.build().unwrap())
        .send();
    raw.runtime.block_on(request).unwrap();
    let detail = mismatch(open(&raw).create_table(true).open().map(drop));
    assert!(detail.contains("expires"), "{detail}");
}

/// Both increment one counter under one lock, concurrently. The package uses eventually consistent
/// reads, which the test server answers like consistent ones.
#[test]
fn no_update_is_lost_between_the_package_and_this_crate() {
    let clock = ManualClock::new(START);
    let Some((db, raw)) = new_table::<u64>(&clock) else {
        return;
    };
    const EACH: u64 = 20;
    db.set(&[Item::new("pk", "count", 0)]).unwrap();
    db.get_lock(Key::new("pk", "lock")).unwrap();
    let retry = Retry::new()
        .attempts(1_000)
        .backoff(Duration::from_millis(1), Duration::from_millis(20));
    let increment_as_crate = || {
        let cache = LruCache::builder(db.clone()).capacity(4).build();
        for _ in 0..EACH {
            let outcome = cache.transact_with(&retry, |tx| {
                tx.lock(("pk", "lock"))?;
                let count = tx.get(("pk", "count"))?.and_then(Item::into_data);
                tx.set(Item::new("pk", "count", count.unwrap_or(0) + 1))
            });
            outcome.unwrap();
        }
    };
    let increment_as_package = || {
        let raw = RawTable::new(server::endpoint().unwrap(), &raw.table);
        let versions = VersionGenerator::new();
        for _ in 0..EACH {
            loop {
                let version = text(raw.get("pk", "lock").unwrap().remove("version"));
                let count = text(raw.get("pk", "count").unwrap().remove("data"));
                let count: u64 = count.parse().unwrap();
                let next = row("pk", "count", &[("data", s((count + 1).to_string()))]);
                let new = versions.next(Duration::from_secs(START)).to_string();
                if raw.set_atomic(next, ("pk", "lock"), &version, &new) {
                    break;
                }
            }
        }
    };
    run_concurrently(4, |number| {
        if number < 2 {
            increment_as_crate();
        } else {
            increment_as_package();
        }
    });
    let count = db.get_fresh(Key::new("pk", "count")).unwrap();
    assert_eq!(count.and_then(Item::into_data), Some(4 * EACH));
}

fn text(value: Option<AttributeValue>) -> String {
    match value {
        Some(AttributeValue::S(text)) => text,
        other => panic!("{other:?}"),
    }
}
