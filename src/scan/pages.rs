//! The iterator behind the scans of the databases of this crate.

use crate::{Item, Result};
use std::vec;

/// Rows of a database, and the position to continue from, or `None` at the end.
pub(crate) struct RowPage<R, P> {
    pub(crate) rows: Vec<R>,
    pub(crate) next: Option<P>,
}

/// Reads the rows of a database a page at a time, and decodes them one by one, so that a row that
/// cannot be decoded does not hide the ones before it.
///
/// It buffers one page, and holds no lock or read transaction of the database between pages. It ends
/// after the first error.
pub(crate) struct PagedScan<R, P, F, G> {
    /// Reads the page at a position, or the first page.
    read_page: F,
    /// Decodes a row, or returns `None` if it is hidden.
    decode: G,
    rows: vec::IntoIter<R>,
    next: NextPage<P>,
}

enum NextPage<P> {
    /// There may be more pages; the next one begins at this position.
    At(Option<P>),
    /// The buffered page is the last one.
    Done,
}

impl<R, P, F, G> PagedScan<R, P, F, G> {
    pub(crate) fn new<T>(read_page: F, decode: G) -> Self
    where
        F: FnMut(Option<P>) -> Result<RowPage<R, P>>,
        G: FnMut(R) -> Result<Option<Item<T>>>,
    {
        PagedScan {
            read_page,
            decode,
            rows: Vec::new().into_iter(),
            next: NextPage::At(None),
        }
    }
}

impl<T, R, P, F, G> Iterator for PagedScan<R, P, F, G>
where
    F: FnMut(Option<P>) -> Result<RowPage<R, P>>,
    G: FnMut(R) -> Result<Option<Item<T>>>,
{
    type Item = Result<Item<T>>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            for row in self.rows.by_ref() {
                match (self.decode)(row) {
                    Ok(None) => {}
                    Ok(Some(item)) => return Some(Ok(item)),
                    Err(error) => {
                        self.rows = Vec::new().into_iter();
                        self.next = NextPage::Done;
                        return Some(Err(error));
                    }
                }
            }
            // Assume the end until a page is read, so that the iterator ends after an error or a
            // panic of the database, too.
            match std::mem::replace(&mut self.next, NextPage::Done) {
                NextPage::Done => return None,
                NextPage::At(position) => match (self.read_page)(position) {
                    Ok(page) => {
                        self.rows = page.rows.into_iter();
                        if let Some(next) = page.next {
                            self.next = NextPage::At(Some(next));
                        }
                    }
                    Err(error) => return Some(Err(error)),
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use std::cell::Cell;

    /// The rows of each page, or `None` for a page that cannot be read. An odd row is an item, an even
    /// one is hidden, and 0 cannot be decoded.
    type Pages = &'static [Option<&'static [u32]>];

    /// Returns the data that a scan of `pages` yields, with `None` for an error, and the number of pages
    /// read.
    fn scan(pages: Pages) -> (Vec<Option<u32>>, usize) {
        let calls = Cell::new(0);
        let read_page = |position: Option<usize>| {
            calls.set(calls.get() + 1);
            let number = position.unwrap_or(0);
            let rows = pages[number].ok_or_else(|| Error::Backend("broken".into()))?;
            Ok(RowPage {
                rows: rows.to_vec(),
                next: (number + 1 < pages.len()).then_some(number + 1),
            })
        };
        let decode = |row: u32| match row {
            0 => Err(Error::Backend("not an item".into())),
            _ => Ok((row % 2 == 1).then(|| Item::new("pk", row.to_string(), row))),
        };
        let mut scan = PagedScan::new(read_page, decode);
        let found = scan
            .by_ref()
            .map(|item| item.ok().and_then(Item::into_data))
            .collect();
        for _ in 0..3 {
            assert!(scan.next().is_none(), "it went on after its end");
        }
        (found, calls.get())
    }

    #[test]
    fn hidden_rows_and_empty_pages_are_skipped() {
        let pages: Pages = &[
            Some(&[]),
            Some(&[1, 2, 3]),
            Some(&[2]),
            Some(&[]),
            Some(&[5]),
        ];
        assert_eq!(scan(pages), (vec![Some(1), Some(3), Some(5)], 5));
        assert_eq!(scan(&[Some(&[])]), (vec![], 1));
    }

    #[test]
    fn an_error_is_yielded_once_after_the_items_before_it() {
        let pages: Pages = &[Some(&[1, 3]), None, Some(&[5])];
        assert_eq!(scan(pages), (vec![Some(1), Some(3), None], 2));
        let pages: Pages = &[Some(&[1, 0, 3]), Some(&[5])];
        assert_eq!(scan(pages), (vec![Some(1), None], 1));
    }

    #[test]
    fn a_scan_ends_after_a_panic_of_the_database() {
        let mut scan = PagedScan::new(
            |position: Option<()>| match position {
                None => Ok(RowPage {
                    rows: vec![1],
                    next: Some(()),
                }),
                Some(()) => panic!("a panic of the database"),
            },
            |row: u32| Ok(Some(Item::new("pk", "sk", row))),
        );
        assert!(scan.next().is_some());
        let next = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| scan.next().is_some()));
        assert!(next.is_err());
        assert!(scan.next().is_none());
    }
}
