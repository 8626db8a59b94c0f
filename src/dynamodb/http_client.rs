//! The HTTP client: the proxy that it uses, the certificates that it trusts, and its connections.

use super::settings::check_url;
use crate::{Error, Result};
use aws_sdk_dynamodb::config::SharedHttpClient;
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode};
use aws_smithy_http_client::{Builder as HttpBuilder, Connector};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::ffi::OsString;
use std::time::Duration;
use std::{env, fs};

#[derive(Debug)]
pub(super) struct HttpOptions {
    /// Certificates to trust instead of the system's, as PEM.
    pub(super) ca_bundle: Option<Vec<u8>>,
    /// How long an unused connection is kept.
    pub(super) pool_idle_timeout: Duration,
}

/// Returns an HTTP client whose connections belong to the runtime that uses it first.
pub(super) fn http_client(options: HttpOptions) -> Result<SharedHttpClient> {
    let proxy = match Proxy::from_variables(|name| env::var_os(name))? {
        Some(proxy) => proxy.into_config()?,
        None => ProxyConfig::disabled(),
    };
    let mut trusted = TrustStore::default();
    if let Some(bundle) = ca_bundle(options.ca_bundle)? {
        trusted = TrustStore::empty().with_pem_certificate(bundle);
    }
    let tls = TlsContext::builder().with_trust_store(trusted).build();
    let tls = tls.map_err(|error| Error::Backend(Box::new(error)))?;
    let pool_idle_timeout = options.pool_idle_timeout;
    Ok(
        HttpBuilder::new().build_with_connector_fn(move |settings, components| {
            let mut connector = Connector::builder();
            connector.set_connector_settings(settings.cloned());
            connector.set_sleep_impl(components.and_then(|components| components.sleep_impl()));
            connector
                .proxy_config(proxy.clone())
                .pool_idle_timeout(pool_idle_timeout)
                .tls_provider(Provider::Rustls(CryptoMode::Ring))
                .tls_context(tls.clone())
                .build()
        }),
    )
}

/// Returns the bundle that was given, or that of `AWS_CA_BUNDLE`, as the AWS tools do.
fn ca_bundle(given: Option<Vec<u8>>) -> Result<Option<Vec<u8>>> {
    let (name, bundle) = match (given, env::var_os("AWS_CA_BUNDLE")) {
        (Some(bundle), _) => ("the CA bundle", bundle),
        (None, Some(path)) if !path.is_empty() => match fs::read(&path) {
            Ok(bundle) => ("AWS_CA_BUNDLE", bundle),
            Err(error) => {
                return Err(Error::InvalidInput(format!(
                    "the file {path:?} of AWS_CA_BUNDLE cannot be read: {error}"
                )));
            }
        },
        _ => return Ok(None),
    };
    check_ca_bundle(&bundle)
        .map_err(|reason| Error::InvalidInput(format!("{name} is invalid: {reason}")))?;
    Ok(Some(bundle))
}

/// Checks that `pem` has certificates, and that all of them can be used. The SDK would panic.
fn check_ca_bundle(pem: &[u8]) -> std::result::Result<(), String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| error.to_string())?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    if roots.is_empty() {
        return Err("it has no certificate in the PEM format".to_owned());
    }
    Ok(())
}

/// The proxy for `https`. Plain `http` is for servers on this machine and for the addresses that
/// credentials are loaded from, which no proxy can reach.
#[derive(Debug, PartialEq)]
struct Proxy {
    url: String,
    no_proxy: Option<String>,
}

impl Proxy {
    /// Returns the proxy of the environment, whose variables `variable` returns.
    ///
    /// # Errors
    ///
    /// `InvalidInput` with the name of the variable if its value is invalid or not supported. The
    /// value is not part of the text: it may contain a password.
    fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Result<Option<Self>> {
        let first = |names: &[&'static str]| {
            let mut set = names
                .iter()
                .filter_map(|name| Some((*name, variable(name)?)));
            let Some((name, value)) = set.find(|(_, value)| !value.is_empty()) else {
                return Ok(None);
            };
            match value.into_string() {
                Ok(value) => Ok(Some((name, value))),
                Err(_) => Err(unsupported(name, "it is not UTF-8")),
            }
        };
        let names = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
        let Some((name, mut url)) = first(&names)? else {
            return Ok(None);
        };
        if !url.contains("://") {
            url = format!("http://{url}");
        }
        match check_url(&url) {
            Err(reason) => return Err(unsupported(name, reason)),
            Ok(parts) if parts.path_and_query().is_some_and(|path| path != "/") => {
                return Err(unsupported(name, "it has a path"));
            }
            Ok(_) => {}
        }
        let no_proxy = first(&["NO_PROXY", "no_proxy"])?;
        if let Some((name, rules)) = &no_proxy {
            check_no_proxy(rules).map_err(|reason| unsupported(name, reason))?;
        }
        Ok(Some(Proxy {
            url,
            no_proxy: no_proxy.map(|(_, rules)| rules),
        }))
    }

    fn into_config(self) -> Result<ProxyConfig> {
        // Not the error's text, which contains the URL.
        let config = ProxyConfig::https(self.url)
            .map_err(|_| Error::InvalidInput("the URL of the proxy is invalid".into()))?;
        Ok(match self.no_proxy {
            Some(rules) => config.no_proxy(rules),
            None => config,
        })
    }
}

fn unsupported(name: &str, reason: &str) -> Error {
    Error::InvalidInput(format!(
        "the proxy setting in the environment variable {name} is not supported: {reason}"
    ))
}

/// Checks that each rule is an address, a subnet, a domain or `*`.
fn check_no_proxy(rules: &str) -> std::result::Result<(), &'static str> {
    for rule in rules.split(',').map(str::trim) {
        if rule.contains('*') && rule != "*" {
            return Err("a rule has a wildcard; a domain stands for its subdomains");
        }
        // An IPv6 address has several colons.
        if rule.matches(':').count() == 1 || rule.contains("]:") {
            return Err("a rule has a port");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(variables: &[(&str, &str)]) -> Result<Option<Proxy>> {
        Proxy::from_variables(|name| {
            let mut variables = variables.iter();
            let found = variables.find(|(other, _)| *other == name);
            found.map(|(_, value)| OsString::from(value))
        })
    }

    fn url(variables: &[(&str, &str)]) -> Option<String> {
        Some(proxy(variables).unwrap()?.url)
    }

    #[test]
    fn the_proxy_is_the_first_that_is_set() {
        assert_eq!(url(&[]), None);
        assert_eq!(url(&[("HTTPS_PROXY", "")]), None);
        assert_eq!(url(&[("HTTP_PROXY", "http://a")]), None);
        let all = [
            ("all_proxy", "http://d"),
            ("ALL_PROXY", "https://c:8443/"),
            ("https_proxy", "b:3128"),
            ("HTTPS_PROXY", "http://user:word@a:3128"),
        ];
        for (count, expected) in (1..).zip([
            "http://d",
            "https://c:8443/",
            "http://b:3128",
            "http://user:word@a:3128",
        ]) {
            let found = proxy(&all[..count]).unwrap().unwrap();
            assert_eq!(found.url, expected);
            found.into_config().unwrap();
        }
        let rules = "localhost, .corp, 10.0.0.0/8, ::1, *";
        let found = proxy(&[("HTTPS_PROXY", "http://a"), ("no_proxy", rules)]);
        let found = found.unwrap().unwrap();
        assert_eq!(found.no_proxy.as_deref(), Some(rules));
    }

    #[test]
    fn an_unsupported_proxy_is_refused_with_the_name_of_its_variable() {
        for (name, value) in [
            ("HTTPS_PROXY", "socks5://hunter2@a:1080"),
            ("https_proxy", "socks5h://a"),
            ("ALL_PROXY", "http://:hunter2@"),
            ("all_proxy", "http://a:hunter2"),
            ("HTTPS_PROXY", "http://a/hunter2.pac"),
            ("HTTPS_PROXY", "a b"),
            ("NO_PROXY", "a,hunter2.com:443"),
            ("no_proxy", "*.hunter2.com"),
        ] {
            let variables = [(name, value), ("all_proxy", "http://a")];
            match proxy(&variables) {
                Err(Error::InvalidInput(text)) => {
                    assert!(text.contains(name), "{text}");
                    assert!(!text.contains("hunter2"), "{text}");
                }
                other => panic!("{name}={value}: {other:?}"),
            }
        }
        // Without a proxy, its exceptions do not matter.
        assert_eq!(proxy(&[("NO_PROXY", "*.local")]).unwrap(), None);
    }

    #[test]
    fn a_ca_bundle_has_certificates_only() {
        let damaged = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for pem in ["", "text", damaged] {
            match ca_bundle(Some(pem.into())) {
                Err(Error::InvalidInput(_)) => {}
                other => panic!("{pem:?}: {other:?}"),
            }
        }
    }
}
