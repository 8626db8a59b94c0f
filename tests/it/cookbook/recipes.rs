//! The modules of `examples/cookbook`, and `examples/web.rs`. The `main` functions of the recipes run as an
//! example and as doctests.
#![allow(dead_code, unreachable_pub)]

#[path = "../../../examples/cookbook/counter.rs"]
pub(crate) mod counter;
#[path = "../../../examples/cookbook/data_type.rs"]
pub(crate) mod data_type;
#[path = "../../../examples/cookbook/idempotency_key.rs"]
pub(crate) mod idempotency_key;
#[path = "../../../examples/cookbook/leader.rs"]
pub(crate) mod leader;
#[path = "../../../examples/cookbook/locks_found_by_reading.rs"]
pub(crate) mod locks_found_by_reading;
#[path = "../../../examples/cookbook/moving.rs"]
pub(crate) mod moving;
#[path = "../../../examples/cookbook/outbox.rs"]
pub(crate) mod outbox;
#[path = "../../../examples/cookbook/pagination.rs"]
pub(crate) mod pagination;
#[path = "../../../examples/cookbook/range.rs"]
pub(crate) mod range;
#[path = "../../../examples/cookbook/secondary_index.rs"]
pub(crate) mod secondary_index;
#[path = "../../../examples/cookbook/session.rs"]
pub(crate) mod session;
#[path = "../../../examples/cookbook/unique_value.rs"]
pub(crate) mod unique_value;
#[path = "../../../examples/cookbook/unknown_outcome.rs"]
pub(crate) mod unknown_outcome;
#[path = "../../../examples/web.rs"]
pub(crate) mod web;
#[path = "../../../examples/cookbook/work_queue.rs"]
pub(crate) mod work_queue;
