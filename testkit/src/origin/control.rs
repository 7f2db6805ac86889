//! The origin's own endpoints, under `/__origin/`: read the account, reset it, change the faults
//! while it runs. They are outside the books and the faults.

use super::faults::Faults;
use super::reply::Reply;
use super::request::Request;
use super::state::State;
use serde_json::json;

/// The answer, if the request is for one of these endpoints.
pub(super) fn answer(state: &State, request: &Request) -> Option<Reply> {
    let name = request.path.strip_prefix("__origin/")?;
    let reply = match (request.method.as_str(), name) {
        ("GET", "account") => json_of(&state.books.account()),
        ("GET", "log") => json_of(&state.books.log()),
        ("GET", "faults") => json_of(&state.active().faults),
        ("POST", "reset") => {
            state.books.reset();
            Reply::json(200, &json!({"reset": true}))
        }
        ("POST" | "PUT", "faults") => match serde_json::from_slice::<Faults>(&request.body) {
            Ok(faults) => {
                state.set_faults(faults);
                Reply::json(200, &json!({"faults": "set"}))
            }
            Err(error) => Reply::json(400, &json!({"error": format!("these are no faults: {error}")})),
        },
        _ => {
            let known = "GET account, log, faults; POST reset, faults";
            Reply::json(404, &json!({"error": format!("no such endpoint; there are {known}")}))
        }
    };
    Some(reply)
}

fn json_of(value: &impl serde::Serialize) -> Reply {
    match serde_json::to_string_pretty(value) {
        Ok(text) => Reply::text(200, "application/json", text),
        Err(error) => Reply::json(500, &json!({"error": error.to_string()})),
    }
}
