//! The memory of accumulators is the formula of their documentation. A file of its own: the allocator counts for all.

use ascribe_core::MatRef;
use ascribe_core::record::LayerRecord;
use ascribe_solvers::curvature::{
    Count, DiagonalFisher, EigenBlock, EigenvalueCorrection, EmbeddingCorrection, EmbeddingCovariance, Empirical, Gram,
    LayerCovariance, LayerShape, Sharing,
};
use ascribe_solvers::parallel::Parallelism::Serial;
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// The bytes that `make` leaves allocated.
fn kept<A>(make: impl FnOnce() -> A) -> (usize, A) {
    let before = ALLOCATOR.current_usage();
    let made = make();
    (ALLOCATOR.current_usage() - before, made)
}

/// One test, because the allocator counts for every thread.
#[test]
fn the_memory_of_every_accumulator_is_its_formula() {
    sums_are_all_that_is_kept_and_work_space_does_not_grow_with_the_rows();
    let (bytes, gram) = kept(|| Gram::<f32>::new(70, Serial).unwrap());
    assert_eq!((bytes, gram.dim()), (4 * 70 * 70, 70));
    let (bytes, diagonal) = kept(|| DiagonalFisher::new(1000, Serial).unwrap());
    assert_eq!((bytes, diagonal.dim()), (8 * 1000, 1000));
    let block = EigenBlock::<f32>::diagonal("table", &[1.0; 60]).unwrap();
    let (bytes, correction) = kept(|| EigenvalueCorrection::<_, Empirical>::new(&block, Serial));
    assert_eq!((bytes, correction.bytes()), (8 * 60, 8 * 60));
    let (bytes, embedding) = kept(|| EmbeddingCovariance::<Empirical>::new(500, 20, Serial).unwrap());
    assert_eq!((bytes, embedding.bytes()), (8 * (500 + 20 * 20), 8 * (500 + 20 * 20)));
    let (bytes, correction) = kept(|| EmbeddingCorrection::<_, Empirical>::new(&block, Serial).unwrap());
    assert_eq!((bytes, correction.bytes()), (8 * 60, 8 * 60));
}

fn sums_are_all_that_is_kept_and_work_space_does_not_grow_with_the_rows() {
    let shape = LayerShape { d_in: 1200, d_out: 300, bias: true };
    let (examples, positions) = (500, 8);
    let (x, g) = (vec![1.0_f32; examples * positions * 1200], vec![1.0_f32; examples * positions * 300]);
    let mask: Vec<bool> = (0..examples * positions).map(|t| t % 3 != 0).collect();
    let (x, g) = (MatRef::new(&x, 4000, 1200).unwrap(), MatRef::new(&g, 4000, 300).unwrap());
    let record = LayerRecord::new(examples, x, g, Some(&mask), true).unwrap();

    let before = ALLOCATOR.current_usage();
    let mut layer = LayerCovariance::<f64, Empirical>::new(shape, Sharing::Expand, Count::Example, Serial).unwrap();
    assert_eq!(layer.bytes(), 8 * (1201 * 1201 + 300 * 300));
    assert_eq!(ALLOCATOR.current_usage() - before, layer.bytes());
    ALLOCATOR.reset_peak_usage();
    layer.add(&record, &[g]).unwrap();
    assert_eq!(ALLOCATOR.current_usage() - before, layer.bytes());
    // A strip of 192 rows and 960 columns, once for each level of a tree of 16 blocks and once more; the copies of 256
    // masked rows of a strip and a tile; the eight parts of a result that has few strips; an index for each row.
    let strips = 4 * 192 * 960 * (4 + 2);
    let work = strips + 4 * 256 * (192 + 16 + 48) + 4 * 8 * 300 * 300 + 8 * 2 * mask.len();
    let peak = ALLOCATOR.peak_usage() - before - layer.bytes();
    assert!(peak <= work, "{peak} bytes of work space, promised {work}");
}
