//! Tools for models whose chat template knows none: they are told in words, and calls are plain JSON.

use wire::openai::ChatMessage;
use wire::openai::chat::Role;
use wire::openai::tools::Tool;

/// The conversation with its tools in the words of the system, calls as the text they were, and answers of tools as words
/// of the user.
#[must_use]
pub fn in_words(messages: &[ChatMessage], tools: &[&Tool]) -> Vec<ChatMessage> {
    let mut out: Vec<ChatMessage> = Vec::with_capacity(messages.len() + 1);
    for message in messages {
        let mut plain = message.clone();
        for call in std::mem::take(&mut plain.tool_calls) {
            let name = serde_json::Value::from(call.function.name);
            let text = format!("{{\"name\": {name}, \"arguments\": {}}}", call.function.arguments);
            plain.content = [plain.content.as_str(), &text].join(if plain.content.is_empty() { "" } else { "\n" });
        }
        if message.role == Role::Tool {
            plain = ChatMessage::new(Role::User, format!("The tool answered: {}", plain.content));
        }
        out.push(plain);
    }
    if !tools.is_empty() {
        let words = words(tools);
        match out.first_mut().filter(|first| matches!(first.role, Role::System | Role::Developer)) {
            Some(system) => system.content = format!("{}\n\n{words}", system.content),
            None => out.insert(0, ChatMessage::new(Role::System, words)),
        }
    }
    out
}

fn words(tools: &[&Tool]) -> String {
    let lines: Vec<String> = tools.iter().map(|tool| tool.given.to_string()).collect();
    format!(
        "You may call these tools, one JSON object a line:\n{}\nTo call one, answer with nothing but \
         {{\"name\": its name, \"arguments\": an object of its arguments}}.",
        lines.join("\n")
    )
}
