//! Opening: from options to a connection.

use super::attempts::Timeouts;
use super::builder::Options;
use super::client::TableClient;
use super::connection::Connection;
use super::data_type::DataType;
use super::failure::{Failure, FailureKind, Stage};
use super::pool::Pool;
use super::row::check_limit;
use super::schema::Schema;
use super::session::{Connector, Tls};
use super::table_name::TableName;
use super::tls;
use super::url::Url;
use crate::blocking_runtime::{BlockingRuntime, CallError, HANG_GRACE};
use crate::sync::Arc;
use crate::{Error, Result, VersionGenerator};
use std::time::{Duration, Instant};
use tokio::time::{Instant as Deadline, sleep, timeout_at};

const MAX_TIMEOUT: Duration = Duration::from_secs(3_600);
const MAX_POOL_SIZE: usize = 1_000;

/// How long to wait before a server that cannot accept another connection yet is asked again.
const OPEN_PAUSE: Duration = Duration::from_millis(50);

/// Connects to the server, checks the table, and creates it if the options say so.
pub(super) fn connect(url: &str, codec: &'static str, options: Options) -> Result<Connection> {
    check_timeout("the timeout", options.timeouts.call)?;
    check_timeout("the timeout of an attempt", options.timeouts.attempt)?;
    if options.pool_size == 0 {
        return Err(Error::InvalidInput("the size of the pool is zero".into()));
    }
    check_limit("the size of the pool", MAX_POOL_SIZE, options.pool_size)?;
    let timeouts = Timeouts {
        attempt: options.timeouts.attempt.min(options.timeouts.call),
        ..options.timeouts
    };
    let table = TableName::parse(&options.table)?;
    let mut url = Url::parse(url)?;
    let roots = options.tls_roots.as_deref();
    let tls = tls::connector(url.verification, roots, url.roots.as_ref())
        .map_err(|error| error.into_backend())?;
    if !options.is_pooled {
        url.config
            .options(session_options(url.config.get_options(), timeouts));
    }
    if url.config.get_application_name().is_none() {
        url.config.application_name("atomic-db");
    }
    let data_type = DataType::of_codec(codec);
    let name: Arc<str> = table.to_string().into();
    let connector = Connector {
        config: url.config,
        tls: Tls(tls),
        is_pooled: options.is_pooled,
        table: Arc::clone(&name),
        data_type,
    };
    let schema = Schema {
        table,
        data_type,
        codec,
        create: options.create_table,
    };
    let runtime = BlockingRuntime::new("atomic-db-postgres", 1);
    let runtime = runtime.map_err(|error| Error::Backend(Box::new(error)))?;
    let client = Arc::new(TableClient {
        pool: Arc::new(Pool::new(connector, options.pool_size)),
        timeouts,
        versions: VersionGenerator::new(),
    });
    let deadline = Instant::now() + timeouts.call + HANG_GRACE;
    let checked = runtime.spawn(check(Arc::clone(&client), schema));
    checked
        .wait(deadline)
        .map_err(CallError::into_read_error)?
        .map_err(Failure::into_read_error)?;
    Ok(Connection::new(
        client,
        runtime,
        options.clock,
        data_type,
        name,
    ))
}

fn check_timeout(what: &'static str, timeout: Duration) -> Result<()> {
    if timeout < Duration::from_millis(10) {
        return Err(Error::InvalidInput(format!(
            "{what} is less than 10 milliseconds"
        )));
    }
    let seconds = usize::try_from(timeout.as_secs()).unwrap_or(usize::MAX);
    check_limit(
        "a timeout in seconds",
        MAX_TIMEOUT.as_secs() as usize,
        seconds,
    )
}

/// The settings of each session, after those of the URL.
///
/// A plan that was made while the table was almost empty would scan it, and stay when it has grown.
fn session_options(url: Option<&str>, timeouts: Timeouts) -> String {
    let timeout = timeouts.statement().as_millis().max(1);
    let options = format!("-c enable_seqscan=off -c jit=off -c statement_timeout={timeout}");
    match url {
        Some(url) => format!("{url} {options}"),
        None => options,
    }
}

/// Checks the table. A server that is about to accept connections is waited for, and no other.
async fn check(client: Arc<TableClient>, schema: Schema) -> std::result::Result<(), Failure> {
    tokio::spawn(Pool::close_idle_sessions(Arc::downgrade(&client.pool)));
    let deadline = Deadline::now() + client.timeouts.call;
    loop {
        let checked = timeout_at(deadline, check_once(&client, &schema, deadline)).await;
        let failure = match checked {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(failure)) => failure,
            Err(_) => {
                let detail = "it did not arrive in time";
                return Err(Failure::timed_out(detail, Stage::BeforeCommit));
            }
        };
        if !is_about_to_accept(&failure) || Deadline::now() + OPEN_PAUSE >= deadline {
            return Err(failure);
        }
        sleep(OPEN_PAUSE).await;
    }
}

async fn check_once(
    client: &TableClient,
    schema: &Schema,
    deadline: Deadline,
) -> std::result::Result<(), Failure> {
    let acquired = client.pool.acquire(deadline, client.timeouts.attempt).await;
    let mut pooled = acquired?;
    if let Some(session) = pooled.session() {
        schema.ensure(session).await?;
    }
    pooled.keep();
    Ok(())
}

/// Returns whether the server reported that it starts or has too many connections, or that another
/// transaction was in the way.
fn is_about_to_accept(failure: &Failure) -> bool {
    use super::error::PostgresDbError::Server;
    failure.kind == FailureKind::Transient && matches!(failure.error, Server { .. })
}
