use super::bench::{Ending, on_each_database, repeat};
use super::recipes::pagination::{list, put};
use atomic_db::{AtomicDb, Batch, Item, Key, Query};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

/// A writer writes revisions. A client that is answered "not modified" has the last one, or a later
/// one, that was acknowledged before its request.
#[test]
fn not_modified_means_that_the_client_has_the_latest_page() {
    on_each_database::<String>(|bench| {
        let acknowledged = AtomicU64::new(0);
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut has = None;
                    while !is_over.load(Ordering::SeqCst) {
                        let latest = acknowledged.load(Ordering::SeqCst);
                        let version = has.map(|(version, _)| version);
                        match repeat(|| list(&bench.db, 10, None, version)) {
                            Some((version, page)) => {
                                let revision = page.items.first().and_then(Item::data);
                                let revision = revision.map_or(0, |text| text.parse().unwrap());
                                assert!(revision >= latest, "{}", bench.name);
                                has = Some((version, revision));
                            }
                            None => {
                                let (_, revision): (_, u64) = has.unwrap();
                                assert!(revision >= latest, "{}: outdated", bench.name);
                            }
                        }
                    }
                });
            }
            let _ending = Ending(&is_over);
            for revision in 1..=25_u64 {
                loop {
                    let (version, _) = repeat(|| list(&bench.db, 1, None, None)).unwrap();
                    match put(&bench.db, "1", &revision.to_string(), version) {
                        Ok(Some(_)) => break,
                        Ok(None) => assert!(bench.has_faults(), "there is only one writer"),
                        Err(_) => {}
                    }
                }
                acknowledged.store(revision, Ordering::SeqCst);
            }
        });
    });
}

#[test]
fn an_edit_of_an_outdated_version_is_refused() {
    on_each_database::<String>(|bench| {
        let edits = super::bench::on_threads(|thread| {
            let mut edits = 0;
            for number in 0..8 {
                let (version, page) = repeat(|| list(&bench.db, 1, None, None)).unwrap();
                let old = page
                    .items
                    .first()
                    .and_then(Item::data)
                    .cloned()
                    .unwrap_or_default();
                let text = format!("{old}{thread}.{number} ");
                if let Ok(Some(_)) = put(&bench.db, "1", &text, version) {
                    edits += 1;
                }
            }
            edits
        });
        let stored = bench
            .plain()
            .get_fresh(Key::new("articles", "1"))
            .unwrap()
            .unwrap();
        let stored = stored.data().unwrap().split_whitespace().count();
        let acknowledged: usize = edits.iter().sum();
        // Of the edits without a response, some were applied.
        let is_right = if bench.has_faults() {
            stored >= acknowledged
        } else {
            stored == acknowledged
        };
        assert!(
            is_right,
            "{}: {stored} edits, {acknowledged} acknowledged",
            bench.name
        );
    });
}

#[test]
fn a_walk_through_the_pages_meets_each_article_once() {
    on_each_database::<String>(|bench| {
        let ids: Vec<String> = (0..30).map(|id| format!("{id:03}")).collect();
        let articles = ids
            .iter()
            .map(|id| Item::new("articles", id, "text".to_owned()));
        bench
            .plain()
            .commit(&articles.collect::<Batch<String>>())
            .unwrap();
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            // Other articles come and go.
            scope.spawn(|| {
                while !is_over.load(Ordering::SeqCst) {
                    let other = Item::new(
                        "articles",
                        format!("{:03}x", bench.random.below(30)),
                        String::new(),
                    );
                    let _ = bench.db.set(&[other.clone()]);
                    let _ = bench.db.delete(&[other.key()]);
                }
            });
            let _ending = Ending(&is_over);
            for limit in [1, 7, 30, 100] {
                let (mut walked, mut after) = (Vec::new(), None::<String>);
                loop {
                    let (_, page) =
                        repeat(|| list(&bench.db, limit, after.as_deref(), None)).unwrap();
                    assert!(page.items.len() <= limit, "{}", bench.name);
                    walked.extend(page.items.iter().map(|item| item.sk().to_owned()));
                    assert!(walked.len() <= 2 * ids.len(), "{}: endless", bench.name);
                    after = page.next;
                    if after.is_none() {
                        break;
                    }
                }
                walked.retain(|id| !id.ends_with('x'));
                assert_eq!(walked, ids, "{}", bench.name);
            }
        });
        assert!(bench.plain().query(&Query::new("articles")).unwrap().len() >= 30);
    });
}
