//! The kernels compiled for a device: by NVRTC, once, and kept in files that say what they are made of.
//!
//! A file's name is a digest of the source, the architecture and the options; its first 32 bytes are the digest of the
//! rest, so that one that was cut short is made again.

use std::ffi::{CString, c_char};
use std::path::{Path, PathBuf};
use std::{fs, process};

use cudarc::nvrtc::result::{compile_program, create_program, destroy_program, get_program_log};
use cudarc::nvrtc::sys;

use super::device::DeviceError;

/// The one source of every kernel.
const SOURCE: &str = concat!(
    include_str!("../../cuda/device.cuh"),
    include_str!("../../cuda/numbers.cuh"),
    include_str!("../../cuda/rows.cu"),
    include_str!("../../cuda/products.cu"),
    include_str!("../../cuda/attention.cu"),
    include_str!("../../cuda/sampling.cu"),
);
/// As the check without a GPU compiles them.
const OPTIONS: [&str; 2] = ["--std=c++17", "--diag-suppress=177"];
const DIGEST_BYTES: usize = blake3::OUT_LEN;

/// The image for an architecture: from `folder` if it is there, else compiled and kept there.
pub(super) fn of(capability: i32, folder: Option<&Path>) -> Result<Vec<u8>, DeviceError> {
    let path = folder.map(|folder| folder.join(name(capability)));
    if let Some(image) = path.as_deref().and_then(read) {
        return Ok(image);
    }
    let image = compile(capability)?;
    if let Some(path) = path {
        // A folder that cannot be written costs the seconds again at the next start.
        drop(keep(&path, &image));
    }
    Ok(image)
}

fn name(capability: i32) -> PathBuf {
    let mut hasher = blake3::Hasher::new();
    for part in [SOURCE, &OPTIONS.join(" "), &capability.to_string()] {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
    }
    format!("{}.cubin", hasher.finalize().to_hex()).into()
}

fn read(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = fs::read(path).ok()?;
    if bytes.len() < DIGEST_BYTES {
        return None;
    }
    let image = bytes.split_off(DIGEST_BYTES);
    (blake3::hash(&image).as_bytes()[..] == bytes[..]).then_some(image)
}

fn keep(path: &Path, image: &[u8]) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let unfinished = path.with_extension(format!("{}.part", process::id()));
    fs::write(&unfinished, [&blake3::hash(image).as_bytes()[..], image].concat())?;
    fs::rename(&unfinished, path)
}

/// A program of NVRTC's, until it is dropped.
struct Program(sys::nvrtcProgram);

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: it was made by `create_program`, once.
        let _ = unsafe { destroy_program(self.0) };
    }
}

fn compile(capability: i32) -> Result<Vec<u8>, DeviceError> {
    // SAFETY: it only looks for the library.
    if !unsafe { sys::is_culib_present() } {
        let message = "NVRTC is not installed (libnvrtc.so.13), and no compiled kernels are kept for this device";
        return Err(DeviceError::Kernels(message.into()));
    }
    let failed = |error: &dyn std::fmt::Debug| DeviceError::Kernels(format!("{error:?}"));
    let source = CString::new(SOURCE).map_err(|error| failed(&error))?;
    let program = Program(create_program(&source, Some(c"kernels.cu")).map_err(|error| failed(&error))?);
    let architecture = format!("--gpu-architecture=sm_{capability}");
    let options: Vec<&str> = OPTIONS.into_iter().chain([&*architecture]).collect();
    // SAFETY: the program lives.
    if let Err(error) = unsafe { compile_program(program.0, &options) } {
        // SAFETY: the program lives.
        let log = unsafe { get_program_log(program.0) }.unwrap_or_default();
        // `c_char` is signed here and unsigned there: its bytes are the same.
        let text: Vec<u8> = log.iter().flat_map(|byte: &c_char| byte.to_ne_bytes()).collect();
        return Err(DeviceError::Kernels(format!("{error:?}: {}", String::from_utf8_lossy(&text))));
    }
    let mut bytes = 0;
    // SAFETY: the program lives and was compiled.
    unsafe { sys::nvrtcGetCUBINSize(program.0, &raw mut bytes) }.result().map_err(|error| failed(&error))?;
    let mut image = vec![0_u8; bytes];
    // SAFETY: there is room for as many bytes as it said.
    unsafe { sys::nvrtcGetCUBIN(program.0, image.as_mut_ptr().cast()) }.result().map_err(|error| failed(&error))?;
    Ok(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_read_as_it_was_kept_and_never_in_part() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("new").join(name(90));
        keep(&path, b"an image").expect("it is written");
        assert_eq!(read(&path).expect("it is whole"), b"an image");
        assert_eq!(of(90, Some(&folder.path().join("new"))).expect("it is kept"), b"an image");
        let whole = fs::read(&path).expect("it is there");
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).expect("it is written");
            assert!(read(&path).is_none() || length == whole.len(), "{length} bytes");
        }
        assert_ne!(name(80), name(90), "each architecture has its own");
    }
}
