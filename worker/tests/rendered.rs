//! A phrase that policy would refuse in a prompt is refused in the request, whichever template makes the prompt of it.

use models::calls::in_words;
use models::template::ChatTemplate;
use models::tokenizer::{TextFiles, Tokenizer};
use policy::{Facts, Moment, Policy, Presented, Rejection};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;
use wire::openai::generate::Input;
use wire::openai::scan::{Limits, Scan};
use wire::openai::tools::{Tool, ToolChoice};
use wire::openai::{CHAT, COMPLETIONS, Endpoint, parse, scan};

/// A time of day for templates that print it.
const NOW: u64 = 1_772_694_489;

/// Shapes of published templates that move texts about, beside those of the fixtures.
const SHAPES: [&str; 7] = [
    // DeepSeek: the system's words of all messages first.
    "{% set ns = namespace(system='') %}{% for m in messages %}{% if m.role == 'system' %}\
     {% set ns.system = ns.system + '\\n\\n' + m.content %}{% endif %}{% endfor %}{{ bos_token }}{{ ns.system }}\
     {% for m in messages %}{% if m.role != 'system' %}<|{{ m.role }}|>{{ m.content }}{% endif %}{% endfor %}",
    // Gemma: the system's words before the user's first.
    "{% if messages[0].role == 'system' %}{% set first = messages[0].content + '\\n\\n' %}{% set rest = messages[1:] %}\
     {% else %}{% set first = '' %}{% set rest = messages %}{% endif %}{% for m in rest %}<start_of_turn>{{ m.role }}\\n\
     {{ first if loop.first else '' }}{{ m.content | trim }}<end_of_turn>\\n{% endfor %}",
    // Mistral: the system's words before the user's last.
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set rest = messages[1:] %}\
     {% else %}{% set rest = messages %}{% endif %}{% for m in rest %}{% if m.role == 'user' %}[INST] \
     {% if loop.last and system is defined %}{{ system + '\\n\\n' + m.content }}{% else %}{{ m.content }}{% endif %}[/INST]\
     {% else %}{{ ' ' + m.content + '</s>' }}{% endif %}{% endfor %}",
    // Names before and behind what is said, and roles as they are.
    "{% for m in messages %}{{ m.role }} {{ m.name if m.name is defined else '' }} {{ m.content }}\\n{% endfor %}",
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% if m.name is defined %}\\n{{ m.name }}{% endif %}{% endfor %}",
    // Calls and tools: names and values, one a line.
    "{% if tools %}{% for t in tools %}{{ t.function.name }}\\n{{ t.function.description }}\\n{% endfor %}{% endif %}\
     {% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% if m.tool_calls %}{% for c in m.tool_calls %}\
     {{ c.function.name }}\\n{% for k, v in c.function.arguments | items %}{{ k }}\\n{{ v }}\\n{% endfor %}{% endfor %}\
     {% endif %}{% endfor %}",
    // Thoughts before what is said.
    "{% for m in messages %}<|{{ m.role }}|>{% if m.reasoning_content %}{{ m.reasoning_content }}\\n{% endif %}{{ m.content }}\
     {% endfor %}{{ custom | default('') }}\\n{{ other | default('') }}",
];

fn template(source: &str) -> ChatTemplate {
    let tokenizer = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizers/bpe_small/tokenizer.json");
    let tokenizer = std::fs::read(tokenizer).expect("a fixture");
    let config = json!({"bos_token": "<s>", "eos_token": "</s>"}).to_string();
    let files = TextFiles {
        tokenizer_config_json: Some(config.as_bytes()),
        chat_template_jinja: Some(source),
        ..TextFiles::new(&tokenizer)
    };
    let tokenizer = Tokenizer::parse(&files).expect("a tokenizer");
    let template = ChatTemplate::parse(&files, &tokenizer).expect("a template");
    assert_eq!(template.fault(), None, "{source}");
    template
}

static TEMPLATES: LazyLock<Vec<ChatTemplate>> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/chat_templates");
    let files = std::fs::read_dir(folder).expect("fixtures").map(|entry| entry.expect("a file").path());
    let files = files.filter(|path| path.extension().is_some_and(|ending| ending == "jinja"));
    let published: Vec<String> = files.map(|path| std::fs::read_to_string(path).expect("text")).collect();
    assert!(published.len() >= 6, "{} templates", published.len());
    published.iter().map(String::as_str).chain(SHAPES).map(template).collect()
});

static POLICY: LazyLock<Policy> = LazyLock::new(|| {
    let config = json!({"deny_list": {"phrases": ["project nightjar"]}});
    Policy::new(&serde_json::from_value(config).expect("a configuration")).expect("valid")
});

/// True if policy lets a request pass that was scanned.
fn passes(body: &str, found: &Scan, endpoint: &'static Endpoint) -> bool {
    let who = POLICY.identify(Presented::Nothing, None, Moment(Duration::ZERO)).expect("anonymous");
    match POLICY.decide(&Facts { who: &who, endpoint, body: body.as_bytes(), scan: found }) {
        Ok(_) => true,
        Err(Rejection::PromptBlocked { .. }) => false,
        Err(other) => panic!("{other:?}"),
    }
}

/// The prompts that templates make of a request, as a worker asks them to.
fn rendered(body: &str, found: &Scan) -> Vec<String> {
    let Ok(request) = parse(body.as_bytes(), found, &CHAT) else { return Vec::new() };
    let Input::Conversation { messages, variables, opening } = &request.input else { panic!("a chat has messages") };
    let tools = request.tools.as_ref().filter(|tools| tools.choice != ToolChoice::None);
    let tools: Vec<&Tool> = tools.into_iter().flat_map(|tools| &tools.all).collect();
    let render = |template: &ChatTemplate| {
        if template.reads("tools") {
            let tools: Vec<&Value> = tools.iter().map(|tool| &tool.given).collect();
            template.render(messages, &tools, variables, *opening, NOW)
        } else {
            template.render(&in_words(messages, &tools), &[], variables, *opening, NOW)
        }
    };
    TEMPLATES.iter().filter_map(|template| render(template).ok()).collect()
}

/// A denied phrase, its parts, and what stands between them.
fn piece() -> impl Strategy<Value = &'static str> {
    select(vec![
        "project",
        "nightjar",
        "my project",
        "nightjar now",
        "project ",
        " nightjar",
        "proj",
        "ect nightjar",
        "x",
        "",
        " ",
        "\n",
        "\u{200b}",
    ])
}

fn content() -> impl Strategy<Value = Value> {
    let parts = vec(piece(), 0..3).prop_map(|parts| {
        parts.into_iter().map(|text| json!({"type": "text", "text": text})).collect::<Vec<_>>().into()
    });
    prop_oneof![3 => piece().prop_map(Value::from), 1 => parts]
}

fn message() -> impl Strategy<Value = Value> {
    let role = select(vec!["system", "user", "user", "assistant", "assistant", "tool", "developer"]);
    let call = (piece(), vec((piece(), piece()), 0..2));
    (role, content(), option::weighted(0.2, piece()), option::weighted(0.2, piece()), option::weighted(0.2, call))
        .prop_map(|(role, content, name, thought, call)| {
            let mut message = json!({"role": role, "content": content});
            if let Some(name) = name {
                message["name"] = name.into();
            }
            match (role, thought, call) {
                ("assistant", Some(thought), _) => message["reasoning_content"] = thought.into(),
                ("assistant", None, Some((name, arguments))) => {
                    let arguments: serde_json::Map<String, Value> =
                        arguments.into_iter().map(|(key, value)| (key.to_owned(), value.into())).collect();
                    let function = json!({"name": name, "arguments": Value::from(arguments).to_string()});
                    message["tool_calls"] = json!([{"id": "c", "type": "function", "function": function}]);
                }
                ("tool", ..) => message["tool_call_id"] = "c".into(),
                _ => {}
            }
            message
        })
}

fn chat() -> impl Strategy<Value = Value> {
    let tools = vec((select(vec!["project", "nightjar", "f"]), piece()), 0..3);
    (vec(message(), 1..5), tools, option::weighted(0.2, (piece(), piece()))).prop_map(|(messages, tools, variables)| {
        let mut body = json!({"model": "m", "messages": messages});
        if !tools.is_empty() {
            // A tool alone has its members in either order. Of several, names come first, as in every client.
            let is_alone = tools.len() == 1;
            let tool = |(name, description): (&str, &str)| match is_alone {
                true => json!({"type": "function", "function": {"description": description, "name": name}}),
                false => json!({"type": "function", "function": {"name": name, "description": description}}),
            };
            body["tools"] = tools.into_iter().map(tool).collect();
        }
        if let Some((custom, other)) = variables {
            body["chat_template_kwargs"] = json!({"custom": custom, "other": other});
        }
        body
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    #[test]
    fn what_no_request_may_say_no_template_makes_of_one(body in chat()) {
        let body = body.to_string();
        let found = scan(body.as_bytes(), &CHAT, &Limits::default()).expect("a body");
        if !passes(&body, &found, &CHAT) {
            return Ok(());
        }
        for prompt in rendered(&body, &found) {
            let prompt = json!({"prompt": prompt}).to_string();
            let read = scan(prompt.as_bytes(), &COMPLETIONS, &Limits::default()).expect("a body");
            prop_assert!(passes(&prompt, &read, &COMPLETIONS), "{body}\nis rendered as\n{prompt}");
        }
    }
}
