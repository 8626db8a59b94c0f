//! Responses that are not DynamoDB's, or damaged, and the texts of errors.

use super::behind_proxy::{
    COMMIT, ITEM, LOCK, always, for_first, full_text, item, new_db_behind_proxy, stored_value,
    within_timeout,
};
use super::dynamodb_error;
use super::fault_proxy::{Fault, MESSAGE, REQUEST_ID};
use atomic_db::{AtomicDb, Batch, DynamoDbError, Error, Query};

const JSON: &str = "application/x-amz-json-1.0";

/// Responses in place of DynamoDB's, as (status, content type, body).
const FOREIGN: [(u16, &str, &str); 14] = [
    (
        200,
        "text/html",
        "<html><body>Log in to the network</body></html>",
    ),
    (200, "text/plain", ""),
    (200, JSON, "{\"Item\": {\"pk\": {\"S\": \"p"),
    (200, JSON, "[]"),
    (302, "text/html", ""),
    (400, "text/html", "<html>Bad request</html>"),
    (
        400,
        "application/json",
        "{\"message\": \"malformed header\"}",
    ),
    (403, "text/html", "<html>Forbidden</html>"),
    (404, "text/plain", "no such backend"),
    (408, "text/html", ""),
    (413, "text/plain", "too large"),
    (502, "text/html", "<html>Bad gateway</html>"),
    (200, JSON, "{\"message\": \"temporarily unavailable\"}"),
    (400, JSON, "{\"__type\": \"\", \"message\": \"\"}"),
];

#[test]
fn a_commit_with_a_foreign_response_is_applied_once() {
    let Some((db, proxy)) = new_db_behind_proxy() else {
        return;
    };
    let mut lock = db.get_lock(LOCK).unwrap();
    for (data, (status, content_type, body)) in (0..).zip(FOREIGN) {
        for fault in [
            Fault::ReplaceResponse(status, content_type, body),
            Fault::Respond(status, content_type, body),
        ] {
            proxy.set_rule_for(COMMIT, for_first(1, fault.clone()));
            let version = within_timeout(|| db.set_atomic(&[item(data)], &[lock.clone()]));
            let version = version.unwrap_or_else(|error| panic!("{fault:?}: {error:?}"));
            lock = lock.with_version(version);
            assert_eq!(proxy.requests_for(COMMIT).len(), 2, "{fault:?}");
            assert_eq!(stored_value(&db), Some(data), "{fault:?}");
            assert_eq!(db.get_lock(LOCK).unwrap(), lock, "{fault:?}");
        }
    }
}

#[test]
fn a_commit_with_foreign_responses_only_is_resolved_by_its_lock() {
    let Some((db, proxy)) = new_db_behind_proxy() else {
        return;
    };
    for (status, content_type, body) in [FOREIGN[0], FOREIGN[5], FOREIGN[9]] {
        let lock = db.get_lock(LOCK).unwrap();
        let fault = Fault::ReplaceResponse(status, content_type, body);
        proxy.set_rule_for(COMMIT, always(fault.clone()));
        let version = within_timeout(|| db.set_atomic(&[item(7)], &[lock.clone()])).unwrap();
        assert_eq!(db.get_lock(LOCK).unwrap(), lock.with_version(version));
        // Without a lock, it cannot be resolved.
        let outcome = within_timeout(|| db.commit(&Batch::new().set(item(8))));
        assert!(
            matches!(outcome, Err(Error::OutcomeUnknown(_))),
            "{fault:?}: {outcome:?}"
        );
        assert_eq!(stored_value(&db), Some(8), "{fault:?}");
    }
}

#[test]
fn writes_with_foreign_responses_only_have_an_unknown_outcome() {
    let Some((db, proxy)) = new_db_behind_proxy() else {
        return;
    };
    for (status, content_type, body) in [FOREIGN[0], FOREIGN[5], FOREIGN[9]] {
        proxy.set_rule(always(Fault::ReplaceResponse(status, content_type, body)));
        for error in [
            within_timeout(|| db.set(&[item(1)])).unwrap_err(),
            within_timeout(|| db.delete(&[ITEM])).unwrap_err(),
        ] {
            assert!(matches!(error, Error::OutcomeUnknown(_)), "{error:?}");
        }
    }
}

#[test]
fn the_text_of_an_error_names_the_request_and_the_response() {
    let Some((db, proxy)) = new_db_behind_proxy() else {
        return;
    };
    for (status, content_type, body) in [0, 2, 6, 11, 12].map(|index| FOREIGN[index]) {
        proxy.set_rule(always(Fault::Respond(status, content_type, body)));
        let error = within_timeout(|| db.get(ITEM)).unwrap_err();
        assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
        let source = dynamodb_error(&error);
        assert!(
            matches!(source, DynamoDbError::Service { code, .. } if code == "UnexpectedResponse"),
            "{source:?}"
        );
        let text = full_text(&error);
        assert!(text.contains("GetItem"), "{text}");
        assert!(text.contains(&format!("HTTP status {status}")), "{text}");
        assert!(text.contains(REQUEST_ID), "{text}");
        if content_type.starts_with("text/") {
            assert!(text.contains(body), "{text}");
        }
        // The beginning of an item must not get into logs.
        assert!(!text.contains("Item\""), "{text}");
    }
    for (call, fault) in [
        ("BatchGetItem", Fault::Error(400, "AccessDeniedException")),
        ("BatchGetItem", Fault::Error(400, "ThrottlingException")),
        ("BatchGetItem", Fault::Error(500, "InternalServerError")),
    ] {
        proxy.set_rule(always(fault));
        let error = within_timeout(|| db.get_many(&[ITEM])).unwrap_err();
        let text = full_text(&error);
        for part in [call, "HTTP status", REQUEST_ID, MESSAGE] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
    for fault in [Fault::BlackholeRequest, Fault::DropRequest] {
        proxy.set_rule(always(fault));
        let error = within_timeout(|| db.query(&Query::new("pk"))).unwrap_err();
        assert!(full_text(&error).contains("Query"), "{error:?}");
    }
}

/// The request was not applied, and a retry with the same clock does not help.
#[test]
fn clock_skew_and_expired_requests_are_access_errors() {
    let Some((db, proxy)) = new_db_behind_proxy() else {
        return;
    };
    for code in [
        "RequestExpired",
        "RequestTimeTooSkewed",
        "RequestInTheFuture",
        "InvalidSignatureException",
        "ExpiredToken",
    ] {
        proxy.set_rule(always(Fault::Error(400, code)));
        let error = within_timeout(|| db.set(&[item(1)])).unwrap_err();
        assert!(matches!(error, Error::Backend(_)), "{error:?}");
        match dynamodb_error(&error) {
            DynamoDbError::AccessDenied { code: reported, .. } => assert_eq!(reported, code),
            other => panic!("{other:?}"),
        }
        assert_eq!(proxy.operations().len(), 1, "{code} was retried");
    }
}

#[test]
fn a_damaged_response_is_requested_again() {
    let Some((db, proxy)) = new_db_behind_proxy() else {
        return;
    };
    db.set(&[item(1_000)]).unwrap();
    proxy.set_rule(for_first(1, Fault::CorruptResponse));
    assert_eq!(within_timeout(|| db.get(ITEM)).unwrap(), Some(item(1_000)));
    let found = within_timeout(|| db.get_many(&[ITEM])).unwrap();
    assert_eq!(found, [Some(item(1_000))]);
    let found = within_timeout(|| db.query(&Query::new("pk"))).unwrap();
    assert_eq!(found, [item(1_000)]);
    assert_eq!(proxy.operations().len(), 6);

    // A damaged refusal does not show that nothing was written.
    let lock = db.get_lock(LOCK).unwrap();
    let version = db.set_atomic(&[], &[lock.clone()]).unwrap();
    proxy.set_rule_for(COMMIT, always(Fault::CorruptResponse));
    let outcome = within_timeout(|| db.set_atomic(&[item(1)], &[lock.clone()]));
    assert!(
        matches!(outcome, Err(Error::OutcomeUnknown(_))),
        "{outcome:?}"
    );
    proxy.set_rule(always(Fault::None));
    assert_eq!(
        db.get_lock(LOCK).unwrap(),
        lock.with_version(version),
        "the stale commit was refused"
    );
    assert_eq!(stored_value(&db), Some(1_000));
}
