//! The HTTPS source against a real web server. Needs `nginx` in the path, so it runs only when asked
//! (`cargo test -p forebay-loader --test nginx -- --ignored`).

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;

use loader::conformance;
use loader::remote::HttpsSource;
use loader::remote::http::{Client, HttpConfig};
use loader::{Landing, ReadOptions, Source, SourceError};

/// nginx over a directory, ended when it drops.
struct Nginx {
    process: Child,
    directory: tempfile::TempDir,
    port: u16,
}

impl Nginx {
    fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let at = directory.path().display();
        // Released at once: nginx cannot say which port it took.
        let port = TcpListener::bind("127.0.0.1:0").and_then(|port| port.local_addr()).expect("a free port").port();
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {at}/temporary;"))
            .join(" ");
        let config = format!(
            "user root; daemon off; pid {at}/pid; error_log {at}/errors; events {{}} \
             http {{ access_log off; sendfile on; {temporary} \
             server {{ listen 127.0.0.1:{port}; root {at}/root; }} }}"
        );
        std::fs::create_dir(directory.path().join("root")).expect("can be made");
        let file = directory.path().join("config");
        std::fs::write(&file, config).expect("can be written");
        let process = Command::new("nginx").arg("-c").arg(&file).spawn().expect("nginx is installed");
        Self { process, directory, port }
    }

    fn root(&self) -> std::path::PathBuf {
        self.directory.path().join("root")
    }

    async fn source(&self) -> HttpsSource {
        while tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
            tokio::task::yield_now().await;
        }
        let url = format!("http://127.0.0.1:{}/", self.port).parse().expect("a URL");
        HttpsSource::new(url, Client::new(&HttpConfig::default()).expect("a client")).expect("a source")
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // The master ends its workers when it is asked to, not when it is killed.
        let _ = Command::new("kill").arg(self.process.id().to_string()).status();
        let _ = self.process.wait();
    }
}

/// Replaces by renaming: what is being sent stays what it was.
fn replace(root: &Path, name: &str, bytes: &[u8]) {
    let path = root.join(name);
    std::fs::create_dir_all(path.parent().expect("is below the root")).expect("can be made");
    let aside = root.join("aside");
    std::fs::write(&aside, bytes).expect("can be written");
    std::fs::rename(aside, path).expect("can be renamed");
}

#[tokio::test]
#[ignore = "needs nginx"]
async fn a_web_server_is_a_source() {
    let nginx = Nginx::start();
    let objects = conformance::fixture();
    for (name, bytes) in &objects {
        replace(&nginx.root(), name, bytes);
    }
    let source = Arc::new(nginx.source().await);
    // nginx's tag is made of time in seconds and size; the suite's other content of the same size
    // comes within the second, so the time is moved as well.
    let mut minute = 0;
    let replace = async |name: &str, bytes: &[u8]| {
        replace(&nginx.root(), name, bytes);
        minute += 60;
        let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000 + minute);
        let file = std::fs::File::options().append(true).open(nginx.root().join(name)).expect("is there");
        file.set_modified(time).expect("can be dated");
    };
    conformance::check(source, &objects, replace).await.expect("conforms");
}

#[tokio::test]
#[ignore = "needs nginx"]
async fn an_object_that_was_replaced_is_told_as_changed() {
    let nginx = Nginx::start();
    replace(&nginx.root(), "a", b"old");
    let source = nginx.source().await;
    let object = source.stat("a").await.expect("is there");
    replace(&nginx.root(), "a", b"newer");
    let error = source.read(&object, &mut Landing::small(0..3), ReadOptions::default()).await.expect_err("it changed");
    assert!(matches!(error, SourceError::Changed { .. }), "{error}");
}
