//! Reasons not to load a model.

use thiserror::Error;
use wire::digest::Digest;
use wire::proof::Proof;

use super::oms::OmsError;

/// Reasons not to load a model, each with its fix.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// Less is proven than must be.
    #[error(
        "loading {place}: proof is required and there is none (it would be {proof}); its publisher puts \
         digests beside it with `forebay manifest DIR --write`; or set `trust.require_proof = false`"
    )]
    ProofRequired {
        /// The model's URL or directory.
        place: String,
        /// The proof that it could have instead.
        proof: Proof,
    },
    /// No signature, and there must be one.
    #[error(
        "loading {place}: a signature is required and there is no `model.sig`; sign it with \
         `model_signing sign key --private_key KEY`, or set `trust.require_signature = false`"
    )]
    SignatureRequired {
        /// The model's URL or directory.
        place: String,
    },
    /// The signature does not hold.
    #[error("loading {place}: `model.sig` is refused")]
    Signature {
        /// The model's URL or directory.
        place: String,
        /// The reason.
        #[source]
        source: OmsError,
    },
    /// The signature is over another manifest than the one that is there.
    #[error(
        "loading {place}: `forebay.manifest.json` is not the file that was signed; fetch it again, or sign the model \
         again after `forebay manifest DIR --write`"
    )]
    ManifestNotAsSigned {
        /// The model's URL or directory.
        place: String,
    },
    /// Roots are configured, and this model has none of them.
    #[error(
        "loading {place}: its manifest's root is {}, which `trust.roots` does not list; add it if this revision is meant",
        root.map_or_else(|| "absent".to_owned(), |root| root.to_string())
    )]
    RootNotAccepted {
        /// The model's URL or directory.
        place: String,
        /// The value that was found.
        root: Option<Digest>,
    },
    /// A file has another size than is proven.
    #[error(
        "`{name}` has {bytes} bytes and `{by}` says {listed}: one of them was changed or is half written; \
         upload the model again, or write the digests again"
    )]
    Size {
        /// The file that says otherwise.
        by: &'static str,
        /// The file.
        name: String,
        /// The value that was found.
        bytes: u64,
        /// The size that is listed.
        listed: u64,
    },
    /// A file that would be read is not listed.
    #[error(
        "`{name}` is read by a load and `{by}` does not list it, so nothing says what it must be: it was added later, \
         or forgotten; remove it, or write the digests again"
    )]
    NotCovered {
        /// The file that should list it.
        by: &'static str,
        /// The file that is not listed.
        name: String,
    },
    /// A listed file is not there.
    #[error(
        "`{by}` lists `{name}`, which is missing: the model is not the one that was published; upload the file again, \
         or write the digests again"
    )]
    Missing {
        /// The file that lists it.
        by: &'static str,
        /// The file that is missing.
        name: String,
    },
    /// The store shows other content under an ETag that is already known.
    #[error(
        "loading {place}: `{name}` had other bytes under the same ETag {etag} in an earlier load; find out which are \
         right, and if these are, forget the earlier ones with `forebay cache rm {place}`"
    )]
    PinContradicted {
        /// The model's URL or directory.
        place: String,
        /// The object.
        name: String,
        /// Its ETag, then and now.
        etag: String,
    },
}
