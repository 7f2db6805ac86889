//! Prompts from a terminal: one line editor on a thread of its own, since it blocks, and its history.

use crate::out;
use anyhow::Context;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use rustyline::error::ReadlineError;
use rustyline::{ColorMode, Config, DefaultEditor};
use std::fs;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use tokio::sync::oneshot;

/// The prompt's sign, before the cursor.
const PROMPT: &str = "> ";
/// The most prompts that are remembered.
const HISTORY_MAX: usize = 1_000;
/// Ends bracketed paste.
const PASTE_OFF: &[u8] = b"\x1b[?2004l";

/// The outcome of asking for a prompt.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Typed {
    /// A prompt; a paste is one whatever lines it has.
    Prompt(String),
    /// Ctrl-C or Ctrl-D.
    End,
}

type Answer = oneshot::Sender<anyhow::Result<Typed>>;

/// The line editor. When it is dropped the terminal is as it was.
pub(super) struct Editor {
    asks: mpsc::Sender<Answer>,
    before: Option<Termios>,
}

impl Editor {
    /// Starts the editor; with a path, history is read from there and kept there.
    pub(super) fn start(history: Option<PathBuf>) -> anyhow::Result<Self> {
        let (asks, answers) = mpsc::channel::<Answer>();
        let before = tcgetattr(std::io::stdin()).ok();
        let colours = if telemetry::terminal::has_colours() { ColorMode::Enabled } else { ColorMode::Disabled };
        let config = Config::builder()
            .auto_add_history(true)
            .bracketed_paste(true)
            .color_mode(colours)
            .history_ignore_space(true)
            .max_history_size(HISTORY_MAX)
            .context("sizing the history")?
            .build();
        let mut editor = DefaultEditor::with_config(config).context("preparing the terminal")?;
        if let Some(path) = &history {
            // A history that is not there yet is empty.
            let _ = editor.load_history(path);
        }
        std::thread::Builder::new()
            .name("prompt".into())
            .spawn(move || {
                while let Ok(answer) = answers.recv() {
                    let typed = read(&mut editor, history.as_deref());
                    if answer.send(typed).is_err() {
                        return;
                    }
                }
            })
            .context("starting the prompt's thread")?;
        Ok(Self { asks, before })
    }

    /// Waits for the next prompt.
    pub(super) async fn next(&self) -> anyhow::Result<Typed> {
        let (sender, answer) = oneshot::channel();
        self.asks.send(sender).ok().context("the prompt's thread has ended")?;
        answer.await.context("the prompt's thread has ended")?
    }
}

impl Drop for Editor {
    fn drop(&mut self) {
        // The thread may be in the middle of a line, and then it has the terminal in its own mode.
        if let Some(before) = &self.before {
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, before);
            let _ = out::write(PASTE_OFF);
        }
    }
}

fn read(editor: &mut DefaultEditor, history: Option<&Path>) -> anyhow::Result<Typed> {
    match editor.readline(PROMPT) {
        Ok(line) => {
            if let Some(path) = history {
                // A disk that is full costs the history, not the conversation.
                let _ = editor.append_history(path);
            }
            Ok(Typed::Prompt(line))
        }
        Err(ReadlineError::Interrupted | ReadlineError::Eof) => Ok(Typed::End),
        Err(cause) => Err(cause).context("reading a prompt"),
    }
}

/// The history's file, readable by its owner only; `None` where it cannot be kept.
pub(super) fn history_file() -> Option<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state"));
    private_file(&state.or_else(home)?.join("forebay"), "chat_history")
}

/// Makes a directory and a file in it that only their owner reads.
fn private_file(directory: &Path, name: &str) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).ok()?;
    let path = directory.join(name);
    let file = fs::OpenOptions::new().append(true).create(true).mode(0o600).open(&path).ok()?;
    // One that was there may have been open to others.
    file.set_permissions(fs::Permissions::from_mode(0o600)).ok()?;
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn only_its_owner_reads_the_history() {
        let dir = tempfile::tempdir().expect("a directory");
        let folder = dir.path().join("state/forebay");
        let path = private_file(&folder, "chat_history").expect("made");
        let mode = |path: &Path| fs::metadata(path).expect("is there").permissions().mode() & 0o777;
        assert_eq!((mode(&folder), mode(&path)), (0o700, 0o600));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("opened to others");
        private_file(&folder, "chat_history").expect("is there");
        assert_eq!(mode(&path), 0o600);
    }
}
