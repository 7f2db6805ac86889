//! The form that an answer's text must have, in every spelling that is published: OpenAI's `response_format`, vLLM's
//! `structured_outputs` and older `guided_*`, SGLang's and llama.cpp's fields. What a schema or a grammar means is not
//! known here.

pub mod tags;

use super::error::ApiError;
use super::given::Given;
use serde::Deserialize;
use serde_json::Value;

/// The most bytes of a schema or grammar, as it stands in the request. The largest published ones (FHIR aside) take a
/// tenth of it.
pub(crate) const STRUCTURE_BYTES_MAX: usize = 256 << 10;
/// The most texts to choose among.
const CHOICES_MAX: usize = 4_096;

/// A form, and the field that asked for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Structure {
    /// The field, as a path.
    pub param: String,
    /// The form.
    pub form: Form,
    /// JSON is written without white space.
    pub is_compact: bool,
}

/// A form of text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Form {
    /// A JSON object.
    Json,
    /// JSON that is valid against this schema.
    Schema(Value),
    /// A text that a regular expression matches as a whole.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// A text of a grammar, in Lark's language or in GBNF.
    Grammar(String),
    /// A text that is put together from parts.
    Parts(tags::Part),
}

impl Structure {
    fn new(param: impl Into<String>, form: Form) -> Self {
        Self { param: param.into(), form, is_compact: false }
    }

    /// The one of two forms that is asked for.
    ///
    /// # Errors
    /// Both are: they contradict each other.
    pub(super) fn one_of(before: Option<Self>, other: Option<Self>) -> Result<Option<Self>, ApiError> {
        match (before, other) {
            (Some(before), Some(other)) => {
                let message =
                    format!("`{}` and `{}` both set the form of the answer; send one", before.param, other.param);
                Err(ApiError::invalid(other.param, message))
            }
            (before, other) => Ok(before.or(other)),
        }
    }
}

#[derive(Deserialize)]
struct ResponseFormat {
    r#type: String,
    json_schema: Option<NamedSchema>,
    /// Of `json_object`, as some servers have it.
    schema: Option<Value>,
}

/// The type that vLLM adds to OpenAI's.
const STRUCTURAL_TAG: &str = "structural_tag";

#[derive(Deserialize)]
struct NamedSchema {
    schema: Option<Value>,
}

/// OpenAI's `response_format`.
pub(super) fn response_format(given: Given<'_>) -> Result<Option<Structure>, ApiError> {
    check_size(given)?;
    let format: ResponseFormat = given.json()?;
    match format.r#type.as_str() {
        "text" => Ok(None),
        "json_object" => match format.schema {
            Some(given) => schema("response_format.schema", given).map(Some),
            None => Ok(Some(Structure::new("response_format", Form::Json))),
        },
        "json_schema" => {
            let param = "response_format.json_schema.schema";
            match format.json_schema.and_then(|named| named.schema) {
                Some(given) => schema(param, given).map(Some),
                None => Err(ApiError::invalid(param, format!("`{param}` is required"))),
            }
        }
        STRUCTURAL_TAG => parts("response_format", given.json()?).map(Some),
        other => {
            let shown: String = other.chars().take(32).collect();
            let message =
                format!("`response_format.type` is text, json_object, json_schema or structural_tag, not `{shown}`");
            Err(ApiError::invalid("response_format.type", message))
        }
    }
}

#[derive(Deserialize)]
struct StructuredOutputs {
    json: Option<Value>,
    regex: Option<String>,
    choice: Option<Vec<String>>,
    grammar: Option<String>,
    json_object: Option<bool>,
    structural_tag: Option<Value>,
    disable_any_whitespace: Option<bool>,
    // Known and not done.
    whitespace_pattern: Option<String>,
    disable_additional_properties: Option<bool>,
}

/// vLLM's `structured_outputs`.
pub(super) fn structured_outputs(given: Given<'_>) -> Result<Option<Structure>, ApiError> {
    check_size(given)?;
    let outputs: StructuredOutputs = given.json()?;
    let undone = [
        ("whitespace_pattern", outputs.whitespace_pattern.is_some()),
        ("disable_additional_properties", outputs.disable_additional_properties == Some(true)),
    ];
    if let Some((name, _)) = undone.iter().find(|(_, is_set)| *is_set) {
        let path = format!("structured_outputs.{name}");
        return Err(ApiError::unsupported(path.clone(), format!("`{path}` is not supported yet; leave it out")));
    }
    let of = |name: &str, form: Form| Structure::new(format!("structured_outputs.{name}"), form);
    let forms = [
        outputs.json.map(|given| schema("structured_outputs.json", given)).transpose()?,
        outputs.regex.map(|regex| of("regex", Form::Regex(regex))),
        outputs.choice.map(|texts| choices("structured_outputs.choice", texts)).transpose()?,
        outputs.grammar.map(|grammar| of("grammar", Form::Grammar(grammar))),
        outputs.structural_tag.map(|given| parts("structured_outputs.structural_tag", given)).transpose()?,
        (outputs.json_object == Some(true)).then(|| of("json_object", Form::Json)),
    ];
    let mut one = None;
    for form in forms {
        one = Structure::one_of(one, form)?;
    }
    let is_compact = outputs.disable_any_whitespace == Some(true);
    Ok(one.map(|structure| Structure { is_compact, ..structure }))
}

/// A schema: an object, or its text.
pub(super) fn json(given: Given<'_>) -> Result<Option<Structure>, ApiError> {
    check_size(given)?;
    match given.json()? {
        Value::Object(members) if members.is_empty() => Ok(None),
        Value::String(text) if text.is_empty() => Ok(None),
        value => schema(given.name, value).map(Some),
    }
}

/// A structural tag: an object, or its text.
pub(super) fn structural_tag(given: Given<'_>) -> Result<Option<Structure>, ApiError> {
    check_size(given)?;
    match given.json()? {
        Value::String(text) if text.is_empty() => Ok(None),
        value => parts(given.name, value).map(Some),
    }
}

/// A regular expression.
pub(super) fn regex(given: Given<'_>) -> Result<Option<Structure>, ApiError> {
    text(given, Form::Regex)
}

/// A grammar.
pub(super) fn grammar(given: Given<'_>) -> Result<Option<Structure>, ApiError> {
    text(given, Form::Grammar)
}

/// A text; an empty one asks for nothing.
fn text(given: Given<'_>, form: impl Fn(String) -> Form) -> Result<Option<Structure>, ApiError> {
    check_size(given)?;
    let text: String = given.json()?;
    Ok((!text.is_empty()).then(|| Structure::new(given.name, form(text))))
}

/// Texts to choose among; none asks for nothing.
pub(super) fn choice(given: Given<'_>) -> Result<Option<Structure>, ApiError> {
    check_size(given)?;
    let texts: Vec<String> = given.json()?;
    if texts.is_empty() { Ok(None) } else { choices(given.name, texts).map(Some) }
}

fn schema(param: &str, given: Value) -> Result<Structure, ApiError> {
    let schema = match given {
        Value::String(text) => serde_json::from_str(&text)
            .map_err(|cause| ApiError::invalid(param, format!("`{param}` is a text that is no JSON: {cause}")))?,
        schema => schema,
    };
    if !matches!(schema, Value::Object(_) | Value::Bool(true)) {
        return Err(ApiError::invalid(param, format!("`{param}` must be a JSON schema, an object")));
    }
    Ok(Structure::new(param, Form::Schema(schema)))
}

fn parts(param: &str, given: Value) -> Result<Structure, ApiError> {
    tags::part(param, given).map(|part| Structure::new(param, Form::Parts(part)))
}

fn choices(param: &str, texts: Vec<String>) -> Result<Structure, ApiError> {
    if texts.is_empty() || texts.len() > CHOICES_MAX || texts.iter().all(String::is_empty) {
        return Err(ApiError::invalid(param, format!("`{param}` must hold 1 to {CHOICES_MAX} texts")));
    }
    Ok(Structure::new(param, Form::Choice(texts)))
}

fn check_size(given: Given<'_>) -> Result<(), ApiError> {
    if given.raw.len() <= STRUCTURE_BYTES_MAX {
        return Ok(());
    }
    let (name, bytes) = (given.name, given.raw.len());
    let message = format!("`{name}` has {bytes} bytes; a schema or grammar may have {STRUCTURE_BYTES_MAX}");
    Err(ApiError::invalid(name, message))
}
