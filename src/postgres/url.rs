//! The connection URL, and the options of TLS in it.

use crate::{Error, Result};
use std::path::PathBuf;
use tokio_postgres::Config;
use tokio_postgres::config::SslMode;

/// What is checked of the server when a connection is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verification {
    /// Nothing: the connection is encrypted, perhaps to an impostor.
    None,
    /// The certificate is signed by a trusted authority.
    Authority,
    /// It is also for the host of the URL.
    Full,
}

/// Certificate authorities that the URL names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RootSource {
    /// Those of the system.
    System,
    File(PathBuf),
}

/// A connection URL.
#[derive(Debug)]
pub(super) struct Url {
    pub(super) config: Config,
    pub(super) verification: Verification,
    pub(super) roots: Option<RootSource>,
}

impl Url {
    /// Parses a URL as `psql` accepts it.
    ///
    /// # Errors
    ///
    /// `InvalidInput`, whose text does not contain the URL, because that may have a password.
    pub(super) fn parse(text: &str) -> Result<Self> {
        if !text.starts_with("postgres://") && !text.starts_with("postgresql://") {
            return Err(invalid("it does not begin with `postgresql://`"));
        }
        let (base, query) = match text.split_once('?') {
            Some((base, query)) => (base, query),
            None => (text, ""),
        };
        let mut mode = "prefer".to_owned();
        let mut roots = None;
        let mut other = Vec::new();
        for option in query.split('&').filter(|option| !option.is_empty()) {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            match name {
                "sslmode" => mode = decoded(value)?,
                "sslrootcert" => {
                    roots = Some(match decoded(value)?.as_str() {
                        "system" => RootSource::System,
                        path => RootSource::File(path.into()),
                    });
                }
                _ => other.push(option),
            }
        }
        let url = if other.is_empty() {
            base.to_owned()
        } else {
            format!("{base}?{}", other.join("&"))
        };
        let mut config: Config = url.parse().map_err(|error: tokio_postgres::Error| {
            let source = std::error::Error::source(&error);
            invalid(&source.map_or_else(|| error.to_string(), ToString::to_string))
        })?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(invalid("it has no host"));
        }
        let (ssl_mode, verification) = match mode.as_str() {
            "disable" => (SslMode::Disable, Verification::None),
            "prefer" => (SslMode::Prefer, Verification::None),
            // As in `psql`.
            "require" if roots.is_some() => (SslMode::Require, Verification::Authority),
            "require" => (SslMode::Require, Verification::None),
            "verify-ca" => (SslMode::Require, Verification::Authority),
            "verify-full" => (SslMode::Require, Verification::Full),
            _ => {
                return Err(invalid(&format!(
                    "the sslmode {mode:?} is not `disable`, `prefer`, `require`, `verify-ca` or `verify-full`"
                )));
            }
        };
        config.ssl_mode(ssl_mode);
        Ok(Url {
            config,
            verification,
            roots,
        })
    }
}

fn invalid(reason: &str) -> Error {
    Error::InvalidInput(format!(
        "the URL of the PostgreSQL server is invalid: {reason}; an example is `postgresql://user:password@host:5432/database?sslmode=verify-full`"
    ))
}

/// Decodes `%XX`.
fn decoded(text: &str) -> Result<String> {
    let malformed = || invalid("a `%` is not followed by two hexadecimal digits of UTF-8");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || {
            let digit = char::from(rest.next()?).to_digit(16)?;
            u8::try_from(digit).ok()
        };
        let (high, low) = (digit(), digit());
        match (high, low) {
            (Some(high), Some(low)) => bytes.push(high << 4 | low),
            _ => return Err(malformed()),
        }
    }
    String::from_utf8(bytes).map_err(|_| malformed())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_postgres::config::Host;

    #[test]
    fn options_of_tls_are_taken_out_of_the_url() {
        let parse = |query: &str| Url::parse(&format!("postgres://u:p@h:1/d{query}")).unwrap();
        for (query, mode, verification) in [
            ("", SslMode::Prefer, Verification::None),
            ("?sslmode=disable", SslMode::Disable, Verification::None),
            ("?sslmode=require", SslMode::Require, Verification::None),
            (
                "?sslmode=verify-ca",
                SslMode::Require,
                Verification::Authority,
            ),
            (
                "?sslmode=verify%2Dfull",
                SslMode::Require,
                Verification::Full,
            ),
            (
                "?sslrootcert=a&sslmode=require",
                SslMode::Require,
                Verification::Authority,
            ),
        ] {
            let url = parse(query);
            assert_eq!(url.config.get_ssl_mode(), mode, "{query}");
            assert_eq!(url.verification, verification, "{query}");
        }
        let url = parse("?application_name=x%20y&sslrootcert=%2Fa%20b&connect_timeout=3");
        assert_eq!(url.roots, Some(RootSource::File("/a b".into())));
        assert_eq!(url.config.get_application_name(), Some("x y"));
        assert_eq!(parse("?sslrootcert=system").roots, Some(RootSource::System));
        let socket = Url::parse("postgresql:///d?host=/run/postgresql&user=u").unwrap();
        assert_eq!(
            socket.config.get_hosts(),
            [Host::Unix("/run/postgresql".into())]
        );
    }

    #[test]
    fn invalid_urls_are_refused_without_showing_them() {
        for url in [
            "",
            "host=secret user=secret",
            "http://secret@h/d",
            "postgres://secret:secret@h:port/d",
            "postgres:///secret",
            "postgres://secret@h/d?sslmode=maybe",
            "postgres://secret@h/d?sslmode=%zz",
            "postgres://secret@h/d?unknown=1",
        ] {
            match Url::parse(url) {
                Err(Error::InvalidInput(text)) => assert!(!text.contains("secret"), "{text}"),
                other => panic!("{url}: {other:?}"),
            }
        }
    }
}
