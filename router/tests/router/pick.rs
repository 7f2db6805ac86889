//! Picks as clients see them: prompts that begin alike, limits of a home, and explanations.

use crate::harness::{Front, chat_about, streamed};
use http::Method;
use http_body_util::BodyExt;
use router::PickBy;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use testkit::faulty_worker::{Answer, Ending, FaultyWorker, chat_event};

async fn workers(count: usize) -> Vec<FaultyWorker> {
    let mut workers = Vec::new();
    for _ in 0..count {
        workers.push(FaultyWorker::start(&["m"], Answer::whole_chat("hi")).await);
    }
    workers
}

async fn start(workers: &[FaultyWorker], by: PickBy) -> Front {
    let front = Front::start(&workers.iter().collect::<Vec<_>>(), |config| config.pick.by = by).await;
    // A snapshot has all of them once each was heard.
    crate::harness::wait_for("all workers", || front.total("forebay_router_worker_up") as usize == workers.len()).await;
    tokio::time::sleep(std::time::Duration::from_millis(250)).await;
    front
}

/// The worker that answered each turn of each conversation.
async fn homes(front: &Front, conversations: usize, turns: usize) -> BTreeMap<usize, Vec<String>> {
    let mut homes: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    for turn in 1..=turns {
        for number in 0..conversations {
            let said = |turn: usize| json!({"role": "user", "content": format!("conversation {number}, turn {turn}")});
            let system = json!({"role": "system", "content": "You are helpful. ".repeat(200)});
            let messages: Vec<Value> = std::iter::once(system).chain((0..turn).map(said)).collect();
            let reply = front.chat(&json!({"model": "m", "messages": messages})).await;
            assert_eq!(reply.status, 200, "{}", reply.body);
            homes.entry(number).or_default().push(reply.headers["x-forebay-worker"].to_str().expect("text").into());
        }
    }
    homes
}

#[tokio::test]
async fn the_turns_of_a_conversation_go_to_one_worker_at_every_router() {
    let workers = workers(4).await;
    let (one, other) = (start(&workers, PickBy::Prefix).await, start(&workers, PickBy::Prefix).await);
    let homes_there = homes(&one, 40, 3).await;
    for (number, homes) in &homes_there {
        assert!(homes.iter().all(|home| home == &homes[0]), "conversation {number}: {homes:?}");
    }
    let mut shares: BTreeMap<&str, u32> = BTreeMap::new();
    homes_there.values().for_each(|homes| *shares.entry(&homes[0]).or_default() += 1);
    assert!(shares.len() == 4 && shares.values().all(|share| *share >= 2), "{shares:?}");
    assert_eq!(
        homes(&other, 40, 1).await.values().collect::<Vec<_>>(),
        homes_there.values().map(|homes| vec![homes[0].clone()]).collect::<Vec<_>>().iter().collect::<Vec<_>>()
    );
    let by_load = start(&workers, PickBy::LeastLoad).await;
    let spread = homes(&by_load, 1, 24).await;
    assert!(spread[&0].iter().any(|home| *home != spread[&0][0]), "{spread:?}");
}

#[tokio::test]
async fn a_prompt_that_all_send_is_spread_once_its_home_has_its_share() {
    let workers = workers(4).await;
    for worker in &workers {
        worker.always(Answer::stream(vec![chat_event(0, "a", None)]).ending(Ending::Stall));
    }
    let front = start(&workers, PickBy::Prefix).await;
    let mut open = Vec::new();
    for _ in 0..80 {
        let mut response = front.open_chat(&streamed()).await;
        response.body_mut().frame().await.expect("an event").expect("bytes");
        open.push(response);
    }
    let held: Vec<usize> = workers.iter().map(|worker| worker.received().len()).collect();
    let most = held.iter().max().expect("four");
    assert!(*most <= 26 && held.iter().sum::<usize>() == 80, "1.25 times the mean of 20 at most: {held:?}");
    drop(open);
    front.assert_idle(&workers.iter().collect::<Vec<_>>()).await;
    let explained = explain(&front, "", &chat_about("hi")).await;
    let all = explained["candidates"].as_array().expect("a list");
    assert!(all.iter().all(|one| one["held"] == 0 && one["in_flight"] == 0), "{explained}");
}

async fn explain(front: &Front, query: &str, body: &Value) -> Value {
    let path = format!("/admin/explain/v1/chat/completions{query}");
    let json = [("content-type", "application/json")];
    let reply = front.send(Method::POST, &path, &json, body.to_string().into_bytes()).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    reply.json()
}

#[tokio::test]
async fn a_pick_is_explained_to_who_asks() {
    let workers = workers(3).await;
    let front = start(&workers, PickBy::Prefix).await;
    let body = chat_about("why there?");
    let plain = front.chat(&body).await;
    assert!(!plain.headers.contains_key("x-forebay-explain"));
    let asked = [("x-forebay-explain", "1")];
    let reply = front.send(Method::POST, "/v1/chat/completions", &asked, body.to_string().into_bytes()).await;
    let told = reply.headers["x-forebay-explain"].to_str().expect("text");
    assert!(told.starts_with("by=prefix; passed=0; load=0; ") && told.ends_with("members=3"), "{told}");
    let worker = reply.headers["x-forebay-worker"].to_str().expect("text");
    let explained = explain(&front, "", &body).await;
    assert_eq!(
        (explained["worker"].as_str(), explained["why"]["by"].as_str()),
        (Some(worker), Some("prefix")),
        "{explained}"
    );
    let candidates = explained["candidates"].as_array().expect("a list");
    assert_eq!((candidates.len(), candidates[0]["worker"].as_str()), (3, Some(worker)), "the home comes first");
    assert_ne!(explain(&front, "?tenant=red", &body).await["prefix"], explained["prefix"]);
    assert_eq!(explain(&front, "", &json!({"model": "x", "messages": []})).await["refused"], "unknown_model");
    let sent: usize = workers.iter().map(|worker| worker.received().len()).sum();
    assert_eq!(sent, 2, "an explanation sends nothing");
    for worker in &workers {
        assert!(worker.received().iter().all(|request| !request.headers.contains_key("x-forebay-explain")));
    }
    let wrong = front
        .send(Method::POST, "/admin/explain/v1/nothing", &[("content-type", "application/json")], b"{}".to_vec())
        .await;
    assert_eq!(wrong.status, 404);
}

#[tokio::test]
async fn a_home_that_is_gone_is_passed_and_found_again() {
    let mut workers = workers(3).await;
    let front = start(&workers, PickBy::Prefix).await;
    let body = chat_about("where to?");
    let home = front.chat(&body).await.headers["x-forebay-worker"].to_str().expect("text").to_owned();
    let at = workers.iter().position(|worker| worker.name() == home).expect("one of them");
    workers[at].next(Answer::error(503, "full"));
    let reply = front.chat(&body).await;
    let next = reply.headers["x-forebay-worker"].to_str().expect("text").to_owned();
    assert!(reply.status == 200 && next != home, "{} at {next}", reply.status);
    workers[at].die().await;
    for _ in 0..5 {
        let reply = front.chat(&body).await;
        assert_eq!((reply.status, reply.headers["x-forebay-worker"].to_str().expect("text")), (200, next.as_str()));
    }
}
