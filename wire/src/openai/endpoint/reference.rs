//! Rows as words and as a description for machines: the tables of `docs/semantics.md`, and OpenAPI.

use super::ENDPOINTS;
use super::row::{Answers, Endpoint, Fate, Field, Kind};
use serde_json::{Map, Value, json};
use std::fmt::Write;

/// The fields of every endpoint as tables of Markdown.
#[must_use]
pub fn fields() -> String {
    let mut out = String::new();
    for endpoint in ENDPOINTS {
        // Writing to a string does not fail.
        _ = write!(out, "### `POST {}`\n\n| field | type | what becomes of it |\n|---|---|---|\n", endpoint.path());
        for field in endpoint.fields.iter().copied().flatten() {
            _ = writeln!(out, "| `{}` | {} | {} |", field.name, kind(field), fate(field));
        }
        out.push('\n');
    }
    out
}

fn kind(field: &Field) -> &'static str {
    match field.kind {
        Kind::Any => "any",
        Kind::Bool => "boolean",
        Kind::Integer => "integer",
        Kind::Number => "number",
        Kind::Text => "string",
        Kind::Texts => "string or list of strings",
        Kind::Integers | Kind::Tokens => "list of integers",
        Kind::Object | Kind::StreamOptions => "object",
        Kind::Messages => "list of messages",
        Kind::Prompt => "string, list of strings, list of token ids, or list of such lists",
    }
}

fn fate(field: &Field) -> String {
    match field.fate {
        Fate::Honoured(_) => "honoured".into(),
        Fate::Ignored => "accepted, without effect on the answer".into(),
        Fate::Refused([]) => "refused".into(),
        Fate::Refused(unless) => {
            let unless: Vec<String> = unless.iter().map(|value| format!("`{}`", value.replace('|', "\\|"))).collect();
            format!("refused, unless it is {}", unless.join(" or "))
        }
    }
}

/// The description of a server that serves every endpoint, as OpenAPI 3.1.
#[must_use]
pub fn openapi(version: &str) -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for endpoint in ENDPOINTS {
        for path in endpoint.paths {
            paths.insert((*path).into(), json!({"post": operation(endpoint)}));
        }
    }
    paths.insert("/v1/models".into(), json!({"get": read("models", "Models")}));
    paths.insert("/version".into(), json!({"get": read("version", "Version")}));
    json!({
        "openapi": "3.1.0",
        "info": {"title": "Forebay", "version": version},
        "paths": paths,
        "components": {
            "schemas": schemas(),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    })
}

fn operation(endpoint: &Endpoint) -> Value {
    let fields = endpoint.fields.iter().copied().flatten();
    let properties: Map<String, Value> = fields
        .filter(|field| !matches!(field.fate, Fate::Refused(_)))
        .map(|field| (field.name.to_owned(), or_null(schema(field.kind))))
        .collect();
    let answer = json!({"$ref": format!("#/components/schemas/{}", endpoint.name)});
    let (description, content) = match endpoint.answers {
        Answers::Choices => (
            "The answer, whole or as a stream of events",
            json!({"application/json": {"schema": answer}, "text/event-stream": {"schema": {"type": "string"}}}),
        ),
        Answers::Vectors => ("The answer", json!({"application/json": {"schema": answer}})),
    };
    json!({
        "operationId": endpoint.name,
        "requestBody": {"required": true, "content": {"application/json": {"schema": {
            "type": "object",
            "properties": properties,
            "required": [endpoint.prompt],
        }}}},
        "responses": {
            "200": {"description": description, "content": content},
            "default": failure(),
        },
    })
}

fn read(name: &str, schema: &str) -> Value {
    let schema = json!({"$ref": format!("#/components/schemas/{schema}")});
    json!({
        "operationId": name,
        "responses": {
            "200": {"description": "The answer", "content": {"application/json": {"schema": schema}}},
            "default": failure(),
        },
    })
}

fn failure() -> Value {
    let schema = json!({"$ref": "#/components/schemas/Error"});
    json!({"description": "An error", "content": {"application/json": {"schema": schema}}})
}

fn or_null(schema: Value) -> Value {
    if schema == json!({}) { schema } else { json!({"anyOf": [schema, {"type": "null"}]}) }
}

fn schema(kind: Kind) -> Value {
    let of = |name: &str| json!({ "type": name });
    let list = |items: Value| json!({"type": "array", "items": items});
    match kind {
        Kind::Any => json!({}),
        Kind::Bool => of("boolean"),
        Kind::Integer => of("integer"),
        Kind::Number => of("number"),
        Kind::Text => of("string"),
        Kind::Texts => json!({"anyOf": [of("string"), list(of("string"))]}),
        Kind::Integers | Kind::Tokens => list(of("integer")),
        Kind::Object | Kind::StreamOptions => of("object"),
        Kind::Messages => {
            let roles = ["system", "developer", "user", "assistant", "tool"];
            let part = json!({"type": "object", "properties": {"type": {"const": "text"}, "text": of("string")}, "required": ["type", "text"]});
            let content = json!({"anyOf": [of("string"), list(part), of("null")]});
            let properties = json!({"role": {"enum": roles}, "content": content});
            let message = json!({"type": "object", "properties": properties, "required": ["role"]});
            json!({"type": "array", "items": message, "minItems": 1})
        }
        Kind::Prompt => {
            let tokens = list(of("integer"));
            json!({"anyOf": [of("string"), list(of("string")), tokens, list(tokens.clone())]})
        }
    }
}

/// The answers' shapes.
fn schemas() -> Value {
    let text = json!({"type": "string"});
    let maybe_text = json!({"type": ["string", "null"]});
    let count = json!({"type": "integer", "minimum": 0});
    let object =
        |properties: Value, required: Value| json!({"type": "object", "properties": properties, "required": required});
    let usage = object(
        json!({"prompt_tokens": count, "completion_tokens": count, "total_tokens": count}),
        json!(["prompt_tokens", "completion_tokens", "total_tokens"]),
    );
    let answer = |object_name: &str, choice: Value| {
        object(
            json!({
                "id": text, "object": {"const": object_name}, "created": count, "model": text,
                "choices": {"type": "array", "items": choice}, "usage": usage,
            }),
            json!(["id", "object", "created", "model", "choices"]),
        )
    };
    let message = object(json!({"role": {"const": "assistant"}, "content": maybe_text}), json!(["role", "content"]));
    let chat = object(
        json!({"index": count, "message": message, "finish_reason": maybe_text}),
        json!(["index", "message", "finish_reason"]),
    );
    let completion = object(
        json!({"index": count, "text": text, "finish_reason": maybe_text}),
        json!(["index", "text", "finish_reason"]),
    );
    let error = object(
        json!({"message": text, "type": text, "param": maybe_text, "code": maybe_text}),
        json!(["message", "type", "param", "code"]),
    );
    let embedding = object(
        json!({
            "object": {"const": "embedding"}, "index": count,
            "embedding": {"anyOf": [{"type": "array", "items": {"type": "number"}}, text]},
        }),
        json!(["object", "index", "embedding"]),
    );
    let embeddings = object(
        json!({
            "object": {"const": "list"}, "data": {"type": "array", "items": embedding}, "model": text,
            "usage": object(json!({"prompt_tokens": count, "total_tokens": count}), json!(["prompt_tokens", "total_tokens"])),
        }),
        json!(["object", "data", "model", "usage"]),
    );
    let model = object(json!({"id": text, "object": {"const": "model"}}), json!(["id", "object"]));
    json!({
        "chat": answer("chat.completion", chat),
        "text_completion": answer("text_completion", completion),
        "embeddings": embeddings,
        "Error": object(json!({"error": error}), json!(["error"])),
        "Models": object(json!({"object": {"const": "list"}, "data": {"type": "array", "items": model}}), json!(["object", "data"])),
        "Version": object(json!({"version": text}), json!(["version"])),
    })
}
