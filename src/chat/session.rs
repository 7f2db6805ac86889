//! A conversation: one prompt from the command line or a pipe, or many from a terminal.

use super::editor::{Editor, Typed, history_file};
use super::{Client, Conversation};
use crate::cli::ChatArgs;
use crate::out::{self, Closed};
use crate::signals::{Ended, Signals, Wish};
use anyhow::{Context, bail};
use std::io::{self, ErrorKind, IsTerminal, Read};
use telemetry::terminal;
use wire::openai::chat::{ChatMessage, Role};

/// The end of an answer.
enum Answered {
    Whole,
    /// By Ctrl-C.
    CutShort,
}

/// Talks to `model`.
///
/// # Errors
/// Of a single prompt, what went wrong. In a conversation an error is told, and the conversation goes on.
pub(crate) async fn talk(client: &Client, model: String, args: &ChatArgs, signals: Signals) -> anyhow::Result<()> {
    let system = args.system.iter().map(|text| ChatMessage::new(Role::System, text)).collect();
    let conversation =
        Conversation { model, messages: system, temperature: args.temperature, max_tokens: args.max_tokens };
    let mut session = Session { client, conversation, signals };
    if !args.prompt.is_empty() {
        return session.once(args.prompt.join(" ")).await;
    }
    if io::stdin().is_terminal() {
        return session.many(!args.no_history).await;
    }
    let mut prompt = String::new();
    io::stdin().read_to_string(&mut prompt).context("reading the prompt from standard input")?;
    if prompt.trim().is_empty() {
        bail!("standard input holds no prompt; give one, e.g. forebay chat \"What is Forebay?\"");
    }
    session.once(prompt.trim_end_matches(['\r', '\n']).to_owned()).await
}

struct Session<'a> {
    client: &'a Client,
    conversation: Conversation,
    signals: Signals,
}

impl Session<'_> {
    /// Asks once.
    async fn once(&mut self, prompt: String) -> anyhow::Result<()> {
        match self.ask(prompt).await? {
            Answered::Whole => Ok(()),
            Answered::CutShort => Err(Ended(Wish::Interrupt).into()),
        }
    }

    /// Asks until the user ends it.
    async fn many(&mut self, with_history: bool) -> anyhow::Result<()> {
        let model = &self.conversation.model;
        out::remark(format_args!(
            "Talking to {model}. Ctrl-C ends an answer, and here the conversation, as Ctrl-D does."
        ));
        let editor = Editor::start(history_file().filter(|_| with_history))?;
        loop {
            let typed = tokio::select! {
                typed = editor.next() => typed?,
                wish = self.signals.next() => return if wish == Wish::Interrupt { Ok(()) } else { Err(Ended(wish).into()) },
            };
            let prompt = match typed {
                Typed::End => return Ok(()),
                Typed::Prompt(prompt) if prompt.trim().is_empty() => continue,
                Typed::Prompt(prompt) => prompt,
            };
            match self.ask(prompt).await {
                Ok(_) => {}
                Err(error) if error.is::<Closed>() || error.is::<Ended>() => return Err(error),
                Err(error) => out::remark(format_args!("forebay: {}", wire::Chain(error.as_ref()))),
            }
        }
    }

    /// Asks, and shows the answer as it comes. What failed leaves the conversation as it was.
    async fn ask(&mut self, prompt: String) -> anyhow::Result<Answered> {
        let before = self.conversation.messages.len();
        self.conversation.messages.push(ChatMessage::new(Role::User, prompt));
        let mut said = String::new();
        let answer = self.client.answer(&self.conversation, |text| {
            said.push_str(text);
            show(text)
        });
        let outcome = tokio::select! {
            answer = answer => answer.map(|_| Answered::Whole),
            wish = self.signals.next() => match wish {
                Wish::Interrupt => Ok(Answered::CutShort),
                Wish::Terminate => Err(Ended(wish).into()),
            },
        };
        if !said.is_empty() {
            end_line()?;
        }
        match outcome {
            Ok(answered) => {
                self.conversation.messages.push(ChatMessage::new(Role::Assistant, said));
                Ok(answered)
            }
            Err(error) => {
                self.conversation.messages.truncate(before);
                let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
                Err(if kind == Some(ErrorKind::BrokenPipe) { Closed.into() } else { error })
            }
        }
    }
}

/// Shows a piece of an answer.
fn show(text: &str) -> io::Result<()> {
    terminal::set_mid_line(io::stdout().is_terminal());
    out::text(text).map_err(|error| match error.downcast::<io::Error>() {
        Ok(cause) => cause,
        Err(_) => ErrorKind::BrokenPipe.into(),
    })
}

fn end_line() -> anyhow::Result<()> {
    terminal::set_mid_line(false);
    out::line("")
}
