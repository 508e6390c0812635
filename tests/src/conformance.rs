//! Golden cases in a language-neutral form: one `.safetensors` file is one case.
//!
//! [`case`] reads a file, an [`Op`] computes its outputs from its inputs with the library's public API, and
//! [`runner`] compares them with the expected ones. A module a folder of operations.

pub mod astra;
pub mod case;
pub mod compare;
pub mod damping;
pub mod dense;
pub mod ghost;
pub mod gpu;
pub mod influence;
pub mod inverse;
pub mod kfac;
pub mod layers;
pub mod method;
pub mod metric;
pub mod mlp;
pub mod optimizer;
pub mod random;
pub mod runner;
pub mod scale;
pub mod score;
pub mod selection;
pub mod sketch;
pub mod solve;
pub mod spectral;

use crate::Failure;
use case::{Inputs, Outputs};
use gpu::Record;

/// How an operation is computed from its inputs.
pub type Handler = fn(&Inputs<'_>) -> Result<Outputs, Failure>;

/// An operation of the conformance suite and the functions that compute it.
#[derive(Debug, Clone, Copy)]
pub struct Op {
    /// The name that cases give in their metadata.
    pub name: &'static str,
    /// In double precision.
    pub f64: Handler,
    /// In single precision.
    pub f32: Handler,
    /// On the GPU, where a kernel exists.
    pub gpu: Option<Record>,
}

impl Op {
    /// An operation on the CPU: the same generic handler for both types.
    pub const fn new(name: &'static str, f64: Handler, f32: Handler) -> Self {
        Self { name, f64, f32, gpu: None }
    }

    /// The same, and on the GPU.
    const fn recorded(self, record: Record) -> Self {
        Self { gpu: Some(record), ..self }
    }
}

/// Every operation that can be computed, a slice a folder.
pub const OPS: &[&[Op]] = &[
    random::OPS,
    score::OPS,
    metric::OPS,
    mlp::OPS,
    solve::OPS,
    inverse::OPS,
    astra::OPS,
    kfac::OPS,
    layers::OPS,
    damping::OPS,
    ghost::OPS,
    influence::OPS,
    sketch::OPS,
    dense::OPS,
    scale::OPS,
    method::OPS,
    selection::OPS,
    spectral::OPS,
    optimizer::OPS,
];

/// The operation of that name.
pub fn find(name: &str) -> Option<&'static Op> {
    OPS.iter().copied().flatten().find(|op| op.name == name)
}
