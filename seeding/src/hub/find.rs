//! From a caller's question to a file that it may read: the hub's answer, an earlier one, or the notes while the hub
//! is away.

use std::sync::Arc;
use std::time::Instant;

use loader::probe::is_looked_for;
use loader::{ModelUrl, is_commit};

use super::caller::Caller;
use super::granted::{Asked, Granted};
use super::node::Node;
use super::notes::{Facts, Repository};
use super::path::DEFAULT_REVISION;
use super::refusal::{ENTRY_NOT_FOUND, Refusal};
use super::rights::Question;
use super::upstream::{Found, No};

impl Node {
    /// Finds a file for a caller. An earlier yes counts for a while where `may_be_kept`, and where the revision is a
    /// commit: a branch's commit is asked for again.
    ///
    /// # Errors
    /// The hub's refusal; or the hub is away, and nothing tells that the caller may read the file.
    pub(super) async fn find(
        &self,
        caller: &Caller,
        asked: &Asked,
        may_be_kept: bool,
    ) -> Result<Arc<Granted>, Refusal> {
        let question = self.question(caller, [&asked.repository, &asked.revision, &asked.name]);
        if may_be_kept || is_commit(&asked.revision) {
            let kept = self.rights.lock().get(&question, self.config.right(), Instant::now()).cloned();
            if let Some(granted) = kept {
                self.meters.asked("kept");
                return Ok(granted);
            }
        }
        if self.is_offline() {
            return self.remembered(caller, asked, &question, "this node is offline").await;
        }
        let Asked { repository, revision, name } = asked;
        match self.upstream.look(caller, repository, revision, name).await {
            Ok(found) => {
                self.meters.asked("allowed");
                let granted = Arc::new(self.granted(caller, revision, found).await?);
                self.learn(caller, asked, &granted, question).await;
                Ok(granted)
            }
            Err(No::Away(why)) => {
                self.meters.asked("away");
                self.remembered(caller, asked, &question, &why).await
            }
            Err(no) => {
                self.meters.asked("refused");
                self.unlearn(caller, asked, &question, &no);
                let No::Refused(refusal) = no else { return Err(Refusal::away("the hub is away")) };
                Err(refusal)
            }
        }
    }

    async fn granted(&self, caller: &Caller, revision: &str, found: Found) -> Result<Granted, Refusal> {
        let Found { repository, commit, name, facts } = found;
        let revision = revision.to_owned();
        if let Some(facts) = facts {
            return Ok(Granted { repository, revision, commit, name, facts });
        }
        // The hub does not tell the size; whoever has the bytes does.
        let folder = ModelUrl::Hub { repository: repository.clone(), revision: commit.clone() };
        let probe = self.loader_of(caller).probe_file(&folder, &name).await;
        let probe = probe.map_err(|error| Refusal::of_load(&error, &name, &commit))?;
        let object = probe.shards().first().map(|shard| Facts::of(&shard.object));
        let facts = object.ok_or_else(|| Refusal::no_entry(&name, &commit))?;
        Ok(Granted { repository, revision, commit, name, facts })
    }

    /// Notes the hub's yes.
    async fn learn(&self, caller: &Caller, asked: &Asked, granted: &Arc<Granted>, question: Question) {
        let now = Instant::now();
        {
            let mut rights = self.rights.lock();
            rights.put(question, Arc::clone(granted), now);
            rights.put(self.question(caller, [&asked.repository, "", ""]), Arc::clone(granted), now);
            self.meters.rights.set(f64::from(u32::try_from(rights.len()).unwrap_or(u32::MAX)));
        }
        let is_public = self.is_public(caller, asked, now).await;
        self.notes.note(&asked.repository, now, |repository| {
            repository.is_public = is_public.unwrap_or(repository.is_public);
            repository.learn(&asked.revision, &granted.commit).has(&asked.name, granted.facts.clone());
        });
    }

    /// Says whether a repository that this caller may read is for everybody; none where that is not asked now.
    async fn is_public(&self, caller: &Caller, asked: &Asked, now: Instant) -> Option<bool> {
        if caller.is_anonymous() {
            return Some(true);
        }
        if !self.notes.is_public_due(&asked.repository, now) {
            return None;
        }
        let Asked { repository, revision, name } = asked;
        match self.upstream.look(&Caller::anonymous(), repository, revision, name).await {
            Ok(_) => Some(true),
            Err(No::Refused(_)) => Some(false),
            Err(No::Away(_)) => None,
        }
    }

    /// Notes the hub's no.
    fn unlearn(&self, caller: &Caller, asked: &Asked, question: &Question, no: &No) {
        let No::Refused(refusal) = no else { return };
        let is_about_repository = no.is_about_repository();
        {
            let mut rights = self.rights.lock();
            rights.forget(question);
            if is_about_repository {
                rights.forget(&self.question(caller, [&asked.repository, "", ""]));
            }
        }
        let missing_from = refusal.commit.as_ref().filter(|_| refusal.code.as_deref() == Some(ENTRY_NOT_FOUND));
        let is_closed = is_about_repository && caller.is_anonymous();
        // What is not known is not noted: names that are made up would fill the notes.
        self.notes.note(&asked.repository, Instant::now(), |repository| {
            if is_closed {
                repository.is_public = false;
            }
            if let Some(commit) = missing_from {
                repository.learn(&asked.revision, commit).lacks(&asked.name);
            }
        });
    }

    /// Answers by what is known, while the hub cannot be asked.
    async fn remembered(
        &self,
        caller: &Caller,
        asked: &Asked,
        question: &Question,
        why: &str,
    ) -> Result<Arc<Granted>, Refusal> {
        let now = Instant::now();
        let earlier = self.rights.lock().get(question, self.config.right_away(), now).cloned();
        if let Some(granted) = earlier {
            return Ok(granted);
        }
        let noted = self.notes.read(&asked.repository, now, |repository| Noted::of(repository, asked));
        if !(noted.is_public || self.may_read_unasked(caller, &asked.repository, now)) {
            return Err(Refusal::away(why));
        }
        let granted = |commit: String, facts| {
            let Asked { repository, revision, name } = asked.clone();
            Arc::new(Granted { repository, revision, commit, name, facts })
        };
        match (noted.commit, noted.facts) {
            (Some(commit), Some(facts)) => Ok(granted(commit, facts)),
            (Some(commit), None) if noted.is_lacking => Err(Refusal::no_entry(&asked.name, &commit)),
            (commit, _) => match self.cached(asked, commit).await {
                Some((commit, Some(facts))) => Ok(granted(commit, facts)),
                // A load has looked for these, and for no others.
                Some((commit, None)) if is_looked_for(&asked.name) => Err(Refusal::no_entry(&asked.name, &commit)),
                _ => Err(Refusal::away(why)),
            },
        }
    }

    /// Returns true if a caller may read a repository without the hub's answer of now: it could a while ago, or the
    /// operator gives the model to all.
    pub(super) fn may_read_unasked(&self, caller: &Caller, repository: &str, now: Instant) -> bool {
        let question = self.question(caller, [repository, "", ""]);
        self.names(repository) || self.rights.lock().get(&question, self.config.right_away(), now).is_some()
    }

    /// The file as the cache has it, of a model that somebody loaded from the hub: its commit, and what the file is, if
    /// the model has it.
    async fn cached(&self, asked: &Asked, commit: Option<String>) -> Option<(String, Option<Facts>)> {
        let cache = self.loader.cache()?;
        for revision in commit.as_deref().into_iter().chain([asked.revision.as_str(), DEFAULT_REVISION]) {
            let url = ModelUrl::Hub { repository: asked.repository.clone(), revision: revision.to_owned() };
            let Ok(Some(kept)) = cache.kept(&url.to_string()).await else { continue };
            let Some(found) = kept.objects.iter().find_map(|object| object.tag.version.clone()) else { continue };
            if commit.as_ref().is_some_and(|commit| *commit != found) {
                continue;
            }
            let commit = found;
            let object = kept.objects.iter().find(|object| object.name == asked.name);
            return Some((commit, object.map(Facts::of)));
        }
        None
    }
}

/// The notes about a file.
struct Noted {
    is_public: bool,
    commit: Option<String>,
    facts: Option<Facts>,
    is_lacking: bool,
}

impl Noted {
    fn of(repository: &Repository, asked: &Asked) -> Self {
        let name = repository.commit_of(&asked.revision);
        let commit = name.as_deref().and_then(|name| repository.commit(name));
        Self {
            is_public: repository.is_public,
            facts: commit.and_then(|commit| commit.files.get(&asked.name).cloned()),
            is_lacking: commit.is_some_and(|commit| commit.is_known_to_lack(&asked.name)),
            commit: name,
        }
    }
}
