//! Encrypted connections.

use super::error::PostgresDbError;
use super::failure::tls_failure;
use super::url::{RootSource, Verification};
use crate::sync::Arc;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use std::fs;
use tokio_postgres_rustls::MakeRustlsConnect;

/// Returns what makes encrypted connections. `pem` has the authorities that the builder was given,
/// which take precedence over `roots`.
///
/// # Errors
///
/// `PostgresDbError::Tls` if the authorities could not be loaded.
pub(super) fn connector(
    verification: Verification,
    pem: Option<&[u8]>,
    roots: Option<&RootSource>,
) -> Result<MakeRustlsConnect, PostgresDbError> {
    let provider = Arc::new(default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder
        .with_safe_default_protocol_versions()
        .map_err(|error| tls_failure("no version of TLS is supported", Some(error.into())))?;
    let verifier: Arc<dyn ServerCertVerifier> = match verification {
        Verification::None => Arc::new(Unverified(provider)),
        Verification::Authority => Arc::new(AnyHost(authorities(pem, roots, provider)?)),
        Verification::Full => authorities(pem, roots, provider)?,
    };
    let config = builder
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

fn authorities(
    pem: Option<&[u8]>,
    roots: Option<&RootSource>,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, PostgresDbError> {
    let mut store = RootCertStore::empty();
    match (pem, roots) {
        (Some(pem), _) => add_pem(&mut store, pem, "the authorities of the builder")?,
        (None, Some(RootSource::File(path))) => {
            let name = format!("the sslrootcert {}", path.display());
            let pem = fs::read(path).map_err(|error| {
                tls_failure(format!("{name} cannot be read"), Some(error.into()))
            })?;
            add_pem(&mut store, &pem, &name)?;
        }
        (None, Some(RootSource::System) | None) => {
            let found = rustls_native_certs::load_native_certs();
            store.add_parsable_certificates(found.certs);
            if store.is_empty() {
                let error = found.errors.into_iter().next();
                return Err(tls_failure(
                    "the system has no certificate authorities",
                    error.map(Into::into),
                ));
            }
        }
    }
    WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider)
        .build()
        .map_err(|error| tls_failure("the authorities are invalid", Some(error.into())))
}

fn add_pem(store: &mut RootCertStore, pem: &[u8], name: &str) -> Result<(), PostgresDbError> {
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate
            .map_err(|error| tls_failure(format!("{name} are not PEM"), Some(error.into())))?;
        store.add(certificate).map_err(|error| {
            tls_failure(
                format!("{name} have an invalid certificate"),
                Some(error.into()),
            )
        })?;
    }
    if store.is_empty() {
        return Err(tls_failure(format!("{name} have no certificate"), None));
    }
    Ok(())
}

/// Accepts any certificate, as `psql` does with `sslmode=require`.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Accepts certificates of trusted authorities for any host.
#[derive(Debug)]
struct AnyHost(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AnyHost {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        use CertificateError::{NotValidForName, NotValidForNameContext};
        // The name is verified last, after the chain.
        match self
            .0
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
        {
            Err(rustls::Error::InvalidCertificate(
                NotValidForName | NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
