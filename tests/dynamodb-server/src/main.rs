//! The DynamoDB server of the tests: [dynoxide] (MIT OR Apache-2.0), which keeps its tables in memory.
//!
//! It binds two free ports of 127.0.0.1, one for plain HTTP and one for TLS. It prints the URL of each
//! as a line, then the certificate of the second, which it has just made, as PEM. It serves until its
//! standard input ends. The process that holds the other end of that pipe needs to do nothing to stop
//! it: the pipe is closed even if that process is killed.
//!
//! The TLS port is also a proxy for the method `CONNECT`.
//!
//! `tests/it/dynamodb/server.rs` builds and starts it. To start one by hand:
//!
//! ```sh
//! cargo run --locked --manifest-path tests/dynamodb-server/Cargo.toml
//! ```
//!
//! [dynoxide]: https://github.com/nubo-db/dynoxide

use dynoxide::{Database, server};
use std::error::Error;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::{io, process, thread};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

fn main() -> Result<(), Box<dyn Error>> {
    thread::spawn(|| {
        // A read error is treated like the end of the input.
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        process::exit(0);
    });
    Runtime::new()?.block_on(async {
        let db = Database::memory()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let tls_listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let (tls, certificate) = new_tls()?;
        let tls_address = tls_listener.local_addr()?;
        // One write: the reader may stop reading after any line.
        let lines = format!("http://{address}\nhttps://{tls_address}\n{certificate}");
        io::stdout().write_all(lines.as_bytes())?;
        tokio::spawn(serve_tls(tls_listener, tls, address));
        server::serve_on(listener, db).await;
        Ok(())
    })
}

/// Makes a certificate, and returns it as PEM, with what accepts connections under it.
fn new_tls() -> Result<(TlsAcceptor, String), Box<dyn Error>> {
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let made = rcgen::generate_simple_self_signed(names)?;
    let key = PrivateKeyDer::try_from(made.key_pair.serialize_der())?;
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)?;
    Ok((TlsAcceptor::from(Arc::new(config)), made.cert.pem()))
}

/// Forwards connections to `server`, or to the address of a `CONNECT`.
async fn serve_tls(listener: TcpListener, tls: TlsAcceptor, server: SocketAddr) {
    while let Ok((client, _)) = listener.accept().await {
        let tls = tls.clone();
        // Either end may close its connection at any time.
        tokio::spawn(async move { forward(client, tls, server).await.ok() });
    }
}

async fn forward(client: TcpStream, tls: TlsAcceptor, server: SocketAddr) -> io::Result<()> {
    let mut client = tls.accept(client).await?;
    let mut start = [0; 4_096];
    let mut length = client.read(&mut start).await?;
    let mut server = match start[..length].strip_prefix(b"CONNECT ") {
        None => TcpStream::connect(server).await?,
        Some(_) => {
            while !start[..length].ends_with(b"\r\n\r\n") {
                start[length] = client.read_u8().await?;
                length += 1;
            }
            let head = String::from_utf8_lossy(&start[..length]).into_owned();
            let target = head.split(' ').nth(1).unwrap_or_default();
            let target = TcpStream::connect(target).await?;
            client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").await?;
            length = 0;
            target
        }
    };
    server.write_all(&start[..length]).await?;
    copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}
