//! The recipes of `docs/cookbook.md`, one module each. The page shows these files.
//!
//! ```sh
//! cargo run --example cookbook
//! ```
#![allow(unreachable_pub)]

mod counter;
mod data_type;
mod idempotency_key;
mod leader;
mod locks_found_by_reading;
mod moving;
mod outbox;
mod pagination;
mod range;
mod secondary_index;
mod session;
mod unique_value;
mod unknown_outcome;
mod work_queue;

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    unique_value::main()?;
    idempotency_key::main()?;
    outbox::main()?;
    work_queue::main()?;
    counter::main()?;
    secondary_index::main()?;
    range::main()?;
    locks_found_by_reading::main()?;
    leader::main()?;
    session::main()?;
    pagination::main()?;
    moving::main()?;
    data_type::main()?;
    unknown_outcome::main()?;
    println!("14 recipes ran, each with its assertions");
    Ok(())
}
