//! The DynamoDB server of the tests: [dynoxide] (MIT OR Apache-2.0), which keeps its tables in memory.
//!
//! It binds a free port of 127.0.0.1, prints its URL as one line, and serves until its standard input
//! ends. The process that holds the other end of that pipe needs to do nothing to stop it: the pipe
//! is closed even if that process is killed.
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
use std::net::Ipv4Addr;
use std::{io, process, thread};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

fn main() -> Result<(), Box<dyn Error>> {
    thread::spawn(|| {
        // A read error is treated like the end of the input.
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        process::exit(0);
    });
    Runtime::new()?.block_on(async {
        let db = Database::memory()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        println!("http://{}", listener.local_addr()?);
        server::serve_on(listener, db).await;
        Ok(())
    })
}
