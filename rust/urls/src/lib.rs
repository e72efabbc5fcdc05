//! URL lists: parsing, registrable domains, deterministic order, and the text formats lists come in.
//!
//! Everything here is a pure function of its input and seed; files and networks are elsewhere.

pub mod address;
pub mod csv;
pub mod json;
pub mod location;
pub mod parse;
pub mod spread;
