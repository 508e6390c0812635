//! Scores of many training rows for many queries, in one pass over the rows, with only the best of them kept.

mod dense;
mod int8;
mod lanes;
mod layers;
mod one_bit;
mod panel;
mod row_dots;
mod rows;
mod scorer;
mod tile;

pub use row_dots::row_dots;
pub use rows::{Int8Rows, OneBitRows, RowSource, StoredRows};
pub use scorer::{Scorer, Selection};
