//! Scores of many training rows for many queries, in one pass over the rows, with only the best of them kept.

mod rows;

pub use rows::{Int8Rows, OneBitRows, RowSource, StoredRows};
