//! A device that is the host: memory of the heap, and the very kernels, compiled by the host's compiler.
//!
//! Queued work happens as late as it may, when somebody waits for a mark behind it: an order that nobody asked for is
//! not kept. Memory that nobody has written is NaN to kernels, except where zeros are promised.

use parking_lot::{Mutex, MutexGuard};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::{CString, c_char};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::{env, fs, process};

use libloading::Library;

use crate::cuda::device::{Address, Device, DeviceError, Facts, Launch, Pinned, Stream};

/// `forebay_launch` of `host/library.cpp`.
type LaunchKernel = unsafe extern "C" fn(*const c_char, *const u32, u32, u32, *const u8, usize, u64) -> i32;

/// The kernels, built once for their sources.
fn library() -> &'static Library {
    static LIBRARY: OnceLock<Library> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda");
        let mut hasher = DefaultHasher::new();
        for folder in [sources.clone(), sources.join("host")] {
            let entries =
                fs::read_dir(folder).expect("the kernels are there").map(|entry| entry.expect("readable").path());
            let mut files: Vec<PathBuf> = entries.filter(|path| path.is_file()).collect();
            files.sort();
            files.iter().for_each(|file| fs::read(file).expect("readable").hash(&mut hasher));
        }
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/cuda-host");
        fs::create_dir_all(&folder).expect("target/ can be written");
        let built = folder.join(format!("{:016x}.so", hasher.finish()));
        if !built.exists() {
            let unfinished = folder.join(format!("{}.so", process::id()));
            let compiler = env::var("CXX").unwrap_or_else(|_| "c++".into());
            let mut command = Command::new(&compiler);
            command.args(["-std=c++17", "-O2", "-ffp-contract=off", "-w", "-shared", "-fPIC"]);
            command.arg(sources.join("host/library.cpp")).arg("-o").arg(&unfinished);
            let status =
                command.status().unwrap_or_else(|error| panic!("{compiler}: {error}; install g++, or set CXX"));
            assert!(status.success(), "{compiler} does not compile the kernels");
            fs::rename(&unfinished, &built).expect("target/ can be written");
        }
        // SAFETY: it is our own library, which does nothing when it is loaded.
        unsafe { Library::new(&built) }.expect("what was just built can be loaded")
    })
}

/// Bytes that `choose` shares beside its sums, as its source has it.
pub(crate) fn desk_bytes() -> usize {
    // SAFETY: the library's own function, of this type.
    let size = unsafe { library().get::<unsafe extern "C" fn() -> usize>(b"forebay_desk_bytes") }.expect("it is there");
    // SAFETY: it only returns a size.
    unsafe { size() }
}

/// Work queued in a stream.
enum Queued {
    Copy { from: usize, to: usize, bytes: usize },
    Launch { kernel: &'static str, grid: [u32; 3], threads: u32, shared: u32, argument: Vec<u8> },
    Mark(u64),
    Hold(u64),
}

/// A thing that happened, for tests that look at the order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Happened {
    Upload(usize),
    Download(usize),
    Launch(&'static str),
}

#[derive(Default)]
struct State {
    /// Allocations by where they begin, with the sizes that were asked for.
    memory: BTreeMap<u64, (Vec<u128>, u64)>,
    used: u64,
    queues: [VecDeque<Queued>; 2],
    /// How often each mark was set, and reached.
    set: BTreeMap<u64, u64>,
    reached: BTreeMap<u64, u64>,
    marks: u64,
    pinned: BTreeSet<usize>,
    happened: Vec<Happened>,
    launches: u64,
    /// It fails from this launch on.
    lost_at: Option<u64>,
}

/// See the module.
pub(crate) struct HostDevice {
    facts: Facts,
    state: Mutex<State>,
}

fn index(stream: Stream) -> usize {
    usize::from(stream == Stream::Copy)
}

impl HostDevice {
    pub(crate) fn new(memory_bytes: u64) -> Arc<Self> {
        let facts = Facts { name: "the host".into(), processors: 4, memory_bytes };
        Arc::new(Self { facts, state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Fails every launch after so many more.
    pub(crate) fn lose_after(&self, launches: u64) {
        let mut state = self.state();
        state.lost_at = Some(state.launches + launches);
    }

    /// The work that happened since the last call.
    pub(crate) fn take_happened(&self) -> Vec<Happened> {
        std::mem::take(&mut self.state().happened)
    }

    /// Allocations, pinned ones and bytes that are in use.
    pub(crate) fn in_use(&self) -> (usize, usize, u64) {
        let state = self.state();
        (state.memory.len(), state.pinned.len(), state.used)
    }

    fn lost(call: &'static str) -> DeviceError {
        DeviceError::Lost { call, code: "CUDA_ERROR_ILLEGAL_ADDRESS".into() }
    }
}

impl State {
    fn check(&self, call: &'static str) -> Result<(), DeviceError> {
        match self.lost_at {
            Some(at) if self.launches >= at => Err(HostDevice::lost(call)),
            _ => Ok(()),
        }
    }

    /// Lets a stream go on until it has reached a mark as often as that was set; without one, one thing.
    fn run_to(&mut self, mark: u64) {
        let wanted = self.set.get(&mark).copied().unwrap_or(0);
        for stream in 0..2 {
            let holds = |queue: &VecDeque<Queued>| {
                queue.iter().any(|queued| matches!(queued, Queued::Mark(own) if *own == mark))
            };
            while self.reached.get(&mark).copied().unwrap_or(0) < wanted && holds(&self.queues[stream]) {
                self.run_one(stream);
            }
        }
    }

    fn run_one(&mut self, stream: usize) {
        match self.queues[stream].pop_front() {
            None => {}
            Some(Queued::Mark(mark)) => *self.reached.entry(mark).or_default() += 1,
            Some(Queued::Hold(mark)) => self.run_to(mark),
            Some(Queued::Copy { from, to, bytes }) => {
                // SAFETY: both ends are memory of this device or pinned by it, and live until what uses them is over.
                unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to as *mut u8, bytes) };
            }
            Some(Queued::Launch { kernel, grid, threads, shared, argument }) => {
                let name = CString::new(kernel).expect("a name");
                // SAFETY: the library's own function, of this type.
                let launch = unsafe { library().get::<LaunchKernel>(b"forebay_launch") }.expect("it is there");
                // SAFETY: the argument is what the kernel declares, or the call says so.
                let code = unsafe {
                    launch(
                        name.as_ptr(),
                        grid.as_ptr(),
                        threads,
                        shared,
                        argument.as_ptr(),
                        argument.len(),
                        self.launches,
                    )
                };
                assert_eq!(code, 0, "{kernel} with {} bytes of arguments", argument.len());
            }
        }
    }
}

// A fake: its pointers are the host's own.
impl Device for HostDevice {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn free_bytes(&self) -> Result<u64, DeviceError> {
        Ok(self.facts.memory_bytes - self.state().used)
    }

    fn allocate(&self, bytes: u64) -> Result<Address, DeviceError> {
        let mut state = self.state();
        if bytes > self.facts.memory_bytes - state.used {
            return Err(DeviceError::OutOfMemory { bytes, of: self.facts.memory_bytes });
        }
        state.used += bytes;
        // A little more than 256 bytes apart, as a device aligns.
        let memory = vec![0_u128; usize::try_from(bytes).expect("small").div_ceil(16) + 16];
        let at = (memory.as_ptr() as u64).next_multiple_of(256);
        state.memory.insert(at, (memory, bytes));
        Ok(Address(at))
    }

    fn free(&self, Address(at): Address) {
        let mut state = self.state();
        let (_, bytes) = state.memory.remove(&at).expect("memory is freed once");
        state.used -= bytes;
    }

    fn pin(&self, bytes: usize) -> Result<*mut u8, DeviceError> {
        let memory = vec![0xFF_u8; bytes].into_boxed_slice();
        let at = Box::into_raw(memory).cast::<u8>();
        self.state().pinned.insert(at as usize);
        Ok(at)
    }

    fn unpin(&self, at: *mut u8, bytes: usize) {
        assert!(self.state().pinned.remove(&(at as usize)), "pinned memory is freed once");
        // SAFETY: `pin` made it of a box of this length.
        drop(unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(at, bytes)) });
    }

    fn upload(&self, stream: Stream, from: &Pinned, at: usize, bytes: usize, to: Address) -> Result<(), DeviceError> {
        let mut state = self.state();
        state.check("copying to the device")?;
        assert!(at + bytes <= from.bytes, "a copy within its pinned memory");
        let copy = Queued::Copy { from: from.at as usize + at, to: to.0 as usize, bytes };
        state.queues[index(stream)].push_back(copy);
        state.happened.push(Happened::Upload(bytes));
        Ok(())
    }

    fn download(&self, stream: Stream, from: Address, bytes: usize, to: &Pinned, at: usize) -> Result<(), DeviceError> {
        let mut state = self.state();
        state.check("copying from the device")?;
        assert!(at + bytes <= to.bytes, "a copy within its pinned memory");
        let copy = Queued::Copy { from: from.0 as usize, to: to.at as usize + at, bytes };
        state.queues[index(stream)].push_back(copy);
        state.happened.push(Happened::Download(bytes));
        Ok(())
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<(), DeviceError> {
        let mut state = self.state();
        state.check("launching a kernel")?;
        state.launches += 1;
        let Launch { kernel, grid, threads, shared, argument } = *launch;
        let queued = Queued::Launch { kernel, grid, threads, shared, argument: argument.to_vec() };
        state.queues[index(Stream::Compute)].push_back(queued);
        state.happened.push(Happened::Launch(kernel));
        Ok(())
    }

    fn new_mark(&self) -> Result<u64, DeviceError> {
        let mut state = self.state();
        state.marks += 1;
        Ok(state.marks)
    }

    fn free_mark(&self, mark: u64) {
        let mut state = self.state();
        state.set.remove(&mark);
        state.reached.remove(&mark);
    }

    fn set_mark(&self, mark: u64, stream: Stream) -> Result<(), DeviceError> {
        let mut state = self.state();
        state.check("setting a mark")?;
        *state.set.entry(mark).or_default() += 1;
        state.queues[index(stream)].push_back(Queued::Mark(mark));
        Ok(())
    }

    fn hold(&self, stream: Stream, mark: u64) -> Result<(), DeviceError> {
        self.state().queues[index(stream)].push_back(Queued::Hold(mark));
        Ok(())
    }

    fn wait(&self, mark: u64) -> Result<(), DeviceError> {
        let mut state = self.state();
        state.check("waiting for the device")?;
        state.run_to(mark);
        Ok(())
    }

    fn milliseconds(&self, _from: u64, _to: u64) -> f32 {
        1.0
    }
}

impl Drop for HostDevice {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let (memory, pinned, used) = self.in_use();
            assert_eq!((memory, pinned, used), (0, 0, 0), "everything is given back");
        }
    }
}
