//! `Json`, the default codec.

use super::lossless::Lossless;
use crate::{BoxError, Codec};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Serializer;
use serde_json::ser::Formatter;
use std::io::{self, Write};

/// The codec that stores data as JSON, for any serde type. The default.
///
/// It refuses data that it could not read back, before anything is written:
///
/// - NaN and the infinities, which JSON does not have;
/// - arrays and objects that are nested more than 127 levels deep;
/// - maps whose keys are not strings, numbers, booleans or unit variants.
///
/// A `Some` whose contents are JSON's `null`, such as `Some(None)`, is not refused and is read back as
/// `None`.
///
/// ```
/// use atomic_db::{AtomicDb, Error, Item, RedbDb};
///
/// let db: RedbDb<Vec<f64>> = RedbDb::builder().in_memory()?;
/// let refused = db.set(&[Item::new("sensor#1", "readings", vec![1.5, f64::NAN])]);
/// assert!(matches!(refused, Err(Error::Codec { key, .. }) if key.sk() == "readings"));
/// assert!(db.is_empty()?);
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_structs, reason = "its name is also its only value")]
pub struct Json;

/// The deepest nesting that `serde_json` reads.
const MAX_DEPTH: usize = 127;

impl<T: Serialize + DeserializeOwned> Codec<T> for Json {
    const NAME: &'static str = "json";

    fn encode(&self, data: &T, buffer: &mut Vec<u8>) -> Result<(), BoxError> {
        let formatter = LimitedDepth { depth: 0 };
        let mut serializer = Serializer::with_formatter(buffer, formatter);
        data.serialize(Lossless(&mut serializer))?;
        Ok(())
    }

    fn decode(&self, bytes: Vec<u8>) -> Result<T, BoxError> {
        Ok(serde_json::from_slice(&bytes)?)
    }
}

/// Formats compact JSON, and fails where it is nested too deeply to be read.
struct LimitedDepth {
    depth: usize,
}

impl LimitedDepth {
    fn begin(&mut self, writer: &mut (impl Write + ?Sized), bracket: &[u8]) -> io::Result<()> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(io::Error::other(format!(
                "arrays and objects are nested more than {MAX_DEPTH} levels deep"
            )));
        }
        writer.write_all(bracket)
    }

    fn end(&mut self, writer: &mut (impl Write + ?Sized), bracket: &[u8]) -> io::Result<()> {
        self.depth -= 1;
        writer.write_all(bracket)
    }
}

impl Formatter for LimitedDepth {
    fn begin_array<W: Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.begin(writer, b"[")
    }

    fn end_array<W: Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.end(writer, b"]")
    }

    fn begin_object<W: Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.begin(writer, b"{")
    }

    fn end_object<W: Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.end(writer, b"}")
    }
}

#[cfg(test)]
#[cfg(not(any(loom, shuttle)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde::Deserialize;
    use serde_json::Value;
    use std::collections::BTreeMap;
    use std::fmt::Debug;

    fn encode<T: Serialize + DeserializeOwned>(data: &T) -> Result<String, String> {
        let mut buffer = Vec::new();
        let encoded = Json.encode(data, &mut buffer);
        encoded.map_err(|error| error.to_string())?;
        Ok(String::from_utf8(buffer).unwrap())
    }

    fn decode<T: Serialize + DeserializeOwned>(text: &str) -> T {
        Json.decode(text.into()).unwrap()
    }

    /// Every kind of value of serde's data model, and floats in each kind of compound.
    #[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
    struct Everything {
        unit: (),
        unit_struct: Unit,
        newtype: Newtype,
        tuple: (bool, char, f32),
        tuple_struct: Tuple,
        variants: Vec<Variant>,
        map: BTreeMap<String, f64>,
        float_keys: BTreeMap<i8, Option<f64>>,
        integers: (u8, i16, u32, i64, u64, u128, i128),
        signed: (i8, u16, i32),
        text: String,
        nothing: Option<f64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        skipped: Option<f64>,
    }

    #[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
    struct Unit;

    #[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
    struct Newtype(f64);

    #[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
    struct Tuple(f64, f32);

    #[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
    enum Variant {
        Unit,
        Newtype(f64),
        Tuple(u8, f64),
        Struct { value: f64 },
    }

    fn everything(float: f64) -> Everything {
        Everything {
            unit: (),
            unit_struct: Unit,
            newtype: Newtype(float),
            tuple: (true, 'é', 0.1),
            tuple_struct: Tuple(float, -0.0),
            variants: vec![
                Variant::Unit,
                Variant::Newtype(float),
                Variant::Tuple(7, float),
                Variant::Struct { value: float },
            ],
            map: BTreeMap::from([("a\0\"".to_owned(), float)]),
            float_keys: BTreeMap::from([(-1, Some(float)), (2, None)]),
            integers: (1, -2, 3, -4, u64::MAX, u128::MAX, i128::MIN),
            signed: (-1, 2, -3),
            text: "\u{10ffff}\n\"\\".to_owned(),
            nothing: None,
            skipped: None,
        }
    }

    #[test]
    fn the_encoding_is_that_of_serde_json() {
        for float in [0.1, -0.0, f64::MAX, f64::MIN_POSITIVE, 5e-324] {
            let data = everything(float);
            let text = encode(&data).unwrap();
            assert_eq!(text, serde_json::to_string(&data).unwrap());
            assert_eq!(decode::<Everything>(&text), data);
        }
    }

    fn assert_refused<T: Serialize + DeserializeOwned + Debug>(data: &T, expected: &str) {
        let error = encode(data).unwrap_err();
        assert!(error.contains(expected), "{data:?}: {error}");
    }

    #[test]
    fn nan_and_infinities_are_refused_wherever_they_are() {
        for float in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let finite = everything(0.0);
            let map = BTreeMap::from([("a".to_owned(), float)]);
            let expected = format!("JSON has no {float}");
            assert_refused(&float, &expected);
            assert_refused(&(float as f32), &expected);
            assert_refused(&Some(float), &expected);
            assert_refused(&[[float]], &expected);
            assert_refused(&vec![0.0, float], &expected);
            assert_refused(&map, &expected);
            for variant in [
                Variant::Newtype(float),
                Variant::Tuple(7, float),
                Variant::Struct { value: float },
            ] {
                assert_refused(&variant, &expected);
            }
            for data in [
                Everything {
                    newtype: Newtype(float),
                    ..finite.clone()
                },
                Everything {
                    tuple: (true, 'a', float as f32),
                    ..finite.clone()
                },
                Everything {
                    tuple_struct: Tuple(float, 0.0),
                    ..finite.clone()
                },
                Everything {
                    nothing: Some(float),
                    ..finite.clone()
                },
            ] {
                assert_refused(&data, &expected);
            }
        }
    }

    /// Two brackets a level, if it is tagged.
    #[derive(Debug, Deserialize, Serialize)]
    enum List {
        End,
        Node(Box<List>, u8),
    }

    #[test]
    fn the_deepest_nesting_that_is_accepted_can_be_read_back() {
        let array = |levels| (1..levels).fold(Value::Array(vec![]), |inner, _| vec![inner].into());
        let object = |levels| {
            (0..levels).fold(Value::Null, |inner, _| {
                Value::Object([("a".to_owned(), inner)].into_iter().collect())
            })
        };
        for nested in [array(MAX_DEPTH), object(MAX_DEPTH)] {
            assert_eq!(decode::<Value>(&encode(&nested).unwrap()), nested);
            let deeper = Value::Array(vec![nested]);
            assert_refused(&deeper, "more than 127 levels deep");
            // Neighbours do not add up.
            let wide = Value::Array(vec![array(MAX_DEPTH - 1), object(MAX_DEPTH - 1)]);
            assert_eq!(decode::<Value>(&encode(&wide).unwrap()), wide);
        }
        let list = |nodes| (0..nodes).fold(List::End, |inner, _| List::Node(Box::new(inner), 0));
        decode::<List>(&encode(&list(63)).unwrap());
        assert_refused(&list(64), "more than 127 levels deep");
    }

    #[test]
    fn map_keys_that_json_cannot_represent_are_refused() {
        assert_refused(&BTreeMap::from([(vec![1], 1)]), "key must be a string");
    }

    /// Values with few kinds of leaves, so that nesting is as frequent as variety.
    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(6, 64, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(any::<String>(), inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_value_is_encoded_as_serde_json_does_and_read_back(value in value()) {
            let text = encode(&value).unwrap();
            prop_assert_eq!(&text, &serde_json::to_string(&value).unwrap());
            prop_assert_eq!(decode::<Value>(&text), value);
        }
    }
}
