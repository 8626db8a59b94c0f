//! Sessions of the server next to those of `PostgresDb`, by hand.

use std::future::Future;
use tokio::runtime::{Builder, Runtime};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

/// A connection to the server that executes any SQL.
pub(crate) struct Session {
    client: Client,
    runtime: Runtime,
}

impl Session {
    pub(crate) fn connect(url: &str) -> Session {
        let mut builder = Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build().unwrap();
        let client = runtime.block_on(async {
            let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
            tokio::spawn(connection);
            client
        });
        Session { client, runtime }
    }

    fn block_on<R>(&self, future: impl Future<Output = R>) -> R {
        self.runtime.block_on(future)
    }

    /// Executes statements, and returns the rows, whose columns are text.
    pub(crate) fn try_rows(&self, sql: &str) -> Result<Vec<Vec<String>>, tokio_postgres::Error> {
        let messages = self.block_on(self.client.simple_query(sql))?;
        let rows = messages.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(
                (0..row.len())
                    .map(|column| row.get(column).unwrap_or("NULL").to_owned())
                    .collect(),
            ),
            _ => None,
        });
        Ok(rows.collect())
    }

    /// Executes statements.
    pub(crate) fn execute(&self, sql: &str) {
        self.try_rows(sql).unwrap();
    }

    /// Returns the only column of the only row.
    pub(crate) fn value(&self, sql: &str) -> String {
        self.try_rows(sql).unwrap().remove(0).remove(0)
    }
}
