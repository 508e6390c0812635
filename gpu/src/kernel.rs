//! The kernels: what one declares, and what it costs.
//!
//! # How to add a kernel
//! 1. `shaders/NAME.wgsl`: binding 0 is `var<uniform> params: Params`, whose first member is `origin: vec3<u32>`; add it
//!    to the workgroup's number, because dispatches are cut. Bindings from 1 on are the matrices, in the order of
//!    [`Kernel::bindings`]. The entry point is `main`. `shaders/shared` holds what several kernels `#import`.
//! 2. `src/kernel/NAME.rs`: a `static KERNEL`, a cost, and a method of [`Recorder`](crate::Recorder). It validates first
//!    (`check` for the device and the columns), makes its output with `Matrix::new`, calls `dispatch` for each of the
//!    `runs` of rows that lie in one piece of every operand, and at last `spend`s its cost. An output without elements
//!    needs no special case: it has no runs. A sum without terms does.
//! 3. An entry in [`KERNELS`], so that the tests validate and translate every variant with every set of constants.
//! 4. `tests/tests/gpu/NAME.rs`: the twin in core at shapes 0, 1, primes and tile +- 1, on all `devices()`, two of which
//!    are small, with bits or a bound of the tolerance table; and what the recorder counts.
//! 5. A line in the `OPERATIONS` of `tests/tests/gpu/arguments/`, which draw arbitrary arguments.
//! 6. A few cases in `tests/src/bin/web/twin/`, for browsers: the page of `tests/web` fails for a kernel without one.

mod cayley_truncated;
mod contract;
mod fact_grass;
mod gaussian;
mod gemm;
mod gram;
mod grass;
mod kronecker_apply;
mod logra;
mod mask_gather;
mod newton_schulz;
mod normalize;
mod product;
mod projection;
mod quantize_int8;
mod rademacher;
mod scale;
mod scaled;
mod score_top_k;
mod score_top_k_int8;
mod sjlt;
mod sjlt_draw;
mod slice_sum;
mod srht;
mod stored;
mod top_k;

pub use fact_grass::FactGrass;
pub use gemm::{Operand, gemm_cost};
pub use gram::gram_cost;
pub use kronecker_apply::EigenFunction;
pub use logra::LoGra;
pub use mask_gather::Mask;
pub use normalize::row_norms_cost;
pub use quantize_int8::quantize_int8_cost;
pub use scale::Adafactor;
pub use score_top_k::{Scorer, score_top_k_cost};
pub use sjlt::SjltBuckets;
pub use srht::Srht;
pub use stored::{Int8Rows, StoredRows};
pub use top_k::{Best, PendingBest, Selection};

use crate::shader::{ShaderError, Target, assemble};

/// What a kernel does with a matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// It only reads.
    Read,
    /// It writes, and may read.
    Write,
}

/// A compute shader and what has to be known to use it.
#[derive(Debug)]
pub struct Kernel {
    /// The stem of the shader's file, and the label of everything made from it.
    pub name: &'static str,
    pub(crate) source: &'static str,
    /// The matrices, in the order of their bindings from 1 on.
    pub bindings: &'static [Access],
    /// The sets of flags that it is assembled with.
    pub variants: &'static [&'static [&'static str]],
    /// The sets of override constants that it is compiled with.
    pub constants: &'static [&'static [(&'static str, u32)]],
}

/// Every kernel.
pub static KERNELS: &[&Kernel] = &[
    &fact_grass::KERNEL,
    &gaussian::KERNEL,
    &gemm::KERNEL,
    &gram::KERNEL,
    &kronecker_apply::KERNEL,
    &logra::KERNEL,
    &mask_gather::KERNEL,
    &normalize::KERNEL,
    &quantize_int8::KERNEL,
    &rademacher::KERNEL,
    &scale::KERNEL,
    &scaled::KERNEL,
    &score_top_k::KERNEL,
    &score_top_k_int8::KERNEL,
    &score_top_k_int8::QUERIES,
    &sjlt::KERNEL,
    &sjlt_draw::PREFIX_SUM,
    &sjlt_draw::SORT,
    &sjlt_draw::TABLE,
    &slice_sum::KERNEL,
    &srht::KERNEL,
    &top_k::KERNEL,
];

impl Kernel {
    /// The text of a variant.
    ///
    /// # Errors
    /// [`ShaderError`] when a file of this crate is broken, which its tests exclude.
    pub fn shader(&self, flags: &[&str], target: Target) -> Result<String, ShaderError> {
        assemble(self.name, self.source, flags, target)
    }
}

/// What an operation costs, counted from its algorithm; for sizes that no device has, the largest number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// Floating-point operations.
    pub flops: u64,
    /// Bytes that must move between the device's memory and its processors: every operand once.
    pub bytes: u64,
    /// Memory that a workgroup shares, in bytes.
    pub workgroup_bytes: u32,
}

impl Cost {
    /// Flops for each byte: below a device's flops over its bandwidth, the bandwidth is what counts.
    pub fn intensity(&self) -> f64 {
        self.flops as f64 / self.bytes as f64
    }

    /// The least time in seconds on a device that moves `bandwidth` bytes and computes `flops` operations a second
    /// (the roofline): the slower of the two.
    ///
    /// ```
    /// let cost = ascribe_gpu::Cost { flops: 6_000_000_000, bytes: 3_000_000, workgroup_bytes: 0 };
    /// assert_eq!(cost.seconds(3e12, 6e13), 1e-4);
    /// ```
    pub fn seconds(&self, bandwidth: f64, flops: f64) -> f64 {
        (self.bytes as f64 / bandwidth).max(self.flops as f64 / flops)
    }
}

/// A sum of products of sizes, or the largest number where it is none.
fn sum(products: &[&[usize]]) -> u64 {
    let product = |sizes: &&[usize]| sizes.iter().fold(1, |product: u64, &size| product.saturating_mul(size as u64));
    products.iter().map(product).fold(0, u64::saturating_add)
}

impl std::ops::AddAssign for Cost {
    /// One after the other.
    fn add_assign(&mut self, other: Self) {
        self.flops = self.flops.saturating_add(other.flops);
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.workgroup_bytes = self.workgroup_bytes.max(other.workgroup_bytes);
    }
}
