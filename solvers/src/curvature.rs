//! Curvature from records.

#[cfg(feature = "safetensors")]
mod archive;
mod blocks;
mod correction;
mod covariance;
mod damping;
mod eigen_block;
mod eigen_function;
mod embedding;
mod fisher;
mod kfac;
mod norm;
mod tied;

pub use blocks::{BlockFunction, Blocks};
pub use correction::{EigenvalueCorrection, Route};
pub use covariance::{Count, Covariances, LayerCovariance, LayerShape, Sharing};
pub use damping::{Damping, Filter, Inversion};
pub use eigen_block::{Basis, Clamped, EigenBlock};
pub use eigen_function::EigenFunction;
pub use embedding::{EmbeddingCorrection, EmbeddingCovariance, EmbeddingRecord};
pub use fisher::{Empirical, Fisher, Sampled, Type2};
pub use kfac::{Ekfac, Kfac, each_record};
pub use norm::norm_gradients;
pub use tied::TiedRecord;
