//! What is checked when a database is opened.

use super::server::{Server, new_name, try_sql};
use super::sql::Session;
use crate::common::assert_causes_are_not_repeated;
use atomic_db::testing::run_concurrently;
use atomic_db::{
    AtomicDb, AtomicDbExt, Bytes, Error, Item, Key, PostgresDb, PostgresDbBuilder, PostgresDbError,
    Result,
};
use std::net::TcpListener;
use std::time::{Duration, Instant};

fn builder(table: &str) -> PostgresDbBuilder<String> {
    PostgresDb::builder().table(table)
}

/// Returns the error of PostgreSQL within `result`.
fn postgres_error<R>(result: Result<R>) -> PostgresDbError {
    match result.map(drop).unwrap_err() {
        Error::Backend(source) | Error::Unavailable(source) => *source.downcast().unwrap(),
        other => panic!("{other:?}"),
    }
}

const GOOD: &str = "pk text COLLATE \"C\" NOT NULL, sk text COLLATE \"C\" NOT NULL, data text, \
    version text COLLATE \"C\", ttl bigint, PRIMARY KEY (pk, sk)";

#[test]
fn the_error_for_a_server_that_cannot_be_reached_names_each_cause_once() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let url = format!("postgresql://shop@127.0.0.1:{port}/shop");
    let error = builder("closed").connect(url).unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
    assert_causes_are_not_repeated(&error);
}

#[test]
fn a_table_that_does_not_fit_is_refused_with_the_difference() {
    let Some(server) = Server::shared() else {
        return;
    };
    for (wrong, right, detail) in [
        (
            "pk text NOT NULL",
            "pk text COLLATE \"C\" NOT NULL",
            "column pk has no COLLATE",
        ),
        (
            "sk varchar COLLATE \"C\"",
            "sk text COLLATE \"C\"",
            "column sk has the type varchar",
        ),
        (
            "data jsonb",
            "data text",
            "column data has the type jsonb, not text",
        ),
        (
            "data text NOT NULL",
            "data text",
            "column data has a NOT NULL",
        ),
        (
            "ttl int",
            "ttl bigint",
            "column ttl has the type int4, not int8",
        ),
        ("vers text", "version text", "no column version"),
        (
            "PRIMARY KEY (sk, pk)",
            "PRIMARY KEY (pk, sk)",
            "primary key",
        ),
        (
            "PRIMARY KEY (pk, sk, ttl)",
            "PRIMARY KEY (pk, sk)",
            "primary key",
        ),
        ("UNIQUE (pk, sk)", "PRIMARY KEY (pk, sk)", "primary key"),
    ] {
        let name = new_name("wrong");
        assert!(GOOD.contains(right), "{right}");
        server.sql(&format!(
            "CREATE TABLE {name} ({})",
            GOOD.replace(right, wrong)
        ));
        match postgres_error(builder(&name).connect(server.url())) {
            PostgresDbError::SchemaMismatch {
                table,
                detail: found,
            } => {
                assert!(
                    table.contains(&name) && found.contains(detail),
                    "{wrong}: {found}"
                );
            }
            other => panic!("{wrong}: {other:?}"),
        }
    }
    let name = new_name("view");
    server.sql(&format!("CREATE VIEW {name} AS SELECT 1"));
    let error = postgres_error(builder(&name).connect(server.url()));
    assert!(error.to_string().contains("not a table"), "{error}");
}

#[test]
fn a_table_made_by_hand_is_accepted_with_further_columns() {
    let Some(server) = Server::shared() else {
        return;
    };
    let name = new_name("by_hand");
    server.sql(&format!("CREATE TABLE {name} (note text, {GOOD})"));
    let db = builder(&name).create_table(false);
    let db = db.connect(server.url()).unwrap();
    db.set_one(Item::new("pk", "a", "1".to_owned())).unwrap();
    assert!(db.contains(("pk", "a")).unwrap());
}

#[test]
fn a_table_of_another_format_or_codec_is_refused() {
    let Some(server) = Server::shared() else {
        return;
    };
    let (json, bytes) = (new_name("codec"), new_name("codec"));
    builder(&json).connect(server.url()).unwrap();
    let open_bytes = |name: &str| {
        let builder = PostgresDb::<Vec<u8>>::builder().codec(Bytes);
        builder.table(name).connect(server.url())
    };
    let db = open_bytes(&bytes).unwrap();
    let data = vec![0, 0xFF, 0xD8, b'"'];
    db.set_one(Item::new("pk", "a", data.clone())).unwrap();
    let read = db.get(Key::new("pk", "a")).unwrap();
    assert_eq!(read.and_then(Item::into_data), Some(data));
    for error in [
        postgres_error(open_bytes(&json)),
        postgres_error(builder(&bytes).connect(server.url())),
    ] {
        let text = error.to_string();
        assert!(
            text.contains("codec json") && text.contains("codec bytes"),
            "{text}"
        );
    }
    server.sql(&format!(
        "COMMENT ON TABLE {json} IS 'atomic-db format 2, codec json'"
    ));
    let text = postgres_error(builder(&json).connect(server.url())).to_string();
    assert!(
        text.contains("format 2") && text.contains("format 1"),
        "{text}"
    );
    server.sql(&format!(
        "COMMENT ON TABLE {json} IS E'atomic-db format 1, codec json\\nOrders of the shop.'"
    ));
    builder(&json).connect(server.url()).unwrap();
}

#[test]
fn a_missing_table_is_created_only_if_that_is_wanted() {
    let Some(server) = Server::shared() else {
        return;
    };
    let name = new_name("missing");
    let error = postgres_error(builder(&name).create_table(false).connect(server.url()));
    assert!(
        matches!(error, PostgresDbError::TableNotFound { .. }),
        "{error}"
    );
    let exists = format!("SELECT to_regclass('{name}') IS NOT NULL");
    let session = Session::connect(&server.url());
    assert_eq!(session.value(&exists), "f");
    builder(&name).connect(server.url()).unwrap();
    assert_eq!(session.value(&exists), "t");
    let error = postgres_error(builder("nowhere.items").connect(server.url()));
    assert!(error.to_string().contains("nowhere"), "{error}");
}

#[test]
fn sixteen_openings_at_once_create_one_table() {
    let Some(server) = Server::shared() else {
        return;
    };
    for round in 0..5 {
        let name = new_name("Opened \"at once\"");
        let pooled = round % 2 == 1;
        run_concurrently(16, |thread| {
            let db = builder(&name).pooled(pooled).connect(server.url()).unwrap();
            let sk = thread.to_string();
            db.set_one(Item::new("pk", sk, String::new())).unwrap();
        });
        let db = builder(&name).create_table(false);
        let db = db.connect(server.url()).unwrap();
        assert_eq!(db.stream(atomic_db::Query::new("pk")).count(), 16);
    }
}

#[test]
fn a_table_in_another_schema_is_found_by_its_full_name() {
    let Some(server) = Server::shared() else {
        return;
    };
    let schema = new_name("schema");
    server.sql(&format!("CREATE SCHEMA {schema}"));
    let db = builder(&format!("{schema}.items"))
        .connect(server.url())
        .unwrap();
    db.set_one(Item::new("pk", "a", "1".to_owned())).unwrap();
    let count = format!("SELECT count(*) FROM {schema}.items");
    assert_eq!(Session::connect(&server.url()).value(&count), "1");
}

#[test]
fn a_database_of_another_encoding_is_refused() {
    let Some(server) = Server::shared() else {
        return;
    };
    for encoding in ["LATIN1", "SQL_ASCII"] {
        let name = new_name("encoded");
        server.sql(&format!(
            "CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'"
        ));
        let error = postgres_error(builder("items").connect(server.url_of(&name)));
        let text = error.to_string();
        assert!(text.contains(encoding) && text.contains("UTF8"), "{text}");
    }
}

#[test]
fn missing_privileges_are_reported_and_few_suffice() {
    let Some(server) = Server::shared() else {
        return;
    };
    let (user, table) = (new_name("user"), new_name("granted"));
    builder(&table).connect(server.url()).unwrap();
    server.sql(&format!("CREATE ROLE {user} LOGIN"));
    let url = server
        .url()
        .replace("user=postgres", &format!("user={user}"));
    let error = postgres_error(builder(&table).connect(&url));
    let text = error.to_string();
    assert!(
        matches!(error, PostgresDbError::Denied { .. }) && text.contains("SELECT, INSERT"),
        "{text}"
    );
    // No privilege to create a table.
    let error = postgres_error(builder(&new_name("denied")).connect(&url));
    assert!(matches!(error, PostgresDbError::Denied { .. }), "{error}");

    server.sql(&format!(
        "GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO {user}"
    ));
    let db = builder(&table).connect(&url).unwrap();
    db.transact(|tx| {
        tx.lock(("pk", "lock"))?;
        tx.set(Item::new("pk", "a", "1".to_owned()))?;
        tx.delete(("pk", "b"))
    })
    .unwrap();
    db.delete(&[Key::new("pk", "a")]).unwrap();
    db.purge_expired().unwrap();

    server.sql(&format!("REVOKE ALL ON {table} FROM {user}"));
    let error = postgres_error(db.get(Key::new("pk", "a")));
    assert!(matches!(error, PostgresDbError::Denied { .. }), "{error}");
}

#[test]
fn a_read_only_database_is_reported_even_if_the_table_exists() {
    let Some(server) = Server::shared() else {
        return;
    };
    let name = new_name("read_only");
    server.sql(&format!("CREATE DATABASE {name}"));
    let url = server.url_of(&name);
    builder("exists").connect(&url).unwrap();
    server.sql(&format!(
        "ALTER DATABASE {name} SET default_transaction_read_only = on"
    ));
    for table in ["exists", "missing"] {
        let error = postgres_error(builder(table).connect(&url));
        assert!(matches!(error, PostgresDbError::ReadOnly { .. }), "{error}");
    }
}

#[test]
fn a_server_that_cannot_be_reached_is_reported_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("postgresql:///d?host={}&user=u", folder.path().display());
    let start = Instant::now();
    let error = builder("items").connect(&url).map(drop).unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
    let error = builder("items").connect("postgresql://u@127.0.0.1:1/d");
    assert!(matches!(error, Err(Error::Unavailable(_))), "{error:?}");
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn invalid_options_are_refused_before_anything_is_sent() {
    let url = "postgresql://u@127.0.0.1:1/d";
    let refused = |builder: PostgresDbBuilder<String>| {
        let error = builder.connect(url).map(drop).unwrap_err();
        assert!(
            matches!(error, Error::InvalidInput(_) | Error::LimitExceeded { .. }),
            "{error:?}"
        );
    };
    refused(builder(""));
    refused(builder("a.b.c"));
    refused(builder("items").pool_size(0));
    refused(builder("items").pool_size(1_001));
    refused(builder("items").timeout(Duration::ZERO));
    refused(builder("items").attempt_timeout(Duration::from_secs(4_000)));
    let error = PostgresDb::<String>::connect("host=localhost").map(drop);
    assert!(matches!(error, Err(Error::InvalidInput(_))), "{error:?}");
}

#[test]
fn a_missing_database_or_user_is_reported() {
    let Some(server) = Server::shared() else {
        return;
    };
    let error = postgres_error(builder("items").connect(server.url_of("no_such_database")));
    assert!(error.to_string().contains("3D000"), "{error}");
    let url = server.url().replace("user=postgres", "user=no_such_user");
    let error = postgres_error(builder("items").connect(&url));
    assert!(matches!(error, PostgresDbError::Denied { .. }), "{error}");
    assert!(try_sql(&url, "SELECT 1").is_err());
}
