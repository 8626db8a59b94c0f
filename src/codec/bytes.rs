//! `Bytes`, the codec for data that is bytes already.

use crate::{BoxError, Codec};

/// The codec that stores bytes unchanged, for any type that can be borrowed as bytes and made from a
/// `Vec<u8>`.
///
/// ```
/// use atomic_db::{AtomicDb, Bytes, Item, Key, RedbDb};
///
/// let db: RedbDb<Vec<u8>, Bytes> = RedbDb::builder().codec(Bytes).in_memory()?;
/// db.set(&[Item::new("user#1", "picture", vec![0xFF, 0xD8, 0xFF])])?;
/// let picture = db.get(Key::new("user#1", "picture"))?.and_then(Item::into_data);
/// assert_eq!(picture.as_deref(), Some(&[0xFF, 0xD8, 0xFF][..]));
/// # Ok::<(), atomic_db::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_structs, reason = "its name is also its only value")]
pub struct Bytes;

impl<T: AsRef<[u8]> + From<Vec<u8>>> Codec<T> for Bytes {
    const NAME: &'static str = "bytes";

    fn encode(&self, data: &T, buffer: &mut Vec<u8>) -> Result<(), BoxError> {
        buffer.extend_from_slice(data.as_ref());
        Ok(())
    }

    fn decode(&self, bytes: Vec<u8>) -> Result<T, BoxError> {
        Ok(T::from(bytes))
    }
}
