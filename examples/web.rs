//! A small HTTP service that keeps notes: ETags are versions of locks, so a browser loads a note again
//! only after it has changed, and an edit never overwrites another one that its author has not seen.
//!
//! ```sh
//! cargo run --example web                  # http://127.0.0.1:8080
//! curl -i -X PUT -H 'If-None-Match: *' -d 'tea' http://127.0.0.1:8080/notes/1
//! curl -i http://127.0.0.1:8080/notes/1
//! ```
//!
//! | request | response |
//! | --- | --- |
//! | `GET /notes?limit=N&after=CURSOR` | a page of notes, and the cursor of the next one |
//! | `GET /notes/ID`, `If-None-Match: ETAG` | 200, 304 if the note has this version, 404 |
//! | `PUT /notes/ID` with `If-None-Match: *` | 201, 412 if the note exists |
//! | `PUT /notes/ID` with `If-Match: ETAG` | 204, 412 if the note has another version |
//! | `DELETE /notes/ID` with `If-Match: ETAG` | 204, 412 if the note has another version |
//! | `GET /metrics` | the calls, errors and conflicts of the database |
//!
//! A `PUT` or `DELETE` without a condition is 428. After 504, the outcome is unknown: read the note.

use atomic_db::{
    AtomicDb, Batch, Counters, Error, Item, Key, MemoryDb, Observed, Query, SharedDb, Version,
};
use axum::extract::{Path, Query as Parameters, State};
use axum::http::header::{ETAG, IF_MATCH, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::task::spawn_blocking;

/// The partition of the notes. Their locks are in another one, so a query does not read them.
const NOTES: &str = "notes";
const LOCKS: &str = "locks of notes";

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let listener = TcpListener::bind("127.0.0.1:8080").await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, router(MemoryDb::new())).await?;
    Ok(())
}

/// The state of the service. Each handler has a clone.
#[derive(Clone)]
struct App {
    db: SharedDb<String>,
    counters: Counters,
}

/// Creates the service on any database.
pub fn router(db: impl AtomicDb<Data = String> + Send + Sync + 'static) -> Router {
    let counters = Counters::new();
    let app = App {
        db: Arc::new(Observed::new(db, counters.clone())),
        counters,
    };
    Router::new()
        .route("/notes", get(list))
        .route("/notes/{id}", get(read).put(write).delete(remove))
        .route("/metrics", get(show_counters))
        .with_state(app)
}

async fn show_counters(State(app): State<App>) -> String {
    app.counters.snapshot().to_string()
}

/// Why a request was refused.
enum Refusal {
    Status(StatusCode),
    Db(Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Refusal::Db(error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let error = match self {
            Refusal::Status(status) => return status.into_response(),
            Refusal::Db(error) => error,
        };
        let status = match error {
            // The condition of the request is no longer true.
            Error::RaceCondition { .. } | Error::AlreadyExists { .. } => {
                StatusCode::PRECONDITION_FAILED
            }
            Error::InvalidInput(_) | Error::LimitExceeded { .. } => StatusCode::BAD_REQUEST,
            Error::Unavailable(_) | Error::RetriesExhausted { .. } => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            // The write may have been applied: the client reads the note to find out.
            Error::OutcomeUnknown(_) => StatusCode::GATEWAY_TIMEOUT,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, format!("{error}\n")).into_response()
    }
}

/// Runs `call` on a thread that may block.
async fn blocking<R: Send + 'static>(
    app: App,
    call: impl FnOnce(&SharedDb<String>) -> Result<R, Refusal> + Send + 'static,
) -> Result<R, Refusal> {
    let result = spawn_blocking(move || call(&app.db)).await;
    // The task fails only if `call` panics.
    result.unwrap_or(Err(Refusal::Status(StatusCode::INTERNAL_SERVER_ERROR)))
}

#[derive(Deserialize)]
struct PageParameters {
    limit: Option<usize>,
    after: Option<String>,
}

#[derive(Serialize)]
struct PageOfNotes {
    notes: Vec<Note>,
    /// The `after` of the next page, if there is one.
    next: Option<String>,
}

#[derive(Serialize)]
struct Note {
    id: String,
    text: String,
}

async fn list(
    State(app): State<App>,
    Parameters(parameters): Parameters<PageParameters>,
) -> Result<Json<PageOfNotes>, Refusal> {
    blocking(app, move |db| {
        let query = Query::new(NOTES).limit(parameters.limit.unwrap_or(20).clamp(1, 100));
        let page = db.page(&query, parameters.after.as_deref())?;
        let notes = page.items.into_iter().map(|item| Note {
            id: item.sk().to_owned(),
            text: item.into_data().unwrap_or_default(),
        });
        Ok(Json(PageOfNotes {
            notes: notes.collect(),
            next: page.next,
        }))
    })
    .await
}

async fn read(
    State(app): State<App>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    blocking(app, move |db| {
        let note = Key::new(NOTES, &id);
        let not_found = || Refusal::Status(StatusCode::NOT_FOUND);
        // A request for a note that does not exist must not create a lock.
        db.get(note)?.ok_or_else(not_found)?;
        // The lock first: the text that is read after it is at least as new as its version.
        let version = db.get_lock(Key::new(LOCKS, &id))?.version();
        if condition(&headers, &IF_NONE_MATCH)?.is_some_and(|condition| condition.matches(version))
        {
            return Ok((StatusCode::NOT_MODIFIED, etag(version)).into_response());
        }
        let text = db
            .get_fresh(note)?
            .and_then(Item::into_data)
            .ok_or_else(not_found)?;
        Ok((etag(version), text).into_response())
    })
    .await
}

async fn write(
    State(app): State<App>,
    Path(id): Path<String>,
    headers: HeaderMap,
    text: String,
) -> Result<Response, Refusal> {
    blocking(app, move |db| {
        let note = Item::new(NOTES, &id, text);
        let lock = || db.get_lock(Key::new(LOCKS, &id));
        let (status, batch) = match (
            condition(&headers, &IF_MATCH)?,
            condition(&headers, &IF_NONE_MATCH)?,
        ) {
            // The commit fails if the note has another version than the one that the client has read.
            (Some(Condition::Version(read)), None) => (
                StatusCode::NO_CONTENT,
                Batch::new().lock(lock()?.with_version(read)).set(note),
            ),
            (None, Some(Condition::Any)) => {
                (StatusCode::CREATED, Batch::new().lock(lock()?).create(note))
            }
            (None, None) => return Err(Refusal::Status(StatusCode::PRECONDITION_REQUIRED)),
            _ => return Err(Refusal::Status(StatusCode::BAD_REQUEST)),
        };
        let version = db.commit(&batch)?;
        Ok((status, etag(version)).into_response())
    })
    .await
}

async fn remove(
    State(app): State<App>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<StatusCode, Refusal> {
    blocking(app, move |db| {
        let read = match condition(&headers, &IF_MATCH)? {
            Some(Condition::Version(read)) => read,
            Some(Condition::Any) => return Err(Refusal::Status(StatusCode::BAD_REQUEST)),
            None => return Err(Refusal::Status(StatusCode::PRECONDITION_REQUIRED)),
        };
        // The lock stays, with a new version, so an older ETag is never valid again.
        let lock = db.get_lock(Key::new(LOCKS, &id))?.with_version(read);
        db.commit(&Batch::new().lock(lock).delete((NOTES, &id)))?;
        Ok(StatusCode::NO_CONTENT)
    })
    .await
}

/// The condition of a request.
enum Condition {
    Any,
    Version(Version),
}

impl Condition {
    fn matches(&self, version: Version) -> bool {
        match self {
            Condition::Any => true,
            Condition::Version(condition) => *condition == version,
        }
    }
}

/// Reads a header with one ETag or `*`. An ETag that is not one of ours is refused.
fn condition(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Condition>, Refusal> {
    let Some(value) = headers.get(name) else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or_default();
    if text == "*" {
        return Ok(Some(Condition::Any));
    }
    let version = text
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'));
    let version = version.and_then(|version| version.parse().ok());
    let version = version.ok_or(Refusal::Status(StatusCode::BAD_REQUEST))?;
    Ok(Some(Condition::Version(version)))
}

fn etag(version: Version) -> [(HeaderName, String); 1] {
    [(ETAG, format!("\"{version}\""))]
}
