//! The listener and the connections: one thread each, a bounded number. It reads requests, sends
//! answers, and ends connections as it is told; what to answer is decided in `answer`.

use super::answer::answer;
use super::reply::{Payload, Reply};
use super::request::{Broken, read};
use super::state::State;
use super::transfer::{After, Lane, send};
use super::wire::{Socket, Wire};
use parking_lot::Mutex;
use rustls::ServerConfig;
use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

/// A connection's thread reads heads and computes 128 KiB pieces on the heap; it needs little stack.
const STACK_BYTES: usize = 256 << 10;

/// How to listen.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) connections_max: u64,
    pub(super) tls: Option<Arc<ServerConfig>>,
    pub(super) congestion: Option<String>,
}

/// A running listener; dropping it stops and joins every thread.
#[derive(Debug)]
pub(super) struct Server {
    address: SocketAddr,
    listener: Arc<TcpListener>,
    state: Arc<State>,
    sockets: Arc<Sockets>,
    acceptor: Option<JoinHandle<()>>,
}

/// The open sockets, so that they can be shut down. They are held weakly: a socket must close, and
/// reset, the moment its thread lets go of it.
type Sockets = Mutex<Vec<Weak<TcpStream>>>;

impl Server {
    /// Listens and serves.
    ///
    /// # Errors
    /// The address cannot be bound, or no thread can be started.
    pub(super) fn start(listen: SocketAddr, state: Arc<State>, settings: Settings) -> io::Result<Self> {
        let listener = Arc::new(TcpListener::bind(listen)?);
        let address = listener.local_addr()?;
        let sockets = Arc::new(Sockets::default());
        let acceptor = {
            let (listener, state, sockets) = (Arc::clone(&listener), Arc::clone(&state), Arc::clone(&sockets));
            let run = move || accept(&listener, &state, &sockets, &settings);
            std::thread::Builder::new().name("origin-accept".to_owned()).spawn(run)?
        };
        Ok(Self { address, listener, state, sockets, acceptor: Some(acceptor) })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until the listener ends by itself, which it does not.
    pub(super) fn wait(&mut self) {
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.state.stop();
        // A blocked accept returns when its listener is shut down.
        let _ = rustix::net::shutdown(&*self.listener, rustix::net::Shutdown::Both);
        for socket in self.sockets.lock().iter().filter_map(Weak::upgrade) {
            let _ = socket.shutdown(Shutdown::Both);
        }
        self.wait();
    }
}

fn accept(listener: &TcpListener, state: &Arc<State>, sockets: &Sockets, settings: &Settings) {
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    while !state.is_stopping() {
        let Ok((stream, _)) = listener.accept() else {
            // Out of descriptors, most likely: let some close.
            std::thread::sleep(std::time::Duration::from_millis(5));
            continue;
        };
        threads.retain(|thread| !thread.is_finished());
        if state.books.open() >= settings.connections_max {
            refuse(state, stream);
            continue;
        }
        let stream = Arc::new(stream);
        {
            let mut sockets = sockets.lock();
            sockets.retain(|socket| socket.strong_count() > 0);
            sockets.push(Arc::downgrade(&stream));
        }
        state.books.connected();
        let (shared, settings) = (Arc::clone(state), settings.clone());
        let run = move || connection(&shared, Socket(stream), &settings);
        let thread = std::thread::Builder::new().name("origin-connection".to_owned()).stack_size(STACK_BYTES);
        match thread.spawn(run) {
            Ok(thread) => threads.push(thread),
            Err(_) => state.books.disconnected(),
        }
    }
    // Those accepted while we stopped.
    for socket in sockets.lock().iter().filter_map(Weak::upgrade) {
        let _ = socket.shutdown(Shutdown::Both);
    }
    for thread in threads {
        let _ = thread.join();
    }
}

/// 503 to a connection too many. TLS is not spoken to it: the handshake is what the bound saves.
fn refuse(state: &State, mut stream: TcpStream) {
    state.books.refused();
    let head = Reply::empty(503).with("Retry-After", "1").head(false);
    let _ = stream.write_all(&head);
    let _ = stream.shutdown(Shutdown::Write);
}

fn connection(state: &State, socket: Socket, settings: &Settings) {
    if let Ok(mut wire) = Wire::new(socket, settings.tls.as_ref(), settings.congestion.as_deref()) {
        match converse(state, &mut wire) {
            Ok(After::Reset) => wire.reset_on_close(),
            Ok(_) => wire.finish(),
            // The other side is gone, and with it every reason to be polite.
            Err(_) => {}
        }
    }
    state.books.disconnected();
}

/// Serves requests until the connection ends, and says how it is to end.
fn converse(state: &State, wire: &mut Wire) -> io::Result<After> {
    let (mut buffer, mut lane) = (Vec::new(), Lane::default());
    loop {
        let request = match read(wire, &mut buffer) {
            Ok(request) => request,
            Err(Broken::Gone) => return Ok(After::Close),
            Err(Broken::Bad(status)) => {
                wire.write_all(&Reply::empty(status).head(false))?;
                return Ok(After::Close);
            }
        };
        let decided = answer(state, &request);
        // Dropped at the end of the request, however it ends.
        let _in_flight = decided.in_flight.then(|| InFlight(state));
        if !decided.wait.is_zero() {
            wire.wait_or_gone(Some(decided.wait));
        }
        let Some(reply) = decided.reply else { return Ok(After::Close) };
        let keep = request.keep_alive && !state.is_stopping();
        match respond(state, wire, &mut lane, &reply, keep, request.is_head())? {
            After::Keep if keep => {}
            After::Keep => return Ok(After::Close),
            after => return Ok(after),
        }
    }
}

fn respond(
    state: &State,
    wire: &mut Wire,
    lane: &mut Lane,
    reply: &Reply,
    keep: bool,
    head_only: bool,
) -> io::Result<After> {
    let head = reply.head(keep);
    let after = match &reply.payload {
        _ if head_only => {
            wire.write_head(&head, false)?;
            After::Keep
        }
        Payload::Text(text) => {
            wire.write_all(&[&head, text.as_bytes()].concat())?;
            After::Keep
        }
        Payload::Object(transfer) => {
            let waits_at_once = transfer.breaks.is_some_and(|(place, _)| place == transfer.range.start);
            wire.write_head(&head, !transfer.range.is_empty() && !waits_at_once)?;
            send(state, wire, lane, transfer)?
        }
        Payload::Nothing(_) => {
            wire.write_head(&head, false)?;
            After::Keep
        }
    };
    wire.flush()?;
    Ok(after)
}

/// A request for an object that is being answered.
struct InFlight<'a>(&'a State);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.books.end();
    }
}
