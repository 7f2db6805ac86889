//! A device as the backend drives it: memory, copies, launches and marks on two streams, as values.
//!
//! Everything is queued and in order within a stream; between streams, and for the host, order comes from marks alone.
//! It knows no model and no kernel beyond its name.

use std::sync::Arc;

use thiserror::Error;

/// A place in a device's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Address(pub(crate) u64);

impl Address {
    /// The null pointer: an argument that is not there.
    pub(crate) const NONE: Self = Self(0);

    /// So many bytes further on.
    pub(crate) fn plus(self, bytes: u64) -> Self {
        Self(self.0 + bytes)
    }
}

/// A queue of the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    /// Steps.
    Compute,
    /// Weights on their way.
    Copy,
}

/// A kernel, its grid and its arguments.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Launch<'a> {
    /// Its name in the source.
    pub(crate) kernel: &'static str,
    /// Blocks in each dimension.
    pub(crate) grid: [u32; 3],
    /// Threads of a block.
    pub(crate) threads: u32,
    /// Bytes that a block's threads share.
    pub(crate) shared: u32,
    /// The kernel's one argument, a struct, as it lies in memory.
    pub(crate) argument: &'a [u8],
}

/// A device's fixed facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    /// As its maker calls it.
    pub(crate) name: String,
    /// Multiprocessors.
    pub(crate) processors: u32,
    /// Bytes of memory, used or not.
    pub(crate) memory_bytes: u64,
}

/// A device's failure.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum DeviceError {
    /// There is no device, or no driver.
    #[error("no CUDA device: {0}")]
    Missing(String),
    /// It has no memory to give.
    #[error("the device has no {bytes} bytes left of its {of}; lower gpu_memory_utilization or max_num_batched_tokens")]
    OutOfMemory {
        /// Bytes asked for.
        bytes: u64,
        /// Bytes of the device in all.
        of: u64,
    },
    /// The kernels could not be compiled or loaded.
    #[error("compiling the CUDA kernels: {0}")]
    Kernels(String),
    /// A call failed: from then on the device is lost, since whatever was queued may have failed.
    #[error("the device is lost: {call} failed with {code}")]
    Lost {
        /// The call.
        call: &'static str,
        /// The driver's name for the failure.
        code: String,
    },
}

/// Host memory that a device copies from and to by itself.
pub(crate) struct Pinned {
    /// The memory; owned by the device that gave it.
    pub(crate) at: *mut u8,
    /// Its size.
    pub(crate) bytes: usize,
    /// The device that it goes back to.
    pub(crate) of: Arc<dyn Device>,
}

// SAFETY: it is plain memory with one owner; `bytes_mut` wants that owner.
unsafe impl Send for Pinned {}
// SAFETY: shared, it is only read.
unsafe impl Sync for Pinned {}

impl Pinned {
    /// Some of it.
    pub(crate) fn new(device: &Arc<dyn Device>, bytes: usize) -> Result<Self, DeviceError> {
        Ok(Self { at: device.pin(bytes.max(1))?, bytes, of: Arc::clone(device) })
    }

    /// Its contents. The device may still be writing: wait for its mark first.
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: the device gave `bytes` initialised bytes at `at`, which live as long as `self`.
        unsafe { std::slice::from_raw_parts(self.at, self.bytes) }
    }

    /// Where to write. The device may still be reading: wait for its mark first.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; `self` is borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.at, self.bytes) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.of.unpin(self.at, self.bytes.max(1));
    }
}

/// Memory of a device, given back when it is dropped; whoever drops it has waited for what uses it.
pub(crate) struct Memory {
    at: Address,
    of: Arc<dyn Device>,
}

impl Memory {
    /// Some of it, all zeros.
    pub(crate) fn new(device: &Arc<dyn Device>, bytes: u64) -> Result<Self, DeviceError> {
        Ok(Self { at: device.allocate(bytes.max(1))?, of: Arc::clone(device) })
    }

    /// Where it begins.
    pub(crate) fn at(&self) -> Address {
        self.at
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.of.free(self.at);
    }
}

/// A place in a stream that others can wait for.
pub(crate) struct Mark {
    handle: u64,
    of: Arc<dyn Device>,
}

impl Mark {
    /// A mark that is nowhere yet.
    pub(crate) fn new(device: &Arc<dyn Device>) -> Result<Self, DeviceError> {
        Ok(Self { handle: device.new_mark()?, of: Arc::clone(device) })
    }

    /// Puts it behind what is queued in a stream.
    pub(crate) fn set(&self, stream: Stream) -> Result<(), DeviceError> {
        self.of.set_mark(self.handle, stream)
    }

    /// Lets what is queued in a stream from now on wait for it.
    pub(crate) fn hold(&self, stream: Stream) -> Result<(), DeviceError> {
        self.of.hold(stream, self.handle)
    }

    /// Blocks until the device has come to it.
    pub(crate) fn wait(&self) -> Result<(), DeviceError> {
        self.of.wait(self.handle)
    }

    /// Milliseconds on the device from another mark to this one; both were reached.
    pub(crate) fn since(&self, earlier: &Self) -> f32 {
        self.of.milliseconds(earlier.handle, self.handle)
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        self.of.free_mark(self.handle);
    }
}

/// A device. Calls may come from several threads.
///
/// Implementers: `driver` (CUDA's driver), and in tests the kernels on the host.
pub(crate) trait Device: Send + Sync {
    /// Its fixed facts.
    fn facts(&self) -> &Facts;
    /// Bytes that nobody uses.
    fn free_bytes(&self) -> Result<u64, DeviceError>;
    /// Memory, all zeros before anything that is queued later.
    fn allocate(&self, bytes: u64) -> Result<Address, DeviceError>;
    /// Takes memory back.
    fn free(&self, at: Address);
    /// Host memory for copies, at least one byte.
    fn pin(&self, bytes: usize) -> Result<*mut u8, DeviceError>;
    /// Takes host memory back.
    fn unpin(&self, at: *mut u8, bytes: usize);
    /// Queues a copy to the device, of `bytes` from `at` on. They stay as they are until a later mark is reached.
    fn upload(&self, stream: Stream, from: &Pinned, at: usize, bytes: usize, to: Address) -> Result<(), DeviceError>;
    /// Queues a copy from the device.
    fn download(&self, stream: Stream, from: Address, bytes: usize, to: &Pinned, at: usize) -> Result<(), DeviceError>;
    /// Queues a kernel on the compute stream.
    fn launch(&self, launch: &Launch<'_>) -> Result<(), DeviceError>;
    /// A new mark.
    fn new_mark(&self) -> Result<u64, DeviceError>;
    /// Takes a mark back.
    fn free_mark(&self, mark: u64);
    /// See [`Mark::set`].
    fn set_mark(&self, mark: u64, stream: Stream) -> Result<(), DeviceError>;
    /// See [`Mark::hold`].
    fn hold(&self, stream: Stream, mark: u64) -> Result<(), DeviceError>;
    /// See [`Mark::wait`].
    fn wait(&self, mark: u64) -> Result<(), DeviceError>;
    /// See [`Mark::since`].
    fn milliseconds(&self, from: u64, to: u64) -> f32;
}
