//! Starts the sources, and turns their words into one list.

use crate::address::is_of_this_machine;
use crate::config::{ConfigError, DiscoveryConfig};
use crate::dns::Dns;
use crate::file::File;
use crate::member::Member;
use crate::members::{Feed, Members};
use crate::meter::Meter;
use crate::roster::{Found, Moment, News, Roster, Rules};
use crate::router::Router;
use crate::source::{Line, Word, poll};
use http::HeaderValue;
use listen::ClientTls;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;
use telemetry::metrics::Registry;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// The least time between two lists: a hundred members that change at once make one.
const PUBLISH_EVERY: Duration = Duration::from_millis(100);
/// Words of sources that wait to be taken in.
const WORDS_MAX: usize = 16;

/// The process that discovery works for, as far as it must be known.
#[derive(Debug, Clone, Default)]
pub struct Means {
    /// The members' use, as metrics name it, e.g. `workers`.
    pub of: &'static str,
    /// The port on which this process is a member itself, if it is.
    pub own_port: Option<u16>,
    /// The key that routers and workers share.
    pub key: Option<String>,
    /// For a router at an `https://` URL.
    pub tls: Option<ClientTls>,
}

/// Looks for members from now on, until the last clone of the list is dropped. Call it within a tokio runtime.
///
/// # Errors
/// The key of the settings that is wrong.
pub fn start(config: &DiscoveryConfig, means: &Means, registry: &Registry) -> Result<Members, ConfigError> {
    config.check()?;
    let (sender, words) = mpsc::channel(WORDS_MAX);
    let (feed, members) = Members::fed();
    let mut tasks = JoinSet::new();
    let names = spawn(config, means, &sender, &mut tasks)?;
    drop(sender);
    let rules = Rules {
        members_max: config.members_max,
        forget_after: config.forget_after(),
        zone: config.zone.clone().filter(|zone| !zone.is_empty()),
        tls_name: config.tls_name.clone(),
    };
    let publisher = Publisher {
        roster: Roster::new(rules, names.len()),
        meter: Meter::new(registry, means.of, &names),
        own: Own::new(config, means),
        feed,
        begun: Instant::now(),
    };
    tasks.spawn(publisher.run(words));
    Ok(members.with_tasks(tasks))
}

/// Starts every source that the settings name; returns their names.
fn spawn(
    config: &DiscoveryConfig,
    means: &Means,
    words: &mpsc::Sender<Word>,
    tasks: &mut JoinSet<()>,
) -> Result<Vec<&'static str>, ConfigError> {
    let mut names = Vec::new();
    let mut line = |name| {
        names.push(name);
        Line { source: names.len() - 1, name, words: words.clone() }
    };
    let interval = config.interval();
    let fixed = config.fixed_members()?;
    if !fixed.is_empty() {
        let (line, found) = (line("static"), fixed.into_iter().map(without_hints).collect());
        tasks.spawn(async move {
            line.send(News::Whole(found), 0).await;
        });
    }
    if let Some(path) = config.file.clone() {
        tasks.spawn(poll(File::new(path, config.timeout()), line("file"), interval, News::Whole));
    }
    if let Some(name) = config.dns_name()? {
        tasks.spawn(poll(Dns::new(name, config), line("dns"), interval, News::Sample));
    }
    if let Some(url) = config.router_url()? {
        let router = Router::new(url, bearer(means.key.as_deref()), means.tls.clone(), config.timeout());
        tasks.spawn(poll(router, line("router"), interval, News::Sample));
    }
    if let Some(service) = config.service()? {
        tasks.spawn(crate::kubernetes::follow(service, config.clone(), line("kubernetes")));
    }
    Ok(names)
}

fn without_hints(member: Member) -> Found {
    Found { member, for_zones: Vec::new() }
}

fn bearer(key: Option<&str>) -> Option<HeaderValue> {
    let mut header = HeaderValue::from_str(&format!("Bearer {}", key?)).ok()?;
    header.set_sensitive(true);
    Some(header)
}

/// Takes in words, and publishes the list that follows from them.
struct Publisher {
    roster: Roster,
    meter: Meter,
    own: Own,
    feed: Feed,
    begun: Instant,
}

impl Publisher {
    async fn run(mut self, mut words: mpsc::Receiver<Word>) {
        if self.roster.is_complete() {
            self.publish();
        }
        while let Some(word) = words.recv().await {
            self.hear(word);
            while let Ok(word) = words.try_recv() {
                self.hear(word);
            }
            self.publish();
            tokio::time::sleep(PUBLISH_EVERY).await;
        }
    }

    fn hear(&mut self, word: Word) {
        let now: Moment = self.begun.elapsed();
        let (source, is_answer) = (word.source, word.news != News::Silence);
        self.roster.hear(source, word.news, now);
        self.meter.heard(source, is_answer, self.roster.count(source), word.refused);
    }

    fn publish(&mut self) {
        let own = &mut self.own;
        let known = own.among(&self.roster.addresses());
        let listed = self.roster.list(|member| known.contains(&member.address));
        self.meter.listed(listed.members.len(), listed.left_out);
        let count = listed.members.len();
        if self.feed.replace(listed.members, listed.own, self.roster.is_complete()) {
            tracing::debug!(of = self.meter.of(), members = count, "the members changed");
        }
    }
}

/// Tells this process among the members.
#[derive(Debug)]
struct Own {
    port: Option<u16>,
    hosts: HashSet<String>,
    /// Addresses that were looked at, and whether they are of this machine. It is as long as the list of members.
    looked_at: HashMap<IpAddr, bool>,
}

impl Own {
    fn new(config: &DiscoveryConfig, means: &Means) -> Self {
        let mut hosts: HashSet<String> = config.own_hosts.iter().cloned().collect();
        hosts.extend(host_name());
        Self { port: means.own_port, hosts, looked_at: HashMap::new() }
    }

    /// The addresses, among these, of this process.
    fn among(&mut self, addresses: &[String]) -> HashSet<String> {
        let before = std::mem::take(&mut self.looked_at);
        let mut own = HashSet::new();
        for address in addresses {
            let Ok(member) = Member::at(address) else { continue };
            if self.port.is_none() || member.port() != self.port {
                continue;
            }
            let is_own = match member.host().parse::<IpAddr>() {
                Ok(ip) => {
                    let look = || is_of_this_machine(ip);
                    *self.looked_at.entry(ip).or_insert_with(|| before.get(&ip).copied().unwrap_or_else(look))
                }
                // A pod's name is the first label of its host.
                Err(_) => self.hosts.contains(member.host().split('.').next().unwrap_or_default()),
            };
            if is_own || self.hosts.contains(member.host()) {
                own.insert(address.clone());
            }
        }
        own
    }
}

/// The machine's or the pod's name, without a domain.
fn host_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().split('.').next()?.to_owned()).filter(|name| !name.is_empty())
}
