//! A file that shrinks while it is mapped ends the process in order. Tested for real: the test
//! runs itself again as a child, which maps a file, loses it and touches what is gone.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails should fail there")]

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use loader::Region;

const FILE: &str = "FOREBAY_TEST_MAPPED_FILE";
const MODE: &str = "FOREBAY_TEST_MODE";
const MAPPED_BYTES: u64 = 1 << 20;

/// Starts this test binary again, to run only `child`.
fn start_child(file: &Path, mode: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(FILE, file)
        .env(MODE, mode)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn mapped_file(directory: &Path) -> std::path::PathBuf {
    let path = directory.join("model-00002-of-00003.safetensors");
    std::fs::File::create(&path).unwrap().set_len(MAPPED_BYTES).unwrap();
    path
}

/// The child's part; nothing when run as a test among the others.
#[test]
fn child() {
    let (Ok(file), Ok(mode)) = (std::env::var(FILE), std::env::var(MODE)) else { return };
    let region = Region::map_file(Path::new(&file)).unwrap();
    match mode.as_str() {
        "hook" => {
            let marker = format!("{file}.noted");
            loader::on_truncation(|_| unreachable!("a later hook replaces this one"));
            loader::on_truncation(move |name| std::fs::write(&marker, name).unwrap());
        }
        "hanging hook" => loader::on_truncation(|_| std::thread::sleep(Duration::from_secs(3600))),
        "panicking hook" => loader::on_truncation(|_| panic!("a hook that fails")),
        "foreign signal" => {
            println!("mapped");
            std::thread::sleep(Duration::from_secs(3600));
        }
        other => unreachable!("mode {other}"),
    }
    std::fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(0).unwrap();
    // Two threads at once: neither may go on.
    let touch = || {
        let byte = std::hint::black_box(region.bytes().expect("finished"))[MAPPED_BYTES as usize / 2];
        println!("touched {byte}");
    };
    std::thread::scope(|scope| {
        scope.spawn(touch);
        scope.spawn(touch);
    });
}

#[test]
fn a_shrunk_file_ends_the_process_with_status_1_after_the_hook_and_names_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = mapped_file(directory.path());
    let output = start_child(&file, "hook").wait_with_output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let name = file.display().to_string();
    let lines: Vec<_> = stderr.lines().filter(|line| line.starts_with("forebay: ")).collect();
    assert!(lines.len() == 1 && lines[0].contains(&name), "one line names the file: {stderr}");
    assert!(!stdout.contains("touched"), "no thread goes on: {stdout}");
    assert_eq!(std::fs::read_to_string(format!("{name}.noted")).unwrap(), name, "the hook ran");
}

#[test]
fn a_hook_that_hangs_or_panics_does_not_keep_the_process_alive() {
    for mode in ["hanging hook", "panicking hook"] {
        let directory = tempfile::tempdir().unwrap();
        let started = Instant::now();
        let output = start_child(&mapped_file(directory.path()), mode).wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{mode}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(started.elapsed() < Duration::from_secs(60), "{mode}: {:?}", started.elapsed());
    }
}

#[test]
fn a_sigbus_that_is_not_about_a_region_is_left_to_others() {
    let directory = tempfile::tempdir().unwrap();
    let mut child = start_child(&mapped_file(directory.path()), "foreign signal");
    let stdout = BufReader::new(child.stdout.take().unwrap());
    assert!(stdout.lines().map_while(Result::ok).any(|line| line.contains("mapped")));
    // The standard library's handler, which was there before ours, takes the first signal as a
    // fault that will come again and only restores the default, so it takes a second one.
    let deadline = Instant::now() + Duration::from_secs(60);
    let status = loop {
        Command::new("sh").args(["-c", "kill -BUS $0", &child.id().to_string()]).status().unwrap();
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < deadline, "the child must die of the signal");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(status.signal(), Some(7), "ended by SIGBUS itself: {status}");
    let mut stderr = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut stderr).unwrap();
    assert!(!stderr.contains("forebay: the file"), "{stderr}");
}
