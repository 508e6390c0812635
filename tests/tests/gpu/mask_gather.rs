//! Kept coordinates have the bits of core's.

use ascribe_core::linop::apply_alloc;
use ascribe_core::random::Stream;
use ascribe_core::sketch::{Mask as CoreMask, MaskScale};
use ascribe_core::{Error as CoreError, MatRef};
use ascribe_gpu::{Error, Mask};
use proptest::prelude::*;

use crate::common::{bits, compute, is_large, normals};
use crate::devices;

proptest! {
    #[test]
    fn the_bits_of_core(
        n in prop::sample::select(vec![0, 1, 3, 4, 5, 31]),
        p in prop::sample::select(vec![0, 1, 2, 97, 127, 256]),
        keep in 0.0..=1.0_f64,
        unbiased in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let stream = Stream::new(seed, "mask");
        let kept = (f64::from(p as u32) * keep).round() as usize;
        let scale = if unbiased { MaskScale::Unbiased } else { MaskScale::None };
        let mask = CoreMask::random(p, kept, scale, stream.child(0)).unwrap();
        let data = normals(stream.child(1), n * p);
        let x = MatRef::new(&data, n, p).unwrap();
        let expected = bits(&apply_alloc(&mask, x).unwrap());
        for gpu in devices() {
            let mask = Mask::upload(gpu, &mask).unwrap();
            prop_assert_eq!((mask.dim_in(), mask.dim_out()), (p, kept));
            let x = gpu.upload(x).unwrap();
            let (y, counters) = compute(gpu, |recorder| recorder.mask_gather(&mask, &x));
            prop_assert_eq!(bits(&y), &expected[..]);
            if is_large(gpu) {
                prop_assert_eq!(counters.dispatches, u64::from(n * kept > 0));
            }
        }
    }
}

#[test]
fn what_it_costs() {
    let Some(gpu) = devices().first() else { return };
    // In two sectors of eight words, and two again of a row of which they are almost all.
    for (indices, dim_in, fetched) in [([1, 5, 24], 32, 16), ([1, 5, 8], 9, 9)] {
        let mask = Mask::upload(gpu, &CoreMask::new(indices, dim_in, MaskScale::None).unwrap()).unwrap();
        let mut recorder = gpu.record();
        let x = recorder.zeros(10, dim_in).unwrap();
        recorder.mask_gather(&mask, &x).unwrap();
        assert_eq!(recorder.cost(), mask.cost(10));
        assert_eq!((recorder.cost().flops, recorder.cost().bytes), (30, 4 * 10 * (fetched + 3) + 12));
    }
}

#[test]
fn wrong_arguments() {
    let mask = CoreMask::new([0, 2], 3, MaskScale::None).unwrap();
    for gpu in devices() {
        let mask = Mask::upload(gpu, &mask).unwrap();
        let x = gpu.upload(MatRef::from_row(&[1.0_f32; 4])).unwrap();
        let error = gpu.record().mask_gather(&mask, &x).unwrap_err();
        assert_eq!(error, Error::Core(CoreError::Shape { what: "x columns", expected: 3, got: 4 }));
        let far = CoreMask::new([1 << 32], (1 << 32) + 1, MaskScale::None).unwrap();
        let error = Mask::upload(gpu, &far).unwrap_err();
        assert_eq!(error, Error::Core(CoreError::Overflow { what: "mask on the device" }));
    }
    let [one, other, ..] = devices() else { return };
    let (mine, theirs) = (Mask::upload(one, &mask).unwrap(), Mask::upload(other, &mask).unwrap());
    let x = one.upload(MatRef::from_row(&[1.0_f32; 3])).unwrap();
    assert!(one.record().mask_gather(&mine, &x).is_ok());
    assert_eq!(one.record().mask_gather(&theirs, &x).unwrap_err(), Error::Foreign);
    assert_eq!(other.record().mask_gather(&theirs, &x).unwrap_err(), Error::Foreign);
}
