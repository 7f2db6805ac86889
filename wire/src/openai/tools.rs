//! Tools that a model may call, which of them it may or must, and calls of a conversation.

use super::complaint::complaint;
use super::error::ApiError;
use super::given::Given;
use super::structure::STRUCTURE_BYTES_MAX;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The most tools of one request, OpenAI's own bound.
pub(crate) const TOOLS_MAX: usize = 128;
/// The most bytes of a tool's name, OpenAI's own bound.
const NAME_BYTES_MAX: usize = 64;

/// The tools of a request, at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tools {
    /// All of them, in order; no two have one name.
    pub all: Vec<Tool>,
    /// The calls that the answer may or must have.
    pub choice: ToolChoice,
    /// The names of those that may be called; all if none.
    pub allowed: Option<Vec<String>>,
    /// An answer may hold more than one call.
    pub parallel: bool,
}

impl Tools {
    /// The tools that may be called.
    pub fn callable(&self) -> impl Iterator<Item = &Tool> {
        let is_allowed = |tool: &&Tool| self.allowed.as_ref().is_none_or(|names| names.contains(&tool.name));
        self.all.iter().filter(is_allowed)
    }
}

/// A tool: a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// The schema of its arguments; `None` where it takes none.
    pub parameters: Option<Value>,
    /// Its arguments must be valid to the letter, or the request is refused.
    pub is_strict: bool,
    /// As the request has it, for the chat template.
    pub given: Value,
}

/// The calls that an answer may or must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToolChoice {
    /// None.
    None,
    /// As the model decides.
    Auto,
    /// One at least.
    Required,
}

/// A call of a tool, in a conversation or in an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCall {
    /// Its id, by which a message of a tool answers it.
    #[serde(default)]
    pub id: String,
    /// Always `function`.
    #[serde(default = "function")]
    pub r#type: String,
    /// The function and its arguments.
    pub function: CalledFunction,
}

/// A function that is called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CalledFunction {
    /// Its name.
    pub name: String,
    /// Its arguments: JSON, as a text.
    pub arguments: String,
}

impl ToolCall {
    /// A call whose arguments are to come.
    #[must_use]
    pub fn begun(id: String, name: String) -> Self {
        Self { id, r#type: function(), function: CalledFunction { name, arguments: String::new() } }
    }
}

fn function() -> String {
    "function".into()
}

#[derive(Deserialize)]
struct GivenTool {
    r#type: Option<String>,
    function: Option<GivenFunction>,
}

#[derive(Deserialize)]
struct GivenFunction {
    name: Option<String>,
    parameters: Option<Value>,
    strict: Option<bool>,
}

/// `tools`; an empty list is none.
pub(super) fn tools(given: Given<'_>) -> Result<Vec<Tool>, ApiError> {
    if given.raw.len() > STRUCTURE_BYTES_MAX {
        let message = format!("`tools` has {} bytes; at most {STRUCTURE_BYTES_MAX} are taken", given.raw.len());
        return Err(ApiError::invalid("tools", message));
    }
    let all: Vec<Value> = given.json()?;
    if all.len() > TOOLS_MAX {
        return Err(ApiError::invalid("tools", format!("at most {TOOLS_MAX} tools, not {}", all.len())));
    }
    let mut tools: Vec<Tool> = Vec::with_capacity(all.len());
    for (index, given) in all.into_iter().enumerate() {
        let tool = tool(&format!("tools[{index}]"), given)?;
        if tools.iter().any(|other| other.name == tool.name) {
            let message = format!("`tools` has two named `{}`", tool.name);
            return Err(ApiError::invalid(format!("tools[{index}].function.name"), message));
        }
        tools.push(tool);
    }
    Ok(tools)
}

fn tool(at: &str, given: Value) -> Result<Tool, ApiError> {
    let required = |name: &str| ApiError::invalid(format!("{at}.{name}"), format!("`{at}.{name}` is required"));
    let read = serde_path_to_error::deserialize::<_, GivenTool>(&given).map_err(|cause| {
        let inner = cause.path().to_string();
        let path = if inner == "." { at.to_owned() } else { format!("{at}.{inner}") };
        ApiError::invalid(path.clone(), complaint(&path, &cause.inner().to_string()))
    })?;
    match read.r#type.as_deref().ok_or_else(|| required("type"))? {
        "function" => {}
        other => {
            let shown: String = other.chars().take(32).collect();
            let message = format!("tools of type `{shown}` are not supported; only `function` is");
            return Err(ApiError::unsupported(format!("{at}.type"), message));
        }
    }
    let function = read.function.ok_or_else(|| required("function"))?;
    let name = function.name.ok_or_else(|| required("function.name"))?;
    let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'));
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !is_plain {
        let message = format!("a tool's name has 1 to {NAME_BYTES_MAX} letters, digits, `_`, `-` or `.`");
        return Err(ApiError::invalid(format!("{at}.function.name"), message));
    }
    let parameters = function.parameters.filter(|parameters| *parameters != json!({}));
    if parameters.as_ref().is_some_and(|parameters| !parameters.is_object()) {
        let path = format!("{at}.function.parameters");
        return Err(ApiError::invalid(path.clone(), format!("`{path}` must be a JSON schema, an object")));
    }
    Ok(Tool { name, parameters, is_strict: function.strict.unwrap_or(false), given })
}

/// `tool_choice`, which a request may have before its tools.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chosen {
    choice: ToolChoice,
    allowed: Option<Vec<String>>,
    /// It is one tool that was named.
    is_named: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum GivenChoice {
    Word(String),
    Object(ChoiceObject),
}

#[derive(Deserialize)]
struct ChoiceObject {
    r#type: Option<String>,
    function: Option<Named>,
    allowed_tools: Option<AllowedTools>,
}

#[derive(Deserialize)]
struct AllowedTools {
    mode: String,
    tools: Vec<ChoiceObject>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

/// `tool_choice`.
pub(super) fn tool_choice(given: Given<'_>) -> Result<Chosen, ApiError> {
    let wrong = |what: &str| {
        let message = format!("`tool_choice` {what}; it is none, auto, required, a function, or allowed_tools");
        Err(ApiError::invalid("tool_choice", message))
    };
    let Ok(choice) = given.json() else { return wrong("is none that is known") };
    let all = |choice| Chosen { choice, allowed: None, is_named: false };
    Ok(match choice {
        GivenChoice::Word(word) => all(match word.as_str() {
            "none" => ToolChoice::None,
            "auto" => ToolChoice::Auto,
            "required" => ToolChoice::Required,
            _ => return wrong("is a word that is not known"),
        }),
        GivenChoice::Object(ChoiceObject { r#type, function: Some(function), .. })
            if r#type.as_deref().unwrap_or("function") == "function" =>
        {
            Chosen { choice: ToolChoice::Required, allowed: Some(vec![function.name]), is_named: true }
        }
        GivenChoice::Object(ChoiceObject { r#type, allowed_tools: Some(allowed), .. })
            if r#type.as_deref() == Some("allowed_tools") =>
        {
            let choice = match allowed.mode.as_str() {
                "auto" => ToolChoice::Auto,
                "required" => ToolChoice::Required,
                _ => return wrong("has a mode that is neither auto nor required"),
            };
            let names: Option<Vec<String>> =
                allowed.tools.into_iter().map(|tool| tool.function.map(|function| function.name)).collect();
            let Some(names) = names else { return wrong("allows what is no function") };
            Chosen { choice, allowed: Some(names), is_named: false }
        }
        GivenChoice::Object(_) => return wrong("is an object that is not known"),
    })
}

impl Tools {
    /// The tools of a request, once all of it is read; `None` where there are none.
    pub(super) fn of(all: Vec<Tool>, chosen: Option<Chosen>, parallel: Option<bool>) -> Result<Option<Self>, ApiError> {
        if all.is_empty() {
            return match chosen {
                Some(Chosen { choice: ToolChoice::Required, .. }) => {
                    Err(ApiError::invalid("tool_choice", "`tool_choice` asks for a call, and `tools` has none"))
                }
                _ => Ok(None),
            };
        }
        let auto = Chosen { choice: ToolChoice::Auto, allowed: None, is_named: false };
        let Chosen { choice, allowed, is_named } = chosen.unwrap_or(auto);
        let names = || allowed.iter().flatten();
        if let Some(unknown) = names().find(|name| all.iter().all(|tool| tool.name != **name)) {
            let shown: String = unknown.chars().take(NAME_BYTES_MAX).collect();
            let message = format!("`tool_choice` names `{shown}`, which is not in `tools`");
            return Err(ApiError::invalid("tool_choice", message));
        }
        if choice == ToolChoice::Required && allowed.as_ref().is_some_and(Vec::is_empty) {
            return Err(ApiError::invalid("tool_choice", "`tool_choice` asks for a call and allows no tool"));
        }
        let parallel = parallel.unwrap_or(true) && !is_named;
        Ok(Some(Self { all, choice, allowed, parallel }))
    }
}
