//! The other end of a connection, as its verified certificate names it.

use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use webpki::EndEntityCert;

/// The most names of one certificate.
const NAMES_MAX: usize = 32;

/// A client that showed a certificate of an authority of ours; an `Arc` of it is an extension of the client's
/// requests. Common names say nothing here: they were never meant for machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its DNS names, in lower case.
    pub dns: Vec<String>,
    /// Its URIs, e.g. a SPIFFE id, as they are written.
    pub uris: Vec<String>,
    /// The SHA-256 of the certificate, which is what a capability may be bound to.
    pub thumbprint: [u8; 32],
}

impl Identity {
    /// Reads a certificate, which need not be a valid one. None where it is damaged or has too many names.
    #[must_use]
    pub fn read(certificate: &[u8]) -> Option<Self> {
        let der = CertificateDer::from(certificate);
        let parsed = EndEntityCert::try_from(&der).ok()?;
        let dns: Vec<String> = parsed.valid_dns_names().take(NAMES_MAX + 1).map(str::to_ascii_lowercase).collect();
        let uris: Vec<String> = parsed.valid_uri_names().take(NAMES_MAX + 1).map(str::to_owned).collect();
        if dns.len() + uris.len() > NAMES_MAX || !dns.iter().chain(&uris).all(|name| is_printable(name)) {
            return None;
        }
        Some(Self { dns, uris, thumbprint: Sha256::digest(certificate).into() })
    }

    /// The name to show: the first URI, or else the first DNS name.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.uris.first().or(self.dns.first()).map(String::as_str)
    }
}

fn is_printable(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, SanType};

    fn certificate(names: Vec<SanType>) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        params.self_signed(&KeyPair::generate().expect("a key")).expect("a certificate").der().to_vec()
    }

    fn dns(name: &str) -> SanType {
        SanType::DnsName(name.try_into().expect("ASCII"))
    }

    fn uri(name: &str) -> SanType {
        SanType::URI(name.try_into().expect("ASCII"))
    }

    #[test]
    fn names_are_read_and_common_names_are_none() {
        let der = certificate(vec![dns("A.Example"), uri("spiffe://x/Y"), dns("b.example")]);
        let identity = Identity::read(&der).expect("an identity");
        assert_eq!(
            (identity.dns.join(" "), identity.uris.join(" ")),
            ("a.example b.example".into(), "spiffe://x/Y".into())
        );
        assert_eq!(identity.name(), Some("spiffe://x/Y"));
        assert_eq!(identity.thumbprint, <[u8; 32]>::from(Sha256::digest(&der)));
        let nameless = Identity::read(&certificate(Vec::new())).expect("an identity");
        assert_eq!(nameless.name(), None);
        assert_ne!(nameless.thumbprint, identity.thumbprint);
    }

    #[test]
    fn a_damaged_certificate_is_nobody() {
        let der = certificate(vec![dns("a.example")]);
        for end in 0..der.len() {
            assert_eq!(Identity::read(&der[..end]), None, "cut at {end}");
        }
        assert_eq!(Identity::read(&[&der[..], b"x"].concat()), None, "followed by something");
    }

    #[test]
    fn names_that_could_forge_a_log_line_or_fill_memory_are_refused() {
        for name in ["spiffe://x/\n", "spiffe://x/a b", "", "spiffe://x/\u{1b}[2J"] {
            assert_eq!(Identity::read(&certificate(vec![dns("a.example"), uri(name)])), None, "{name:?}");
        }
        let many = |count| certificate((0..count).map(|at| dns(&format!("h{at}.example"))).collect());
        assert!(Identity::read(&many(NAMES_MAX)).is_some());
        assert_eq!(Identity::read(&many(NAMES_MAX + 1)), None);
    }
}
