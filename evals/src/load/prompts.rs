//! Prompts: short questions, made-up text of a given length, or a file's conversations.

use super::args::{LoadArgs, UsageError, Words};
use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::Path;
use wire::openai::ChatMessage;
use wire::openai::chat::Role;

/// A conversation to be continued.
pub(super) type Prompt = Vec<ChatMessage>;

/// Short questions that any model answers somehow, of different lengths and openings.
const QUESTIONS: [&str; 12] = [
    "What is a forebay?",
    "What is 7 plus 5?",
    "Name three primary colours.",
    "Why is the sky blue? One sentence, please.",
    "What does a turbine do?",
    "Say hello to a new colleague.",
    "What is the difference between latency and throughput?",
    "How many minutes are in two hours?",
    "What is a cache good for?",
    "Give me a word that rhymes with stone.",
    "What should I check first when a server is slow?",
    "Write the numbers from one to five in words.",
];

/// Words that made-up prompts are drawn from: common, short, mostly one token each.
const VOCABULARY: [&str; 32] = [
    "water", "river", "stone", "light", "house", "small", "green", "early", "north", "winter", "table", "paper",
    "garden", "morning", "window", "letter", "people", "number", "music", "bread", "silver", "quiet", "open", "round",
    "above", "under", "before", "after", "slowly", "again", "near", "far",
];

/// The number of different prompts that are made up: enough that a prefix cache cannot answer most of them,
/// few enough that encoding them ahead costs little memory.
const MADE_UP_MAX: usize = 256;

/// The prompts of a run, at least one; requests use them in turn.
pub(super) fn choose(args: &LoadArgs) -> anyhow::Result<Vec<Prompt>> {
    if let Some(path) = &args.prompt_file {
        return from_file(path);
    }
    Ok(match args.prompt_words {
        Some(words) => made_up(words, args.seed),
        None => QUESTIONS.iter().map(|question| user(*question)).collect(),
    })
}

/// The request bodies, encoded before the clock starts.
pub(super) fn encode(prompts: &[Prompt], model: &str, args: &LoadArgs) -> anyhow::Result<Vec<Bytes>> {
    prompts
        .iter()
        .map(|messages| {
            let mut body = json!({"model": model, "messages": messages, "max_tokens": args.max_tokens});
            if !args.no_stream {
                body["stream"] = Value::Bool(true);
                body["stream_options"] = json!({"include_usage": true});
            }
            if args.ignore_eos {
                body["ignore_eos"] = Value::Bool(true);
            }
            if let Some(temperature) = args.temperature {
                body["temperature"] = json!(temperature);
            }
            Ok(Bytes::from(serde_json::to_vec(&body)?))
        })
        .collect()
}

fn user(text: impl Into<String>) -> Prompt {
    vec![ChatMessage::new(Role::User, text)]
}

fn made_up(words: Words, seed: u64) -> Vec<Prompt> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut prompt = || {
        let count = random.random_range(words.min..=words.max);
        let text: Vec<&str> = (0..count).map(|_| VOCABULARY[random.random_range(0..VOCABULARY.len())]).collect();
        user(text.join(" "))
    };
    (0..MADE_UP_MAX).map(|_| prompt()).collect()
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Messages(Prompt),
    Object { messages: Prompt },
}

fn from_file(path: &Path) -> anyhow::Result<Vec<Prompt>> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| UsageError(format!("reading --prompt-file {}: {error}", path.display())))?;
    parse_lines(&text).map_err(|error| UsageError(format!("--prompt-file {}: {error}", path.display())).into())
}

fn parse_lines(text: &str) -> Result<Vec<Prompt>, UsageError> {
    let mut prompts = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let messages = match serde_json::from_str(line) {
            Ok(Line::Messages(messages) | Line::Object { messages }) if !messages.is_empty() => messages,
            _ => {
                return Err(UsageError(format!(
                    "line {} is not a list of messages such as [{{\"role\":\"user\",\"content\":\"hello\"}}]",
                    number + 1
                )));
            }
        };
        prompts.push(messages);
    }
    if prompts.is_empty() {
        return Err(UsageError("the file holds no prompt".into()));
    }
    Ok(prompts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_lists_of_messages_or_objects_that_hold_one() {
        let text = "[{\"role\":\"user\",\"content\":\"a\"}]\n\n{\"id\":1,\"messages\":[{\"role\":\"user\",\"content\":\"b\"}]}\n";
        assert_eq!(parse_lines(text).expect("parses"), [user("a"), user("b")]);
    }

    #[test]
    fn a_bad_line_is_named() {
        for bad in ["{}", "[]", "nonsense", "[{\"role\":\"wizard\",\"content\":\"a\"}]"] {
            let text = format!("[{{\"role\":\"user\",\"content\":\"a\"}}]\n{bad}\n");
            let error = parse_lines(&text).expect_err(bad).to_string();
            assert!(error.contains("line 2"), "{error}");
        }
        assert!(parse_lines(" \n").is_err());
    }

    #[test]
    fn made_up_prompts_have_the_asked_lengths_and_repeat_with_the_seed() {
        let words = Words { min: 3, max: 9 };
        let prompts = made_up(words, 5);
        let counts: Vec<usize> = prompts.iter().map(|prompt| prompt[0].content.split(' ').count()).collect();
        assert!(counts.iter().all(|count| (3..=9).contains(count)));
        assert!(counts.contains(&3) && counts.contains(&9), "both ends of the range occur");
        assert_eq!(prompts, made_up(words, 5));
        assert_ne!(prompts, made_up(words, 6));
    }
}
