//! Rights by rule and by capability, and what grants nothing.

use super::*;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{DerSignature, SigningKey};
use p256::pkcs8::{EncodePublicKey as _, LineEnding};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

const NOW_S: u64 = 1_800_000_000;
const LIFE_MAX_S: u64 = 3_600;
const THUMBPRINT: [u8; 32] = [7; 32];

fn signer(seed: u8) -> SigningKey {
    SigningKey::from_slice(&[seed; 32]).expect("a key")
}

fn pem(signer: &SigningKey) -> String {
    signer.verifying_key().to_public_key_pem(LineEnding::LF).expect("a key")
}

fn signed(capability: &Capability, signer: &SigningKey) -> String {
    let sign = |message: &[u8]| {
        let signature: DerSignature = signer.sign(message);
        signature.as_bytes().to_vec()
    };
    capability.signed(sign).expect("a short name")
}

fn root(number: u8) -> Digest {
    Digest([number; 32])
}

fn capability() -> Capability {
    Capability { root: root(1), tenant: "red".into(), not_after_s: NOW_S + 600, thumbprint: THUMBPRINT }
}

fn rule(identities: &[&str], tenants: &[&str]) -> PeerRule {
    let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    PeerRule { identities: owned(identities), tenants: owned(tenants) }
}

fn peers(allow: Vec<PeerRule>, seed_pinned: bool) -> Peers {
    let config = PeersConfig { allow, capability_issuers: vec![pem(&signer(1))], seed_pinned };
    Peers::new(&config).expect("a good configuration")
}

fn offer(number: u8, tenant: &str, proof: Proof) -> Offered<'_> {
    Offered { root: root(number), tenant, proof }
}

/// The decision about a peer of these names and one proven root of `red`.
fn gets(peers: &Peers, dns: &[&str], uris: &[&str], capability: Option<&str>, now_s: u64) -> bool {
    let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let (dns, uris) = (owned(dns), owned(uris));
    let asker = Asker { dns: &dns, uris: &uris, thumbprint: THUMBPRINT, capability };
    peers.decide(&asker, root(1), &[offer(1, "red", Proof::Proven)], now_s).is_some()
}

#[test]
fn a_digest_alone_grants_nothing() {
    let nobody = peers(Vec::new(), true);
    assert!(!gets(&nobody, &["a.example"], &["spiffe://x/a"], None, NOW_S));
    let by_default = Peers::new(&PeersConfig::default()).expect("good");
    assert!(!gets(&by_default, &["a.example"], &[], Some(&signed(&capability(), &signer(1))), NOW_S));
}

#[test]
fn names_are_matched_whole() {
    let peers = peers(vec![rule(&["a.example", "*.pods.example", "spiffe://x/a"], &["red"])], false);
    for dns in ["a.example", "w-0.pods.example"] {
        assert!(gets(&peers, &["other", dns], &[], None, NOW_S), "{dns}");
    }
    assert!(gets(&peers, &[], &["spiffe://x/a"], None, NOW_S));
    for dns in ["example", "b.a.example", "pods.example", ".pods.example", "a.b.pods.example", "xpods.example"] {
        assert!(!gets(&peers, &[dns], &[], None, NOW_S), "{dns}");
    }
    for uri in ["spiffe://x/a/", "spiffe://x/A", "spiffe://x/ab", "a.example"] {
        assert!(!gets(&peers, &[], &[uri], None, NOW_S), "{uri}");
    }
    assert!(!gets(&peers, &["spiffe://x/a"], &[], None, NOW_S), "a DNS name is no URI");
}

#[test]
fn a_tenants_weights_are_for_its_peers() {
    let dns = ["a.example".to_owned()];
    let asker = Asker { dns: &dns, uris: &[], thumbprint: THUMBPRINT, capability: None };
    let offers = [
        offer(1, "red", Proof::Proven),
        offer(2, "blue", Proof::Proven),
        offer(3, "red", Proof::Pinned),
        offer(4, "red", Proof::Trusted),
    ];
    let found = |peers: &Peers, number| peers.decide(&asker, root(number), &offers, NOW_S);
    for (tenant, seed_pinned, expected) in [
        ("red", false, [Some(0), None, None, None]),
        ("red", true, [Some(0), None, Some(2), None]),
        ("blue", true, [None, Some(1), None, None]),
        ("*", true, [Some(0), Some(1), Some(2), None]),
    ] {
        let peers = peers(vec![rule(&["a.example"], &[tenant])], seed_pinned);
        assert_eq!([1, 2, 3, 4].map(|number| found(&peers, number)), expected, "{tenant} {seed_pinned}");
        assert_eq!(found(&peers, 9), None, "nobody has it");
    }
}

#[test]
fn a_capability_is_for_one_certificate_one_root_and_an_hour() {
    let peers = peers(Vec::new(), false);
    let good = capability();
    let with = |change: fn(&mut Capability)| {
        let mut other = good.clone();
        change(&mut other);
        gets(&peers, &[], &[], Some(&signed(&other, &signer(1))), NOW_S)
    };
    assert!(with(|_| ()));
    assert!(with(|capability| capability.not_after_s = NOW_S));
    assert!(with(|capability| capability.not_after_s = NOW_S + LIFE_MAX_S));
    assert!(!with(|capability| capability.not_after_s = NOW_S - 1), "it has ended");
    assert!(!with(|capability| capability.not_after_s = NOW_S + LIFE_MAX_S + 1), "it would last too long");
    assert!(!with(|capability| capability.not_after_s = u64::MAX));
    assert!(!with(|capability| capability.thumbprint[31] ^= 1), "stolen");
    assert!(!with(|capability| capability.root = root(2)), "for other weights");
    assert!(!with(|capability| capability.tenant = "blue".into()), "of another tenant");
    let foreign = signed(&good, &signer(2));
    assert!(!gets(&peers, &[], &[], Some(&foreign), NOW_S), "signed by a stranger");
    let long = Capability { tenant: "x".repeat(NAME_BYTES_MAX + 1), ..good };
    assert_eq!(long.signed(|_| Vec::new()), None);
}

#[test]
fn a_wrong_configuration_names_the_field() {
    let refused = |config: PeersConfig| Peers::new(&config).expect_err("refused").field;
    let with = |rule| PeersConfig { allow: vec![rule], ..PeersConfig::default() };
    for (identities, field) in [
        (&[][..], "allow[0].identities"),
        (&["a", ""], "allow[0].identities[1]"),
        (&["*"], "allow[0].identities[0]"),
        (&["*."], "allow[0].identities[0]"),
        (&["a.*.b"], "allow[0].identities[0]"),
        (&["A.example"], "allow[0].identities[0]"),
        (&["spiffe://x/*"], "allow[0].identities[0]"),
        (&["a b"], "allow[0].identities[0]"),
    ] {
        assert_eq!(refused(with(rule(identities, &["red"]))), field, "{identities:?}");
    }
    assert_eq!(refused(with(rule(&["a"], &[]))), "allow[0].tenants");
    assert_eq!(refused(with(rule(&["a"], &["red", ""]))), "allow[0].tenants[1]");
    let keys = PeersConfig { capability_issuers: vec!["x".into()], ..PeersConfig::default() };
    assert_eq!(refused(keys), "capability_issuers[0]");
}

/// The rights in words of their own, to hold `decide` against.
fn expected(peers: &Peers, asker: &Asker, wanted: Digest, offers: &[Offered]) -> Option<usize> {
    let may = |offer: &Offered| {
        let is_named = |rule: &&PeerRule| asker.dns.iter().any(|name| rule.identities.contains(name));
        let is_tenant = |rule: &PeerRule| rule.tenants.iter().any(|tenant| tenant == "*" || tenant == offer.tenant);
        let is_shared = offer.proof == Proof::Proven || offer.proof == Proof::Pinned && peers.seed_pinned;
        is_shared && peers.rules.iter().filter(is_named).any(is_tenant)
    };
    offers.iter().rposition(|offer| offer.root == wanted && may(offer))
}

proptest! {
    #[test]
    fn what_is_found_was_asked_for_and_allowed(
        rules in vec((select(vec!["a", "b", "c"]), select(vec!["red", "blue", "*"])), 0..4),
        offers in vec((0_u8..4, select(vec!["red", "blue"]), select(vec![Proof::Proven, Proof::Pinned, Proof::Trusted])), 0..6),
        name in select(vec!["a", "b", "c", "d"]),
        wanted in 0_u8..4,
        seed_pinned: bool,
    ) {
        let peers = peers(rules.iter().map(|(name, tenant)| rule(&[name], &[tenant])).collect(), seed_pinned);
        let offers: Vec<Offered> = offers.iter().map(|(number, tenant, proof)| offer(*number, tenant, *proof)).collect();
        let dns = [name.to_owned()];
        let asker = Asker { dns: &dns, uris: &[], thumbprint: THUMBPRINT, capability: None };
        prop_assert_eq!(peers.decide(&asker, root(wanted), &offers, NOW_S), expected(&peers, &asker, root(wanted), &offers));
    }

    /// No other text grants what a signed one does: not cut, not longer, not with a byte changed.
    #[test]
    fn a_changed_capability_grants_nothing(place: Index, byte in 1_u8.., cut: Index, tail in vec(any::<u8>(), 0..3)) {
        let peers = peers(Vec::new(), false);
        let text = signed(&capability(), &signer(1));
        prop_assert!(gets(&peers, &[], &[], Some(&text), NOW_S));
        let bytes = URL_SAFE_NO_PAD.decode(&text).expect("base64url");
        let mut changed = bytes.clone();
        let at = place.index(bytes.len());
        changed[at] ^= byte;
        let longer = [&bytes[..], &tail, &[byte]].concat();
        for other in [&changed[..], &bytes[..cut.index(bytes.len())], &longer] {
            prop_assert!(!gets(&peers, &[], &[], Some(&URL_SAFE_NO_PAD.encode(other)), NOW_S));
        }
    }

    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,600}", bytes in vec(any::<u8>(), 0..200)) {
        let peers = peers(Vec::new(), false);
        prop_assert!(!gets(&peers, &[], &[], Some(&text), NOW_S));
        prop_assert!(!gets(&peers, &[], &[], Some(&URL_SAFE_NO_PAD.encode(&bytes)), NOW_S));
    }
}
