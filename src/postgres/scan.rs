//! Scans: the items in the order of their keys, a page in each statement.

use super::param::Param;
use super::row::{column, decode};
use super::statement::Statement;
use crate::scan::{PagedScan, RowPage};
use crate::{Codec, Item, Key, KeyBuf, PostgresDb, Result, Scan};
use tokio_postgres::Row;

/// The largest number of items in a page. A page also ends after a MiB of data.
const PAGE_SIZE: usize = 500;

/// Items are yielded in the order of their keys. Each page is a snapshot.
impl<T, C: Codec<T>> Scan for PostgresDb<T, C> {
    fn scan(&self) -> Box<dyn Iterator<Item = Result<Item<T>>> + '_> {
        let read_page = |after: Option<KeyBuf>| self.page_of_all(after);
        let decode = |row: Row| {
            let key = Key::new(column(&row, 0)?, column(&row, 1)?);
            decode(&row, 2, key, &self.codec).map(Some)
        };
        Box::new(PagedScan::new(read_page, decode))
    }
}

impl<T, C> PostgresDb<T, C> {
    /// Returns the live items after the key `after`, and the last key if there may be more.
    fn page_of_all(&self, after: Option<KeyBuf>) -> Result<RowPage<Row, KeyBuf>> {
        let statement = Statement::Scan {
            is_first_page: after.is_none(),
        };
        let mut params = vec![Param::Int(self.now()), Param::Int(PAGE_SIZE as i64)];
        if let Some(after) = after {
            params.push(Param::Text(after.pk().to_owned()));
            params.push(Param::Text(after.sk().to_owned()));
        }
        let rows = self.read(statement, params)?;
        let next = match rows.last() {
            None => None,
            Some(last) => {
                let found = usize::try_from(column::<i64>(last, 4)?).unwrap_or(usize::MAX);
                let has_more = found > rows.len() || found >= PAGE_SIZE;
                let key = KeyBuf::new(column::<&str>(last, 0)?, column::<&str>(last, 1)?);
                has_more.then_some(key)
            }
        };
        Ok(RowPage { rows, next })
    }
}
