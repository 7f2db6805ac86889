//! From a request to how its answers come about: what restricts their tokens, and how their text is read.

use super::ServerModel;
use super::speech::{Called, Manner};
use crate::structure::{Budget, Rules};
use compute::sampler::Mask;
use models::grammar::{Calls, Grammar, Shape, bracketed};
use models::thoughts::{Begun, Marks};
use std::sync::Arc;
use wire::openai::generate::{Generate, Input};
use wire::openai::structure::Form;
use wire::openai::structure::tags::Part;
use wire::openai::tools::{ToolChoice, Tools};
use wire::openai::{ApiError, Sampling};

/// How the answers of a request come about.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) grammar: Option<Arc<Grammar>>,
    pub(super) rules: Rules,
    pub(super) manner: Manner,
}

/// Plans the answers to a request. `begun` is what its prompt has begun of thoughts.
///
/// # Errors
/// 400: the form it asks for cannot be had, or a token that it allows does not exist.
pub(super) async fn plan(model: &ServerModel, request: &Generate, begun: Option<Begun>) -> Result<Plan, ApiError> {
    let marks = model.thoughts.zip(begun);
    let tools = request.tools.as_ref().filter(|tools| tools.choice != ToolChoice::None);
    let tools = tools.filter(|tools| tools.callable().next().is_some());
    let shape = shape(model, request, tools, marks);
    let called = tools.map(|tools| {
        // A form that is ours is read as it is written.
        let is_live = shape.as_ref().is_some_and(|(shape, _)| shape.calls.is_some());
        let format = if is_live { model.calls.when_forced() } else { model.calls };
        let names = tools.callable().map(|tool| tool.name.clone()).collect();
        Arc::new(Called { format, names, is_live, parallel: tools.parallel })
    });
    let restricted_by = restricted_by(&request.sampling, shape.as_ref().map(|(_, param)| param.as_str()));
    let grammar = match shape {
        Some((shape, param)) => Some(model.structures.grammar(shape, &param).await?),
        None => None,
    };
    let manner = Manner {
        thoughts: marks.filter(|_| !request.reasoning.is_raw),
        hides_thoughts: request.reasoning.is_hidden,
        wants_ids: request.output.token_ids,
        spelled: spelled(model, request, called.as_deref(), marks.map(|(marks, _)| marks)),
        calls: called,
        restricted_by,
    };
    Ok(Plan { grammar, rules: rules(model, request, marks)?, manner })
}

/// The form that the answers must have, and the field that asked for it.
fn shape(
    model: &ServerModel,
    request: &Generate,
    tools: Option<&Tools>,
    marks: Option<(&'static Marks, Begun)>,
) -> Option<(Shape, String)> {
    let is_required = tools.is_some_and(|tools| tools.choice == ToolChoice::Required);
    let text = request.structure.clone().filter(|_| !is_required);
    if text.is_none() && !is_required {
        return None;
    }
    let param = match (&text, tools) {
        (Some(text), None) => text.param.clone(),
        _ => "tools".to_owned(),
    };
    let calls = tools.map(|tools| Calls {
        format: model.calls.when_forced(),
        tools: tools.callable().cloned().collect(),
        parallel: tools.parallel,
    });
    let thoughts = marks.filter(|(_, begun)| *begun != Begun::Over);
    Some((Shape { text, calls, thoughts }, param))
}

/// The field to name where no token is left: the tokens that a client lists, before the form that they are too few for.
fn restricted_by(sampling: &Sampling, form: Option<&str>) -> Option<Arc<str>> {
    let allowed = sampling.allowed_token_ids.as_ref().map(|_| "allowed_token_ids");
    let banned = (!sampling.bad_words.is_empty()).then_some("bad_words");
    allowed.or(banned).or(form).map(Into::into)
}

/// Special tokens that mark calls, thoughts or parts: they are part of the text that is read.
fn spelled(
    model: &ServerModel,
    request: &Generate,
    called: Option<&Called>,
    marks: Option<&Marks>,
) -> Arc<[(u32, String)]> {
    let of_calls = called.into_iter().flat_map(|called| called.format.marks());
    let parts = request.structure.as_ref().and_then(|structure| match &structure.form {
        Form::Parts(part) => Some(part),
        _ => None,
    });
    let mut texts: Vec<&str> = of_calls.chain(marks.into_iter().flat_map(Marks::marks)).collect();
    texts.extend(parts.into_iter().flat_map(Part::marks).flat_map(bracketed));
    let special = texts.into_iter().filter_map(|text| {
        let id = model.tokenizer.token_id(text).filter(|id| model.tokenizer.is_special(*id))?;
        Some((id, text.to_owned()))
    });
    special.collect()
}

fn rules(model: &ServerModel, request: &Generate, marks: Option<(&'static Marks, Begun)>) -> Result<Rules, ApiError> {
    let vocabulary = model.engine.limits().vocab_size;
    let sampling = &request.sampling;
    let allowed = sampling.allowed_token_ids.as_ref().map(|ids| allowed(ids, vocabulary)).transpose()?;
    let budget = marks.zip(request.reasoning.budget).and_then(|((marks, begun), most)| {
        let [begin, end] = marks.marks().map(|text| model.tokenizer.encode(text, false).unwrap_or_default().into());
        let is_begun = begun == Begun::Within;
        (begun != Begun::Over).then_some(Budget { most: most as usize, begin, end, is_begun })
    });
    Ok(Rules { allowed, banned: banned(model, sampling)?, budget, vocabulary })
}

fn allowed(ids: &[u32], vocabulary: usize) -> Result<Arc<Mask>, ApiError> {
    let mut mask = Mask::none(vocabulary);
    for &id in ids {
        if id as usize >= vocabulary {
            let message = format!("the token id {id} is not below the vocabulary's {vocabulary}");
            return Err(ApiError::invalid("allowed_token_ids", message));
        }
        mask.allow(id);
    }
    Ok(Arc::new(mask))
}

/// The tokens of words that may not come, each as it begins a text and as it follows a space.
fn banned(model: &ServerModel, sampling: &Sampling) -> Result<Arc<[Vec<u32>]>, ApiError> {
    let mut banned: Vec<Vec<u32>> = Vec::new();
    for word in &sampling.bad_words {
        for spelling in [word.clone(), format!(" {}", word.trim_start())] {
            let tokens = model.tokenizer.encode(&spelling, false);
            let tokens = tokens.map_err(|cause| ApiError::invalid("bad_words", cause.to_string()))?;
            if !tokens.is_empty() && !banned.contains(&tokens) {
                banned.push(tokens);
            }
        }
    }
    Ok(banned.into())
}

/// Returns the part of a thought that a conversation's prompt has begun.
pub(super) fn begun(model: &ServerModel, request: &Generate, prompt: &str) -> Option<Begun> {
    match request.input {
        Input::Conversation { .. } => model.thoughts.map(|marks| marks.after(prompt)),
        Input::Prompts(_) => None,
    }
}
