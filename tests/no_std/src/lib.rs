//! The proof that `ascribe-core` needs no std: a static library with its own panic handler.
//!
//! If any crate in the tree linked std, its panic handler would be the second one, and the build would fail with
//! "found duplicate lang item `panic_impl`". Every function here
//! stands for modules that must link; none takes a pointer, so none needs `unsafe` code.
#![no_std]

use core::panic::PanicInfo;

use ascribe_core::linop::{Damped, Dense};
use ascribe_core::random::Stream;
use ascribe_core::rank::{Direction, Ranked, TopK};
use ascribe_core::record::LayerRecord;
use ascribe_core::score::Similarity;
use ascribe_core::{Error, LinOp, MatMut, MatRef, Scalar};

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    loop {}
}

/// `alloc` and the packing buffers of `matrixmultiply` ask for an allocator. This one has no memory: it is linked,
/// never run.
#[cfg(any(feature = "alloc", feature = "matrixmultiply"))]
mod allocator {
    use core::alloc::{GlobalAlloc, Layout};

    struct Empty;

    // SAFETY: a null pointer is how an allocator says that it has no memory, so nothing is ever freed.
    unsafe impl GlobalAlloc for Empty {
        unsafe fn alloc(&self, _: Layout) -> *mut u8 {
            core::ptr::null_mut()
        }
        unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
    }

    #[global_allocator]
    static ALLOCATOR: Empty = Empty;
}

/// 0, or what went wrong.
fn status(result: Result<(), Error>) -> i32 {
    match result {
        Ok(()) => 0,
        Err(Error::Shape { .. }) => 1,
        Err(_) => 2,
    }
}

/// Views: copies a 2 x 3 matrix with padded rows.
#[unsafe(no_mangle)]
pub extern "C" fn ascribe_copy(out: &mut [f32; 6], x: &[f32; 8]) -> i32 {
    status((|| MatMut::new(out, 2, 3)?.copy_from(MatRef::with_stride(x, 2, 3, 4)?))())
}

/// Numbers: the square root, which is the processor's, libm's or our own.
#[unsafe(no_mangle)]
pub extern "C" fn ascribe_sqrt(x: f64) -> f64 {
    Scalar::sqrt(x)
}

/// Transcendental functions.
#[cfg(feature = "libm")]
#[unsafe(no_mangle)]
pub extern "C" fn ascribe_tanh(x: f64) -> f64 {
    Scalar::tanh(x)
}

/// Operators, and the product behind them: `(A + damping I) x` for two rows.
#[unsafe(no_mangle)]
pub extern "C" fn ascribe_damped(out: &mut [f64; 8], a: &[f64; 16], x: &[f64; 8], damping: f64) -> i32 {
    status((|| {
        let op = Damped::new(Dense::new(MatRef::new(a, 4, 4)?), damping)?;
        let mut scratch = [0.0; 64];
        op.apply(MatMut::new(out, 2, 4)?, MatRef::new(x, 2, 4)?, &mut scratch)
    })())
}

/// Records, scores and ranks: the three of eight examples whose gradients agree best with the query's.
#[unsafe(no_mangle)]
pub extern "C" fn ascribe_best(best: &mut [u32; 3], x: &[f32; 24], delta: &[f32; 16], query: &[f32; 8]) -> i32 {
    status((|| {
        let record = LayerRecord::new(8, MatRef::new(x, 8, 3)?, MatRef::new(delta, 8, 2)?, None, true)?;
        let (mut gradients, mut scores) = ([0.0; 64], [0.0; 8]);
        record.gradients(MatMut::new(&mut gradients, 8, 8)?)?;
        let train = MatRef::new(&gradients, 8, 8)?;
        Similarity::Dot.scores(MatMut::new(&mut scores, 8, 1)?, train, MatRef::from_row(query), &mut [])?;
        let mut buffer = [Ranked::default(); 3];
        let mut top = TopK::new(&mut buffer, Direction::Largest);
        top.push_slice(0, &scores)?;
        for (best, ranked) in best.iter_mut().zip(top.finish()) {
            *best = ranked.index as u32;
        }
        Ok(())
    })())
}

/// Random numbers.
#[unsafe(no_mangle)]
pub extern "C" fn ascribe_words(words: &mut [u32; 4], seed: u64, index: u64) {
    *words = Stream::new(seed, "no_std").words(index, 0);
}
