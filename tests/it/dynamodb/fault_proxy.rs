//! A proxy between `DynamoDb` and its server that does wrong as it is told: it loses requests and
//! answers, delays them, makes answers up, and replays old ones. Plain threads and sockets, a
//! connection for each request.

use crossbeam_channel::Receiver;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

/// What becomes of a request.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// Nothing bad.
    None,
    /// The server never hears of it, and the connection is closed.
    LoseRequest,
    /// The server does it, and the connection is closed.
    LoseAnswer,
    /// The connection is closed half-way through the server's answer.
    HalfAnswer,
    /// The server never hears of it, and nobody answers.
    SwallowRequest,
    /// The server does it, and nobody answers.
    SwallowAnswer,
    /// The server hears of it later.
    Delay(Duration),
    /// The connection is closed, and the server hears of it later all the same.
    DeliverLate(Duration),
    /// The connection is closed, and the server hears of it all the same, when nobody holds the
    /// sender any more.
    DeliverWhen(Receiver<()>),
    /// An error, by its HTTP status and AWS's code, instead of asking the server.
    Error(u16, &'static str),
    /// The cancellation of a transaction: a code for each action, and a row if there is one.
    Cancel(Vec<(&'static str, Option<Value>)>),
    /// Of a batch, the server hears of so many; the others are told to be unprocessed.
    Only(usize),
    /// What the server said the first time that this was read, if the read need not be consistent.
    Old,
}

/// A request as it came in.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// Such as `GetItem`.
    pub(crate) operation: String,
    pub(crate) body: Value,
    /// How many of this operation came before it.
    pub(crate) number: usize,
}

impl Request {
    /// Whether it reads, and does not ask for what is there now.
    fn may_be_old(&self) -> bool {
        let reads = ["GetItem", "BatchGetItem", "Query"].contains(&self.operation.as_str());
        let tables = self.body["RequestItems"].as_object();
        let mut tables = tables.into_iter().flat_map(Map::values);
        let is_consistent = |read: &Value| read["ConsistentRead"] == json!(true);
        reads && !is_consistent(&self.body) && !tables.any(is_consistent)
    }
}

type Rule = Box<dyn FnMut(&Request) -> Fault + Send>;

struct Shared {
    server: SocketAddr,
    rule: Mutex<Rule>,
    requests: Mutex<Vec<Request>>,
    /// How many requests have been dealt with.
    done: Mutex<usize>,
    more_done: Condvar,
    first_answers: Mutex<HashMap<String, Vec<u8>>>,
    stopped: AtomicBool,
}

pub(crate) struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Proxy {
    /// A proxy before the server at `endpoint`, which does nothing wrong yet.
    pub(crate) fn before(endpoint: &str) -> Self {
        let server = endpoint.strip_prefix("http://").unwrap_or(endpoint);
        let server = server
            .trim_end_matches('/')
            .replace("localhost", "127.0.0.1");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            server: server.parse().unwrap(),
            rule: Mutex::new(Box::new(|_| Fault::None)),
            requests: Mutex::default(),
            done: Mutex::default(),
            more_done: Condvar::new(),
            first_answers: Mutex::default(),
            stopped: AtomicBool::new(false),
        });
        let serving = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if serving.stopped.load(Ordering::SeqCst) {
                    break;
                }
                let shared = Arc::clone(&serving);
                // Whoever is on the other end may have gone away; that is what it is about.
                thread::spawn(move || shared.serve(client));
            }
        });
        Proxy { address, shared }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on, `rule` says what becomes of each request; they are counted and kept anew.
    pub(crate) fn set(&self, rule: impl FnMut(&Request) -> Fault + Send + 'static) {
        self.shared.requests.lock().unwrap().clear();
        *self.shared.rule.lock().unwrap() = Box::new(rule);
    }

    /// As [`Proxy::set`], for one operation; the others are let through.
    pub(crate) fn set_for(
        &self,
        operation: &'static str,
        mut rule: impl FnMut(&Request) -> Fault + Send + 'static,
    ) {
        self.set(move |request| match request.operation == operation {
            true => rule(request),
            false => Fault::None,
        });
    }

    /// The requests of one operation that came since the rule was set.
    pub(crate) fn requests_of(&self, operation: &str) -> Vec<Request> {
        let requests = self.shared.requests.lock().unwrap();
        let some = requests
            .iter()
            .filter(|request| request.operation == operation);
        some.cloned().collect()
    }

    /// The operations of the requests that came since the rule was set.
    pub(crate) fn operations(&self) -> Vec<String> {
        let requests = self.shared.requests.lock().unwrap();
        requests
            .iter()
            .map(|request| request.operation.clone())
            .collect()
    }

    /// How many requests have been dealt with, ever.
    pub(crate) fn done(&self) -> usize {
        *self.shared.done.lock().unwrap()
    }

    /// Waits until so many requests have been dealt with. False if that takes half a minute.
    pub(crate) fn wait_until_done(&self, count: usize) -> bool {
        let done = self.shared.done.lock().unwrap();
        let limit = Duration::from_secs(30);
        let waiting = |done: &mut usize| *done < count;
        let (done, waited) = self
            .shared
            .more_done
            .wait_timeout_while(done, limit, waiting)
            .unwrap();
        drop(done);
        !waited.timed_out()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        // The listener wakes up and sees it.
        let _ = TcpStream::connect(self.address);
    }
}

/// One HTTP request, as far as it matters.
struct Message {
    start_line: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Message {
    fn read(client: &TcpStream) -> io::Result<Self> {
        let mut reader = BufReader::new(client);
        let mut line = || -> io::Result<String> {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            Ok(line.trim_end().to_owned())
        };
        let start_line = line()?;
        let mut headers = Vec::new();
        loop {
            let header = line()?;
            match header.split_once(':') {
                Some((name, value)) => {
                    headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
                }
                None => break,
            }
        }
        let mut message = Message {
            start_line,
            headers,
            body: Vec::new(),
        };
        let length = message.header("content-length").parse().unwrap_or(0);
        message.body = vec![0; length];
        reader.read_exact(&mut message.body)?;
        Ok(message)
    }

    fn header(&self, name: &str) -> &str {
        let mut headers = self.headers.iter();
        headers
            .find(|(other, _)| other == name)
            .map_or("", |(_, value)| value)
    }
}

/// Where the body of an answer begins.
fn body_of(answer: &[u8]) -> &[u8] {
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n");
    &answer[end.map_or(answer.len(), |end| end + 4)..]
}

fn answer(status: u16, body: &Value) -> Vec<u8> {
    let body = body.to_string();
    let head = format!(
        "HTTP/1.1 {status} Made up\r\ncontent-type: application/x-amz-json-1.0\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    [head.into_bytes(), body.into_bytes()].concat()
}

fn error(status: u16, code: &str, mut body: Value) -> Vec<u8> {
    body["__type"] = json!(format!("com.amazonaws.dynamodb.v20120810#{code}"));
    body["message"] = json!("as the test wants");
    answer(status, &body)
}

impl Shared {
    fn serve(&self, mut client: TcpStream) {
        let Ok(message) = Message::read(&client) else {
            return;
        };
        let target = message.header("x-amz-target");
        let operation = target.rsplit('.').next().unwrap_or_default().to_owned();
        let body: Value = serde_json::from_slice(&message.body).unwrap_or_default();
        let request = {
            let mut requests = self.requests.lock().unwrap();
            let before = requests
                .iter()
                .filter(|request| request.operation == operation);
            let number = before.count();
            let request = Request {
                operation,
                body,
                number,
            };
            requests.push(request.clone());
            request
        };
        let fault = (self.rule.lock().unwrap())(&request);
        let _ = self.deal(&mut client, &message, &request, fault);
        *self.done.lock().unwrap() += 1;
        self.more_done.notify_all();
    }

    fn deal(
        &self,
        client: &mut TcpStream,
        message: &Message,
        request: &Request,
        fault: Fault,
    ) -> io::Result<()> {
        let ask = || self.ask(message, &message.body);
        match fault {
            Fault::None => client.write_all(&ask()?),
            Fault::LoseRequest => Ok(()),
            Fault::LoseAnswer => ask().map(drop),
            Fault::HalfAnswer => {
                let answer = ask()?;
                client.write_all(&answer[..answer.len() / 2])
            }
            Fault::SwallowRequest => wait_for_the_end_of(client),
            Fault::SwallowAnswer => {
                ask()?;
                wait_for_the_end_of(client)
            }
            Fault::Delay(duration) => {
                thread::sleep(duration);
                client.write_all(&ask()?)
            }
            Fault::DeliverLate(duration) => {
                client.shutdown(std::net::Shutdown::Both)?;
                thread::sleep(duration);
                ask().map(drop)
            }
            Fault::DeliverWhen(told) => {
                client.shutdown(std::net::Shutdown::Both)?;
                let _ = told.recv();
                ask().map(drop)
            }
            Fault::Error(status, code) => client.write_all(&error(status, code, json!({}))),
            Fault::Cancel(reasons) => {
                let reason = |(code, row): (&str, Option<Value>)| match row {
                    Some(row) => json!({"Code": code, "Message": "as the test wants", "Item": row}),
                    None => json!({"Code": code, "Message": "as the test wants"}),
                };
                let reasons: Vec<Value> = reasons.into_iter().map(reason).collect();
                let body = json!({"CancellationReasons": reasons});
                client.write_all(&error(400, "TransactionCanceledException", body))
            }
            Fault::Only(count) => {
                let answer = self.ask_for_some(message, request, count)?;
                client.write_all(&answer)
            }
            Fault::Old if !request.may_be_old() => client.write_all(&ask()?),
            Fault::Old => {
                let key = format!("{} {}", request.operation, request.body);
                let known = self.first_answers.lock().unwrap().get(&key).cloned();
                let answer = match known {
                    Some(answer) => answer,
                    None => {
                        let answer = ask()?;
                        self.first_answers
                            .lock()
                            .unwrap()
                            .insert(key, answer.clone());
                        answer
                    }
                };
                client.write_all(&answer)
            }
        }
    }

    /// The server's answer, whole. HTTP/1.0 has it end with the connection, and the client is told
    /// that its own will end too, or it would send its next request where nobody listens any more.
    fn ask(&self, message: &Message, body: &[u8]) -> io::Result<Vec<u8>> {
        let mut server = TcpStream::connect(self.server)?;
        let start_line = message.start_line.replace("HTTP/1.1", "HTTP/1.0");
        write!(server, "{start_line}\r\n")?;
        for (name, value) in &message.headers {
            if !["connection", "content-length"].contains(&name.as_str()) {
                write!(server, "{name}: {value}\r\n")?;
            }
        }
        write!(server, "content-length: {}\r\n\r\n", body.len())?;
        server.write_all(body)?;
        let mut answer = Vec::new();
        server.read_to_end(&mut answer)?;
        if let Some(line) = answer.windows(2).position(|bytes| bytes == b"\r\n") {
            answer.splice(line..line, *b"\r\nconnection: close");
        }
        Ok(answer)
    }

    /// Has the server do the first `count` requests of a batch.
    fn ask_for_some(
        &self,
        message: &Message,
        request: &Request,
        count: usize,
    ) -> io::Result<Vec<u8>> {
        let reads = request.operation == "BatchGetItem";
        let mut some = request.body.clone();
        let mut rest = Map::new();
        let tables = some["RequestItems"].as_object_mut();
        for (table, batch) in tables.into_iter().flatten() {
            let list = if reads {
                &mut batch["Keys"]
            } else {
                &mut *batch
            };
            let list = list.as_array_mut().expect("a batch is a list");
            let left = Value::Array(list.split_off(count.min(list.len())));
            if left != json!([]) {
                let left = if reads { json!({"Keys": left}) } else { left };
                rest.insert(table.clone(), left);
            }
        }
        let mut answered = match count {
            0 => json!({"Responses": {}}),
            _ => {
                let answer = self.ask(message, some.to_string().as_bytes())?;
                serde_json::from_slice(body_of(&answer))?
            }
        };
        let left = if reads {
            "UnprocessedKeys"
        } else {
            "UnprocessedItems"
        };
        answered[left] = Value::Object(rest);
        Ok(answer(200, &answered))
    }
}

fn wait_for_the_end_of(client: &mut TcpStream) -> io::Result<()> {
    io::copy(client, &mut io::sink()).map(drop)
}
