//! GraSS by a table of kept coordinates has the bits of core's.

use ascribe_core::linop::apply_alloc;
use ascribe_core::random::Stream;
use ascribe_core::sketch::{Grass, Mask, MaskScale, Sjlt, SjltTable};
use ascribe_core::{Error as CoreError, MatRef};
use ascribe_gpu::{Error, SjltBuckets};
use proptest::prelude::*;

use crate::common::{bits, compute, is_large, normals};
use crate::devices;

proptest! {
    #[test]
    fn the_bits_of_core(
        n in prop::sample::select(vec![0, 1, 5, 33]),
        p in prop::sample::select(vec![1, 2, 97, 127, 256]),
        k in prop::sample::select(vec![1, 2, 63, 65]),
        keep in 0.0..=0.5_f64,
        slots in 1_usize..3,
        unbiased in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let stream = Stream::new(seed, "grass");
        let (kept, slots) = ((f64::from(p as u32) * keep).round() as usize, slots.min(k));
        let scale = if unbiased { MaskScale::Unbiased } else { MaskScale::None };
        let mask = Mask::random(p, kept, scale, stream.child(0)).unwrap();
        let sjlt = SjltTable::draw(&Sjlt::new(kept, k, slots, stream.child(1)).unwrap()).unwrap();
        let grass = Grass::new(mask, sjlt).unwrap();
        let data = normals(stream.child(2), n * p);
        let x = MatRef::new(&data, n, p).unwrap();
        let expected = bits(&apply_alloc(&grass, x).unwrap());
        for gpu in devices() {
            let grass = SjltBuckets::grass(gpu, &grass).unwrap();
            let x = gpu.upload(x).unwrap();
            let (y, counters) = compute(gpu, |recorder| recorder.sjlt(&grass, &x));
            prop_assert_eq!(bits(&y), &expected[..]);
            if is_large(gpu) {
                prop_assert_eq!(counters.dispatches, u64::from(n > 0));
            }
        }
    }
}

#[test]
fn only_sectors_of_what_is_kept_are_read() {
    let Some(gpu) = devices().first() else { return };
    for (kept, fetched) in [([1, 3], 8), ([1, 50], 16)] {
        let mask = Mask::new(kept, 100, MaskScale::None).unwrap();
        let grass = Grass::new(mask, SjltTable::new(7, 1, &[0, 6], &[1, 1]).unwrap()).unwrap();
        let cost = SjltBuckets::grass(gpu, &grass).unwrap().cost(10);
        assert_eq!((cost.flops, cost.bytes), (20, 4 * 10 * (fetched + 7) + 4 * (2 + 8)));
    }
}

#[test]
fn too_many_coordinates() {
    for gpu in devices() {
        let mask = Mask::new([1 << 31], (1 << 31) + 1, MaskScale::None).unwrap();
        let grass = Grass::new(mask, SjltTable::new(1, 1, &[0], &[1]).unwrap()).unwrap();
        let error = SjltBuckets::grass(gpu, &grass).unwrap_err();
        assert_eq!(error, Error::Core(CoreError::Overflow { what: "masked coordinates on the device" }));
    }
}
