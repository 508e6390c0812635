//! Segments of any bytes, with the checksums put right so that what is behind them is reached too.
#![no_main]

use ascribe_core::MatMut;
use ascribe_solvers::store::from_bytes;
use libfuzzer_sys::fuzz_target;
use safetensors::SafeTensors;

fuzz_target!(|bytes: &[u8]| {
    // At a multiple of 8, as a map is.
    let mut words = vec![0_u64; bytes.len().div_ceil(8)];
    let copy: &mut [u8] = &mut bytemuck::cast_slice_mut(&mut words)[..bytes.len()];
    copy.copy_from_slice(bytes);
    read(copy);
    if put_right(copy).is_some() {
        read(copy);
    }
});

/// An error or rows of which each has an id and can be decoded.
fn read(bytes: &[u8]) {
    let Ok((header, block)) = from_bytes(bytes) else { return };
    assert_eq!((block.ids.len(), header.dim), (block.rows.rows(), block.rows.cols()));
    assert!(header.layers.iter().all(|(name, _)| header.layer(name).is_some()));
    let mut out = vec![0.0; block.ids.len() * header.dim];
    let Ok(out) = MatMut::new(&mut out, block.ids.len(), header.dim) else { panic!("its shape") };
    assert!(block.rows.decode(out).is_ok());
}

/// Writes the checksums that the documentation of the layout asks for, where there is a place for them.
fn put_right(bytes: &mut [u8]) -> Option<()> {
    let (text, tensors) = SafeTensors::read_metadata(bytes).ok()?;
    let place = |name| tensors.info(name).map(|info| 8 + text + info.data_offsets.0..8 + text + info.data_offsets.1);
    let checksums = place("checksums").filter(|place| place.len() == 16)?.start;
    for (i, name) in ["ids", "scales", "rows"].into_iter().enumerate() {
        let checksum = place(name).map_or(0, |place| crc32fast::hash(&bytes[place]));
        bytes[checksums + 4 * i..][..4].copy_from_slice(&checksum.to_le_bytes());
    }
    let of_front = crc32fast::hash(&bytes[..checksums + 12]);
    bytes[checksums + 12..][..4].copy_from_slice(&of_front.to_le_bytes());
    Some(())
}
