//! Encrypted connections and passwords.

use super::server::{Server, new_name};
use crate::common::assert_causes_are_not_repeated;
use atomic_db::{AtomicDb, Error, Item, Key, PostgresDb, PostgresDbError, Result};
use std::fs;
use std::net::{Ipv4Addr, TcpListener};

const CA: &str = include_str!("tls/ca.pem");
const OTHER_CA: &str = include_str!("tls/other_ca.pem");
const CERTIFICATE: &str = include_str!("tls/server.pem");
const PRIVATE_KEY: &str = include_str!("tls/server.key");

/// Starts a server that accepts encrypted connections with a password on a port.
fn start() -> Option<(Server, u16)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let server = Server::start(&["-c", "listen_addresses=127.0.0.1", "-p", &port.to_string()])?;
    for (name, contents) in [("server.crt", CERTIFICATE), ("server.key", PRIVATE_KEY)] {
        let path = server.data().join(name);
        fs::write(&path, contents).unwrap();
        server.own(&path);
    }
    let rules = "local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n";
    fs::write(server.data().join("pg_hba.conf"), rules).unwrap();
    server.sql("ALTER SYSTEM SET ssl = on");
    server.stop("INT");
    server.launch();
    Some((server, port))
}

#[test]
fn certificates_and_passwords_are_verified() {
    let Some((server, port)) = start() else {
        return;
    };
    server.sql("CREATE ROLE shop LOGIN PASSWORD 'a secret'; GRANT CREATE ON SCHEMA public TO shop");
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, pem: &str| {
        let path = folder.path().join(name);
        fs::write(&path, pem).unwrap();
        path.display().to_string()
    };
    let (ca, other_ca) = (write("ca.pem", CA), write("other_ca.pem", OTHER_CA));
    let connect = |host: &str, password: &str, options: &str| -> Result<PostgresDb<String>> {
        let builder = PostgresDb::builder().table(new_name("tls"));
        builder.connect(format!(
            "postgresql://shop:{password}@{host}:{port}/postgres?{options}"
        ))
    };
    let good = "a%20secret";
    for (host, options) in [
        (
            "localhost",
            format!("sslmode=verify-full&sslrootcert={ca}&hostaddr=127.0.0.1"),
        ),
        (
            "localhost",
            format!(
                "sslmode=verify-full&sslrootcert={ca}&hostaddr=127.0.0.1&channel_binding=require"
            ),
        ),
        ("127.0.0.1", format!("sslmode=verify-ca&sslrootcert={ca}")),
        ("127.0.0.1", format!("sslmode=require&sslrootcert={ca}")),
        ("127.0.0.1", "sslmode=require".to_owned()),
        ("127.0.0.1", String::new()),
    ] {
        let db =
            connect(host, good, &options).unwrap_or_else(|error| panic!("{options}: {error:?}"));
        db.set(&[Item::new("pk", "a", "1".to_owned())]).unwrap();
        assert!(db.get(Key::new("pk", "a")).unwrap().is_some());
    }
    let failure = |result: Result<PostgresDb<String>>| match result.map(drop) {
        Err(Error::Backend(source)) => *source.downcast::<PostgresDbError>().unwrap(),
        other => panic!("{other:?}"),
    };
    for (host, options) in [
        (
            "localhost",
            format!("sslmode=verify-full&sslrootcert={other_ca}&hostaddr=127.0.0.1"),
        ),
        // The certificate is for `localhost`.
        ("127.0.0.1", format!("sslmode=verify-full&sslrootcert={ca}")),
        (
            "127.0.0.1",
            format!("sslmode=verify-ca&sslrootcert={other_ca}"),
        ),
        (
            "127.0.0.1",
            format!("sslmode=require&sslrootcert={other_ca}"),
        ),
        (
            "localhost",
            "sslmode=verify-full&sslrootcert=/does/not/exist".to_owned(),
        ),
    ] {
        let error = failure(connect(host, good, &options));
        assert!(
            matches!(error, PostgresDbError::Tls { .. }),
            "{options}: {error:?}"
        );
        assert_causes_are_not_repeated(&error);
    }
    // The authorities of the builder take precedence.
    let builder = PostgresDb::<String>::builder().table(new_name("tls"));
    let url = format!(
        "postgresql://shop:{good}@localhost:{port}/postgres?hostaddr=127.0.0.1&sslmode=verify-full&sslrootcert={other_ca}"
    );
    builder.tls_roots(CA).connect(url).unwrap();

    for (password, options) in [("wrong", "sslmode=require"), (good, "sslmode=disable")] {
        let error = failure(connect("127.0.0.1", password, options));
        assert!(matches!(error, PostgresDbError::Denied { .. }), "{error:?}");
    }
    let url = format!("postgresql://shop@127.0.0.1:{port}/postgres?sslmode=require");
    let error = failure(PostgresDb::connect(url));
    assert!(error.to_string().contains("password"), "{error}");
}
