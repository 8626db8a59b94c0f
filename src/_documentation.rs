//! The documents of the repository's folder `docs`. Documentation only: these modules are empty.

#[doc = include_str!("../docs/contributing.md")]
pub mod contributing {}

#[doc = include_str!("../docs/cookbook.md")]
pub mod cookbook {}

#[doc = include_str!("../docs/design.md")]
pub mod design {}

#[cfg(feature = "dynamodb")]
#[doc = include_str!("../docs/dynamodb.md")]
pub mod dynamodb {}

#[doc = include_str!("../docs/testing.md")]
pub mod testing {}

#[doc = include_str!("../docs/testing-your-code.md")]
pub mod testing_your_code {}
