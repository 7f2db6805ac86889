//! The conformance suite on the sources that need no fake of their own.

use std::path::Path;
use std::sync::Arc;

use loader::conformance;
use loader::remote::LocalSource;

fn write(directory: &Path, name: &str, bytes: &[u8]) {
    let path = directory.join(name);
    std::fs::create_dir_all(path.parent().expect("is in the directory")).expect("can be made");
    std::fs::write(path, bytes).expect("can be written");
}

#[tokio::test]
async fn a_directory_is_a_source() {
    let directory = tempfile::tempdir().expect("a directory");
    let objects = conformance::fixture();
    for (name, bytes) in &objects {
        write(directory.path(), name, bytes);
    }
    let source = Arc::new(LocalSource::new(directory.path().to_owned()));
    let replace = async |name: &str, bytes: &[u8]| {
        let aside = tempfile::NamedTempFile::new_in(directory.path()).expect("a file");
        std::fs::write(aside.path(), bytes).expect("can be written");
        aside.persist(directory.path().join(name)).expect("can be renamed");
    };
    conformance::check(source, &objects, replace).await.expect("conforms");
}
