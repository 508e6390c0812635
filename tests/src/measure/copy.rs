//! What memory can do: a copy far larger than every cache.

use std::hint::black_box;
use std::thread;

use ascribe_core::Real;

use super::{Kernel, Measured, Settings};
use crate::Failure;
use crate::failure::fail;

pub(super) const KERNEL: Kernel = Kernel {
    name: "copy",
    about: "copies a buffer; its bytes over the median are the bandwidth",
    sizes: &["mib"],
    defaults: &[&[256]],
    f32: run::<f32>,
    f64: run::<f64>,
};

fn run<T: Real>(settings: &Settings, sizes: &[usize]) -> Result<Measured, Failure> {
    let Some(bytes) = sizes[0].checked_mul(1 << 20) else { return fail("mib: too large") };
    let len = bytes / size_of::<T>();
    // Ones, not zeros: untouched zero pages would all be the same page of memory.
    let (source, mut target) = (vec![T::ONE; len], vec![T::ZERO; len]);
    let part = len.div_ceil(settings.threads).max(1);
    let seconds = settings.time(|| {
        thread::scope(|scope| {
            for (to, from) in target.chunks_mut(part).zip(source.chunks(part)) {
                scope.spawn(|| to.copy_from_slice(black_box(from)));
            }
        });
        black_box(&mut target);
    });
    Ok(Measured { seconds, flops: 0, bytes: 2 * bytes as u64 })
}
