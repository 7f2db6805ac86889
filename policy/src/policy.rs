//! The one gate: `Policy::identify` says who asks, `Policy::admit` whether this request may go on.

use crate::access::{Access, Identified, Unidentified};
use crate::config::{ConfigError, PolicyConfig};
use crate::key::Presented;
use crate::quota::{Exceeded, Limits, Moment, Quotas};
use crate::screen::{DenyList, OutputScreen};
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use wire::openai::{ApiError, ErrorKind};

/// A compiled configuration. Cheap to ask: nothing is built per request.
#[derive(Debug)]
pub struct Policy {
    access: Access,
    quotas: Quotas,
    deny_list: Option<Arc<DenyList>>,
}

/// Which request it is; names the field that holds the prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// `POST /v1/chat/completions`.
    Chat,
    /// `POST /v1/completions`.
    Completions,
}

impl Endpoint {
    /// The field that holds the prompt.
    #[must_use]
    pub const fn prompt_field(self) -> &'static str {
        match self {
            Self::Chat => "messages",
            Self::Completions => "prompt",
        }
    }
}

/// What a decision is made from.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// Who asks.
    pub who: &'a Identified,
    /// What is asked.
    pub endpoint: Endpoint,
    /// The prompt's texts; a phrase is looked for in each on its own.
    pub texts: &'a [String],
    /// Whether part of the prompt is token ids, which no text screen can read.
    pub has_token_ids: bool,
}

/// The proof that a request may be dispatched; only `Policy::admit` makes one. It keeps the
/// screens it was admitted under: a new configuration does not change a stream half way.
#[derive(Debug)]
pub struct Admitted {
    tenant: Arc<str>,
    limits: Option<Limits>,
    deny_list: Option<Arc<DenyList>>,
}

impl Admitted {
    /// The tenant's name.
    #[must_use]
    pub fn tenant(&self) -> &str {
        &self.tenant
    }

    /// What the tenant may still do; `None` where it is unlimited.
    #[must_use]
    pub const fn limits(&self) -> Option<Limits> {
        self.limits
    }

    /// The list that whole answers are screened with; `None` where none is active.
    #[must_use]
    pub const fn deny_list(&self) -> Option<&Arc<DenyList>> {
        self.deny_list.as_ref()
    }

    /// A screen for one channel of text of one choice; `None` where no list is active.
    #[must_use]
    pub fn output_screen(&self) -> Option<OutputScreen> {
        self.deny_list.clone().map(OutputScreen::new)
    }
}

/// Why a request may not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Rejection {
    /// A key is needed and none was sent.
    #[error("no API key was sent; send `authorization: Bearer KEY`")]
    MissingKey,
    /// The key belongs to nobody.
    #[error("the API key is not known here")]
    WrongKey,
    /// The tenant made all its requests.
    #[error("{} requests per minute are used up; try again in {retry_after:?}", limits.limit)]
    QuotaExceeded {
        /// The tenant's limits.
        limits: Limits,
        /// When one request is granted again.
        retry_after: Duration,
    },
    /// The prompt holds a denied phrase. Which one is not said: it would spell out the list.
    #[error("the prompt was refused by this server's content policy; change the wording")]
    PromptBlocked {
        /// Where the prompt was.
        endpoint: Endpoint,
    },
    /// The prompt is token ids and a deny list is active.
    #[error("prompts of token ids cannot be screened by this server's content policy; send text")]
    PromptNotScreenable {
        /// Where the prompt was.
        endpoint: Endpoint,
    },
}

impl Rejection {
    /// A stable word for metrics.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::MissingKey => "missing_key",
            Self::WrongKey => "wrong_key",
            Self::QuotaExceeded { .. } => "quota",
            Self::PromptBlocked { .. } => "prompt_blocked",
            Self::PromptNotScreenable { .. } => "prompt_not_screenable",
        }
    }

    /// The tenant's limits, where they are why.
    #[must_use]
    pub const fn limits(&self) -> Option<Limits> {
        match self {
            Self::QuotaExceeded { limits, .. } => Some(*limits),
            _ => None,
        }
    }

    /// The answer a client gets.
    #[must_use]
    pub fn to_api_error(&self) -> ApiError {
        let message = self.to_string();
        match self {
            Self::MissingKey | Self::WrongKey => ApiError::new(ErrorKind::InvalidApiKey, message),
            Self::QuotaExceeded { retry_after, .. } => {
                let mut error = ApiError::new(ErrorKind::RateLimitExceeded, message);
                error.retry_after = Some(*retry_after);
                error
            }
            Self::PromptBlocked { endpoint } => {
                ApiError::new(ErrorKind::ContentFilter, message).with_param(endpoint.prompt_field())
            }
            Self::PromptNotScreenable { endpoint } => ApiError::unsupported(endpoint.prompt_field(), message),
        }
    }
}

impl Policy {
    /// Compiles a configuration.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn new(config: &PolicyConfig) -> Result<Self, ConfigError> {
        Ok(Self {
            access: Access::new(config)?,
            quotas: Quotas::new(config)?,
            deny_list: DenyList::new(&config.deny_list)?.map(Arc::new),
        })
    }

    /// Says who asks, before anything of the request's body is read.
    ///
    /// # Errors
    /// No key where one is needed, or a wrong one.
    pub fn identify(&self, presented: Presented<'_>) -> Result<Identified, Rejection> {
        self.access.identify(presented).map_err(|reason| match reason {
            Unidentified::MissingKey => Rejection::MissingKey,
            Unidentified::WrongKey => Rejection::WrongKey,
        })
    }

    /// Decides over a request: quota first, then the prompt. A refused prompt has used its place
    /// in the quota, or probing the list would be free.
    ///
    /// # Errors
    /// Why the request may not go on.
    pub fn admit(&self, facts: &Facts<'_>, now: Moment) -> Result<Admitted, Rejection> {
        let limits = self
            .quotas
            .take(facts.who.index, now)
            .map_err(|Exceeded { limits, retry_after }| Rejection::QuotaExceeded { limits, retry_after })?;
        if let Some(list) = &self.deny_list {
            if facts.has_token_ids {
                return Err(Rejection::PromptNotScreenable { endpoint: facts.endpoint });
            }
            if facts.texts.iter().any(|text| list.find(text).is_some()) {
                return Err(Rejection::PromptBlocked { endpoint: facts.endpoint });
            }
        }
        Ok(Admitted { tenant: Arc::clone(&facts.who.tenant), limits, deny_list: self.deny_list.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::hash_key;

    fn policy(json: &str) -> Policy {
        Policy::new(&serde_json::from_str(json).expect("json")).expect("valid")
    }

    fn decide(policy: &Policy, texts: &[&str], has_token_ids: bool) -> Result<Admitted, Rejection> {
        let who = policy.identify(Presented::Nothing).expect("anonymous");
        let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        let facts = Facts { who: &who, endpoint: Endpoint::Completions, texts: &texts, has_token_ids };
        policy.admit(&facts, Moment(Duration::ZERO))
    }

    #[test]
    fn a_denied_prompt_names_its_field_and_not_the_phrase() {
        let policy = policy(r#"{"deny_list":{"phrases":["Red Button"]}}"#);
        let error = decide(&policy, &["fine", "press the  RED\nbutton!"], false).expect_err("denied").to_api_error();
        assert_eq!((error.kind, error.param.as_deref()), (ErrorKind::ContentFilter, Some("prompt")));
        assert!(!error.message.to_lowercase().contains("button"));
        assert!(decide(&policy, &["press", "red buttons"], false).expect("fine").output_screen().is_some());
    }

    #[test]
    fn token_ids_are_refused_only_where_a_list_is_active() {
        let listed = policy(r#"{"deny_list":{"phrases":["x"]}}"#);
        let error = decide(&listed, &[], true).expect_err("refused").to_api_error();
        assert_eq!((error.kind, error.param.as_deref()), (ErrorKind::Unsupported, Some("prompt")));
        assert!(decide(&policy("{}"), &[], true).expect("fine").output_screen().is_none());
    }

    #[test]
    fn tenants_have_quotas_of_their_own() {
        let (red, blue) = (hash_key("red"), hash_key("blue"));
        let policy = policy(&format!(
            r#"{{"tenants":[{{"name":"red","key_sha256":["{red}"],"requests_per_minute":2}},
                            {{"name":"blue","key_sha256":["{blue}"]}}]}}"#
        ));
        let ask = |key, s| {
            let who = policy.identify(Presented::Key(key)).expect("known");
            let facts = Facts { who: &who, endpoint: Endpoint::Chat, texts: &[], has_token_ids: false };
            policy.admit(&facts, Moment(Duration::from_secs(s)))
        };
        let limits = ask("red", 1).expect("first").limits().expect("limited");
        assert_eq!((limits.limit, limits.remaining), (2, 1));
        ask("red", 1).expect("second");
        let refused = ask("red", 1).expect_err("third");
        assert_eq!(refused.to_api_error().retry_after, Some(Duration::from_secs(30)));
        assert_eq!(ask("blue", 1).expect("unlimited").limits(), None);
        ask("red", 31).expect("refilled");
    }
}
