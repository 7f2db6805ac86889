//! Asks peers for a manifest: the one of a root, or one that is attested.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use tokio::time::timeout;
use wire::manifest::{JSON_BYTES_MAX, Manifest};
use wire::peers::Resource;

use super::choose::choose;
use super::fleet::Fleet;
use super::member::Member;
use super::request::{Asked, Asking};
use crate::attested::{self, Attestation, Whole};

/// The peers asked at a time.
const AT_ONCE: usize = 4;

/// The time that a load waits for somebody who attests its files: storage begins at once without.
const PATIENCE: Duration = Duration::from_secs(1);

/// The first manifest, of those that peers give, that passes `check`; with the place of its giver.
pub(super) async fn first(
    asked: &[Asked],
    resource: Resource,
    check: impl Fn(&Manifest) -> Result<(), String>,
) -> Option<(usize, Manifest, Bytes)> {
    // Owned: a stream of borrowing futures could not be awaited on another thread.
    let asks: Vec<(usize, Asked)> = asked.iter().cloned().enumerate().collect();
    let asks = asks.into_iter().map(|(at, asked)| async move { (at, ask(&asked, resource).await) });
    let mut answers = stream::iter(asks).buffer_unordered(AT_ONCE);
    while let Some((at, answer)) = answers.next().await {
        match answer.and_then(|(manifest, text)| check(&manifest).map(|()| (manifest, text))) {
            Ok((manifest, text)) => return Some((at, manifest, text)),
            Err(problem) => tracing::info!(url = asked[at].url, problem, "a peer gave no manifest"),
        }
    }
    None
}

async fn ask(asked: &Asked, resource: Resource) -> Result<(Manifest, Bytes), String> {
    let answer = asked.ask(resource, JSON_BYTES_MAX).await.map_err(|error| error.to_string())?;
    if answer.status() != http::StatusCode::OK {
        return Err(format!("it answered {}", answer.status()));
    }
    let text = answer.into_body();
    Ok((Manifest::parse(&text).map_err(|error| error.to_string())?, text))
}

/// Asks peers who attests the digests of files that are known as wholes.
pub(crate) async fn attest(fleet: &Fleet, files: &[Whole]) -> Option<Attestation> {
    let Fleet { peers, config, .. } = fleet;
    let key = attested::key(files.to_vec()).filter(|_| config.attested)?;
    fleet.settled().await;
    let (members, own) = fleet.members();
    let is_open = |member: &Member| !fleet.is_banned(member);
    let chosen = choose(&members, key, own.as_deref(), is_open, config.neighbours_max, config.far_max);
    let asking = Asking::new(key, peers, config).await;
    let can_be_asked = chosen.into_iter().filter_map(|member| Some((member.id.clone(), fleet.asked(member, &asking)?)));
    let (ids, asked): (Vec<String>, Vec<Asked>) = can_be_asked.unzip();
    let found = timeout(PATIENCE, first(&asked, Resource::Attested, |manifest| attested::check(manifest, files)));
    let (at, manifest, _) = found.await.ok()??;
    let by = ids.into_iter().nth(at)?;
    tracing::info!(by, root = %manifest.root(), "a peer attests digests of these files");
    Some(Attestation { manifest, by, is_contradicted: AtomicBool::new(false) })
}
