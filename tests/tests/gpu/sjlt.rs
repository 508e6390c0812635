//! The sparse transform has the bits of core's.

use ascribe_core::linop::apply_alloc;
use ascribe_core::random::Stream;
use ascribe_core::sketch::{Sjlt, SjltTable};
use ascribe_core::{Error as CoreError, MatRef};
use ascribe_gpu::{Error, SjltBuckets};
use proptest::prelude::*;

use crate::common::{bits, compute};
use crate::devices;

proptest! {
    #[test]
    fn the_bits_of_core(
        n in prop::sample::select(vec![0, 1, 3, 4, 5, 31, 64]),
        p in prop::sample::select(vec![0, 1, 3, 64, 97, 127]),
        k in prop::sample::select(vec![1, 2, 63, 64, 65, 193]),
        slots in 1_usize..3,
        seed in any::<u64>(),
    ) {
        let stream = Stream::new(seed, "sjlt");
        let slots = slots.min(k);
        let table = SjltTable::draw(&Sjlt::new(p, k, slots, stream).unwrap()).unwrap().by_bucket().unwrap();
        let data: Vec<f32> = (0..n * p).map(|i| stream.normals(i as u64, 1)[0] as f32).collect();
        let x = MatRef::new(&data, n, p).unwrap();
        let expected = bits(&apply_alloc(&table, x).unwrap());
        for gpu in devices() {
            let sjlt = SjltBuckets::upload(gpu, &table).unwrap();
            let x = gpu.upload(x).unwrap();
            let mut recorder = gpu.record();
            let y = recorder.sjlt(&sjlt, &x).unwrap();
            let cost = recorder.cost();
            prop_assert_eq!(cost.flops, (n * p * slots) as u64);
            if p > 0 {
                prop_assert_eq!(cost.bytes, 4 * (n * p + n * k + p * slots + k + 1) as u64);
            }
            let y = recorder.download(&y).unwrap();
            let counters = recorder.submit().unwrap().counters();
            prop_assert!(counters.passes <= counters.submissions);
            prop_assert_eq!(counters.bytes_down, 4 * (n * k) as u64);
            if gpu.capabilities().max_workgroups >= 1 << 10 {
                prop_assert_eq!(counters.dispatches, u64::from(n * p > 0));
            }
            prop_assert_eq!(&bits(&y.wait().unwrap()), &expected);
        }
    }
}

/// Buckets with as many entries as are taken at a time, and one more and less: what is read beyond the end adds nothing.
#[test]
fn ends_of_buckets() {
    let buckets = [0, 1, 1, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 4, 0];
    let table = SjltTable::new(6, 1, &buckets, &[1, -1].repeat(8)).unwrap().by_bucket().unwrap();
    let infinities = std::array::from_fn(|i| [f32::INFINITY, f32::NEG_INFINITY][i % 2]);
    for data in [[0.0_f32; 16], [-0.0; 16], [1.0; 16], infinities] {
        let x = MatRef::from_row(&data);
        let expected = bits(&apply_alloc(&table, x).unwrap());
        for gpu in devices() {
            let (sjlt, x) = (SjltBuckets::upload(gpu, &table).unwrap(), gpu.upload(x).unwrap());
            let (y, _) = compute(gpu, |recorder| recorder.sjlt(&sjlt, &x));
            assert_eq!(bits(&y), expected, "{data:?}");
        }
    }
}

#[test]
fn wrong_arguments() {
    for gpu in devices() {
        let table = SjltTable::new(2, 1, &[0, 1, 0], &[1, -1, 1]).unwrap().by_bucket().unwrap();
        let sjlt = SjltBuckets::upload(gpu, &table).unwrap();
        let x = gpu.upload(MatRef::from_row(&[1.0_f32; 4])).unwrap();
        let error = gpu.record().sjlt(&sjlt, &x).unwrap_err();
        assert_eq!(error, Error::Core(CoreError::Shape { what: "x columns", expected: 3, got: 4 }));
    }
    let [one, other, ..] = devices() else { return };
    let table = SjltTable::new(2, 1, &[0], &[1]).unwrap().by_bucket().unwrap();
    let (mine, theirs) = (SjltBuckets::upload(one, &table).unwrap(), SjltBuckets::upload(other, &table).unwrap());
    let x = one.upload(MatRef::from_row(&[1.0_f32])).unwrap();
    assert!(one.record().sjlt(&mine, &x).is_ok());
    assert_eq!(one.record().sjlt(&theirs, &x).unwrap_err(), Error::Foreign);
    assert_eq!(other.record().sjlt(&theirs, &x).unwrap_err(), Error::Foreign);
}
