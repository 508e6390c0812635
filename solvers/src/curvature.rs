//! Curvature from records: K-FAC, EKFAC and their relatives, and the choice of their damping.
//!
//! ```text
//! records ──► LayerCovariance ──► EigenBlock, K-FAC ──► EigenvalueCorrection ──► EigenBlock, EKFAC
//!             (one pass, mergeable)  (eigenvectors, f64)  (a second pass)             │
//!                                                                                     ▼
//!                                     Filter: damping, kind of inverse, power ──► operator
//! ```
//!
//! [`Kfac::of`] and [`Ekfac::of`] go all the way for one of our networks; a training stack of its own brings records.
//! Every stage is for one layer, [`Blocks`] are the layers of a network. A change of the damping needs no pass over the
//! data.
//!
//! | layer | records | covariance and correction |
//! |---|---|---|
//! | linear, attention projections | [`LayerRecord`](ascribe_core::record::LayerRecord) | [`LayerCovariance`], [`EigenvalueCorrection`] |
//! | the same weight used several times | [`TiedRecord`] | the same |
//! | convolution | [`Conv2d`] unfolds it, one record for each group of channels | the same |
//! | denoiser of a diffusion model | [`denoising_cotangents`] | the same |
//! | embedding | [`EmbeddingRecord`] | [`EmbeddingCovariance`], [`EmbeddingCorrection`] |
//! | normalisation | [`norm_gradients`] | [`EigenBlock::dense`] or [`EigenBlock::diagonal`] |
//!
//! The cheap members of the family are [`DiagonalFisher`] with [`EigenBlock::diagonal`], and the identity,
//! `EigenBlock::diagonal(name, &[1.0; n])`.
//!
//! Whose output gradients they are is in the types: see [`Fisher`].

#[cfg(feature = "safetensors")]
mod archive;
mod blocks;
mod conv2d;
mod correction;
mod covariance;
mod damping;
mod diagonal;
mod diffusion;
mod eigen_block;
mod eigen_function;
mod embedding;
mod fisher;
mod gram;
mod kfac;
mod norm;
mod selection;
mod spectrum;
mod tied;

pub use blocks::{BlockFunction, Blocks};
pub use conv2d::{Conv2d, ConvLayer};
pub use correction::{EigenvalueCorrection, Route};
pub use covariance::{Count, Covariances, LayerCovariance, LayerShape, Sharing};
pub use damping::{Damping, Filter, Inversion};
pub use diagonal::DiagonalFisher;
pub use diffusion::{DenoiserJacobian, denoising_cotangents};
pub(crate) use eigen_block::products;
pub use eigen_block::{Basis, EigenBlock, NegativeEigenvalues};
pub use eigen_function::EigenFunction;
pub use embedding::{EmbeddingCorrection, EmbeddingCovariance, EmbeddingRecord};
pub use fisher::{Empirical, Fisher, Sampled, Type2};
pub use gram::Gram;
pub use kfac::{Ekfac, Kfac, each_record};
pub use norm::norm_gradients;
pub use selection::{DampingIndicator, DampingSelection, implicit_damping};
pub use spectrum::{Spectrum, SpectrumReport};
pub use tied::TiedRecord;
