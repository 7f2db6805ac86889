//! `have`: what is here, what comes while a model is loaded, heartbeats, and goodbyes.

use super::client::{LIMIT, Stream};
use super::model::{Model, content};
use super::{PEER, start};
use policy::PeerRule;
use seeding::Role;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use testkit::origin::Faults;
use wire::peers::{Frame, HEARTBEAT, SILENCE_MAX};

#[tokio::test(flavor = "multi_thread")]
async fn extents_are_given_while_others_are_still_on_their_way() {
    let (running, model) = (start(|config| config.zone = Some("z1".into())).await, Model::new(12));
    let slow = Faults { total_bytes_per_second: Some(6 << 20), ..Faults::default() };
    let origin = model.origin(slow);
    let (_, load) = model.load(&origin, None).await;
    let sharing = running.seeder.offer().add(content(&load), Role::Loading);
    let peer = running.peer();
    let count = 13;
    let mut stream = Stream::open(&peer, &model.path("have"), count).await;
    let Some(Frame::State(state)) = stream.next().await else { panic!("a state first") };
    assert_eq!((state.role, state.zone.as_deref()), (Role::Loading, Some("z1")));
    let Some(Frame::Full(full)) = stream.next().await else { panic!("then all that is here") };
    let mut here: BTreeSet<u32> = full.iter().collect();
    assert!(here.len() < count as usize, "it arrived too fast for this test");
    let absent = (0..12).rev().find(|extent| !here.contains(&(extent + 1))).expect("one is missing");
    assert_eq!(peer.extents(&model.ask(u64::from(absent)..u64::from(absent) + 1)).await.status, 409);
    let mut given = 0;
    while here.len() < count as usize {
        match stream.next().await.expect("goes on") {
            Frame::Add(new) => {
                for extent in new {
                    assert!(here.insert(extent), "{extent} came twice");
                    // The first file is one extent.
                    let index = u64::from(extent) - 1;
                    let answer = peer.extents(&model.ask(index..index + 1)).await;
                    assert!(answer.status == 206 && answer.body == model.extent(index), "{extent}: {}", answer.status);
                    given += usize::from(!load.weights.is_complete());
                }
            }
            Frame::State(_) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(given > 0, "none was given while others were on their way");
    load.arrived().await.expect("arrives");
    sharing.set_role(Role::Serving);
    let begun = Instant::now();
    loop {
        if let Some(Frame::State(state)) = stream.next().await
            && state.role == Role::Serving
        {
            break;
        }
        assert!(begun.elapsed() < SILENCE_MAX, "the new role is not told");
    }
    drop(sharing);
    assert!(matches!(stream.next().await, Some(Frame::State(_))));
    assert_eq!(stream.next().await, Some(Frame::Bye));
    assert_eq!(stream.next().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_on_its_way_from_storage_is_claimed_before_it_is_here() {
    let (running, model) = (start(|_| ()).await, Model::new(12));
    let origin = model.origin(Faults { total_bytes_per_second: Some(12 << 20), ..Faults::default() });
    let load = model.load_in_fleet(&origin).await;
    let _sharing = running.seeder.offer().add(content(&load), Role::Loading);
    let mut stream = Stream::open(&running.peer(), &model.path("have"), 13).await;
    let (mut claimed, mut kept) = (BTreeSet::new(), 0);
    while kept < 5 {
        match stream.next().await.expect("goes on") {
            Frame::Claim(new) => claimed.extend(new),
            Frame::Unclaim(old) => claimed.retain(|extent| !old.contains(extent)),
            Frame::Add(new) => kept += new.iter().filter(|extent| claimed.contains(extent)).count(),
            Frame::State(_) | Frame::Full(_) => {}
            Frame::Bye => panic!("it leaves"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_says_that_it_lives() {
    let (running, model) = (start(|_| ()).await, Model::new(2));
    let _sharing = running.share(&model).await;
    let mut stream = Stream::open(&running.peer(), &model.path("have"), 3).await;
    stream.next().await.expect("a state");
    let Some(Frame::Full(full)) = stream.next().await else { panic!("what is here") };
    assert_eq!(full.count(), 3);
    let begun = Instant::now();
    assert!(matches!(stream.next().await, Some(Frame::State(_))));
    assert!(begun.elapsed() + Duration::from_millis(200) > HEARTBEAT && begun.elapsed() < SILENCE_MAX);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_never_read_is_absent_and_not_waited_for() {
    let (running, model) = (start(|_| ()).await, Model::new(2).with_unread_file());
    let _sharing = running.share(&model).await;
    let root = &running.seeder.status().roots[0];
    assert_eq!((root.extents, root.extents_here, root.is_loading), (4, 3, false));
    let peer = running.peer();
    assert_eq!(peer.get(&model.path("files/2"), &[("range", "bytes=0-6")]).await.status, 409);
    let mut stream = Stream::open(&peer, &model.path("have"), 4).await;
    stream.next().await.expect("a state");
    let Some(Frame::Full(full)) = stream.next().await else { panic!("what is here") };
    assert_eq!(full.iter().collect::<Vec<_>>(), [0, 1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_says_goodbye_and_refuses_what_is_asked_then() {
    let (running, model) = (start(|_| ()).await, Model::new(2));
    let _sharing = running.share(&model).await;
    let mut stream = Stream::open(&running.peer(), &model.path("have"), 3).await;
    for _ in 0..2 {
        stream.next().await.expect("state and full");
    }
    running.drain.start();
    let Some(Frame::State(state)) = stream.next().await else { panic!("a last state") };
    assert_eq!(state.role, Role::Draining);
    assert_eq!((stream.next().await, stream.next().await), (Some(Frame::Bye), None));
    tokio::time::timeout(LIMIT, running.seeder.finished()).await.expect("ends");
    assert!(running.peer().try_get(&model.path("manifest"), &[]).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_before_its_connection_is_cut() {
    let running = start(|config| config.tls.connection_age_max_ms = 1_000).await;
    let model = Model::new(2);
    let _sharing = running.share(&model).await;
    let mut stream = Stream::open(&running.peer(), &model.path("have"), 3).await;
    let mut last = None;
    while let Some(frame) = stream.next().await {
        last = Some(frame);
    }
    assert!(!matches!(last, Some(Frame::Bye)), "the peer may come again");
}

#[tokio::test(flavor = "multi_thread")]
async fn pinned_weights_are_offered_only_where_the_configuration_says_so() {
    for seed_pinned in [false, true] {
        let running = start(|config| config.rights.seed_pinned = seed_pinned).await;
        let model = Model::new(2);
        let origin = model.origin(Faults::default());
        let load = model.load_pinned(&origin).await;
        load.finished().await.expect("finishes");
        let content = content(&load);
        assert_eq!(content.root(), model.root(), "the computed manifest is the published one");
        let _sharing = running.seeder.offer().add(content, Role::Serving);
        let status = running.peer().get(&model.path("manifest"), &[]).await.status;
        assert_eq!(status, if seed_pinned { 200 } else { 404 });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_covers_its_tenants_alone() {
    for (tenant, status) in [("red", 200), ("blue", 404), ("*", 200)] {
        let rule = PeerRule { identities: vec![PEER.into()], tenants: vec![tenant.into()] };
        let running = start(|config| config.rights.allow = vec![rule]).await;
        let model = Model::new(1);
        let _sharing = running.share(&model).await;
        assert_eq!(running.peer().get(&model.path("manifest"), &[]).await.status, status, "{tenant}");
    }
}
