//! The gate, in three steps. From facts: `identify` says who asks, `needs` what a request has to
//! hold, `lease` takes it, and `decide` says whether the request may go on, and under which
//! obligations. What was leased is settled on every path out: dropped, it is spent; given back, it
//! was never taken.

use crate::access::{Access, Identified, Unidentified};
use crate::config::{ConfigError, PolicyConfig};
use crate::guesses::{Client, Guesses};
use crate::key::Presented;
use crate::limits::{AllLimits, Cost, Limits, Needs, Reached, Reservation};
use crate::moment::Moment;
use crate::rules::{Rules, Share};
use crate::screen::{DenyList, OutputScreen, PromptScreen};
use crate::usage::Use;
use crate::version::BundleId;
use core::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use wire::openai::endpoint::Endpoint;
use wire::openai::filter::FilterResults;
use wire::openai::scan::Scan;
use wire::openai::splice::Edit;
use wire::openai::{ApiError, ErrorKind};

/// A compiled configuration. Cheap to ask: nothing is built per request.
#[derive(Debug)]
pub struct Policy {
    access: Access,
    guesses: Arc<Guesses>,
    limits: AllLimits,
    assumed_max_tokens: u64,
    rules: Rules,
    /// Rules on trial, and their share of requests.
    candidate: Option<(Rules, Share)>,
    tells_results: bool,
}

/// The facts of a decision.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The caller.
    pub who: &'a Identified,
    /// The endpoint asked.
    pub endpoint: &'static Endpoint,
    /// The request's body.
    pub body: &'a [u8],
    /// Where in it the texts are that can reach a prompt.
    pub scan: &'a Scan,
}

/// The proof that a request may be dispatched; only `Policy::decide` makes one. It keeps the
/// screens it was admitted under: a new configuration does not change a stream half way.
#[derive(Debug)]
pub struct Admitted {
    tenant: Arc<str>,
    deny_list: Option<Arc<DenyList>>,
    obligations: Vec<Obligation>,
    version: Option<BundleId>,
    tells_results: bool,
}

/// A condition of an admission, which whoever dispatches the request fulfils.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obligation {
    /// The body that goes on has these edits, which are sorted and disjoint.
    Rewrite(Vec<Edit>),
    /// The answer, the trace and the metrics bear this label.
    Annotate(Arc<str>),
}

impl Admitted {
    /// The tenant's name.
    #[must_use]
    pub fn tenant(&self) -> &str {
        &self.tenant
    }

    /// The conditions of the admission.
    #[must_use]
    pub fn obligations(&self) -> &[Obligation] {
        &self.obligations
    }

    /// The results of the filter over the prompt; `None` where answers do not tell them.
    #[must_use]
    pub fn prompt_results(&self) -> Option<FilterResults> {
        let labels = self.obligations.iter().filter_map(|obligation| match obligation {
            Obligation::Annotate(label) => Some(label.to_string()),
            Obligation::Rewrite(_) => None,
        });
        self.tells_results.then(|| FilterResults::noted(labels))
    }

    /// The version of the bundle that it was decided by; `None` where the lists are no bundle's.
    #[must_use]
    pub const fn version(&self) -> Option<&BundleId> {
        self.version.as_ref()
    }

    /// True if a list is active, so that the answer has to be screened.
    #[must_use]
    pub const fn is_screened(&self) -> bool {
        self.deny_list.is_some()
    }

    /// A screen for one channel of one choice; `None` where no list is active. Of text that its
    /// reader unescapes once more (`is_escaped`) both readings are screened.
    #[must_use]
    pub fn output_screen(&self, is_escaped: bool) -> Option<OutputScreen> {
        self.deny_list.clone().map(|list| OutputScreen::new(list, is_escaped))
    }

    /// A screen for texts that are there as a whole; `None` where no list is active.
    #[must_use]
    pub fn text_screen(&self) -> Option<PromptScreen<'_>> {
        self.deny_list.as_deref().map(PromptScreen::new)
    }
}

/// The reason why a request may not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Rejection {
    /// A key is needed and none was sent.
    #[error("no API key was sent; send `authorization: Bearer KEY`")]
    MissingKey,
    /// The key belongs to nobody.
    #[error("the API key is not known here")]
    WrongKey,
    /// The client sent so many wrong keys that none is looked at now.
    #[error("too many wrong API keys came from this address; try again in {retry_after:?} with the right one")]
    TooManyWrongKeys {
        /// When a key is looked at again.
        retry_after: Duration,
    },
    /// The caller has used what it may.
    #[error("{}", told(.reached))]
    LimitReached {
        /// The limit.
        reached: Reached,
        /// The rest of the caller's limits.
        limits: Limits,
    },
    /// The prompt holds a denied phrase. Which one is not said: it would spell out the list.
    #[error("the prompt was refused by this server's content policy; change the wording")]
    PromptBlocked {
        /// The field that holds the prompt.
        field: &'static str,
    },
    /// The prompt holds a phrase that is to be replaced, where it cannot be.
    #[error(
        "the prompt holds words that this server's content policy replaces, in a place where it cannot: over two \
         texts, in a name, a number or an escape, or too often; change the wording"
    )]
    PromptNotRedactable {
        /// The field that holds the prompt.
        field: &'static str,
    },
    /// The prompt is token ids and a list is active that they would pass by.
    #[error("prompts of token ids cannot be screened by this server's content policy; send text")]
    PromptNotScreenable {
        /// The field that holds the prompt.
        field: &'static str,
    },
}

/// Says which limit is reached, and what to do.
fn told(reached: &Reached) -> String {
    let Reached { r#use, of, limit, amount, retry_after } = reached;
    match retry_after {
        None => format!(
            "the request may come to {amount} tokens, and {limit} {use}{of} are the limit; shorten the prompt or lower \
             `max_tokens`"
        ),
        Some(_) if *r#use == Use::Concurrent => {
            format!("{limit} {use}{of} are the limit, and as many are being answered; try again when one has ended")
        }
        Some(wait) => format!("{limit} {use}{of} are used up; try again in {wait:?}"),
    }
}

impl Rejection {
    /// A stable word for metrics.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::MissingKey => "missing_key",
            Self::WrongKey => "wrong_key",
            Self::TooManyWrongKeys { .. } => "too_many_wrong_keys",
            Self::LimitReached { reached, .. } => match reached.r#use {
                Use::RequestsPerMinute => "quota",
                Use::TokensPerMinute => "tokens",
                Use::TokensPerDay | Use::TokensPerMonth => "budget",
                Use::Concurrent => "concurrency",
            },
            Self::PromptBlocked { .. } => "prompt_blocked",
            Self::PromptNotRedactable { .. } => "prompt_not_redactable",
            Self::PromptNotScreenable { .. } => "prompt_not_screenable",
        }
    }

    /// The rest of the caller's limits, where they are why.
    #[must_use]
    pub const fn limits(&self) -> Option<Limits> {
        match self {
            Self::LimitReached { limits, .. } => Some(*limits),
            _ => None,
        }
    }

    /// The answer a client gets.
    #[must_use]
    pub fn to_api_error(&self) -> ApiError {
        let message = self.to_string();
        match self {
            Self::MissingKey | Self::WrongKey => ApiError::new(ErrorKind::InvalidApiKey, message),
            Self::LimitReached { reached, .. } => {
                let is_budget = reached.r#use.is_budget();
                let kind = if is_budget { ErrorKind::InsufficientQuota } else { ErrorKind::RateLimitExceeded };
                let mut error = ApiError::new(kind, message);
                error.retry_after = reached.retry_after;
                error
            }
            Self::TooManyWrongKeys { retry_after } => {
                let mut error = ApiError::new(ErrorKind::RateLimitExceeded, message);
                error.retry_after = Some(*retry_after);
                error
            }
            Self::PromptBlocked { field } | Self::PromptNotRedactable { field } => {
                ApiError::new(ErrorKind::ContentFilter, message).with_param(*field)
            }
            Self::PromptNotScreenable { field } => ApiError::unsupported(*field, message),
        }
    }
}

impl Policy {
    /// Compiles a configuration.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn new(config: &PolicyConfig) -> Result<Self, ConfigError> {
        Self::after(config, None)
    }

    /// Compiles another configuration in this one's place: what is used of limits that stay is remembered, and so are the
    /// addresses of wrong keys.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn replaced(&self, config: &PolicyConfig) -> Result<Self, ConfigError> {
        Self::after(config, Some(self))
    }

    fn after(config: &PolicyConfig, before: Option<&Self>) -> Result<Self, ConfigError> {
        let guesses = before.map(|before| &before.guesses).filter(|guesses| guesses.are_of(&config.wrong_keys));
        Ok(Self {
            access: Access::new(config)?,
            guesses: guesses
                .map_or_else(|| Guesses::new(&config.wrong_keys).map(Arc::new), |old| Ok(Arc::clone(old)))?,
            limits: AllLimits::new(config, before.map(|before| &before.limits))?,
            assumed_max_tokens: config.assumed_max_tokens.into(),
            rules: Rules::new(config)?,
            candidate: Rules::candidate(&config.candidate)?,
            tells_results: config.filter_results,
        })
    }

    /// The version of the bundle that it decides over a body by; `None` where the lists are no bundle's.
    #[must_use]
    pub fn version(&self, body: &[u8]) -> Option<&BundleId> {
        self.rules(body).version.as_ref()
    }

    /// The rules for a body: always the same ones for the same body.
    fn rules(&self, body: &[u8]) -> &Rules {
        match &self.candidate {
            Some((candidate, share)) if share.has(body) => candidate,
            _ => &self.rules,
        }
    }

    /// Says who asks, before anything of the request's body is read. `client` is where the key comes
    /// from, as far as that is known.
    ///
    /// # Errors
    /// No key where one is needed, a wrong one, or one after too many wrong ones.
    pub fn identify(
        &self,
        presented: Presented<'_>,
        client: Option<Client>,
        now: Moment,
    ) -> Result<Identified, Rejection> {
        if presented != Presented::Nothing && self.access.has_keys() {
            self.check_guesses(client, now)?;
        }
        self.access.identify(presented).map_err(|reason| match reason {
            Unidentified::MissingKey => Rejection::MissingKey,
            Unidentified::WrongKey => {
                self.note_wrong_key(presented, client, now);
                Rejection::WrongKey
            }
        })
    }

    /// The client at the other end of a connection from `peer`; `forwarded` are the values of the
    /// request's `x-forwarded-for`, which count where the peer is a proxy. `None` where it is unknown.
    pub fn client<'a>(&self, peer: IpAddr, forwarded: impl Iterator<Item = &'a [u8]>) -> Option<Client> {
        self.guesses.client(peer, forwarded)
    }

    /// Refuses a client that sent too many wrong keys to have another one looked at.
    ///
    /// # Errors
    /// It has to wait.
    pub fn check_guesses(&self, client: Option<Client>, now: Moment) -> Result<(), Rejection> {
        self.guesses.wait(client, now).map_or(Ok(()), |retry_after| Err(Rejection::TooManyWrongKeys { retry_after }))
    }

    /// Records a wrong key.
    pub fn note_wrong_key(&self, presented: Presented<'_>, client: Option<Client>, now: Moment) {
        self.guesses.note(client, presented.fingerprint(), now);
    }

    /// How many addresses are remembered for wrong keys.
    #[must_use]
    pub fn guessing_addresses(&self) -> usize {
        self.guesses.addresses()
    }

    /// True if the caller may ask for a model. One that it may not ask for does not exist for it.
    #[must_use]
    pub fn may_use(&self, who: &Identified, model: &str) -> bool {
        self.access.may_use(who.index, model)
    }

    /// The tokens that a completion is taken to have at most where its request does not say.
    #[must_use]
    pub const fn assumed_max_tokens(&self) -> u64 {
        self.assumed_max_tokens
    }

    /// Says what a request of `who` has to hold.
    #[must_use]
    pub fn needs(&self, who: &Identified, model: &str, cost: Cost) -> Needs {
        self.limits.needs(who.index, who.key, model, cost)
    }

    /// Takes what a request needs, all of it or nothing.
    ///
    /// # Errors
    /// A limit that is used up.
    pub fn lease(&self, needs: &Needs, now: Moment) -> Result<Reservation, Rejection> {
        needs.lease(now).map_err(|(reached, limits)| Rejection::LimitReached { reached, limits })
    }

    /// The rest of the caller's limits, nothing taken.
    #[must_use]
    pub fn limits(&self, who: &Identified, now: Moment) -> Limits {
        self.limits.needs(who.index, who.key, "", Cost::default()).rest(now)
    }

    /// Decides over a request that holds what it needs. A refused prompt keeps its lease, or
    /// probing the list would be free.
    ///
    /// # Errors
    /// The request may not go on.
    pub fn decide(&self, facts: &Facts<'_>) -> Result<Admitted, Rejection> {
        let Facts { who, endpoint, body, scan } = facts;
        let field = endpoint.prompt;
        let rules = self.rules(body);
        if rules.need_text() && scan.token_ids() > 0 {
            return Err(Rejection::PromptNotScreenable { field });
        }
        let read = rules.read(body, scan);
        if read.is_denied {
            return Err(Rejection::PromptBlocked { field });
        }
        if read.is_unplaceable {
            return Err(Rejection::PromptNotRedactable { field });
        }
        let labels = rules.marks.iter().flat_map(|marks| marks.labels(read.labels));
        let mut obligations: Vec<Obligation> = labels.cloned().map(Obligation::Annotate).collect();
        if !read.edits.is_empty() {
            obligations.push(Obligation::Rewrite(read.edits));
        }
        Ok(Admitted {
            tenant: Arc::clone(&who.tenant),
            deny_list: rules.deny_list.clone(),
            obligations,
            version: rules.version.clone(),
            tells_results: self.tells_results,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;
    use wire::openai::endpoint::{CHAT, COMPLETIONS};
    use wire::openai::scan::{Limits as ScanLimits, scan};

    fn policy(json: &str) -> Policy {
        Policy::new(&serde_json::from_str(json).expect("json")).expect("valid")
    }

    /// Decides over a completion of `prompt`, or a chat where that begins with a member's name.
    fn decide(policy: &Policy, body: &str) -> Result<Admitted, Rejection> {
        let endpoint = if body.contains("\"messages\"") { &CHAT } else { &COMPLETIONS };
        let scan = scan(body.as_bytes(), endpoint, &ScanLimits::default()).expect("a body");
        let who = policy.identify(Presented::Nothing, None, Moment(Duration::ZERO)).expect("anonymous");
        policy.decide(&Facts { who: &who, endpoint, body: body.as_bytes(), scan: &scan })
    }

    fn is_denied(policy: &Policy, body: &str) -> bool {
        match decide(policy, body) {
            Ok(_) => false,
            Err(Rejection::PromptBlocked { .. }) => true,
            Err(other) => panic!("{other:?} for {body}"),
        }
    }

    #[test]
    fn a_denied_prompt_names_its_field_and_not_the_phrase() {
        let policy = policy(r#"{"deny_list":{"phrases":["Red Button"]}}"#);
        let error =
            decide(&policy, r#"{"prompt":["fine","press the  RED\nbutton!"]}"#).expect_err("denied").to_api_error();
        assert_eq!((error.kind, error.param.as_deref()), (ErrorKind::ContentFilter, Some("prompt")));
        assert!(!error.message.to_lowercase().contains("button"));
        assert!(decide(&policy, r#"{"prompt":["press","red buttons"]}"#).expect("fine").is_screened());
    }

    /// Names, parts and escapes that make a worker's joints many and long; each was quadratic once.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "tests measure")]
    fn joints_cost_no_more_than_the_body_has_bytes() {
        let policy = policy(r#"{"deny_list":{"phrases":["project nightjar","a b c d e f g h"]}}"#);
        let (names, spaces) = (r#""project","#.repeat(30_000), " ".repeat(4 << 20));
        let parts = r#"{"type":"text","text":""},"#.repeat(30_000);
        let system = r#"{"role":"system","content":"project"},{"role":"user","content":"\u200b"},"#.repeat(15_000);
        for body in [
            format!(r#"{{"messages":[{{"role":"user","content":"\u00e9{spaces}","x":[{names}0]}}]}}"#),
            format!(r#"{{"messages":[{{"role":"user","content":"{spaces}","x":[{names}0]}}]}}"#),
            format!(
                r#"{{"messages":[{{"role":"user","content":[{parts}{{"type":"text","text":"x"}}],"x":[{names}0]}}]}}"#
            ),
            format!(r#"{{"messages":[{system}{{"role":"user","content":"{spaces}"}}]}}"#),
        ] {
            let begun = Instant::now();
            assert!(!is_denied(&policy, &body));
            // Unoptimized, on a machine that is full; each took minutes.
            assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        }
    }

    #[test]
    fn token_ids_are_refused_only_where_a_list_is_active() {
        let listed = policy(r#"{"deny_list":{"phrases":["x"]}}"#);
        let error = decide(&listed, r#"{"prompt":[1,2]}"#).expect_err("refused").to_api_error();
        assert_eq!((error.kind, error.param.as_deref()), (ErrorKind::Unsupported, Some("prompt")));
        assert!(!decide(&policy("{}"), r#"{"prompt":[[1]]}"#).expect("fine").is_screened());
    }

    #[test]
    fn a_phrase_is_found_wherever_it_reaches_a_prompt() {
        let policy = policy(r#"{"deny_list":{"phrases":["project nightjar"]}}"#);
        for body in [
            r#"{"messages":[{"role":"user","content":"project nightjar","name":"a"}]}"#,
            r#"{"messages":[{"role":"user","name":"a","content":"project nightjar"}]}"#,
            r#"{"messages":[{"role":"user","name":"project nightjar","content":"hi"}]}"#,
            r#"{"messages":[{"role":"user","name":"project","content":"nightjar"}]}"#,
            r#"{"messages":[{"role":"user","content":"project","name":"nightjar"}]}"#,
            r#"{"messages":[{"role":"user","content":"my project"},{"role":"user","content":"nightjar"}]}"#,
            r#"{"messages":[{"role":"system","content":"project"},{"role":"user","content":"nightjar"}]}"#,
            r#"{"messages":[{"role":"user","content":"project"},{"role":"system","content":"nightjar"}]}"#,
            r#"{"messages":[{"role":"system","content":"project"},{"role":"user","content":"x"},{"role":"assistant","content":"y"},{"role":"user","content":"nightjar"}]}"#,
            r#"{"messages":[{"role":"user","content":"x"},{"role":"system","content":"project"},{"role":"assistant","content":"y"},{"role":"user","content":[{"type":"text","text":""},{"type":"text","text":" night"},{"type":"text","text":"jar"}]}]}"#,
            r#"{"messages":[{"role":"system","content":"project"},{"role":"user","content":"x"},{"role":"system","content":"nightjar"}]}"#,
            r#"{"messages":[{"role":"user","name":"project","content":[{"type":"text","text":"night"},{"type":"text","text":"jar"}]}]}"#,
            r#"{"messages":[{"role":"user","name":"project","content":[{"type":"text","text":" "},{"type":"text","text":"night"},{"type":"text","text":"jar"}]}]}"#,
            r#"{"messages":[{"role":"user","content":[{"type":"text","text":"proj"},{"type":"text","text":"ect night"},{"type":"text","text":"jar"}]}]}"#,
            r#"{"messages":[{"role":"user","content":[{"type":"text","text":"project"},{"type":"text","text":"nightjar"}]}]}"#,
            r#"{"messages":[{"role":"user","content":[{"text":"project \u200b\n\t","type":"text","x":"between"},{"type":"text","text":"  nightjar"}]}]}"#,
            r#"{"messages":[{"role":"user","content":"pro\u006aect\u00a0nightjar"}]}"#,
            r#"{"messages":[{"role":"user","content":"hi"}],"tools":[{"function":{"description":"project nightjar"}}]}"#,
            r#"{"messages":[{"role":"user","content":"hi"}],"chat_template_kwargs":{"project nightjar":1}}"#,
            r#"{"messages":[{"role":"user","content":"hi"}],"documents":["project","nightjar"]}"#,
            r#"{"messages":[{"role":"user","content":"hi"}],"novelty":{"x":["project nightjar"]}}"#,
            r#"{"messages":[{"role":"assistant","content":"","tool_calls":[{"function":{"name":"f","arguments":"{\"a\":\"project\\u0020nightjar\"}"}}]}]}"#,
            r#"{"messages":[{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":"{\"project\": [\"\\u006eightjar\"]}"}}]}]}"#,
            r#"{"messages":[{"role":"user","content":"hi"}],"tools":[{"function":{"description":"nightjar","name":"project"}}]}"#,
            r#"{"messages":[{"role":"assistant","tool_calls":[{"function":{"name":"project","arguments":"{\"nightjar\": 1}"}}]}]}"#,
            r#"{"messages":[{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":"{\"a\": \"project\"}"}},{"function":{"name":"nightjar","arguments":"{}"}}]}]}"#,
            r#"{"prompt":["a","project nightjar"]}"#,
            r#"{"prompt":"x","suffix":"project nightjar"}"#,
        ] {
            assert!(is_denied(&policy, body), "{body}");
        }
        for body in [
            r#"{"messages":[{"role":"user","content":"project nightjars"}]}"#,
            r#"{"messages":[{"role":"user","content":"my project"},{"role":"assistant","content":"nightjar"}]}"#,
            r#"{"messages":[{"role":"user","content":"project"},{"role":"assistant","content":"y"},{"role":"user","content":"nightjar"}]}"#,
            r#"{"messages":[{"role":"system","content":"project x"},{"role":"user","content":"nightjar"}]}"#,
            r#"{"messages":[{"role":"user","content":[{"type":"text","text":"project night"},{"type":"text","text":"jars"}]}]}"#,
            r#"{"prompt":["project","nightjar"]}"#,
            r#"{"messages":[{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":"{\"a\": \"project, nightjar\"}"}}]}]}"#,
        ] {
            assert!(!is_denied(&policy, body), "{body}");
        }
    }

    #[test]
    fn a_phrase_in_another_dress_is_refused_wherever_it_stands() {
        let policy = policy(r#"{"deny_list":{"phrases":["red button","top"]}}"#);
        let base64 = "cmVkIGJ1dHRvbiBwbGVhc2U=";
        for body in [
            r#"{"prompt":"r3d butt0n"}"#.to_owned(),
            r#"{"messages":[{"role":"user","content":"the r3d"},{"role":"user","content":"butt0n now"}]}"#.to_owned(),
            r#"{"messages":[{"role":"user","content":"the red"},{"role":"user","content":"butt0n now"}]}"#.to_owned(),
            r#"{"messages":[{"role":"user","content":"the r3d"},{"role":"user","content":"button now"}]}"#.to_owned(),
            r#"{"prompt":"r\u0435d butt0n"}"#.to_owned(),
            r#"{"prompt":"+0p!"}"#.replace('+', "t"),
            format!(r#"{{"prompt":"say {base64}"}}"#),
            r#"{"prompt":"72 65 64 20 62 75 74 74 6f 6e"}"#.to_owned(),
            r#"{"prompt":"red%20button"}"#.to_owned(),
            r#"{"prompt":"&#114;ed button"}"#.to_owned(),
            format!(r#"{{"messages":[{{"role":"user","content":[{{"type":"text","text":"{base64}"}}]}}]}}"#),
            format!(r#"{{"messages":[],"tools":[{{"function":{{"name":"f","description":"{base64}"}}}}]}}"#),
            r#"{"messages":[{"role":"assistant","tool_calls":[{"function":{"arguments":"{\"a\":\"r3d butt0n\"}"}}]}]}"#
                .to_owned(),
        ] {
            assert!(is_denied(&policy, &body), "{body}");
        }
        for body in [
            r#"{"prompt":"455 t0ps, 2 reds and buttons 4 u"}"#,
            r#"{"prompt":"red%20buttons"}"#,
            r#"{"messages":[{"role":"user","content":"r3d x"},{"role":"user","content":"butt0n now"}]}"#,
            r#"{"prompt":"cmVkIHJvc2VzIHBsZWFzZSE="}"#,
        ] {
            assert!(!is_denied(&policy, body), "{body}");
        }
    }

    #[test]
    fn each_reading_can_be_turned_off() {
        for (reading, prompt) in [("lookalikes", "r\u{435}d"), ("leetspeak", "r3d"), ("encodings", "r%65d")] {
            let body = format!(r#"{{"prompt":"{prompt}"}}"#);
            let with =
                |on: bool| policy(&format!(r#"{{"deny_list":{{"phrases":["red"]}},"readings":{{"{reading}":{on}}}}}"#));
            assert!(is_denied(&with(true), &body) && !is_denied(&with(false), &body), "{reading}");
        }
    }

    #[test]
    fn phrases_in_another_dress_are_replaced_where_they_stand() {
        let policy =
            policy(r#"{"redact_list":{"phrases":["red button"]},"annotate_lists":[{"label":"a","phrases":["top"]}]}"#);
        let body = r#"{"prompt":"r3d butt0n, r\u0435d button; t0p, red button"}"#;
        let admitted = decide(&policy, body).expect("admitted");
        let [Obligation::Annotate(label), Obligation::Rewrite(edits)] = admitted.obligations() else {
            panic!("{:?}", admitted.obligations());
        };
        let bytes = bytes::Bytes::from(body);
        let rewritten = wire::openai::splice::splice(&bytes, edits).concat();
        assert_eq!(
            String::from_utf8(rewritten).expect("text"),
            r#"{"prompt":"[redacted], [redacted]; t0p, [redacted]"}"#
        );
        assert_eq!(&**label, "a");
        let encoded = decide(&policy, r#"{"prompt":"red%20button"}"#).expect_err("refused");
        assert!(matches!(encoded, Rejection::PromptNotRedactable { .. }));
    }
}
