//! Curvature from records.

mod blocks;
mod conv2d;
mod correction;
mod covariance;
mod damping;
mod diffusion;
mod eigen_block;
mod embedding;
mod norm;
mod tied;
mod eigen_function;
mod fisher;
mod kfac;

pub use blocks::{BlockFunction, Blocks};
pub use conv2d::{Conv2d, ConvLayer};
pub use covariance::{Count, Covariances, LayerCovariance, LayerShape, Sharing};
pub use correction::{EigenvalueCorrection, Route};
pub use damping::{Damping, Filter, Inversion};
pub use diffusion::{DenoiserJacobian, denoising_cotangents};
pub use eigen_block::{Basis, Clamped, EigenBlock};
pub use eigen_function::EigenFunction;
pub use embedding::{EmbeddingCorrection, EmbeddingCovariance, EmbeddingRecord};
pub use fisher::{Empirical, Fisher, Sampled, Type2};
pub use kfac::{Ekfac, Kfac, each_record};
pub use norm::norm_gradients;
pub use tied::TiedRecord;
