//! An item as a line.

use crate::{BoxError, Codec, Item, Json, Key};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::io::Write;

/// The fields of a line. The data is read on its own, so that it may be nested as deeply as without the
/// line around it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    #[serde(borrow)]
    pk: Cow<'a, str>,
    #[serde(borrow)]
    sk: Cow<'a, str>,
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    #[serde(default)]
    ttl: Option<u64>,
}

/// Deserializes a field that is present, whose `null` is data: that of `()`, for instance.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    Deserialize::deserialize(deserializer).map(Some)
}

/// Replaces the contents of `line` by `item` and a newline.
///
/// # Errors
///
/// The data cannot be represented as JSON, or could not be read back. The contents of `line` are then
/// unspecified.
pub(super) fn encode<T>(item: &Item<T>, line: &mut Vec<u8>) -> Result<(), BoxError>
where
    T: Serialize + DeserializeOwned,
{
    let Key { pk, sk } = item.key();
    line.clear();
    line.extend_from_slice(b"{\"pk\":");
    serde_json::to_writer(&mut *line, pk)?;
    line.extend_from_slice(b",\"sk\":");
    serde_json::to_writer(&mut *line, sk)?;
    if let Some(data) = item.data() {
        line.extend_from_slice(b",\"data\":");
        let start = line.len();
        Json.encode(data, line)?;
        // Data that contains JSON text may have line breaks between its tokens. Those within strings are
        // escaped.
        for byte in line.iter_mut().skip(start) {
            if matches!(byte, b'\n' | b'\r') {
                *byte = b' ';
            }
        }
    }
    if let Some(ttl) = item.ttl() {
        write!(line, ",\"ttl\":{ttl}")?;
    }
    line.extend_from_slice(b"}\n");
    Ok(())
}

/// Decodes the item in a line, or returns the reason why it is not one.
pub(super) fn decode<T: DeserializeOwned>(line: &[u8]) -> Result<Item<T>, String> {
    // An array of the values would be accepted as well.
    if !line.trim_ascii_start().starts_with(b"{") {
        return Err("not a JSON object".to_owned());
    }
    let fields = serde_json::from_slice(line);
    let Line { pk, sk, data, ttl } = fields.map_err(|error| {
        let column = error.column();
        format!("{} at column {column}", without_position(&error))
    })?;
    let item = match data {
        Some(data) => {
            let data = serde_json::from_str(data.get());
            let data = data.map_err(|error| format!("`data`: {}", without_position(&error)))?;
            Item::new(pk, sk, data)
        }
        None => Item::without_data(pk, sk),
    };
    Ok(item.expires_at(ttl.unwrap_or(u64::MAX)))
}

/// Returns the message of `error` without its line, which would be that of the JSON text, not of the
/// file.
fn without_position(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let position = format!(" at line {} column {}", error.line(), error.column());
    text.strip_suffix(&position).unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};
    use std::collections::BTreeMap;
    use std::fmt::Debug;

    fn round_trip<T>(item: &Item<T>)
    where
        T: Serialize + DeserializeOwned + Debug + PartialEq,
    {
        let mut line = b"the line before".to_vec();
        encode(item, &mut line).unwrap();
        let text = line.strip_suffix(b"\n").unwrap();
        assert!(!text.contains(&b'\n'), "{item:?}");
        assert_eq!(decode::<T>(text).as_ref(), Ok(item));
    }

    #[test]
    fn a_decoded_item_equals_the_encoded_one() {
        round_trip(&Item::new("pk", "sk", "text".to_owned()));
        round_trip(&Item::new("", "\u{0}\n\r\"\\\u{10ffff}", 7_u64).expires_at(0));
        round_trip(&Item::<String>::without_data("pk", "sk").expires_at(u64::MAX - 1));
        round_trip(&Item::new(
            "pk",
            "sk",
            BTreeMap::from([(1, vec![0.1, -1e300])]),
        ));
        // Data whose JSON is `null` differs from no data.
        round_trip(&Item::new("pk", "sk", ()));
        round_trip(&Item::<()>::without_data("pk", "sk"));
        round_trip(&Item::new("pk", "sk", None::<u8>));
        round_trip(&Item::new("pk", "sk", Value::Null));
        // As deep as data can be nested in JSON that can be read.
        let deep = (0..127).fold(json!(1), |value, _| json!([value]));
        round_trip(&Item::new("pk", "sk", deep));
    }

    #[test]
    fn data_that_could_not_be_read_back_is_refused() {
        let mut line = Vec::new();
        for float in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert!(encode(&Item::new("pk", "sk", Some(float)), &mut line).is_err());
        }
        let too_deep = (0..128).fold(json!(1), |value, _| json!([value]));
        assert!(encode(&Item::new("pk", "sk", too_deep), &mut line).is_err());
    }

    #[test]
    fn line_breaks_within_json_text_are_not_line_breaks_of_the_file() {
        let text = RawValue::from_string("[1,\r\n2,\n\"\\n\"]".to_owned()).unwrap();
        let mut line = Vec::new();
        encode(&Item::new("pk", "sk", text), &mut line).unwrap();
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        let item = decode::<Value>(&line).unwrap();
        assert_eq!(item.into_data(), Some(json!([1, 2, "\n"])));
    }

    proptest! {
        #[test]
        fn keys_data_and_expiries_round_trip(
            pk: String, sk: String, data: Option<(String, i64)>, ttl: Option<u64>
        ) {
            let item = match data {
                Some(data) => Item::new(&pk, &sk, data),
                None => Item::without_data(&pk, &sk),
            };
            round_trip(&item.expires_at(ttl.unwrap_or(u64::MAX)));
        }

        #[test]
        fn decoding_any_bytes_does_not_panic(
            bytes: Vec<u8>, position: prop::sample::Index, byte: u8
        ) {
            let _ = decode::<Value>(&bytes);
            let mut line = Vec::new();
            encode(&Item::new("pk", "é", json!({"a": [1.5, null]})), &mut line).unwrap();
            let position = position.index(line.len());
            line[position] = byte;
            let _ = decode::<Value>(&line);
            let _ = decode::<Value>(&line[..position]);
        }
    }

    #[test]
    fn fields_may_be_in_any_order_and_escaped() {
        let line = br#" {"ttl": 5 ,"data" : [1, 2],"sk":"\u0061","pk":"b"} "#;
        let item = Item::new("b", "a", vec![1, 2]).expires_at(5);
        assert_eq!(decode::<Vec<u8>>(line), Ok(item));
        let line = br#"{"pk":"b","sk":"a","ttl":null}"#;
        assert_eq!(decode::<u8>(line), Ok(Item::without_data("b", "a")));
    }

    #[test]
    fn a_line_that_is_not_an_item_is_refused_with_a_reason() {
        for (line, part) in [
            ("{", "at column 1"),
            (r#"["a","b"]"#, "not a JSON object"),
            (r#"{"pk":"a"}"#, "missing field `sk` at column 10"),
            (r#"{"pk":"a","sk":1}"#, "expected a string"),
            (r#"{"pk":"a","sk":"b","tll":1}"#, "unknown field `tll`"),
            (r#"{"pk":"a","pk":"b","sk":"b"}"#, "duplicate field `pk`"),
            (r#"{"pk":"a","sk":"b","ttl":-1}"#, "`-1`"),
            (r#"{"pk":"a","sk":"b","data":7}"#, "`data`: invalid type"),
            (r#"{"pk":"a","sk":"b","data":null}"#, "`data`: invalid type"),
            (r#"{"pk":"a","sk":"b"} x"#, "at column 21"),
        ] {
            let reason = decode::<String>(line.as_bytes()).unwrap_err();
            assert!(reason.contains(part), "{line}: {reason}");
            assert!(!reason.contains("at line"), "{line}: {reason}");
        }
        assert!(decode::<String>(b"{\"pk\":\"\xff\",\"sk\":\"b\"}").is_err());
        assert!(decode::<String>(br#"{"pk":"\ud800","sk":"b"}"#).is_err());
    }
}
