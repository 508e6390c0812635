//! Attribution methods: from gradients and an inverse curvature to scores.
//!
//! A score matrix is `[train examples, queries]`. What its sign and scale mean is part of the type that made it.
//!
//! Methods on rows that are ready take gradients or sketches, one matrix a layer or a checkpoint, and are prepared in
//! the same way: statistics are accumulated over blocks of training rows, the few queries are made ready once, and
//! the training rows stream past, each with an inner product.
//!
//! | method | rows | what it is |
//! |---|---|---|
//! | GradDot, GradCos, TracIn | gradients a checkpoint | [`tracin_scores`] |
//! | TRAK | sketched margin gradients a checkpoint | [`Trak`], with [`margin`] and [`weight_by_residual`] |
//! | LoGra, GraSS | sketches a layer | [`ProjectedFisher`], with [`Normalization`] |
//! | DataInf | gradients or sketches, layers side by side | [`DataInf`](crate::inverse::DataInf), then plain inner products |
//! | TrackStar | sketches a block, corrected by second moments | [`TrackStar`], with [`mixing_weight`] |
//! | LESS, BIDS | Adam's steps and gradients; scores | [`Less`], [`Bids`] |
//! | Daunce | losses of perturbed models | [`Daunce`], [`CrossCovariance`] |
//! | DABUF | representations or gradients | [`Dabuf`] |
//! | IF-Guide | layer records; scores of tokens | [`token_scores`], [`IfGuide`] |
//! | IIF | score functions and advantages of a rollout | [`Iif`], [`IifFilter`] |
//! | several models at once | scores | [`fuse_ranks`] |

mod bids;
mod cross_covariance;
mod dabuf;
mod daunce;
mod ghost;
mod if_guide;
mod iif;
mod influence;
mod less;
mod low_rank_query;
mod margin;
mod parts;
mod projected;
mod rank_fusion;
mod relatif;
mod tracin;
mod trackstar;
mod trak;

pub use bids::Bids;
pub use cross_covariance::CrossCovariance;
pub use dabuf::Dabuf;
pub use daunce::Daunce;
pub use ghost::{ghost_dots, ghost_squared_norms};
pub use if_guide::{IfGuide, TokenSelection, query_contrast, token_scores};
pub use iif::{Iif, IifFilter};
pub use influence::{Effect, Influence};
pub use less::{Less, best_subtask};
pub use low_rank_query::{Discarded, LowRankQueries, LowRankQuery};
pub use margin::{margin, margin_cotangents};
pub use projected::ProjectedFisher;
pub use rank_fusion::fuse_ranks;
pub use relatif::Normalization;
pub use tracin::tracin_scores;
pub use trackstar::{TrackStar, mixing_weight};
pub use trak::{Trak, TrakEnsemble, weight_by_residual};
