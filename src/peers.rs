//! `forebay peers init`: an authority and certificates to try TLS with. In production they come from something that
//! renews them, such as cert-manager. `forebay peers grant`: a capability.

use crate::cli::{PeersGrantArgs, PeersInitArgs};
use crate::out;
use anyhow::{Context, anyhow, bail};
use listen::Identity;
use policy::Capability;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SigningKey,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::json;
use std::fs::{DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use wire::digest::Digest;

/// The names that every certificate has besides those asked for.
const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
/// The roles that get a certificate, each good for both ends of a connection.
const ROLES: [&str; 2] = ["worker", "router"];
/// How far clocks may differ.
const SKEW: Duration = Duration::from_secs(3_600);
/// The seconds by which a capability is shorter than asked for: one of a full hour would be refused where the clock is
/// behind.
const CAPABILITY_SKEW_S: u64 = 60;
const DAY: Duration = Duration::from_secs(86_400);

/// A file to write: its name and its text.
type Made = (String, String);

/// Makes the certificates and says what to do with them.
///
/// # Errors
/// A name that is none, a file that exists, a directory that cannot be written.
pub(crate) fn init(args: &PeersInitArgs) -> anyhow::Result<()> {
    let made = make(&args.name, args.days)?;
    let paths = write(&args.dir, &made)?;
    let next = next_commands(&args.dir);
    if args.json {
        return out::line(json!({ "files": paths, "next": next }));
    }
    out::line(format_args!(
        "wrote {} files to {}, valid for {} days; next:",
        paths.len(),
        args.dir.display(),
        args.days
    ))?;
    next.iter().try_for_each(|command| out::line(format_args!("  {command}")))
}

/// Signs a capability and prints it.
///
/// # Errors
/// A root or certificate that is none, a key that cannot sign.
pub(crate) fn grant(args: &PeersGrantArgs) -> anyhow::Result<()> {
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (text, not_after_s) = capability(args, now_s)?;
    if args.json {
        return out::line(json!({ "capability": text, "not_after_unix_s": not_after_s }));
    }
    out::line(text)
}

/// The capability's text, and the last second at which it holds.
fn capability(args: &PeersGrantArgs, now_s: u64) -> anyhow::Result<(String, u64)> {
    let root = Digest::from_hex(args.root.strip_prefix(Digest::PREFIX).unwrap_or(&args.root))
        .with_context(|| format!("--root {:?}", args.root))?;
    let certificate = CertificateDer::from_pem_file(&args.certificate)
        .map_err(|error| anyhow!("reading the certificate {}: {error}", args.certificate.display()))?;
    let identity = Identity::read(&certificate)
        .with_context(|| format!("{} holds no certificate of a peer", args.certificate.display()))?;
    let key = std::fs::read_to_string(&args.key).with_context(|| format!("reading {}", args.key.display()))?;
    let key = KeyPair::from_pem_and_sign_algo(&key, &PKCS_ECDSA_P256_SHA256).with_context(|| {
        format!(
            "{} is no private key on the curve P-256 in PKCS #8; `forebay peers init` makes one, and `openssl genpkey \
             -algorithm EC -pkeyopt ec_paramgen_curve:P-256`",
            args.key.display()
        )
    })?;
    // A clock that is a little behind must not find it too long.
    let not_after_s = now_s + u64::from(args.minutes) * 60 - CAPABILITY_SKEW_S.min(u64::from(args.minutes) * 30);
    let capability = Capability { root, tenant: args.tenant.clone(), not_after_s, thumbprint: identity.thumbprint };
    let mut failure = None;
    let text = capability.signed(|message| {
        key.sign(message).unwrap_or_else(|error| {
            failure = Some(error);
            Vec::new()
        })
    });
    if let Some(error) = failure {
        return Err(error).context("signing the capability");
    }
    Ok((text.ok_or_else(|| anyhow!("--tenant has more than 64 bytes"))?, not_after_s))
}

pub(crate) fn make(names: &[String], days: u16) -> anyhow::Result<Vec<Made>> {
    let authority = Authority::new(days)?;
    let mut made = vec![("ca.pem".to_owned(), authority.pem.clone()), ("ca-key.pem".into(), authority.key())];
    let issuer = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).context("making a key")?;
    made.extend([
        ("capability-key.pem".to_owned(), issuer.serialize_pem()),
        ("capability-issuer.pem".into(), issuer.public_key_pem()),
    ]);
    for role in ROLES {
        let (certificate, key) = authority.sign(role, names, days)?;
        made.extend([(format!("{role}.pem"), certificate), (format!("{role}-key.pem"), key)]);
    }
    Ok(made)
}

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new(days: u16) -> anyhow::Result<Self> {
        let mut params = params("Forebay trial authority", days);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().context("making a key")?;
        let pem = params.self_signed(&key).context("making the authority")?.pem();
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }

    fn key(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// A certificate and its key.
    fn sign(&self, role: &str, names: &[String], days: u16) -> anyhow::Result<(String, String)> {
        let mut params = params(role, days);
        let names = NAMES.into_iter().chain(names.iter().map(String::as_str));
        params.subject_alt_names = names.map(san).collect::<anyhow::Result<_>>()?;
        let identity = format!("spiffe://forebay/{role}");
        params.subject_alt_names.push(SanType::URI(identity.try_into().context("the role as a name")?));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().context("making a key")?;
        let signed =
            params.signed_by(&key, &self.issuer).with_context(|| format!("signing the certificate of the {role}"))?;
        Ok((signed.pem(), key.serialize_pem()))
    }
}

fn params(common_name: &str, days: u16) -> CertificateParams {
    let now = SystemTime::now();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = (now - SKEW).into();
    params.not_after = (now + DAY * u32::from(days)).into();
    params
}

/// An address, or a DNS name whose first label may be `*`.
fn san(name: &str) -> anyhow::Result<SanType> {
    if let Ok(address) = name.parse() {
        return Ok(SanType::IpAddress(address));
    }
    let is_label = |label: &str| {
        let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        (1..=63).contains(&label.len())
            && label.bytes().all(is_inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let labels = name.strip_prefix("*.").unwrap_or(name);
    if name.len() > 253 || !labels.split('.').all(is_label) {
        bail!("--name {name:?} is no host name and no address; write e.g. worker-1.example or 10.0.0.7");
    }
    Ok(SanType::DnsName(name.try_into().with_context(|| format!("the name {name:?}"))?))
}

/// Writes all files, readable by their owner alone, or none.
pub(crate) fn write(dir: &Path, made: &[Made]) -> anyhow::Result<Vec<PathBuf>> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).with_context(|| format!("making {}", dir.display()))?;
    if let Some((name, _)) = made.iter().find(|(name, _)| dir.join(name).symlink_metadata().is_ok()) {
        bail!("{} exists and is not overwritten; give another directory", dir.join(name).display());
    }
    let mut written = Vec::new();
    for (name, text) in made {
        let path = dir.join(name);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        if let Err(error) = file.and_then(|mut file| file.write_all(text.as_bytes())) {
            for path in &written {
                let _ = std::fs::remove_file(path);
            }
            return Err(error).with_context(|| format!("writing {}", path.display()));
        }
        written.push(path);
    }
    Ok(written)
}

/// A worker, its router and a client, each with its files.
fn next_commands(dir: &Path) -> [String; 3] {
    let file = |name: &str| quoted(&dir.join(name).to_string_lossy());
    let (ca, router, router_key) = (file("ca.pem"), file("router.pem"), file("router-key.pem"));
    [
        format!(
            "forebay worker demo --ssl-certfile {} --ssl-keyfile {} --ssl-ca-certs {ca}",
            file("worker.pem"),
            file("worker-key.pem")
        ),
        format!(
            "forebay router --worker https://127.0.0.1:8081 --worker-cacert {ca} --worker-cert {router} --worker-key {router_key} \
             --ssl-certfile {router} --ssl-keyfile {router_key}"
        ),
        format!("forebay chat --url https://127.0.0.1:8080 --cacert {ca} \"What is Forebay?\""),
    ]
}

/// A path as a shell reads it.
fn quoted(path: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+".contains(&byte);
    if path.bytes().all(is_plain) { path.to_owned() } else { format!("'{}'", path.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_hosts_or_addresses() {
        for good in ["a", "worker-1.example", "*.workers.example", "10.0.0.7", "fe80::1", "a_b"] {
            assert!(san(good).is_ok(), "{good}");
        }
        for bad in ["", "a b", "http://a", "a/b", "-a", "a-", "a..b", "*.*.a", "a.*", "caf\u{e9}", &"a".repeat(64)] {
            assert!(san(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn paths_are_quoted_for_a_shell() {
        assert_eq!(quoted("/tls/a-b.pem"), "/tls/a-b.pem");
        assert_eq!(quoted("/my tls/it's.pem"), r"'/my tls/it'\''s.pem'");
    }

    #[test]
    fn what_is_granted_with_the_files_of_init_is_a_right() {
        let dir = tempfile::tempdir().expect("a directory");
        let made = make(&[], 1).expect("certificates");
        write(dir.path(), &made).expect("writes");
        let root = Digest([7; 32]);
        let args = |root: String| PeersGrantArgs {
            root,
            tenant: "red".into(),
            certificate: dir.path().join("worker.pem"),
            key: dir.path().join("capability-key.pem"),
            minutes: 60,
            json: false,
        };
        let now_s = 1_800_000_000;
        let issuers = vec![std::fs::read_to_string(dir.path().join("capability-issuer.pem")).expect("a key")];
        let config = policy::PeersConfig { capability_issuers: issuers, ..policy::PeersConfig::default() };
        let peers = policy::Peers::new(&config).expect("a good configuration");
        let der = CertificateDer::from_pem_file(dir.path().join("worker.pem")).expect("a certificate");
        let identity = Identity::read(&der).expect("an identity");
        for text in [root.to_hex(), root.to_string()] {
            let (capability, not_after_s) = capability(&args(text), now_s).expect("a capability");
            let asker = |thumbprint| policy::Asker {
                dns: &identity.dns,
                uris: &identity.uris,
                thumbprint,
                capability: Some(&capability),
            };
            let offers = [policy::Offered { root, tenant: "red", proof: wire::proof::Proof::Proven }];
            let has = |thumbprint, now_s| peers.decide(&asker(thumbprint), root, &offers, now_s).is_some();
            assert!(has(identity.thumbprint, now_s) && has(identity.thumbprint, now_s - 30), "a clock that is behind");
            assert!(!has(identity.thumbprint, not_after_s + 1), "expired");
            assert!(!has([0; 32], now_s), "stolen");
        }
        assert!(capability(&args("blake3:6c".into()), now_s).is_err());
    }

    #[test]
    fn all_files_are_written_or_none() {
        let dir = tempfile::tempdir().expect("a directory");
        let made: Vec<Made> = ["a", "b"].map(|name| (name.to_owned(), name.to_owned())).into();
        std::fs::write(dir.path().join("b"), "mine").expect("writes");
        let error = write(dir.path(), &made).expect_err("refused");
        assert!(error.to_string().contains("not overwritten"), "{error}");
        assert!(!dir.path().join("a").exists());
        assert_eq!(std::fs::read_to_string(dir.path().join("b")).expect("reads"), "mine");
    }
}
