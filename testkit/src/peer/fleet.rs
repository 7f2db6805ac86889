//! The authority of a fleet, and both ends of TLS that trust it.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// The authority of a fleet.
pub struct Fleet {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Default for Fleet {
    fn default() -> Self {
        Self::new()
    }
}

impl Fleet {
    /// A new authority, which nobody trusts but its fleet.
    ///
    /// # Panics
    /// Never: everything is made here.
    #[must_use]
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// The authority's certificate, as PEM.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.pem
    }

    /// A certificate for `name` and its key, as PEM.
    ///
    /// # Panics
    /// `name` is no DNS name.
    #[must_use]
    pub fn sign(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("a DNS name");
        (params.signed_by(&key, &self.issuer).expect("a certificate").pem(), key.serialize_pem())
    }

    /// A client that shows a certificate for `name`.
    ///
    /// # Panics
    /// `name` is no DNS name.
    #[must_use]
    pub fn client(&self, name: &str) -> Arc<ClientConfig> {
        let (chain, key) = self.pair(name);
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
        let builder = builder.with_safe_default_protocol_versions().expect("versions");
        let config = builder.with_root_certificates(self.roots()).with_client_auth_cert(chain, key);
        Arc::new(config.expect("a pair"))
    }

    /// A server that shows a certificate for `name` and demands one of the fleet.
    pub(super) fn server(&self, name: &str) -> Arc<ServerConfig> {
        let (chain, key) = self.pair(name);
        let provider = Arc::new(default_provider());
        let roots = Arc::new(self.roots());
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider)).build();
        let builder = ServerConfig::builder_with_provider(provider);
        let builder = builder.with_safe_default_protocol_versions().expect("versions");
        let builder = builder.with_client_cert_verifier(verifier.expect("roots"));
        Arc::new(builder.with_single_cert(chain, key).expect("a pair"))
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).expect("PEM")).expect("an authority");
        roots
    }

    fn pair(&self, name: &str) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let (certificate, key) = self.sign(name);
        let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).expect("PEM")];
        (chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key"))
    }
}
