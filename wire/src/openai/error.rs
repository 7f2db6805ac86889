//! OpenAI's error object: `{"error":{"message","type","param","code"}}`, all four always present. A prompt that was refused
//! by a filter has Azure's `status` and `innererror` besides.

use super::filter::{DENY_LIST, InnerError};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// An error as a client gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// The kind: decides the HTTP status and the `type` and `code` strings.
    pub kind: ErrorKind,
    /// The problem and its fix.
    pub message: String,
    /// The request's field at fault, as a path such as `messages[0].role`.
    pub param: Option<String>,
    /// The time after which a retry makes sense; sent as `retry-after` (whole seconds) and `retry-after-ms`.
    pub retry_after: Option<Duration>,
}

/// The errors we answer with, each with its HTTP status, `type` and `code`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// 400: the request is wrong.
    InvalidRequest,
    /// 400: the request asks for something we know and cannot do.
    Unsupported,
    /// 400: prompt and completion do not fit the model.
    ContextLengthExceeded,
    /// 400: the prompt was refused by the safety policy.
    ContentFilter,
    /// 401: no key, or a wrong one.
    InvalidApiKey,
    /// 403: a good key that may not do this.
    PermissionDenied,
    /// 404: no such model.
    ModelNotFound,
    /// 404: no such path.
    UnknownPath,
    /// 405: the path exists, the method does not.
    MethodNotAllowed,
    /// 408: the request took too long to arrive.
    RequestTimeout,
    /// 413: the body exceeds the limit.
    PayloadTooLarge,
    /// 415: the body is not JSON.
    UnsupportedMediaType,
    /// 429: the tenant's quota is used up.
    RateLimitExceeded,
    /// 429: the tenant's budget of a day or a month is used up.
    InsufficientQuota,
    /// 500: our fault.
    Internal,
    /// 502: a worker answered nonsense or broke off.
    BadGateway,
    /// 503: full, starting, draining, or no worker is there.
    Overloaded,
    /// 504: a worker did not answer in time.
    UpstreamTimeout,
}

impl ErrorKind {
    /// The HTTP status.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::InvalidRequest | Self::Unsupported | Self::ContextLengthExceeded | Self::ContentFilter => 400,
            Self::InvalidApiKey => 401,
            Self::PermissionDenied => 403,
            Self::ModelNotFound | Self::UnknownPath => 404,
            Self::MethodNotAllowed => 405,
            Self::RequestTimeout => 408,
            Self::PayloadTooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::RateLimitExceeded | Self::InsufficientQuota => 429,
            Self::Internal => 500,
            Self::BadGateway => 502,
            Self::Overloaded => 503,
            Self::UpstreamTimeout => 504,
        }
    }

    /// The error object's `type`.
    #[must_use]
    pub(crate) const fn type_name(self) -> &'static str {
        match self {
            Self::InvalidApiKey => "authentication_error",
            Self::PermissionDenied => "permission_error",
            Self::RateLimitExceeded => "rate_limit_error",
            Self::InsufficientQuota => "insufficient_quota",
            Self::Internal | Self::BadGateway | Self::Overloaded | Self::UpstreamTimeout => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// The error object's `code`.
    #[must_use]
    pub const fn code(self) -> Option<&'static str> {
        match self {
            Self::InvalidRequest => None,
            Self::Unsupported => Some("unsupported_parameter"),
            Self::ContextLengthExceeded => Some("context_length_exceeded"),
            Self::ContentFilter => Some("content_filter"),
            Self::InvalidApiKey => Some("invalid_api_key"),
            Self::PermissionDenied => Some("permission_denied"),
            Self::ModelNotFound => Some("model_not_found"),
            Self::UnknownPath => Some("unknown_url"),
            Self::MethodNotAllowed => Some("method_not_allowed"),
            Self::RequestTimeout => Some("request_timeout"),
            Self::PayloadTooLarge => Some("payload_too_large"),
            Self::UnsupportedMediaType => Some("unsupported_media_type"),
            Self::RateLimitExceeded => Some("rate_limit_exceeded"),
            Self::InsufficientQuota => Some("insufficient_quota"),
            Self::Internal => Some("internal_error"),
            Self::BadGateway => Some("bad_gateway"),
            Self::Overloaded => Some("overloaded"),
            Self::UpstreamTimeout => Some("upstream_timeout"),
        }
    }
}

impl ApiError {
    /// An error without a field or a retry time.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), param: None, retry_after: None }
    }

    /// A wrong value: names the field.
    #[must_use]
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidRequest, message).with_param(param)
    }

    /// Something we know and cannot do: names the field.
    #[must_use]
    pub fn unsupported(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, message).with_param(param)
    }

    /// A model nobody here serves.
    #[must_use]
    pub fn model_not_found(model: &str) -> Self {
        let message = format!("the model `{model}` does not exist here; GET /v1/models lists those that do");
        Self::new(ErrorKind::ModelNotFound, message).with_param("model")
    }

    /// Full, starting or draining: come back after `retry_after`.
    #[must_use]
    pub fn overloaded(message: impl Into<String>, retry_after: Duration) -> Self {
        let mut error = Self::new(ErrorKind::Overloaded, message);
        error.retry_after = Some(retry_after);
        error
    }

    /// Names the field at fault.
    #[must_use]
    pub fn with_param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// The JSON body.
    #[must_use]
    pub fn body(&self) -> ErrorBody {
        let is_filtered = self.kind == ErrorKind::ContentFilter;
        ErrorBody {
            error: ErrorObject {
                message: self.message.clone(),
                r#type: self.kind.type_name().into(),
                param: self.param.clone(),
                code: self.kind.code().map(Into::into),
                status: is_filtered.then(|| self.kind.status()),
                innererror: is_filtered.then(|| InnerError::filtered(DENY_LIST)),
            },
        }
    }

    /// The JSON body as text.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(&self.body())
            .unwrap_or_else(|_| r#"{"error":{"message":"","type":"server_error","param":null,"code":null}}"#.into())
    }
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ApiError {}

/// The body of an error response, and of an error event in a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The one member.
    pub error: ErrorObject,
}

/// OpenAI's error object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorObject {
    /// The problem and its fix.
    pub message: String,
    /// The class, e.g. `invalid_request_error`.
    pub r#type: String,
    /// The field at fault.
    #[serde(default)]
    pub param: Option<String>,
    /// A stable word for programs.
    #[serde(default)]
    pub code: Option<String>,
    /// The HTTP status, where a filter refused the prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The filter's results.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub innererror: Option<InnerError>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn a_refused_prompt_is_told_in_azures_shape() {
        let error = ApiError::new(ErrorKind::ContentFilter, "m").with_param("messages");
        let body: Value = serde_json::from_str(&error.to_json()).expect("json");
        let results =
            json!({"custom_blocklists": {"filtered": true, "details": [{"id": "deny_list", "filtered": true}]}});
        assert_eq!((&body["error"]["code"], &body["error"]["status"]), (&json!("content_filter"), &json!(400)));
        let inner = &body["error"]["innererror"];
        assert_eq!(inner["code"], "ResponsibleAIPolicyViolation");
        assert_eq!((&inner["content_filter_result"], &inner["content_filter_results"]), (&results, &results));
    }

    #[test]
    fn other_errors_have_four_members() {
        let body: Value = serde_json::from_str(&ApiError::new(ErrorKind::Internal, "m").to_json()).expect("json");
        assert_eq!(body["error"].as_object().map(serde_json::Map::len), Some(4));
    }
}
