//! A mapped file that shrinks: the process ends in order and names the file.
//!
//! Touching a page beyond the end of a file raises SIGBUS in the thread that touched it. There is
//! nothing to give that thread, and unwinding out of a signal is not possible, so:
//!
//! 1. the handler finds the mapping, writes one line to the error stream and wakes a watcher;
//! 2. the thread that faulted never goes on, so no answer is computed from bytes that are gone;
//! 3. the watcher runs the hook ([`on_truncation`]), which may tell clients and flush telemetry,
//!    and then ends the process with status 1;
//! 4. whatever the hook does, the thread that faulted ends the process after `EXIT_AFTER`.
//!
//! A SIGBUS that is not about a region goes to the handler that was there before.
#![expect(unsafe_code, reason = "installs a signal handler and calls what is safe within one")]

use std::io::Read;
use std::os::fd::IntoRawFd;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicI32, AtomicPtr, Ordering};
use std::sync::{Arc, Once, OnceLock};

use libc::{c_int, c_void, sigaction, siginfo_t};
use parking_lot::Mutex;

use super::table::{self, Notice};

/// The time that the hook may take, in seconds: enough to end open streams with an error and flush
/// telemetry, short against the thirty seconds that an orchestrator grants.
const EXIT_AFTER_S: u64 = 5;

type Hook = dyn Fn(&str) + Send + Sync;

static HOOK: Mutex<Option<Arc<Hook>>> = Mutex::new(None);
static INSTALL: Once = Once::new();
static PREVIOUS: OnceLock<sigaction> = OnceLock::new();
/// The first mapping that failed.
static FAULTED: AtomicPtr<Notice> = AtomicPtr::new(std::ptr::null_mut());
/// The descriptor to which the handler writes a byte to wake the watcher; negative if there is no watcher.
static WAKE: AtomicI32 = AtomicI32::new(-1);

/// Registers what to do when a mapped file has shrunk under the process, given the file's name. A
/// later hook replaces an earlier one.
///
/// The hook runs on a thread of its own. When it returns, or after five seconds, the process ends
/// with status 1. It must not read weights: they may be gone.
pub fn on_truncation(hook: impl Fn(&str) + Send + Sync + 'static) {
    *HOOK.lock() = Some(Arc::new(hook));
}

/// Installs the handler and starts the watcher, once for the process.
pub(super) fn install() {
    INSTALL.call_once(|| {
        start_watcher();
        if let Err(error) = install_handler() {
            tracing::warn!(%error, "no handler for SIGBUS: if a mapped file shrinks, the process ends without naming it");
        }
    });
}

fn start_watcher() {
    let started = UnixStream::pair().and_then(|(wake, woken)| {
        let watch = move || watch(woken);
        std::thread::Builder::new().name("mapped-files".to_owned()).spawn(watch).map(|_| wake)
    });
    match started {
        Ok(wake) => WAKE.store(wake.into_raw_fd(), Ordering::Release),
        Err(error) => {
            tracing::warn!(%error, "no watcher of mapped files: if one shrinks, the process ends without running the hook");
        }
    }
}

/// Sleeps until the handler writes a byte, then ends the process. It has no owner to join it: it
/// lives as long as the process, since regions may be mapped at any time.
fn watch(mut woken: UnixStream) {
    if woken.read_exact(&mut [0]).is_err() {
        return;
    }
    let notice = FAULTED.load(Ordering::Acquire);
    assert!(!notice.is_null(), "the handler notes the mapping before it wakes the watcher");
    // SAFETY: the thread that faulted borrows the region that owns this notice, and it never goes
    // on, so the notice lives until the process ends.
    let file = unsafe { &(*notice).file };
    let hook = HOOK.lock().clone();
    // A hook that panics must not keep the process alive.
    let _ = catch_unwind(AssertUnwindSafe(|| {
        tracing::error!(file, "a mapped file shrank or could not be read, ending the process");
        if let Some(hook) = hook {
            hook(file);
        }
    }));
    // SAFETY: _exit has no preconditions. It is not std::process::exit, because handlers that run
    // at exit might wait for a lock that the thread that faulted holds.
    unsafe { libc::_exit(1) }
}

fn install_handler() -> std::io::Result<()> {
    let cause = |result: c_int| if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) };
    // SAFETY: a sigaction of zeros is a valid value (the default action, no flags, an empty mask).
    let mut previous: sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    let mut ours: sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: a null new action only queries, and `previous` is a place to write to.
    cause(unsafe { sigaction(libc::SIGBUS, std::ptr::null(), &raw mut previous) })?;
    // Set before ours is live, so that the handler always finds it.
    let _ = PREVIOUS.set(previous);
    let handler: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) = on_sigbus;
    ours.sa_sigaction = handler as usize;
    // ONSTACK, because a previous handler may be the runtime's, which reports stack overflows and
    // cannot run on the stack that overflowed. Threads of the standard library have such a stack;
    // others use their own, of which this handler needs little.
    ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: `ours` is filled in, and its handler does only what is safe within a signal.
    cause(unsafe { sigaction(libc::SIGBUS, &raw const ours, std::ptr::null_mut()) })
}

/// Runs within the signal: no lock, no allocation, no formatting, only system calls and atomics.
extern "C" fn on_sigbus(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: with SA_SIGINFO the kernel passes a valid siginfo, and SIGBUS fills in its address.
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr().addr()) };
    // A code of zero or less means that a process sent the signal; then there is no address.
    let notice = if code > 0 { table::find(address) } else { std::ptr::null_mut() };
    if notice.is_null() {
        return forward(signal, info, context);
    }
    if FAULTED.compare_exchange(std::ptr::null_mut(), notice, Ordering::AcqRel, Ordering::Acquire).is_ok() {
        // SAFETY: this very access borrows the region, so its notice is alive.
        let line = unsafe { &(*notice).line };
        // SAFETY: `write` may be called in a signal handler, on a buffer that is alive. There is
        // nobody to tell if it fails.
        unsafe { libc::write(libc::STDERR_FILENO, line.as_ptr().cast(), line.len()) };
        wake_or_exit();
    }
    park_then_exit()
}

fn wake_or_exit() {
    let wake = WAKE.load(Ordering::Acquire);
    // SAFETY: `write` and `_exit` may be called in a signal handler; a negative descriptor is an
    // error of `write`, and then there is no watcher.
    unsafe {
        if libc::write(wake, [1_u8].as_ptr().cast(), 1) != 1 {
            libc::_exit(1);
        }
    }
}

/// Holds the thread that faulted while the hook runs, and ends the process if the hook hangs (or
/// faults in its turn).
fn park_then_exit() -> ! {
    let deadline_s = monotonic_s() + EXIT_AFTER_S as libc::time_t;
    while monotonic_s() < deadline_s {
        let pause = libc::timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        // SAFETY: `nanosleep` may be called in a signal handler; a signal that cuts it short only
        // makes the loop look at the clock earlier.
        unsafe { libc::nanosleep(&raw const pause, std::ptr::null_mut()) };
    }
    // SAFETY: `_exit` may be called in a signal handler.
    unsafe { libc::_exit(1) }
}

fn monotonic_s() -> libc::time_t {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `clock_gettime` may be called in a signal handler, and `now` is a place to write to.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec
}

/// Hands a SIGBUS that is not ours to whoever handled it before us.
fn forward(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    let handler = PREVIOUS.get().map_or(libc::SIG_DFL, |previous| previous.sa_sigaction);
    let takes_info = PREVIOUS.get().is_some_and(|previous| previous.sa_flags & libc::SA_SIGINFO != 0);
    if handler == libc::SIG_DFL || handler == libc::SIG_IGN {
        // SAFETY: both calls may be made in a signal handler. The signal is blocked until this
        // handler returns, and then ends the process as if we had never been here. Ignoring a
        // fault is not possible: the kernel ends the process in that case too.
        unsafe {
            libc::signal(signal, libc::SIG_DFL);
            libc::raise(signal);
        }
    } else if takes_info {
        // SAFETY: SA_SIGINFO says that the previous handler has this type.
        let handler =
            unsafe { std::mem::transmute::<usize, extern "C" fn(c_int, *mut siginfo_t, *mut c_void)>(handler) };
        handler(signal, info, context);
    } else {
        // SAFETY: without SA_SIGINFO the previous handler has this type.
        let handler = unsafe { std::mem::transmute::<usize, extern "C" fn(c_int)>(handler) };
        handler(signal);
    }
}
