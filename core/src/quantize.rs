//! Storage formats for sketched gradients: fewer bytes a number, with codes that are the same everywhere.
