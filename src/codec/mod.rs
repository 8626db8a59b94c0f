//! How the data of items becomes bytes: the trait [`Codec`], and its implementations.
//!
//! | file | contents |
//! | --- | --- |
//! | `json` | `Json`, the default |
//! | `lossless` | a serializer that refuses floats that JSON cannot represent |
//! | `bytes` | `Bytes`, which stores bytes unchanged |

mod bytes;
mod json;
mod lossless;

pub use bytes::Bytes;
pub use json::Json;

use crate::BoxError;

/// Converts the data of items to bytes and back.
///
/// [`Json`] is the default, and [`Bytes`] stores bytes unchanged. Other formats, such as MessagePack or
/// postcard, take an implementation of this trait. It is given to the builder of a database:
///
/// ```
/// use atomic_db::{AtomicDb, BoxError, Codec, Item, Key, RedbDb};
/// use std::fmt::Display;
/// use std::str::FromStr;
///
/// /// Stores data in its text form.
/// #[derive(Clone, Debug)]
/// struct Text;
///
/// impl<T> Codec<T> for Text
/// where
///     T: Display + FromStr<Err: Into<BoxError>>,
/// {
///     const NAME: &'static str = "example.org/text";
///
///     fn encode(&self, data: &T, buffer: &mut Vec<u8>) -> Result<(), BoxError> {
///         buffer.extend_from_slice(data.to_string().as_bytes());
///         Ok(())
///     }
///
///     fn decode(&self, bytes: Vec<u8>) -> Result<T, BoxError> {
///         String::from_utf8(bytes)?.parse().map_err(Into::into)
///     }
/// }
///
/// let db: RedbDb<f64, Text> = RedbDb::builder().codec(Text).in_memory()?;
/// db.set(&[Item::new("sensor#1", "limit", f64::INFINITY)])?;
/// let limit = db.get(Key::new("sensor#1", "limit"))?.and_then(Item::into_data);
/// assert_eq!(limit, Some(f64::INFINITY));
/// # Ok::<(), atomic_db::Error>(())
/// ```
///
/// # Contract
///
/// - `decode` returns data that equals the data that was given to `encode`, or an error. `encode`
///   refuses data that could not be decoded, so that an item that was written can also be read.
/// - No lock of a database is held while a method runs, so it may call the database.
/// - A database clones its codec with each of its handles, so state that is expensive to copy belongs
///   in an [`Arc`](std::sync::Arc).
pub trait Codec<T> {
    /// The name of the format, which is the same for all `T`.
    ///
    /// A database stores the name, and refuses to be opened with a codec of another name. So an
    /// encoding that changes incompatibly needs another name.
    const NAME: &'static str;

    /// Appends the encoded `data` to `buffer`. It may append nothing.
    ///
    /// # Errors
    ///
    /// `data` has no encoding. The contents of `buffer` are then ignored, and the call that writes the
    /// item fails with [`Error::Codec`](crate::Error::Codec) before anything is written.
    fn encode(&self, data: &T, buffer: &mut Vec<u8>) -> Result<(), BoxError>;

    /// Decodes `bytes`, which [`encode`](Codec::encode) appended, perhaps for another `T`.
    ///
    /// # Errors
    ///
    /// `bytes` are not the encoding of a `T`. The call that reads the item fails with
    /// [`Error::Codec`](crate::Error::Codec).
    fn decode(&self, bytes: Vec<u8>) -> Result<T, BoxError>;
}
