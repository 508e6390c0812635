//! The proof that `ascribe-core` needs no std: a static library with its own panic handler.
//!
//! If any crate in the tree linked std, its panic handler would be the second one, and the build would fail with
//! "found duplicate lang item `panic_impl`". Every function here stands for a module that must link.
#![no_std]

use core::panic::PanicInfo;

use ascribe_core::{Error, MatMut, MatRef, Scalar};

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
