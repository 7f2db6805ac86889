//! Starting `forebay` and ending it, whatever the test does.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Long enough for a debug build on a busy machine; a passing test never waits for it.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn forebay() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    // The developer's own settings must not reach a test.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("FOREBAY_") || name.starts_with("OTEL_") {
            command.env_remove(name);
        }
    }
    command
}

/// Runs a command to its end.
pub(crate) fn run(args: &[&str]) -> Output {
    forebay().args(args).stdin(Stdio::null()).output().expect("runs")
}

/// A server that ends with the test.
pub(crate) struct Server {
    child: Child,
    pub(crate) url: String,
    stderr: mpsc::Receiver<String>,
}

impl Server {
    /// Starts `forebay ARGS --listen 127.0.0.1:0` and waits until it says where it listens.
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::start_with(args, &[])
    }

    pub(crate) fn start_with(args: &[&str], environment: &[(&str, &str)]) -> Self {
        Self::start_at(args, "127.0.0.1:0", environment)
    }

    /// As `start_with`, where `listen` says.
    pub(crate) fn start_at(args: &[&str], listen: &str, environment: &[(&str, &str)]) -> Self {
        let mut child = forebay()
            .args(args)
            .args(["--listen", listen])
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts");
        let stderr = lines(child.stderr.take().expect("piped"));
        let stdout = lines(child.stdout.take().expect("piped"));
        let url = loop {
            match stdout.recv_timeout(LIMIT) {
                Ok(line) => {
                    if let Some((_, url)) = line.split_once("listening on ") {
                        break url.split_whitespace().next().expect("a URL").to_owned();
                    }
                }
                Err(_) => {
                    let _ = child.kill();
                    panic!("did not start: {}", stderr.try_iter().collect::<Vec<_>>().join("\n"));
                }
            }
        };
        Self { child, url, stderr }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().expect("kill runs").success());
    }

    /// Waits for the end and returns the status with what was logged.
    pub(crate) fn wait(mut self) -> (ExitStatus, String) {
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("waits") {
                break status;
            }
            assert!(begun.elapsed() < LIMIT, "still running");
            std::thread::sleep(Duration::from_millis(5));
        };
        let mut log: Vec<String> = Vec::new();
        while let Ok(line) = self.stderr.recv_timeout(Duration::from_secs(5)) {
            log.push(line);
        }
        (status, log.join("\n"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines(pipe: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Waits for a condition.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < LIMIT, "never came: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
