//! Azure's words for what a content filter found: in refusals, beside prompts and beside choices.
//!
//! Ours finds phrases of lists, so its results name lists. Categories with severities (`hate`, `violence`) are left out
//! rather than called safe: nothing looked for them.

use serde::{Deserialize, Serialize};

/// The list that a refused or ended text is told of. Its phrases are nobody's.
pub const DENY_LIST: &str = "deny_list";
/// The `code` of a refusal's inner error.
const VIOLATION: &str = "ResponsibleAIPolicyViolation";

/// The results of a filter over one prompt or one piece of an answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterResults {
    /// The lists that were looked at.
    pub custom_blocklists: Blocklists,
}

/// The lists that something was found of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocklists {
    /// True if the text was kept from going on.
    pub filtered: bool,
    /// A list each.
    pub details: Vec<Blocklist>,
}

/// A list that a phrase was found of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocklist {
    /// The list's name.
    pub id: String,
    /// True if it kept the text from going on.
    pub filtered: bool,
}

impl FilterResults {
    /// Nothing was found.
    #[must_use]
    pub fn clean() -> Self {
        Self::default()
    }

    /// A phrase of this list ended it.
    #[must_use]
    pub fn filtered(list: &str) -> Self {
        let details = vec![Blocklist { id: list.into(), filtered: true }];
        Self { custom_blocklists: Blocklists { filtered: true, details } }
    }

    /// Phrases of these lists were noted.
    #[must_use]
    pub fn noted(lists: impl IntoIterator<Item = String>) -> Self {
        let details = lists.into_iter().map(|id| Blocklist { id, filtered: false }).collect();
        Self { custom_blocklists: Blocklists { filtered: false, details } }
    }

    /// The member of a choice.
    pub(super) fn member(&self) -> String {
        format!("\"content_filter_results\":{}", self.json())
    }

    /// The member of a whole answer.
    pub(super) fn prompt_member(&self) -> String {
        format!("\"prompt_filter_results\":[{{\"prompt_index\":0,\"content_filter_results\":{}}}]", self.json())
    }

    fn json(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|_| "{}".into())
    }
}

/// The inner error of a prompt that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InnerError {
    /// `ResponsibleAIPolicyViolation`.
    pub code: String,
    /// The results. Azure's pages and clients have both names for them.
    pub content_filter_result: FilterResults,
    /// The same.
    pub content_filter_results: FilterResults,
}

impl InnerError {
    /// A phrase of this list was in the prompt.
    #[must_use]
    pub(super) fn filtered(list: &str) -> Self {
        let results = FilterResults::filtered(list);
        Self { code: VIOLATION.into(), content_filter_result: results.clone(), content_filter_results: results }
    }
}
