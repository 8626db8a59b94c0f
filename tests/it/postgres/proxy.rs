//! A proxy between `PostgresDb` and its server, on a Unix socket, that counts messages and swallows
//! answers.

use super::server::Server;
use std::fs;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use tempfile::TempDir;

/// The name of the socket in its folder, for the port 5432.
const SOCKET: &str = ".s.PGSQL.5432";

pub(crate) struct Proxy {
    folder: TempDir,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// How often the client has sent something: once for each round trip.
    sent: AtomicUsize,
    /// How many answers were received.
    answers: AtomicUsize,
    /// Of so many answers one is swallowed, and the connection closed. None if it is 0.
    swallow_one_of: AtomicUsize,
    swallowed: AtomicUsize,
    /// Whether answers are held back, and the connection stays open.
    is_silent: AtomicBool,
    connections: AtomicUsize,
    /// The answers of so many connections, the first ones, are held back.
    silent_connections: AtomicUsize,
}

impl Proxy {
    /// Starts a proxy to the server whose socket is in `server`.
    pub(crate) fn start(server: &Path) -> Proxy {
        let folder = tempfile::Builder::new()
            .prefix("adb-proxy-")
            .tempdir()
            .unwrap();
        let listener = UnixListener::bind(folder.path().join(SOCKET)).unwrap();
        let server = server.join(SOCKET);
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                let Ok(upstream) = UnixStream::connect(&server) else {
                    continue;
                };
                let (from, to) = (client.try_clone().unwrap(), upstream.try_clone().unwrap());
                let state = Arc::clone(&shared);
                thread::spawn(move || forward_requests(from, to, &state));
                let state = Arc::clone(&shared);
                let number = state.connections.fetch_add(1, Ordering::SeqCst);
                thread::spawn(move || forward_answers(upstream, client, number, &state));
            }
        });
        Proxy { folder, state }
    }

    pub(crate) fn url(&self) -> String {
        let folder = self.folder.path().display();
        format!("postgresql:///postgres?host={folder}&user=postgres")
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Lets processes of the server's user connect.
    pub(crate) fn admit(&self, server: &Server) {
        let folder = self.folder.path();
        fs::set_permissions(folder, fs::Permissions::from_mode(0o711)).unwrap();
        server.own(&folder.join(SOCKET));
    }

    /// Returns how often the client has sent something.
    pub(crate) fn sent(&self) -> usize {
        self.state.sent.load(Ordering::SeqCst)
    }

    /// Swallows one of `answers` answers from now on, or none if it is 0.
    pub(crate) fn swallow_one_of(&self, answers: usize) {
        self.state.answers.store(0, Ordering::SeqCst);
        self.state.swallow_one_of.store(answers, Ordering::SeqCst);
    }

    /// Swallows the next answer, and no other.
    pub(crate) fn swallow_next(&self) {
        const ONE_OF: usize = usize::MAX / 2;
        self.state.answers.store(ONE_OF - 1, Ordering::SeqCst);
        self.state.swallow_one_of.store(ONE_OF, Ordering::SeqCst);
    }

    pub(crate) fn swallowed(&self) -> usize {
        self.state.swallowed.load(Ordering::SeqCst)
    }

    /// Returns how many connections the client has made.
    pub(crate) fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }

    /// Holds back all answers on the connections that there are, as if the network had lost them.
    pub(crate) fn silence_connections(&self) {
        let connections = self.connections();
        let silent = &self.state.silent_connections;
        silent.store(connections, Ordering::SeqCst);
    }

    /// Holds back all answers from now on, or no more.
    pub(crate) fn be_silent(&self, silent: bool) {
        self.state.is_silent.store(silent, Ordering::SeqCst);
    }
}

fn forward_requests(mut from: UnixStream, mut to: UnixStream, state: &State) {
    let mut buffer = vec![0; 1 << 20];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        state.sent.fetch_add(1, Ordering::SeqCst);
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

fn forward_answers(mut from: UnixStream, mut to: UnixStream, number: usize, state: &State) {
    let forward = |from: &mut UnixStream, to: &mut UnixStream| -> io::Result<()> {
        let mut buffer = vec![0; 1 << 20];
        loop {
            let length = from.read(&mut buffer)?;
            if length == 0 {
                return Ok(());
            }
            let one_of = state.swallow_one_of.load(Ordering::SeqCst);
            let answer = state.answers.fetch_add(1, Ordering::SeqCst) + 1;
            if one_of > 0 && answer % one_of == 0 {
                state.swallowed.fetch_add(1, Ordering::SeqCst);
                return Ok(());
            }
            let is_silent = state.is_silent.load(Ordering::SeqCst)
                || number < state.silent_connections.load(Ordering::SeqCst);
            if !is_silent {
                to.write_all(&buffer[..length])?;
            }
        }
    };
    let _ = forward(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
