//! A device through CUDA's driver, whose libraries are loaded when a device is opened: nothing of CUDA is needed to build
//! the program or to start it.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::{CString, c_void};
use std::path::Path;
use std::slice;

use cudarc::driver::DriverError;
use cudarc::driver::result::{
    ctx, device, event, free_host, free_sync, function, init, launch_kernel, malloc_host, malloc_sync, mem_get_info,
    memcpy_dtoh_async, memcpy_htod_async, memset_d8_async, module, primary_ctx, stream,
};
use cudarc::driver::sys::{
    self, CUcontext, CUdevice, CUdevice_attribute as Attribute, CUevent, CUevent_flags, CUevent_wait_flags, CUfunction,
    CUfunction_attribute_enum as FunctionAttribute, CUmodule, CUstream,
};

use super::cubins;
use super::device::{Address, Device, DeviceError, Facts, Launch, Pinned, Stream};

/// Every kernel by name.
const KERNELS: [&str; 28] = [
    "embed",
    "normalize",
    "turn",
    "rotate",
    "narrow_1",
    "narrow_2",
    "narrow_4",
    "narrow_q8_1",
    "narrow_q8_2",
    "narrow_q8_4",
    "tiled_64",
    "tiled_128",
    "tiled_q8_64",
    "tiled_q8_128",
    "attend_32",
    "attend_64",
    "attend_128",
    "attend_256",
    "attend_one_32",
    "attend_one_64",
    "attend_one_128",
    "attend_one_256",
    "join_32",
    "join_64",
    "join_128",
    "join_256",
    "choose",
    "score",
];

/// The oldest architecture whose instructions the kernels use.
const CAPABILITY_MIN: i32 = 80;

thread_local! {
    /// The context that this thread's calls go to.
    static CURRENT: Cell<usize> = const { Cell::new(0) };
}

/// A GPU.
pub(crate) struct Driver {
    facts: Facts,
    device: CUdevice,
    context: CUcontext,
    module: CUmodule,
    kernels: BTreeMap<&'static str, CUfunction>,
    compute: CUstream,
    copy: CUstream,
}

// SAFETY: handles of the driver, which any thread may use once its context is current; every call sees to that.
unsafe impl Send for Driver {}
// SAFETY: as above; the driver locks for itself.
unsafe impl Sync for Driver {}

fn lost(call: &'static str) -> impl Fn(DriverError) -> DeviceError {
    move |error| DeviceError::Lost { call, code: format!("{:?}", error.0) }
}

impl Driver {
    /// Opens the device of this number; compiles the kernels for it where `cubins` has none that fit.
    ///
    /// # Errors
    /// There is no driver or no such device, it is too old, or the kernels cannot be compiled.
    pub(crate) fn open(number: usize, cubins: Option<&Path>) -> Result<Self, DeviceError> {
        let missing = |what: &str| DeviceError::Missing(what.to_owned());
        // SAFETY: it only looks for the library.
        if !unsafe { sys::is_culib_present() } {
            return Err(missing("no driver is installed (libcuda.so.1)"));
        }
        init().map_err(|error| missing(&format!("the driver does not start: {:?}", error.0)))?;
        let count = device::get_count().map_err(lost("counting devices"))?;
        let ordinal = i32::try_from(number).ok().filter(|&number| number < count);
        let ordinal = ordinal.ok_or_else(|| missing(&format!("there is no device {number} among {count}")))?;
        let device = device::get(ordinal).map_err(lost("opening a device"))?;
        // SAFETY: the device was just got.
        let attribute = |which| unsafe { device::get_attribute(device, which) }.map_err(lost("asking a device"));
        let capability = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)? * 10
            + attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        let name = device::get_name(device).map_err(lost("asking a device"))?;
        if capability < CAPABILITY_MIN {
            return Err(missing(&format!("{name} is of capability {capability}; the kernels need {CAPABILITY_MIN}")));
        }
        let processors = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        let shared = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
        // SAFETY: the device was just got.
        let (context, memory_bytes) = unsafe {
            let context = primary_ctx::retain(device).map_err(lost("making a context"))?;
            ctx::set_current(context).map_err(lost("making a context"))?;
            (context, device::total_mem(device).map_err(lost("asking a device"))? as u64)
        };
        CURRENT.set(context as usize);
        let image = cubins::of(capability, cubins)?;
        let (module, kernels) = load(&image, shared)?;
        let make = || stream::create(stream::StreamKind::NonBlocking).map_err(lost("making a stream"));
        let facts = Facts { name, processors: u32::try_from(processors).unwrap_or(1), memory_bytes };
        Ok(Self { facts, device, context, module, kernels, compute: make()?, copy: make()? })
    }

    /// Lets this thread's calls go to the device.
    fn enter(&self) -> Result<(), DeviceError> {
        if CURRENT.get() != self.context as usize {
            // SAFETY: the context lives as long as `self`.
            unsafe { ctx::set_current(self.context) }.map_err(lost("entering a context"))?;
            CURRENT.set(self.context as usize);
        }
        Ok(())
    }

    fn stream(&self, stream: Stream) -> CUstream {
        match stream {
            Stream::Compute => self.compute,
            Stream::Copy => self.copy,
        }
    }
}

/// Loads an image and finds its kernels, each allowed all the shared memory that a block may have.
fn load(image: &[u8], shared: i32) -> Result<(CUmodule, BTreeMap<&'static str, CUfunction>), DeviceError> {
    let failed = |error: DriverError| DeviceError::Kernels(format!("{:?}", error.0));
    // SAFETY: a whole image, as NVRTC wrote it or the cache has checked.
    let module = unsafe { module::load_data(image.as_ptr().cast()) }.map_err(failed)?;
    let mut kernels = BTreeMap::new();
    for name in KERNELS {
        let own = CString::new(name).map_err(|error| DeviceError::Kernels(error.to_string()))?;
        let most = FunctionAttribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the module was just loaded.
        let function = unsafe { module::get_function(module, own) }.map_err(failed)?;
        // SAFETY: the function was just got.
        unsafe { function::set_function_attribute(function, most, shared) }.map_err(failed)?;
        kernels.insert(name, function);
    }
    Ok((module, kernels))
}

/// A mark is an event's handle.
fn mark(mark: u64) -> CUevent {
    mark as usize as CUevent
}

impl Device for Driver {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn free_bytes(&self) -> Result<u64, DeviceError> {
        self.enter()?;
        mem_get_info().map(|(free, _)| free as u64).map_err(lost("asking for memory"))
    }

    fn allocate(&self, bytes: u64) -> Result<Address, DeviceError> {
        self.enter()?;
        let size = usize::try_from(bytes).unwrap_or(usize::MAX);
        // SAFETY: it is written here before anybody reads it.
        let at = unsafe { malloc_sync(size) }.map_err(|error| match error.0 {
            sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => DeviceError::OutOfMemory { bytes, of: self.facts.memory_bytes },
            _ => lost("taking memory")(error),
        })?;
        // SAFETY: the memory was just taken, and is this large.
        unsafe { memset_d8_async(at, 0, size, self.compute) }.map_err(lost("clearing memory"))?;
        // Weights are written on the other stream: they may not come first.
        // SAFETY: the stream lives as long as `self`.
        unsafe { stream::synchronize(self.compute) }.map_err(lost("clearing memory"))?;
        Ok(Address(at))
    }

    fn free(&self, Address(at): Address) {
        if self.enter().is_ok() {
            // A device that is lost has nothing to take back.
            // SAFETY: it came from `allocate`, once, and nothing queued uses it.
            let _ = unsafe { free_sync(at) };
        }
    }

    fn pin(&self, bytes: usize) -> Result<*mut u8, DeviceError> {
        self.enter()?;
        // SAFETY: it is written here before anybody reads it.
        let at = unsafe { malloc_host(bytes, 0) }.map_err(lost("pinning memory"))?.cast::<u8>();
        // SAFETY: the memory was just taken, and is this large.
        unsafe { at.write_bytes(0, bytes) };
        Ok(at)
    }

    fn unpin(&self, at: *mut u8, _bytes: usize) {
        if self.enter().is_ok() {
            // SAFETY: it came from `pin`, once, and nothing queued uses it.
            let _ = unsafe { free_host(at.cast::<c_void>()) };
        }
    }

    fn upload(&self, stream: Stream, from: &Pinned, at: usize, bytes: usize, to: Address) -> Result<(), DeviceError> {
        self.enter()?;
        let from = &from.bytes()[at..at + bytes];
        // SAFETY: the caller keeps both until a later mark is reached.
        unsafe { memcpy_htod_async(to.0, from, self.stream(stream)) }.map_err(lost("copying to the device"))
    }

    fn download(&self, stream: Stream, from: Address, bytes: usize, to: &Pinned, at: usize) -> Result<(), DeviceError> {
        self.enter()?;
        let room = to.bytes.checked_sub(at).filter(|&room| room >= bytes);
        room.ok_or(DeviceError::Lost { call: "copying from the device", code: "no room on the host".into() })?;
        // SAFETY: it is within the pinned memory, which the caller does not touch until a later mark is reached.
        let to = unsafe { slice::from_raw_parts_mut(to.at.add(at), bytes) };
        // SAFETY: as above.
        unsafe { memcpy_dtoh_async(to, from.0, self.stream(stream)) }.map_err(lost("copying from the device"))
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<(), DeviceError> {
        self.enter()?;
        let Launch { kernel, grid: [x, y, z], threads, shared, argument } = *launch;
        let function = self.kernels.get(kernel).ok_or_else(|| DeviceError::Kernels(format!("there is no {kernel}")))?;
        let mut arguments = [argument.as_ptr().cast_mut().cast::<c_void>()];
        // SAFETY: the argument is the struct that the kernel declares, and is copied before the call returns; what it
        // points to lives until a later mark is reached.
        unsafe { launch_kernel(*function, (x, y, z), (threads, 1, 1), shared, self.compute, &mut arguments) }
            .map_err(lost(kernel))
    }

    fn new_mark(&self) -> Result<u64, DeviceError> {
        self.enter()?;
        event::create(CUevent_flags::CU_EVENT_DEFAULT)
            .map(|event| event as usize as u64)
            .map_err(lost("making an event"))
    }

    fn free_mark(&self, own: u64) {
        if self.enter().is_ok() {
            // SAFETY: it came from `new_mark`, once.
            let _ = unsafe { event::destroy(mark(own)) };
        }
    }

    fn set_mark(&self, own: u64, stream: Stream) -> Result<(), DeviceError> {
        self.enter()?;
        // SAFETY: both live.
        unsafe { event::record(mark(own), self.stream(stream)) }.map_err(lost("setting an event"))
    }

    fn hold(&self, stream: Stream, own: u64) -> Result<(), DeviceError> {
        self.enter()?;
        let flags = CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: both live.
        unsafe { stream::wait_event(self.stream(stream), mark(own), flags) }.map_err(lost("holding a stream"))
    }

    fn wait(&self, own: u64) -> Result<(), DeviceError> {
        self.enter()?;
        // SAFETY: it lives.
        unsafe { event::synchronize(mark(own)) }.map_err(lost("waiting for the device"))
    }

    fn milliseconds(&self, from: u64, to: u64) -> f32 {
        // SAFETY: both live, and were reached.
        self.enter().ok().and_then(|()| unsafe { event::elapsed(mark(from), mark(to)) }.ok()).unwrap_or(0.0)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if self.enter().is_err() {
            return;
        }
        // SAFETY: nothing uses them any more: whoever has memory of the device holds it.
        unsafe {
            let _ = stream::destroy(self.compute);
            let _ = stream::destroy(self.copy);
            let _ = module::unload(self.module);
            let _ = primary_ctx::release(self.device);
        }
        CURRENT.set(0);
    }
}
