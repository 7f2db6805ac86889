//! A DNS server on a real socket, UDP and TCP, whose every answer is scripted. It knows A, AAAA and SRV.

use parking_lot::Mutex;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;

/// The largest answer over UDP: what one packet of a careful server holds.
const UDP_BYTES_MAX: usize = 1_232;
/// The header of a message.
const HEADER_BYTES: usize = 12;

/// The way in which it answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// These addresses, of the kind that is asked for.
    Addresses(Vec<IpAddr>),
    /// These targets and their ports.
    Services(Vec<(String, u16)>),
    /// This code: 2 SERVFAIL, 3 NXDOMAIN, 5 REFUSED.
    Code(u8),
    /// These bytes after the id.
    Garbage(Vec<u8>),
    /// Nothing.
    Silence,
}

/// The server.
#[derive(Debug)]
pub struct DnsServer {
    address: SocketAddr,
    shared: Arc<Mutex<State>>,
    _tasks: JoinSet<()>,
}

#[derive(Debug)]
struct State {
    reply: Reply,
    questions: usize,
}

impl DnsServer {
    /// Starts a server that answers everything in this way.
    pub async fn start(reply: Reply) -> Self {
        let (udp, tcp) = sockets().await;
        let address = tcp.local_addr().expect("an address");
        let shared = Arc::new(Mutex::new(State { reply, questions: 0 }));
        let mut tasks = JoinSet::new();
        tasks.spawn(over_udp(udp, Arc::clone(&shared)));
        tasks.spawn(over_tcp(tcp, Arc::clone(&shared)));
        Self { address, shared, _tasks: tasks }
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers in another way from now on.
    pub fn reply(&self, reply: Reply) {
        self.shared.lock().reply = reply;
    }

    /// The questions so far.
    #[must_use]
    pub fn questions(&self) -> usize {
        self.shared.lock().questions
    }
}

/// Both kinds of socket on one port.
async fn sockets() -> (UdpSocket, TcpListener) {
    for _ in 0..100 {
        let tcp = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        if let Ok(udp) = UdpSocket::bind(tcp.local_addr().expect("an address")).await {
            return (udp, tcp);
        }
    }
    panic!("no port is free for both UDP and TCP");
}

async fn over_udp(socket: UdpSocket, shared: Arc<Mutex<State>>) {
    let mut buffer = [0; 4_096];
    while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
        let Some(mut answer) = answer(&buffer[..length], &shared) else { continue };
        if answer.len() > UDP_BYTES_MAX {
            // Truncated: the client asks again over TCP.
            answer.truncate(question_end(&buffer[..length]).unwrap_or(HEADER_BYTES));
            answer[2] |= 0x02;
            answer[6..12].fill(0);
        }
        let _ = socket.send_to(&answer, client).await;
    }
}

async fn over_tcp(listener: TcpListener, shared: Arc<Mutex<State>>) {
    let mut connections = JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        connections.spawn(connection(socket, Arc::clone(&shared)));
        while connections.try_join_next().is_some() {}
    }
}

async fn connection(mut socket: TcpStream, shared: Arc<Mutex<State>>) -> Option<()> {
    loop {
        let length = socket.read_u16().await.ok()?;
        let mut question = vec![0; length.into()];
        socket.read_exact(&mut question).await.ok()?;
        let Some(mut answer) = answer(&question, &shared) else { continue };
        answer.truncate(usize::from(u16::MAX));
        socket.write_u16(u16::try_from(answer.len()).ok()?).await.ok()?;
        socket.write_all(&answer).await.ok()?;
    }
}

/// The end of the question in a message that has one.
fn question_end(message: &[u8]) -> Option<usize> {
    let mut at = HEADER_BYTES;
    loop {
        match *message.get(at)? {
            0 => return Some(at + 5),
            length => at += usize::from(length) + 1,
        }
    }
}

fn answer(question: &[u8], shared: &Mutex<State>) -> Option<Vec<u8>> {
    let end = question_end(question).filter(|end| *end <= question.len())?;
    let kind = u16::from_be_bytes([question[end - 4], question[end - 3]]);
    let reply = {
        let mut state = shared.lock();
        state.questions += 1;
        state.reply.clone()
    };
    let (code, records) = match reply {
        Reply::Silence => return None,
        Reply::Garbage(bytes) => return Some([&question[..2], &bytes].concat()),
        Reply::Code(code) => (code, Vec::new()),
        Reply::Addresses(addresses) => {
            (0, addresses.into_iter().filter_map(|address| of_address(address, kind)).collect())
        }
        Reply::Services(targets) => {
            (0, targets.iter().filter(|_| kind == 33).map(|(target, port)| record(33, &srv(target, *port))).collect())
        }
    };
    let mut message = question[..end].to_vec();
    // An answer, recursion available; one question, and records.
    (message[2], message[3]) = (0x81, 0x80 | code);
    message[4..6].copy_from_slice(&1_u16.to_be_bytes());
    message[6..8].copy_from_slice(&u16::try_from(records.len()).unwrap_or(u16::MAX).to_be_bytes());
    message[8..12].fill(0);
    message.extend(records.concat());
    Some(message)
}

fn of_address(address: IpAddr, kind: u16) -> Option<Vec<u8>> {
    match (address, kind) {
        (IpAddr::V4(address), 1) => Some(record(1, &address.octets())),
        (IpAddr::V6(address), 28) => Some(record(28, &address.octets())),
        _ => None,
    }
}

fn srv(target: &str, port: u16) -> Vec<u8> {
    let mut data = vec![0, 0, 0, 0];
    data.extend(port.to_be_bytes());
    for label in target.split('.') {
        data.push(u8::try_from(label.len()).expect("a short label"));
        data.extend(label.as_bytes());
    }
    data.push(0);
    data
}

/// A record of the name that was asked for, which stands right after the header; it lives for 5 s.
fn record(kind: u16, data: &[u8]) -> Vec<u8> {
    let mut record = vec![0xc0, 12];
    record.extend(kind.to_be_bytes());
    record.extend([0, 1, 0, 0, 0, 5]);
    record.extend(u16::try_from(data.len()).expect("a short record").to_be_bytes());
    record.extend(data);
    record
}
