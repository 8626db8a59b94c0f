//! The database in a file, besides what every database promises.

pub(crate) mod temporary;
