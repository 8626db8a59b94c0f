//! The settings of a database, checked before anything is sent.
//!
//! The SDK checks little. It panics on some invalid settings, and on others each call fails when its
//! time is up.

use crate::{Error, Result};
use aws_sdk_dynamodb::config::Credentials;
use http::Uri;
use std::time::Duration;

/// DynamoDB forgets the token of a transaction after ten minutes. A commit must not be retried
/// after that.
pub(super) const MAX_TIMEOUT: Duration = Duration::from_secs(300);

const MAX_WORKER_THREADS: usize = 64;

fn invalid(text: String) -> Error {
    Error::InvalidInput(text)
}

/// Checks that `table` is a table's name or ARN.
pub(super) fn check_table_name(table: &str) -> Result<()> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    let is_name = (3..=255).contains(&table.len()) && table.bytes().all(is_allowed);
    if is_name || table.starts_with("arn:") {
        Ok(())
    } else {
        Err(invalid(format!(
            "{table:?} is not a table name: a name has 3 to 255 letters, digits, `_`, `-` or `.`"
        )))
    }
}

pub(super) fn check_timeout(what: &'static str, timeout: Duration) -> Result<()> {
    if timeout.is_zero() {
        return Err(invalid(format!("{what} is zero")));
    }
    if timeout > MAX_TIMEOUT {
        return Err(Error::LimitExceeded {
            what: "a timeout in seconds",
            limit: MAX_TIMEOUT.as_secs() as usize,
            actual: usize::try_from(timeout.as_secs()).unwrap_or(usize::MAX),
        });
    }
    Ok(())
}

pub(super) fn check_worker_threads(threads: usize) -> Result<()> {
    if threads == 0 {
        return Err(invalid("the number of worker threads is zero".into()));
    }
    if threads > MAX_WORKER_THREADS {
        return Err(Error::LimitExceeded {
            what: "the number of worker threads",
            limit: MAX_WORKER_THREADS,
            actual: threads,
        });
    }
    Ok(())
}

/// Checks that `region` can be part of a host name.
pub(super) fn check_region(region: &str) -> Result<()> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if (1..=63).contains(&region.len()) && region.bytes().all(is_allowed) {
        Ok(())
    } else {
        Err(invalid(format!(
            "{region:?} is not a region: a region has 1 to 63 letters, digits or `-`"
        )))
    }
}

/// Checks that requests can be sent to `url`.
pub(super) fn check_endpoint(url: &str) -> Result<()> {
    // The URL is not part of the text if it may contain a password.
    let shown = if url.contains('@') {
        "with a user name".to_owned()
    } else {
        format!("{url:?}")
    };
    check_url(url)
        .and_then(|url| match url.authority() {
            Some(authority) if authority.as_str().contains('@') => Err("it has a user name"),
            _ if url.query().is_some() => Err("it has a query"),
            _ => Ok(()),
        })
        .map_err(|reason| {
            invalid(format!(
                "the endpoint URL {shown} is invalid: {reason}; an endpoint is `https://host` or \
                 `http://host:port`"
            ))
        })
}

/// Returns the parts of `url`, or what is wrong with it.
pub(super) fn check_url(url: &str) -> std::result::Result<Uri, &'static str> {
    let uri: Uri = url.parse().map_err(|_| "it is not a URL")?;
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err("it has no scheme, such as `https://`");
    };
    if !["http", "https"].contains(&scheme) {
        return Err("its scheme is not `http` or `https`");
    }
    if authority.host().is_empty() {
        return Err("it has no host");
    }
    // The port of an authority is missing if it is not a number of 16 bits.
    let has_port = |authority: &str| match authority.rsplit_once(':') {
        Some((_, port)) => !port.ends_with(']'),
        None => false,
    };
    if has_port(authority.as_str().rsplit('@').next().unwrap_or_default())
        && authority.port_u16().is_none_or(|port| port == 0)
    {
        return Err("its port is invalid");
    }
    Ok(uri)
}

/// Checks that a request can be signed and sent with `credentials`. Returns what is wrong with them.
/// The text contains nothing of them.
pub(super) fn check_credentials(
    credentials: &Credentials,
) -> std::result::Result<(), &'static str> {
    // They have no spaces, and one at an end is a line break of the file that they come from.
    let is_valid = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    let id = credentials.access_key_id();
    let secret = credentials.secret_access_key();
    if id.is_empty() || secret.is_empty() {
        Err("the access key id or the secret access key is empty")
    } else if !is_valid(id) {
        Err("the access key id contains a space, a line break or another invalid character")
    } else if !is_valid(secret) {
        Err("the secret access key contains a space, a line break or another invalid character")
    } else if !credentials.session_token().is_none_or(is_valid) {
        Err("the session token contains a space, a line break or another invalid character")
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_has_a_scheme_and_a_host() {
        for url in [
            "http://localhost:8000",
            "http://127.0.0.1:8000/",
            "http://[::1]:8000",
            "https://[::1]",
            "HTTPS://dynamodb.eu-central-1.amazonaws.com",
            "https://gateway/dynamodb",
        ] {
            check_endpoint(url).unwrap_or_else(|error| panic!("{url}: {error}"));
        }
        for url in [
            "",
            " ",
            "localhost",
            "localhost:8000",
            "127.0.0.1:8000",
            "//localhost",
            "/",
            "http://",
            "http://:8000",
            "http:///path",
            "http://localhost:80000",
            "http://localhost:0",
            "http://localhost:port",
            "http://local host",
            "http://localhost\n",
            "http://localhost?a=b",
            "ftp://localhost",
            "dynamodb://localhost",
            "http://user:hunter2@localhost",
        ] {
            match check_endpoint(url) {
                Err(Error::InvalidInput(text)) => assert!(!text.contains("hunter2"), "{text}"),
                other => panic!("{url:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn credentials_that_cannot_be_sent_are_invalid() {
        let check = |id: &str, secret: &str, token: Option<&str>| {
            let token = token.map(str::to_owned);
            check_credentials(&Credentials::new(id, secret, token, None, "test"))
        };
        assert_eq!(check("AKID", "s+/=", Some("token/+==")), Ok(()));
        for (id, secret, token) in [
            ("", "secret", None),
            ("AKID", "", None),
            ("AKID\n", "secret", None),
            ("AK ID", "secret", None),
            ("AKIDÄ", "secret", None),
            ("AKID", "secret\r\n", None),
            ("AKID", "secret", Some("token\n")),
        ] {
            assert!(
                check(id, secret, token).is_err(),
                "{id:?} {secret:?} {token:?}"
            );
        }
    }
}
