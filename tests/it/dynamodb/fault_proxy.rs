//! A proxy between `DynamoDb` and its server that injects faults: it drops requests and responses,
//! delays them, makes responses up and replays stale ones. It uses plain threads and sockets, and one
//! connection per request.

use crossbeam_channel::Receiver;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

/// The message of every made-up error that has none of its own.
pub(crate) const MESSAGE: &str = "injected by the test";

/// The request id of every made-up response.
pub(crate) const REQUEST_ID: &str = "MADEUPREQUESTID";

/// What happens to a request.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// The request is forwarded without a fault.
    None,
    /// The request is dropped and the connection closed.
    DropRequest,
    /// The server handles the request. Its response is dropped and the connection closed.
    DropResponse,
    /// The connection is closed halfway through the response.
    TruncateResponse,
    /// The request is dropped. The connection stays open without a response.
    BlackholeRequest,
    /// The server handles the request. The connection stays open without a response.
    BlackholeResponse,
    /// The request is forwarded after a delay.
    DelayRequest(Duration),
    /// The request is forwarded after so many requests are in flight at the same time, and a moment
    /// later: others may still arrive.
    AwaitInFlight(usize),
    /// The connection is closed. The server still receives the request after a delay.
    DelayDelivery(Duration),
    /// The connection is closed. The server still receives the request, once the sender of the
    /// channel has been dropped.
    HoldDelivery(Receiver<()>),
    /// The response is an error with this HTTP status and AWS code. The server receives nothing.
    Error(u16, &'static str),
    /// The server receives nothing. The response has this status, content type and body.
    Respond(u16, &'static str, &'static str),
    /// The server handles the request. Its response is replaced by this one.
    ReplaceResponse(u16, &'static str, &'static str),
    /// The server handles the request. A digit in the body of its response is changed.
    CorruptResponse,
    /// As [`Fault::Error`], with this message.
    ErrorWithMessage(u16, &'static str, &'static str),
    /// The response cancels the transaction, with a code and possibly a row for each action.
    CancelTransaction(Vec<(&'static str, Option<Value>)>),
    /// The server receives only the first entries of a batch. The others are returned as
    /// unprocessed.
    ProcessOnly(usize),
    /// A read that need not be consistent gets the first response that was given to the same request.
    StaleRead,
}

/// A received request.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// For example `GetItem`.
    pub(crate) operation: String,
    pub(crate) body: Value,
    /// The access key id that it is signed with.
    pub(crate) access_key_id: String,
    /// The number of earlier requests for the same operation.
    pub(crate) index: usize,
}

impl Request {
    /// Returns whether this is an eventually consistent read.
    fn may_be_stale(&self) -> bool {
        let is_read = ["GetItem", "BatchGetItem", "Query"].contains(&self.operation.as_str());
        let tables = self.body["RequestItems"].as_object();
        let mut tables = tables.into_iter().flat_map(Map::values);
        let is_consistent = |read: &Value| read["ConsistentRead"] == json!(true);
        is_read && !is_consistent(&self.body) && !tables.any(is_consistent)
    }
}

type Rule = Box<dyn FnMut(&Request) -> Fault + Send>;

struct State {
    server: Vec<SocketAddr>,
    rule: Mutex<Rule>,
    requests: Mutex<Vec<Request>>,
    scanned_rows: Mutex<u64>,
    completed: Mutex<usize>,
    in_flight: Mutex<InFlight>,
    in_flight_changed: Condvar,
    more_completed: Condvar,
    first_responses: Mutex<HashMap<String, Vec<u8>>>,
    stopped: AtomicBool,
}

/// The number of requests without a response.
#[derive(Default)]
struct InFlight {
    now: usize,
    /// The most since the rule was set.
    peak: usize,
}

pub(crate) struct FaultProxy {
    address: SocketAddr,
    state: Arc<State>,
}

impl FaultProxy {
    /// Starts a proxy for the server at `endpoint`. It injects no faults yet.
    pub(crate) fn new(endpoint: &str) -> Self {
        let server = endpoint.strip_prefix("http://").unwrap_or(endpoint);
        let server = server.trim_end_matches('/').to_socket_addrs();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            server: server.expect("http://host:port").collect(),
            rule: Mutex::new(Box::new(|_| Fault::None)),
            requests: Mutex::default(),
            scanned_rows: Mutex::default(),
            completed: Mutex::default(),
            in_flight: Mutex::default(),
            in_flight_changed: Condvar::new(),
            more_completed: Condvar::new(),
            first_responses: Mutex::default(),
            stopped: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if accepting.stopped.load(Ordering::SeqCst) {
                    break;
                }
                let state = Arc::clone(&accepting);
                thread::spawn(move || state.serve(client));
            }
        });
        FaultProxy { address, state }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Sets the rule that chooses the fault for each request. Forgets the requests so far.
    pub(crate) fn set_rule(&self, rule: impl FnMut(&Request) -> Fault + Send + 'static) {
        self.state.requests.lock().unwrap().clear();
        *self.state.scanned_rows.lock().unwrap() = 0;
        self.state.in_flight.lock().unwrap().peak = 0;
        *self.state.rule.lock().unwrap() = Box::new(rule);
    }

    /// As [`FaultProxy::set_rule`], for one operation; the others have no faults.
    pub(crate) fn set_rule_for(
        &self,
        operation: &'static str,
        mut rule: impl FnMut(&Request) -> Fault + Send + 'static,
    ) {
        self.set_rule(move |request| {
            if request.operation == operation {
                rule(request)
            } else {
                Fault::None
            }
        });
    }

    /// Returns the requests for one operation since the rule was set.
    pub(crate) fn requests_for(&self, operation: &str) -> Vec<Request> {
        let requests = self.state.requests.lock().unwrap();
        let matching = requests
            .iter()
            .filter(|request| request.operation == operation);
        matching.cloned().collect()
    }

    /// Returns the operations of the requests since the rule was set.
    pub(crate) fn operations(&self) -> Vec<String> {
        let requests = self.state.requests.lock().unwrap();
        let operations = requests.iter().map(|request| request.operation.clone());
        operations.collect()
    }

    /// Returns how many rows the server has read for queries since the rule was set, hidden rows
    /// included.
    pub(crate) fn scanned_rows(&self) -> u64 {
        *self.state.scanned_rows.lock().unwrap()
    }

    /// Returns how many requests were in flight at the same time since the rule was set.
    pub(crate) fn peak_in_flight(&self) -> usize {
        self.state.in_flight.lock().unwrap().peak
    }

    /// Returns how many requests have been completed since the proxy was started.
    pub(crate) fn completed(&self) -> usize {
        *self.state.completed.lock().unwrap()
    }

    /// Waits until so many requests have been completed. Returns false after half a minute.
    pub(crate) fn wait_for_completed(&self, count: usize) -> bool {
        let completed = self.state.completed.lock().unwrap();
        let limit = Duration::from_secs(30);
        let is_less = |completed: &mut usize| *completed < count;
        let more_completed = &self.state.more_completed;
        let waited = more_completed.wait_timeout_while(completed, limit, is_less);
        let (completed, waited) = waited.unwrap();
        drop(completed);
        !waited.timed_out()
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.state.stopped.store(true, Ordering::SeqCst);
        // Wakes the listener, which then sees the flag.
        let _ = TcpStream::connect(self.address);
    }
}

/// An HTTP request, as far as the proxy needs it.
struct HttpRequest {
    start_line: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl HttpRequest {
    fn read(client: &TcpStream) -> io::Result<Self> {
        let mut reader = BufReader::new(client);
        let mut line = || -> io::Result<String> {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            Ok(line.trim_end().to_owned())
        };
        let start_line = line()?;
        let mut headers = Vec::new();
        while let Some((name, value)) = line()?.split_once(':') {
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut request = HttpRequest {
            start_line,
            headers,
            body: Vec::new(),
        };
        let length = request.header("content-length").parse().unwrap_or(0);
        request.body = vec![0; length];
        reader.read_exact(&mut request.body)?;
        Ok(request)
    }

    fn header(&self, name: &str) -> &str {
        let mut headers = self.headers.iter();
        headers
            .find(|(other, _)| other == name)
            .map_or("", |(_, value)| value)
    }
}

fn response_body(response: &[u8]) -> &[u8] {
    let end = response.windows(4).position(|bytes| bytes == b"\r\n\r\n");
    &response[end.map_or(response.len(), |end| end + 4)..]
}

fn response(status: u16, body: &Value) -> Vec<u8> {
    response_of_type(status, "application/x-amz-json-1.0", &body.to_string())
}

fn response_of_type(status: u16, content_type: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "HTTP/1.1 {status} Injected\r\ncontent-type: {content_type}\r\n\
         content-length: {length}\r\nx-amzn-requestid: {REQUEST_ID}\r\nconnection: close\r\n\r\n{body}"
    )
    .into_bytes()
}

fn error_response(status: u16, code: &str, message: &str, mut body: Value) -> Vec<u8> {
    body["__type"] = json!(format!("com.amazonaws.dynamodb.v20120810#{code}"));
    body["message"] = json!(message);
    response(status, &body)
}

impl State {
    fn serve(&self, mut client: TcpStream) {
        let Ok(http) = HttpRequest::read(&client) else {
            return;
        };
        let target = http.header("x-amz-target");
        let operation = target.rsplit('.').next().unwrap_or_default().to_owned();
        let body: Value = serde_json::from_slice(&http.body).unwrap_or_default();
        let credential = http.header("authorization").split("Credential=").nth(1);
        let access_key_id = credential.and_then(|scope| scope.split('/').next());
        let access_key_id = access_key_id.unwrap_or_default().to_owned();
        let request = {
            let mut requests = self.requests.lock().unwrap();
            let earlier = requests
                .iter()
                .filter(|request| request.operation == operation);
            let index = earlier.count();
            let request = Request {
                operation,
                body,
                access_key_id,
                index,
            };
            requests.push(request.clone());
            request
        };
        {
            let mut in_flight = self.in_flight.lock().unwrap();
            in_flight.now += 1;
            in_flight.peak = in_flight.peak.max(in_flight.now);
            self.in_flight_changed.notify_all();
        }
        let fault = (self.rule.lock().unwrap())(&request);
        // Either end may have closed its connection, which is the purpose of most faults.
        let _ = self.respond(&mut client, &http, &request, fault);
        self.in_flight.lock().unwrap().now -= 1;
        *self.completed.lock().unwrap() += 1;
        self.more_completed.notify_all();
    }

    fn respond(
        &self,
        client: &mut TcpStream,
        http: &HttpRequest,
        request: &Request,
        fault: Fault,
    ) -> io::Result<()> {
        let forward = || self.forward(http, &http.body);
        match fault {
            Fault::None => client.write_all(&forward()?),
            Fault::DropRequest => Ok(()),
            Fault::DropResponse => forward().map(drop),
            Fault::TruncateResponse => {
                let response = forward()?;
                client.write_all(&response[..response.len() / 2])
            }
            Fault::BlackholeRequest => wait_for_close(client),
            Fault::BlackholeResponse => {
                forward()?;
                wait_for_close(client)
            }
            Fault::DelayRequest(duration) => {
                thread::sleep(duration);
                client.write_all(&forward()?)
            }
            Fault::AwaitInFlight(count) => {
                let in_flight = self.in_flight.lock().unwrap();
                let is_less = |in_flight: &mut InFlight| in_flight.peak < count;
                let limit = Duration::from_secs(20);
                let changed = &self.in_flight_changed;
                let waited = changed.wait_timeout_while(in_flight, limit, is_less);
                drop(waited.unwrap());
                thread::sleep(Duration::from_millis(50));
                client.write_all(&forward()?)
            }
            Fault::DelayDelivery(duration) => {
                client.shutdown(Shutdown::Both)?;
                thread::sleep(duration);
                forward().map(drop)
            }
            Fault::HoldDelivery(released) => {
                client.shutdown(Shutdown::Both)?;
                let _ = released.recv();
                forward().map(drop)
            }
            Fault::Respond(status, content_type, body) => {
                client.write_all(&response_of_type(status, content_type, body))
            }
            Fault::ReplaceResponse(status, content_type, body) => {
                forward()?;
                client.write_all(&response_of_type(status, content_type, body))
            }
            Fault::CorruptResponse => {
                let mut response = forward()?;
                let body = response.len() - response_body(&response).len();
                let digit = response[body..]
                    .iter_mut()
                    .find(|byte| byte.is_ascii_digit());
                *digit.expect("a digit in the response") ^= 1;
                client.write_all(&response)
            }
            Fault::Error(status, code) => {
                client.write_all(&error_response(status, code, MESSAGE, json!({})))
            }
            Fault::ErrorWithMessage(status, code, message) => {
                client.write_all(&error_response(status, code, message, json!({})))
            }
            Fault::CancelTransaction(reasons) => {
                let reason = |(code, row): (&str, Option<Value>)| match row {
                    Some(row) => json!({"Code": code, "Message": MESSAGE, "Item": row}),
                    None => json!({"Code": code, "Message": MESSAGE}),
                };
                let reasons: Vec<Value> = reasons.into_iter().map(reason).collect();
                let body = json!({"CancellationReasons": reasons});
                let code = "TransactionCanceledException";
                client.write_all(&error_response(400, code, MESSAGE, body))
            }
            Fault::ProcessOnly(count) => {
                client.write_all(&self.forward_first(http, request, count)?)
            }
            Fault::StaleRead if !request.may_be_stale() => client.write_all(&forward()?),
            Fault::StaleRead => {
                let key = format!("{} {}", request.operation, request.body);
                let first = self.first_responses.lock().unwrap().get(&key).cloned();
                let response = match first {
                    Some(response) => response,
                    None => {
                        let response = forward()?;
                        let mut first = self.first_responses.lock().unwrap();
                        first.insert(key, response.clone());
                        response
                    }
                };
                client.write_all(&response)
            }
        }
    }

    /// Forwards a request and returns the complete response of the server. With HTTP/1.0 it ends when
    /// the server closes the connection. The header that is added makes the client not reuse its own
    /// connection, which the proxy closes.
    fn forward(&self, http: &HttpRequest, body: &[u8]) -> io::Result<Vec<u8>> {
        let mut server = TcpStream::connect(&*self.server)?;
        let start_line = http.start_line.replace("HTTP/1.1", "HTTP/1.0");
        write!(server, "{start_line}\r\n")?;
        for (name, value) in &http.headers {
            if !["connection", "content-length"].contains(&name.as_str()) {
                write!(server, "{name}: {value}\r\n")?;
            }
        }
        write!(server, "content-length: {}\r\n\r\n", body.len())?;
        server.write_all(body)?;
        let mut response = Vec::new();
        server.read_to_end(&mut response)?;
        let body: Value = serde_json::from_slice(response_body(&response)).unwrap_or_default();
        *self.scanned_rows.lock().unwrap() += body["ScannedCount"].as_u64().unwrap_or(0);
        if let Some(line) = response.windows(2).position(|bytes| bytes == b"\r\n") {
            response.splice(line..line, *b"\r\nconnection: close");
        }
        Ok(response)
    }

    /// Forwards only the first `count` entries of a batch.
    fn forward_first(
        &self,
        http: &HttpRequest,
        request: &Request,
        count: usize,
    ) -> io::Result<Vec<u8>> {
        let is_read = request.operation == "BatchGetItem";
        let mut forwarded = request.body.clone();
        let mut unprocessed = Map::new();
        let tables = forwarded["RequestItems"].as_object_mut();
        for (table, batch) in tables.into_iter().flatten() {
            let entries = if is_read {
                &mut batch["Keys"]
            } else {
                &mut *batch
            };
            let entries = entries.as_array_mut().expect("a batch is a list");
            let rest = Value::Array(entries.split_off(count.min(entries.len())));
            if rest != json!([]) {
                let rest = if is_read { json!({"Keys": rest}) } else { rest };
                unprocessed.insert(table.clone(), rest);
            }
        }
        let mut body = if count == 0 {
            json!({"Responses": {}})
        } else {
            let response = self.forward(http, forwarded.to_string().as_bytes())?;
            serde_json::from_slice(response_body(&response))?
        };
        let name = if is_read {
            "UnprocessedKeys"
        } else {
            "UnprocessedItems"
        };
        body[name] = Value::Object(unprocessed);
        Ok(response(200, &body))
    }
}

/// Waits until the client closes the connection.
fn wait_for_close(client: &mut TcpStream) -> io::Result<()> {
    io::copy(client, &mut io::sink()).map(drop)
}
