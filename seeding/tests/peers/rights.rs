//! Peers that get nothing: strangers, peers without a right, thieves of capabilities; and that they learn nothing.

use super::client::{Authority, Client, LIMIT};
use super::model::Model;
use super::{PEER, start};
use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{DerSignature, SigningKey};
use p256::pkcs8::{EncodePublicKey as _, LineEnding};
use policy::{Capability, PeerRule};
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use wire::digest::Digest;

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_who_knows_the_digest_fails_in_the_handshake() {
    let (running, model) = (start(|_| ()).await, Model::new(1));
    let _sharing = running.share(&model).await;
    let path = model.path("manifest");
    let nobody = Client::new(running.seeder.local_addr(), &running.authority, None);
    assert!(nobody.try_get(&path, &[]).await.is_err(), "without a certificate");
    let other = Authority::new().sign(PEER);
    assert!(running.client(&other).try_get(&path, &[]).await.is_err(), "of another authority");
    assert!(
        Client::plain(running.seeder.local_addr()).try_get(&path, &[]).await.is_ok_and(|answer| answer.status == 400)
    );
    assert_eq!(running.peer().get(&path, &[]).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_a_peer_may_not_have_is_one_answer() {
    let (running, model) = (start(|_| ()).await, Model::new(2));
    let _sharing = running.share(&model).await;
    let (peer, outsider) = (running.peer(), running.client(&running.authority.sign("spiffe://x/other")));
    let (path, range) = model.ask(0..1);
    let unknown = Digest([9; 32]).to_hex();
    let wanted = outsider.get(&path, &[("range", &range)]).await;
    assert_eq!(wanted.status, 404);
    let mut answers = Vec::new();
    for rest in ["files/1", "have", "manifest", "attested", "files/9", "x"] {
        let path = model.path(rest);
        answers.push(outsider.get(&path, &[("range", &range)]).await);
        answers.push(outsider.get(&path, &[("forebay-capability", "AQID")]).await);
    }
    for rest in ["have", "manifest", "attested", "files/0", "files/4294967296"] {
        answers.push(outsider.get(&format!("/weights/{unknown}/{rest}"), &[]).await);
        answers.push(peer.get(&format!("/weights/{unknown}/{rest}"), &[("range", &range)]).await);
    }
    for path in ["/", "/metrics", "/livez", "/status", "/weights", "/weights/x/have"] {
        answers.push(peer.get(path, &[]).await);
    }
    answers.push(peer.get(&model.path("files/2"), &[("range", &range)]).await);
    for method in ["HEAD", "POST", "PUT", "OPTIONS"] {
        let answer = peer.send(method, &path, &[]).await.expect("sends").answer().await;
        if method == "HEAD" {
            // Its body is not sent, so that its length is not that of a body.
            assert!(answer.is_err(), "{answer:?}");
        } else {
            answers.push(answer.expect("an answer"));
        }
    }
    for answer in answers {
        assert_eq!(answer.without_date(), wanted.without_date());
    }
}

/// Signs capabilities.
struct Issuer(SigningKey);

impl Issuer {
    fn pem(&self) -> String {
        self.0.verifying_key().to_public_key_pem(LineEnding::LF).expect("a key")
    }

    fn grant(&self, root: Digest, thumbprint: [u8; 32], for_s: i64) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        let not_after_s = now.saturating_add_signed(for_s);
        let capability = Capability { root, tenant: "red".into(), not_after_s, thumbprint };
        let sign = |message: &[u8]| {
            let signature: DerSignature = self.0.sign(message);
            signature.as_bytes().to_vec()
        };
        capability.signed(sign).expect("a short name")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capability_is_a_right_of_its_certificate_for_its_root_and_its_time() {
    let issuer = Issuer(SigningKey::from_slice(&[1; 32]).expect("a key"));
    let pem = issuer.pem();
    let running = start(|config| {
        config.rights.allow.clear();
        config.rights.capability_issuers = vec![pem];
    })
    .await;
    let model = Model::new(2);
    let _sharing = running.share(&model).await;
    let (owner, thief) = (running.authority.sign(PEER), running.authority.sign(PEER));
    let path = model.path("manifest");
    let status = async |shown, capability: String| {
        running.client(shown).get(&path, &[("forebay-capability", &capability)]).await.status
    };
    let good = issuer.grant(model.root(), owner.thumbprint(), 600);
    assert_eq!(status(&owner, good.clone()).await, 200);
    assert_eq!(status(&thief, good.clone()).await, 404, "stolen");
    assert_eq!(status(&owner, String::new()).await, 404, "none");
    assert_eq!(status(&owner, issuer.grant(model.root(), owner.thumbprint(), -2)).await, 404, "expired");
    assert_eq!(status(&owner, issuer.grant(model.root(), owner.thumbprint(), 7_200)).await, 404, "for too long");
    assert_eq!(status(&owner, issuer.grant(Digest([1; 32]), owner.thumbprint(), 600)).await, 404, "for another root");
    let other = Issuer(SigningKey::from_slice(&[2; 32]).expect("a key"));
    assert_eq!(status(&owner, other.grant(model.root(), owner.thumbprint(), 600)).await, 404, "by nobody");
    assert_eq!(status(&owner, "x".repeat(4_000)).await, 404, "too long");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_is_taken_out_opens_nothing_more() {
    let (running, model) = (start(|_| ()).await, Model::new(1));
    let _sharing = running.share(&model).await;
    let (old, path) = (running.peer(), model.path("manifest"));
    assert_eq!(old.get(&path, &[]).await.status, 200);
    let next = Authority::new();
    std::fs::write(running.dir.path().join("ca.crt"), &next.pem).expect("writes");
    let new = running.client(&next.sign(PEER));
    tokio::time::timeout(LIMIT, async {
        while new.try_get(&path, &[]).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("the new authority is taken");
    assert!(old.try_get(&path, &[]).await.is_err(), "the old one is out");
}

#[tokio::test(flavor = "multi_thread")]
async fn on_loopback_without_tls_only_a_rule_for_it_lets_anybody_in() {
    for (name, status) in [("local:loopback", 200), (PEER, 404)] {
        let running = start(|config| {
            config.tls.certificate_file = None;
            config.tls.key_file = None;
            config.tls.client_ca_file = None;
            config.rights.allow = vec![PeerRule { identities: vec![name.into()], tenants: vec!["*".into()] }];
        })
        .await;
        let model = Model::new(1);
        let _sharing = running.share(&model).await;
        let answer = Client::plain(running.seeder.local_addr()).get(&model.path("manifest"), &[]).await;
        assert_eq!(answer.status, status, "{name}");
    }
    let running = start(|config| {
        config.rights.allow = vec![PeerRule { identities: vec!["local:loopback".into()], tenants: vec!["*".into()] }];
    })
    .await;
    let model = Model::new(1);
    let _sharing = running.share(&model).await;
    let named = running.client(&running.authority.sign("local:loopback"));
    assert_eq!(named.get(&model.path("manifest"), &[]).await.status, 404, "a certificate cannot have that name");
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_loopback_nobody_listens_without_certificates() {
    let mut config = seeding::SeedingConfig { listen: Some(SocketAddr::from(([0, 0, 0, 0], 0))), ..Default::default() };
    let begin = async |config: &seeding::SeedingConfig| {
        seeding::Seeder::start(config, &telemetry::metrics::Registry::new(), listen::Drain::new()).await
    };
    let refused = begin(&config).await.expect_err("refused").to_string();
    assert!(refused.contains("tls.client_ca_file") && refused.contains("forebay peers init"), "{refused}");
    config.listen = None;
    assert!(begin(&config).await.expect("is off").is_none());
}
