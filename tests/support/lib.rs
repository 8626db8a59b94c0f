//! Databases and checkers that several test programs share.

pub mod faulty_db;
pub mod reference_model;
