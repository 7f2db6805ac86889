//! The Sigstore bundle around a signature: JSON with a DSSE envelope. Nothing in it is believed yet.
//!
//! Formats: github.com/sigstore/protobuf-specs (bundle), github.com/secure-systems-lab/dsse.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::error::OmsError;

/// The longest bundle, in bytes: some 60,000 files or shards.
pub const BUNDLE_BYTES_MAX: usize = 16 << 20;
/// The longest signature and hint, in bytes; of P-256 they have 72 and 64.
const SIGNATURE_BYTES_MAX: usize = 256;

const MEDIA_TYPE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
const PART: &str = "the bundle";

/// A bundle's content, decoded and not verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    /// The signed in-toto statement, as JSON.
    pub payload: Vec<u8>,
    /// The signature over [`Bundle::signed_message`], in DER.
    pub signature: Vec<u8>,
    /// The key it claims to be signed with.
    pub hint: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawBundle {
    media_type: String,
    verification_material: RawMaterial,
    dsse_envelope: Option<RawEnvelope>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawMaterial {
    public_key: Option<RawPublicKey>,
    certificate: Option<IgnoredAny>,
    x509_certificate_chain: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct RawPublicKey {
    hint: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawEnvelope {
    payload: String,
    payload_type: String,
    signatures: Vec<RawSignature>,
}

#[derive(Deserialize)]
struct RawSignature {
    sig: String,
}

impl Bundle {
    /// Reads a bundle. Fields that the format may gain are ignored: nothing here is signed but the
    /// payload and its type.
    ///
    /// # Errors
    /// The bytes are too many, are no bundle of version 0.3 with one signature in a DSSE envelope,
    /// or name a certificate in place of a key.
    pub fn parse(json: &[u8]) -> Result<Self, OmsError> {
        if json.len() > BUNDLE_BYTES_MAX {
            return Err(OmsError::TooLarge { bytes: json.len(), limit: BUNDLE_BYTES_MAX });
        }
        let raw: RawBundle =
            serde_json::from_slice(json).map_err(|cause| OmsError::malformed(PART, cause.to_string()))?;
        if raw.media_type != MEDIA_TYPE {
            return Err(OmsError::unsupported(format!("the bundle type {:?}", shorten(&raw.media_type))));
        }
        let hint = check_material(raw.verification_material)?;
        let envelope = raw.dsse_envelope.ok_or_else(|| OmsError::unsupported("a bundle without a DSSE envelope"))?;
        if envelope.payload_type != PAYLOAD_TYPE {
            return Err(OmsError::unsupported(format!("the payload type {:?}", shorten(&envelope.payload_type))));
        }
        let [signature] = envelope.signatures.as_slice() else {
            let problem = format!("it has {} signatures where one is wanted", envelope.signatures.len());
            return Err(OmsError::malformed(PART, problem));
        };
        let signature = decode("signature", &signature.sig)?;
        if signature.len() > SIGNATURE_BYTES_MAX {
            return Err(OmsError::malformed(PART, format!("its signature has {} bytes", signature.len())));
        }
        Ok(Self { payload: decode("payload", &envelope.payload)?, signature, hint })
    }

    /// The signed message: DSSE's pre-authentication encoding of type and payload.
    #[must_use]
    pub fn signed_message(&self) -> Vec<u8> {
        let mut message = format!("DSSEv1 {} {PAYLOAD_TYPE} {} ", PAYLOAD_TYPE.len(), self.payload.len()).into_bytes();
        message.extend_from_slice(&self.payload);
        message
    }
}

/// The hint of the key, where a key it is.
fn check_material(material: RawMaterial) -> Result<Option<String>, OmsError> {
    if material.certificate.is_some() || material.x509_certificate_chain.is_some() {
        return Err(OmsError::unsupported("a signature by certificate or Sigstore identity"));
    }
    let Some(key) = material.public_key else {
        return Err(OmsError::malformed(PART, "it says neither key nor certificate"));
    };
    Ok(key.hint.filter(|hint| !hint.is_empty()).map(|hint| shorten(&hint)))
}

fn decode(what: &str, text: &str) -> Result<Vec<u8>, OmsError> {
    STANDARD.decode(text).map_err(|cause| OmsError::malformed(PART, format!("its {what} is not base64: {cause}")))
}

/// A stranger's text for a message: printable and short.
fn shorten(text: &str) -> String {
    const CHARS_MAX: usize = 100;
    text.chars().filter(|character| !character.is_control()).take(CHARS_MAX).collect()
}
