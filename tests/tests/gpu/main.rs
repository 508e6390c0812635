//! The kernels of ascribe-gpu against their twins in core, and the device under them.

mod arguments;
mod batches;
mod cayley_truncated;
mod common;
mod device;
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
mod philox;
mod plan;
mod quantize_int8;
mod rademacher;
mod scale;
mod score_top_k;
mod score_top_k_int8;
mod shaders;
mod sjlt;
mod sjlt_draw;
mod srht;

use std::sync::LazyLock;
use std::time::Duration;

use ascribe_gpu::{Error, Gpu, GpuOptions};

/// What the small device allows: bindings of 1 KiB, three workgroups along a dimension, plain kernels.
pub(crate) const SMALL_BINDING: u64 = 1024;

/// How a device of little means is opened: every kernel has to cut its work on it.
pub(crate) fn small() -> GpuOptions {
    GpuOptions { max_binding_bytes: Some(SMALL_BINDING), max_workgroups: Some(3), plain: true, ..GpuOptions::default() }
}

/// A device, or `None` with a visible word where there is none; but with `ASCRIBE_REQUIRE_GPU=1` there has to be one.
pub(crate) fn open(options: &GpuOptions) -> Option<Gpu> {
    // Compiling on a busy machine takes its time.
    let options = GpuOptions { timeout: options.timeout.max(Duration::from_mins(5)), ..options.clone() };
    match Gpu::with(&options) {
        Ok(gpu) => Some(gpu),
        Err(Error::NoAdapter { why }) if std::env::var_os("ASCRIBE_REQUIRE_GPU").is_none_or(|v| v != "1") => {
            ascribe_tests::skipped(&format!("no GPU: {why}"));
            None
        }
        Err(error) => panic!("ASCRIBE_REQUIRE_GPU=1, but {error}"),
    }
}

/// The device as it is, a small one, and one that lacks nothing but workgroups and time, so that its dispatches and
/// submissions are cut in every direction; shared by all tests, so that each kernel is compiled once.
pub(crate) fn devices() -> &'static [Gpu] {
    static DEVICES: LazyLock<Vec<Gpu>> = LazyLock::new(|| {
        let watchdog = Duration::from_micros(1);
        let few = GpuOptions { max_workgroups: Some(3), watchdog, ..GpuOptions::default() };
        // Sizes out of a fuzzer's hat are to meet this limit, not that of the machine.
        let limited = |options: GpuOptions| open(&GpuOptions { max_memory: Some(1 << 28), ..options });
        [GpuOptions::default(), small(), few].into_iter().filter_map(limited).collect()
    });
    &DEVICES
}
