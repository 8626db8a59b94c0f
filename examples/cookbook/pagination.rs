use atomic_db::{AtomicDb, Item, Key, MemoryDb, Page, Query, Result, Version};

const LOCK: Key<'_> = Key::new("articles", "lock");

/// Answers `GET /articles?limit=…&after=…`: the list's version, which is the ETag, and a page, whose
/// `next` is the `after` of the next one. Returns `None`, which is `304 Not Modified`, if the client
/// already has this version.
pub fn list(
    db: &impl AtomicDb<Data = String>,
    limit: usize,
    after: Option<&str>,
    if_none_match: Option<Version>,
) -> Result<Option<(Version, Page<String>)>> {
    // The version first: a page that is read after it is at least as new.
    let version = db.get_lock(LOCK)?.version();
    if if_none_match == Some(version) {
        return Ok(None);
    }
    let page = db.page(&Query::new("articles").limit(limit).fresh(), after)?;
    Ok(Some((version, page)))
}

/// Answers `PUT /articles/ID` with `If-Match`: writes the article if the list still has the version
/// that the client read, and returns its new version. `None` is `412 Precondition Failed`.
pub fn put(
    db: &impl AtomicDb<Data = String>,
    id: &str,
    text: &str,
    if_match: Version,
) -> Result<Option<Version>> {
    let lock = db.get_lock(LOCK)?.with_version(if_match);
    match db.set_atomic(&[Item::new("articles", id, text.to_owned())], &[lock]) {
        Ok(version) => Ok(Some(version)),
        Err(error) if error.is_race_condition() => Ok(None),
        Err(error) => Err(error),
    }
}

pub fn main() -> Result<()> {
    let db = MemoryDb::new();
    let (empty, _) = list(&db, 10, None, None)?.expect("no version was given");
    let first = put(&db, "1", "tea", empty)?.expect("the list is unchanged");
    let second = put(&db, "2", "milk", first)?.expect("the list is unchanged");
    assert_eq!(put(&db, "1", "coffee", first)?, None);

    let (version, page) = list(&db, 1, None, None)?.expect("no version was given");
    assert_eq!((version, page.items[0].sk()), (second, "1"));
    let (_, page) = list(&db, 1, page.next.as_deref(), None)?.expect("no version was given");
    assert_eq!(page.items[0].sk(), "2");
    assert!(list(&db, 1, None, Some(second))?.is_none());
    Ok(())
}
