//! Every source on real sockets, and through its failures.

use discovery::{DiscoveryConfig, Means, Member, Members, start};
use serde_json::{Value, json};
use std::net::IpAddr;
use std::time::Duration;
use telemetry::metrics::Registry;
use testkit::api_server::{ApiServer, Fault, pod};
use testkit::dns_server::{DnsServer, Reply};

/// Discovery with short times.
fn config() -> DiscoveryConfig {
    DiscoveryConfig { interval_ms: 20, timeout_ms: 2_000, forget_after_ms: 300, ..DiscoveryConfig::default() }
}

fn found(config: &DiscoveryConfig, registry: &Registry) -> Members {
    start(config, &Means { of: "peers", ..Means::default() }, registry).expect("settings that are right")
}

fn addresses(members: &[Member]) -> Vec<String> {
    members.iter().map(|member| member.address.clone()).collect()
}

/// Waits until these are the members, in order.
async fn wait_for(members: &mut Members, expected: &[&str]) {
    let waited = tokio::time::timeout(Duration::from_secs(20), async {
        let mut now = members.current();
        while addresses(&now) != expected {
            now = members.changed().await;
        }
    });
    let is_there = waited.await.is_ok();
    assert!(is_there, "waited for {expected:?}, and it is {:?}", addresses(&members.current()));
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..4_000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("waited 20 s for {what}");
}

fn metric(registry: &Registry, name: &str) -> f64 {
    let text = registry.render();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().expect("a number"))
}

fn errors(registry: &Registry, source: &str) -> f64 {
    metric(registry, &format!("forebay_discovery_answers_total{{of=\"peers\",outcome=\"error\",source=\"{source}\"}}"))
}

fn ip(number: u8) -> IpAddr {
    [10, 0, 0, number].into()
}

// --- static and file ------------------------------------------------------------------------------

#[tokio::test]
async fn a_static_list_is_there_at_once_and_never_changes() {
    let config = DiscoveryConfig { fixed: vec!["10.0.0.2:1".into(), "a.example:2".into()], ..config() };
    let mut members = found(&config, &Registry::new());
    assert_eq!(addresses(&members.settled(Duration::from_secs(20)).await), ["10.0.0.2:1", "a.example:2"]);
    members.changed().await;
    assert!(tokio::time::timeout(Duration::from_millis(200), members.changed()).await.is_err());
}

#[tokio::test]
async fn without_a_source_there_is_nobody_and_nothing_to_wait_for() {
    let members = found(&config(), &Registry::new());
    let settled = tokio::time::timeout(Duration::from_secs(20), members.settled(Duration::from_secs(60))).await;
    assert!(settled.expect("at once").is_empty());
}

#[tokio::test]
async fn a_file_is_followed_and_a_broken_one_leaves_the_last_members() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("members.json");
    let write = |text: &str| {
        std::fs::write(dir.path().join("new"), text).expect("writes");
        std::fs::rename(dir.path().join("new"), &path).expect("renames");
    };
    write(r#"{"members": [{"address": "10.0.0.1:1", "zone": "a"}]}"#);
    let registry = Registry::new();
    let mut members =
        found(&DiscoveryConfig { file: Some(path.clone()), zone: Some("a".into()), ..config() }, &registry);
    wait_for(&mut members, &["10.0.0.1:1"]).await;
    assert!(members.current()[0].is_near);
    write("{");
    until("an error", || errors(&registry, "file") > 2.0).await;
    assert_eq!(addresses(&members.current()), ["10.0.0.1:1"]);
    write(r#"{"members": [{"address": "10.0.0.2:1"}]}"#);
    wait_for(&mut members, &["10.0.0.2:1"]).await;
}

// --- DNS ----------------------------------------------------------------------------------------

async fn over_dns(reply: Reply, name: &str) -> (DnsServer, Members, Registry) {
    let server = DnsServer::start(reply).await;
    let registry = Registry::new();
    let dns = DiscoveryConfig { dns: Some(name.into()), dns_servers: vec![server.address()], ..config() };
    let members = found(&dns, &registry);
    (server, members, registry)
}

#[tokio::test]
async fn addresses_of_a_host_are_members_and_go_when_they_were_not_named_for_a_while() {
    let (server, mut members, _) = over_dns(Reply::Addresses(vec![ip(1), ip(2)]), "workers.test.:8082").await;
    wait_for(&mut members, &["10.0.0.1:8082", "10.0.0.2:8082"]).await;
    assert_eq!(members.current()[0].name, "workers.test");
    server.reply(Reply::Addresses(vec![ip(2), ip(3)]));
    wait_for(&mut members, &["10.0.0.1:8082", "10.0.0.2:8082", "10.0.0.3:8082"]).await;
    wait_for(&mut members, &["10.0.0.2:8082", "10.0.0.3:8082"]).await;
    server.reply(Reply::Code(3));
    wait_for(&mut members, &[]).await;
}

#[tokio::test]
async fn a_host_with_ipv6_alone_is_found() {
    let addresses = vec!["fd00::1".parse().expect("an address")];
    let (_server, mut members, _) = over_dns(Reply::Addresses(addresses), "workers.test.:8082").await;
    wait_for(&mut members, &["[fd00::1]:8082"]).await;
}

#[tokio::test]
async fn srv_records_name_hosts_and_ports() {
    let targets = vec![("w-0.workers.test".to_owned(), 8_082), ("w-1.workers.test".to_owned(), 9_000)];
    let (_server, mut members, _) = over_dns(Reply::Services(targets), "_peers._tcp.workers.test.").await;
    wait_for(&mut members, &["w-0.workers.test:8082", "w-1.workers.test:9000"]).await;
    assert_eq!(members.current()[1].name, "w-1.workers.test");
}

#[tokio::test]
async fn while_dns_fails_in_any_way_the_last_members_stand() {
    let (server, mut members, registry) = over_dns(Reply::Addresses(vec![ip(1)]), "workers.test.:8082").await;
    wait_for(&mut members, &["10.0.0.1:8082"]).await;
    for reply in [Reply::Code(2), Reply::Code(5), Reply::Garbage(vec![0x81, 0x80, 0xff]), Reply::Garbage(Vec::new())] {
        let before = errors(&registry, "dns");
        server.reply(reply.clone());
        until("two failures", || errors(&registry, "dns") >= before + 2.0).await;
        assert_eq!(addresses(&members.current()), ["10.0.0.1:8082"], "{reply:?}");
    }
    server.reply(Reply::Addresses(vec![ip(2)]));
    wait_for(&mut members, &["10.0.0.2:8082"]).await;
}

#[tokio::test]
async fn more_addresses_than_a_packet_holds_come_over_tcp_and_the_bound_holds() {
    let many: Vec<IpAddr> = (0..3_900_u16).map(|number| [10, 1, (number >> 8) as u8, number as u8].into()).collect();
    let server = DnsServer::start(Reply::Addresses(many)).await;
    let registry = Registry::new();
    let dns = DiscoveryConfig {
        dns: Some("workers.test.:1".into()),
        dns_servers: vec![server.address()],
        members_max: 3_000,
        ..config()
    };
    let members = found(&dns, &registry);
    until("members", || members.current().len() == 3_000).await;
    assert_eq!(metric(&registry, "forebay_discovery_left_out_members{of=\"peers\",reason=\"surplus\"}"), 900.0);
    // More than a message can hold: it is cut off, and no answer.
    server.reply(Reply::Addresses((0..10_000_u16).map(|n| [10, 2, (n >> 8) as u8, n as u8].into()).collect()));
    until("a failure", || errors(&registry, "dns") > 0.0).await;
    assert_eq!(members.current().len(), 3_000);
}

#[tokio::test]
async fn addresses_that_no_member_has_are_counted_and_left_out() {
    let strange = ["0.0.0.0", "224.0.0.1", "169.254.169.254", "255.255.255.255", "10.0.0.1"];
    let addresses = strange.iter().map(|text| text.parse().expect("an address")).collect();
    let (_server, mut members, registry) = over_dns(Reply::Addresses(addresses), "workers.test.:1").await;
    wait_for(&mut members, &["10.0.0.1:1"]).await;
    assert_eq!(metric(&registry, "forebay_discovery_left_out_members{of=\"peers\",reason=\"unusable\"}"), 4.0);
}

#[tokio::test]
async fn nobody_asks_once_the_list_is_dropped() {
    let (server, mut members, _) = over_dns(Reply::Addresses(vec![ip(1)]), "workers.test.:1").await;
    wait_for(&mut members, &["10.0.0.1:1"]).await;
    drop(members);
    tokio::task::yield_now().await;
    let asked = server.questions();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(server.questions() <= asked + 1, "one may have been on its way");
}

#[tokio::test]
async fn this_process_is_no_member_of_its_own() {
    let server = DnsServer::start(Reply::Addresses(vec![[127, 0, 0, 1].into(), ip(1)])).await;
    let dns = DiscoveryConfig { dns: Some("x.test.:7".into()), dns_servers: vec![server.address()], ..config() };
    let means = |port| Means { of: "peers", own_port: Some(port), ..Means::default() };
    let mut members = start(&dns, &means(7), &Registry::new()).expect("settings");
    wait_for(&mut members, &["10.0.0.1:7"]).await;
    assert_eq!(members.own().map(|own| own.address), Some("127.0.0.1:7".into()));
    let mut others = start(&dns, &means(8), &Registry::new()).expect("settings");
    wait_for(&mut others, &["10.0.0.1:7", "127.0.0.1:7"]).await;
}

// --- Kubernetes ---------------------------------------------------------------------------------

struct Cluster {
    server: ApiServer,
    members: Members,
    registry: Registry,
    _dir: tempfile::TempDir,
}

impl Cluster {
    async fn start(slices: &[(&str, Value)], adjust: impl FnOnce(&mut DiscoveryConfig)) -> Self {
        let server = ApiServer::start().await;
        for (name, endpoints) in slices {
            server.put(name, endpoints.clone());
        }
        let dir = tempfile::tempdir().expect("a directory");
        let mut config = DiscoveryConfig {
            kubernetes: Some("forebay/workers:peers".into()),
            kubernetes_api: Some(server.url()),
            kubernetes_token_file: Some(server.token_file(dir.path())),
            ..config()
        };
        adjust(&mut config);
        let registry = Registry::new();
        let members = found(&config, &registry);
        Self { server, members, registry, _dir: dir }
    }

    async fn wait_for(&mut self, expected: &[&str]) {
        wait_for(&mut self.members, expected).await;
    }

    async fn watching(&self) {
        until(&format!("a watch after {:?}", self.server.asked().last()), || self.server.watches() == 1).await;
    }

    async fn failed(&self, times: f64) {
        let before = errors(&self.registry, "kubernetes");
        until("failures", || errors(&self.registry, "kubernetes") >= before + times).await;
    }

    /// The questions that were lists from the beginning.
    fn lists(&self) -> usize {
        let is_list = |asked: &&String| !asked.contains("watch=true") && !asked.contains("continue=");
        self.server.asked().iter().filter(is_list).count()
    }
}

fn one(number: u8) -> Value {
    json!([pod(&format!("w-{number}"), &format!("10.0.0.{number}"), "a")])
}

#[tokio::test]
async fn endpoints_are_members_and_every_change_arrives() {
    let mut cluster = Cluster::start(&[("s1", one(1))], |_| ()).await;
    cluster.wait_for(&["10.0.0.1:8082"]).await;
    let member = cluster.members.current()[0].clone();
    assert_eq!((member.id.as_str(), member.name.as_str()), ("forebay/w-1", "w-1.workers.forebay.svc"));
    assert_eq!(member.zone.as_deref(), Some("a"));
    cluster.watching().await;
    cluster.server.put("s2", one(2));
    cluster.wait_for(&["10.0.0.1:8082", "10.0.0.2:8082"]).await;
    cluster.server.put("s1", one(3));
    cluster.wait_for(&["10.0.0.2:8082", "10.0.0.3:8082"]).await;
    cluster.server.remove("s2");
    cluster.wait_for(&["10.0.0.3:8082"]).await;
    assert_eq!(cluster.lists(), 1);
}

#[tokio::test]
async fn a_long_list_is_read_page_by_page() {
    let slices: Vec<(String, Value)> = (1..=40).map(|number| (format!("s{number:02}"), one(number))).collect();
    let slices: Vec<(&str, Value)> = slices.iter().map(|(name, slice)| (name.as_str(), slice.clone())).collect();
    let cluster = Cluster::start(&slices, |_| ()).await;
    until("all members", || cluster.members.current().len() == 40).await;
    let pages = cluster.server.asked().iter().filter(|asked| asked.contains("limit=")).count();
    assert_eq!(pages, 3);
}

#[tokio::test]
async fn a_watch_that_ends_or_breaks_goes_on_where_it_was() {
    let mut cluster = Cluster::start(&[("s1", one(1))], |_| ()).await;
    cluster.watching().await;
    cluster.server.bookmark();
    cluster.server.put("s2", one(2));
    cluster.wait_for(&["10.0.0.1:8082", "10.0.0.2:8082"]).await;
    for cut in [false, true, false, true] {
        let before = cluster.server.asked().len();
        if cut {
            cluster.server.cut_watches()
        } else {
            cluster.server.end_watches()
        };
        until("another watch", || cluster.server.asked().len() > before).await;
        cluster.watching().await;
    }
    cluster.server.put("s3", one(3));
    cluster.wait_for(&["10.0.0.1:8082", "10.0.0.2:8082", "10.0.0.3:8082"]).await;
    assert_eq!(cluster.lists(), 1, "no list was needed again");
    assert!(cluster.server.asked().last().is_some_and(|asked| asked.contains("resourceVersion=4")));
}

#[tokio::test]
async fn a_watch_is_renewed_after_its_time_and_counts_as_an_answer() {
    let cluster = Cluster::start(&[("s1", one(1))], |config| config.watch_ms = 1_000).await;
    until("three watches", || {
        cluster.server.asked().iter().filter(|asked| asked.contains("timeoutSeconds=1&")).count() >= 3
    })
    .await;
    let answers = "forebay_discovery_answers_total{of=\"peers\",outcome=\"ok\",source=\"kubernetes\"}";
    assert!(metric(&cluster.registry, answers) >= 3.0);
    assert_eq!((cluster.lists(), errors(&cluster.registry, "kubernetes")), (1, 0.0));
}

#[tokio::test]
async fn a_version_that_was_forgotten_begins_a_new_list() {
    let mut cluster = Cluster::start(&[("s1", one(1))], |_| ()).await;
    cluster.watching().await;
    // While nobody watches, one goes and one comes, and the server forgets how.
    cluster.server.fail(Fault::Status(500));
    cluster.server.cut_watches();
    cluster.failed(1.0).await;
    cluster.server.remove("s1");
    cluster.server.put("s2", one(2));
    cluster.server.compact();
    cluster.server.fail(Fault::None);
    cluster.wait_for(&["10.0.0.2:8082"]).await;
    assert_eq!(cluster.lists(), 2);
    // As HTTP's own status, too.
    cluster.watching().await;
    cluster.server.fail(Fault::Status(410));
    cluster.server.cut_watches();
    until("a list", || cluster.lists() >= 3).await;
    cluster.server.fail(Fault::None);
    cluster.server.put("s3", one(3));
    cluster.wait_for(&["10.0.0.2:8082", "10.0.0.3:8082"]).await;
}

#[tokio::test]
async fn while_the_server_is_away_or_wrong_in_any_way_the_last_members_stand() {
    let mut cluster = Cluster::start(&[("s1", one(1))], |config| config.timeout_ms = 300).await;
    cluster.wait_for(&["10.0.0.1:8082"]).await;
    let faults = [
        Fault::Status(401),
        Fault::Status(403),
        Fault::Status(429),
        Fault::Status(503),
        Fault::Cut,
        Fault::Stall,
        Fault::Body(b"<html>".to_vec()),
        Fault::Body(b"{}".to_vec()),
        Fault::Body(b"{\"items\": 7}".to_vec()),
        Fault::Body(Vec::new()),
        Fault::Endless(b"{\"items\": [".to_vec()),
        Fault::Endless(vec![b' ']),
    ];
    for fault in faults {
        cluster.server.fail(fault.clone());
        cluster.server.compact();
        cluster.server.cut_watches();
        cluster.failed(1.0).await;
        assert_eq!(addresses(&cluster.members.current()), ["10.0.0.1:8082"], "{fault:?}");
        cluster.server.fail(Fault::None);
        cluster.watching().await;
        // What is heard ends the row of failures, and with it the growing waits.
        cluster.server.bookmark();
    }
    cluster.server.die().await;
    cluster.failed(2.0).await;
    assert_eq!(addresses(&cluster.members.current()), ["10.0.0.1:8082"]);
    cluster.server.put("s1", one(2));
    cluster.server.revive().await;
    cluster.wait_for(&["10.0.0.2:8082"]).await;
}

#[tokio::test]
async fn a_token_that_is_renewed_is_used_from_then_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let token = dir.path().join("account-token");
    std::fs::write(&token, "an old one").expect("writes");
    let given = token.clone();
    let mut cluster = Cluster::start(&[("s1", one(1))], |config| config.kubernetes_token_file = Some(given)).await;
    cluster.failed(2.0).await;
    std::fs::copy(cluster.server.token_file(dir.path()), &token).expect("copies");
    cluster.wait_for(&["10.0.0.1:8082"]).await;
}

#[tokio::test]
async fn a_change_that_cannot_be_read_is_got_by_a_list() {
    let mut cluster = Cluster::start(&[("s1", one(1))], |_| ()).await;
    cluster.watching().await;
    cluster.server.send("MODIFIED", json!({"metadata": "x"}));
    until("a list", || cluster.lists() == 2).await;
    cluster.watching().await;
    cluster.server.send("RENAMED", json!({}));
    cluster.server.put("s2", one(2));
    cluster.wait_for(&["10.0.0.1:8082", "10.0.0.2:8082"]).await;
}

#[tokio::test]
async fn a_hundred_thousand_endpoints_leave_as_many_as_the_bound_allows() {
    let slice = |from: usize| -> Value {
        let pods = (from..from + 1_000).map(|number| {
            let address = format!("10.{}.{}.{}", number >> 16, number >> 8 & 255, number & 255);
            pod(&format!("w-{number}"), &address, if number % 100 == 0 { "a" } else { "b" })
        });
        pods.collect()
    };
    let slices: Vec<(String, Value)> = (0..100).map(|at| (format!("s{at:03}"), slice(at * 1_000))).collect();
    let slices: Vec<(&str, Value)> = slices.iter().map(|(name, slice)| (name.as_str(), slice.clone())).collect();
    let cluster = Cluster::start(&slices, |config| {
        (config.members_max, config.timeout_ms, config.zone) = (500, 60_000, Some("a".into()));
    })
    .await;
    until("members", || cluster.members.current().len() == 500).await;
    assert!(
        metric(&cluster.registry, "forebay_discovery_left_out_members{of=\"peers\",reason=\"unusable\"}") >= 98_000.0
    );
}

#[tokio::test]
async fn a_flapping_endpoint_makes_few_lists_and_ends_right() {
    let mut cluster = Cluster::start(&[("s1", one(1))], |_| ()).await;
    cluster.watching().await;
    let mut counter = cluster.members.clone();
    let counting = tokio::spawn(async move {
        let mut changes = 0;
        while tokio::time::timeout(Duration::from_secs(1), counter.changed()).await.is_ok() {
            changes += 1;
        }
        changes
    });
    for _ in 0..500 {
        cluster.server.put("s2", one(2));
        cluster.server.remove("s2");
    }
    cluster.server.put("s2", one(3));
    cluster.wait_for(&["10.0.0.1:8082", "10.0.0.3:8082"]).await;
    let changes = counting.await.expect("no panic");
    assert!(changes <= 40, "{changes} lists for a thousand changes");
}

#[tokio::test]
async fn two_sources_add_up_and_one_that_fails_takes_nothing_from_the_other() {
    let cluster = Cluster::start(&[("s1", one(1))], |config| config.fixed = vec!["10.0.0.9:1".into()]).await;
    let mut members = cluster.members.clone();
    wait_for(&mut members, &["10.0.0.9:1", "10.0.0.1:8082"]).await;
    cluster.server.fail(Fault::Cut);
    cluster.server.cut_watches();
    cluster.failed(1.0).await;
    assert_eq!(members.current().len(), 2);
}
