//! `rng.*`: integers, so both precisions run the same code.

use ascribe_core::random::{bucket, philox4x32};

use super::Op;
use super::case::{Inputs, Outputs, Tensor};
use crate::Failure;
use crate::failure::fail;

/// The operations of this folder.
pub const OPS: &[Op] = &[Op::new("rng.philox4x32_10", philox, philox), Op::new("rng.bucket", buckets, buckets)];

fn philox(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let raw = inputs.choice("layout", &[("raw", true), ("index64", false)])?;
    let counters: Vec<[u32; 4]> = if raw {
        rows(&inputs.words("counter")?)?
    } else {
        let index = inputs.indices("index")?;
        index.data.iter().map(|&i| [i as u32, (i as u64 >> 32) as u32, 0, 0]).collect()
    };
    let keys: Vec<[u32; 2]> = rows(&inputs.words("key")?)?;
    if counters.len() != keys.len() {
        return fail(format!("{} counters and {} keys", counters.len(), keys.len()));
    }
    let words = counters.iter().zip(&keys).flat_map(|(counter, key)| philox4x32(*counter, *key));
    Ok(Outputs::new().integers("words", &[keys.len(), 4], words.map(i64::from)))
}

fn buckets(inputs: &Inputs<'_>) -> Result<Outputs, Failure> {
    let (h, k) = (inputs.words("h")?, inputs.words("k")?);
    if h.shape != k.shape {
        return fail(format!("h has shape {:?}, k has {:?}", h.shape, k.shape));
    }
    let buckets = h.data.iter().zip(&k.data).map(|(h, k)| i64::from(bucket(*h, *k)));
    Ok(Outputs::new().integers("bucket", &h.shape, buckets))
}

fn rows<const N: usize>(words: &Tensor<u32>) -> Result<Vec<[u32; N]>, Failure> {
    match words.dims()? {
        [_, cols] if cols == N => Ok(words.data.as_chunks().0.to_vec()),
        [_, cols] => fail(format!("{cols} words a row where {N} are needed")),
    }
}
