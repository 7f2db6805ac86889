//! Certificates, keys and authorities as files, and the facts by which a changed file is seen.

use super::error::TlsError;
use der::asn1::{AnyRef, GeneralizedTime, UtcTime};
use der::{Decode, Reader, SliceReader, Tag};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// The most bytes of a file; a system's whole store of authorities takes a quarter of a mebibyte.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// The most certificates of a chain; real ones have two to four.
const CHAIN_MAX: usize = 16;

/// A certificate with what leads to its authority, and its key.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
    /// When the certificate is valid.
    pub(super) validity: Validity,
}

impl Pair {
    /// Reads both files.
    pub(super) fn read(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let chain = certificates(certificate, CHAIN_MAX)?;
        let validity = Validity::of(&chain[0]).map_err(|_| content(certificate, "holds a damaged certificate"))?;
        // The library's error may repeat a line of the file.
        let key = PrivateKeyDer::from_pem_slice(&bytes(key)?)
            .map_err(|_| content(key, "holds no private key that is not encrypted"))?;
        Ok(Self { chain, key, validity })
    }
}

/// Reads the authorities in a file.
pub(super) fn authorities(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, usize::MAX)? {
        roots.add(certificate).map_err(|cause| content(path, format!("holds no authority's certificate: {cause}")))?;
    }
    Ok(roots)
}

/// The certificates in a file, at least one.
fn certificates(path: &Path, count_max: usize) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = bytes(path)?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match read {
        Ok(certificates) if certificates.is_empty() => Err(content(path, "holds no certificate")),
        Ok(certificates) if certificates.len() > count_max => {
            Err(content(path, format!("holds more than {count_max} certificates")))
        }
        Ok(certificates) => Ok(certificates),
        // It may be the file of a key.
        Err(_) => Err(content(path, "is damaged")),
    }
}

fn bytes(path: &Path) -> Result<Vec<u8>, TlsError> {
    let fail = |source| TlsError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(fail)?;
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(fail)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(fail(io::Error::other(format!("it has more than {FILE_BYTES_MAX} bytes"))));
    }
    Ok(bytes)
}

fn content(path: &Path, problem: impl Into<String>) -> TlsError {
    TlsError::Content { path: path.to_owned(), problem: problem.into() }
}

/// When a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
}

impl Validity {
    /// Reads it where RFC 5280, section 4.1, has it.
    fn of(certificate: &[u8]) -> der::Result<Self> {
        let certificate = AnyRef::from_der(certificate)?;
        let to_be_signed = AnyRef::decode(&mut SliceReader::new(certificate.value())?)?;
        let mut fields = SliceReader::new(to_be_signed.value())?;
        if fields.peek_tag()?.is_context_specific() {
            // The version.
            AnyRef::decode(&mut fields)?;
        }
        let [_serial, _algorithm, _issuer, validity] = [(); 4].map(|()| AnyRef::decode(&mut fields));
        let validity = validity?;
        let mut times = SliceReader::new(validity.value())?;
        Ok(Self { not_before: moment(&mut times)?, not_after: moment(&mut times)? })
    }

    /// Says why a certificate is not valid now.
    pub(super) fn problem(self, now: SystemTime) -> Option<String> {
        let seconds = |longer: SystemTime, than| longer.duration_since(than).unwrap_or_default().as_secs();
        if now < self.not_before {
            return Some(format!("becomes valid in {} s", seconds(self.not_before, now)));
        }
        (now > self.not_after).then(|| format!("expired {} s ago", seconds(now, self.not_after)))
    }
}

/// A time, in either of its two forms.
fn moment<'a>(times: &mut impl Reader<'a>) -> der::Result<SystemTime> {
    let since = match times.peek_tag()? {
        Tag::UtcTime => UtcTime::decode(times)?.to_unix_duration(),
        _ => GeneralizedTime::decode(times)?.to_unix_duration(),
    };
    Ok(UNIX_EPOCH + since)
}

/// Facts that differ once a file was replaced, written to, or reached through a symlink that was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Print {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Print {
    /// None where there is no such file.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let facts = std::fs::metadata(path).ok()?;
        Some(Self {
            device: facts.dev(),
            inode: facts.ino(),
            bytes: facts.size(),
            modified: (facts.mtime(), facts.mtime_nsec()),
            changed: (facts.ctime(), facts.ctime_nsec()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn certificate(from: i32, to: i32) -> CertificateDer<'static> {
        let mut params = rcgen::CertificateParams::default();
        params.not_before = rcgen::date_time_ymd(from, 1, 1);
        params.not_after = rcgen::date_time_ymd(to, 1, 1);
        let key = rcgen::KeyPair::generate().expect("a key");
        params.self_signed(&key).expect("a certificate").der().clone()
    }

    #[test]
    fn validity_is_read_in_both_of_its_forms() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        for (from, to, not_before, not_after) in
            [(1971, 2049, 31_536_000, 2_493_072_000), (2026, 2050, 1_767_225_600, 2_524_608_000)]
        {
            let validity = Validity::of(&certificate(from, to)).expect("a certificate");
            assert_eq!(validity, Validity { not_before: at(not_before), not_after: at(not_after) }, "{from} to {to}");
            assert_eq!(validity.problem(at(not_before)), None);
            assert_eq!(validity.problem(at(not_after)), None);
            let early = validity.problem(at(not_before - 5)).expect("a problem");
            let late = validity.problem(at(not_after + 5)).expect("a problem");
            assert_eq!((&early[..], &late[..]), ("becomes valid in 5 s", "expired 5 s ago"));
        }
    }

    #[test]
    fn a_damaged_certificate_has_no_validity() {
        let der = certificate(2026, 2050);
        for end in 0..der.len() {
            assert!(Validity::of(&der[..end]).is_err(), "cut at {end}");
        }
    }
}
