//! The conformance cases of operations that have a kernel: inputs from the case, expected outputs and tolerance too.

use std::path::PathBuf;

use ascribe_gpu::{Gpu, Matrix};
use safetensors::SafeTensors;

use crate::case::Case;
use ascribe_tests::conformance::case::{Inputs, Values, read};
use ascribe_tests::conformance::compare::greatest;
use ascribe_tests::conformance::gpu::{Record, Recorded};
use ascribe_tests::conformance::runner::{collect, metadata};
use ascribe_tests::conformance::{Handler, find};
use ascribe_tests::failure::fail;
use ascribe_tests::{Failure, tolerance};

/// Makes the cases in the folders and hands each over to `add`.
pub(crate) fn cases(
    gpu: &Gpu,
    folders: &[PathBuf],
    mut add: impl FnMut(Case) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut files = Vec::new();
    folders.iter().try_for_each(|folder| collect(folder, &mut files))?;
    files.sort();
    for file in files {
        let bytes = std::fs::read(&file)?;
        let op = find(&metadata(&bytes)?.op);
        if let Some((op, record)) = op.and_then(|op| Some((op, op.gpu?))) {
            let name = file.file_stem().unwrap_or_default().to_string_lossy();
            let case =
                case(gpu, &name, &bytes, record, op.f32).or_else(|failure| fail(format!("{name}: {failure}")))?;
            // A variant of the operation may have no kernel.
            case.map_or(Ok(()), &mut add)?;
        }
    }
    Ok(())
}

fn case(gpu: &Gpu, name: &str, bytes: &[u8], record: Record, twin: Handler) -> Result<Option<Case>, Failure> {
    let (metadata, tensors) = (metadata(bytes)?, SafeTensors::deserialize(bytes)?);
    let inputs = Inputs::new(&tensors, metadata.params.clone());
    let mut case = Case::new(gpu, name);
    let outputs = record(&mut case.recorder, &inputs)?;
    // What rounding in f32 may add is known to the function that computes the same on the CPU.
    let twin = twin(&inputs)?.computed;
    let floats = |case: &mut Case, output, matrix: &Matrix<f32>| {
        let Some(twin) = twin.iter().find(|twin| twin.name == output) else { return fail("is no output") };
        let stored = format!("out.{output}");
        if twin.optional && tensors.tensor(&stored).is_err() {
            return Ok(());
        }
        let (_, Values::Float(expected)) = read(&tensors, &stored)? else {
            return fail("holds integers where floats are needed");
        };
        let rounding = tolerance::conformance_f32(inputs.longest_sum(), twin.condition);
        let tolerance = metadata.tolerance(output, rounding, twin.magnitude)?;
        let bound = vec![tolerance.allowed(greatest(expected.iter().map(|x| x.abs()))); expected.len()];
        case.expect(output, matrix, expected, bound)
    };
    let integers = |output| match read(&tensors, &format!("out.{output}"))? {
        (_, Values::Integer(expected)) => Ok(expected),
        (_, Values::Float(_)) => fail("holds floats where integers are needed"),
    };
    for output in &outputs {
        match output {
            Recorded::Floats(output, matrix) => floats(&mut case, output, matrix)?,
            Recorded::Int8(rows) => {
                case.expect_exactly("codes", rows.codes(), integers("codes")?.into_iter().map(|x| x as f64))?;
                floats(&mut case, "scales", rows.scales())?;
            }
            Recorded::Best(selections) => {
                let [largest, smallest] = [integers("largest")?, integers("smallest")?];
                let k = largest.len() / selections.len().max(1);
                let queries = largest.chunks(k.max(1)).zip(smallest.chunks(k.max(1)));
                for (best, (largest, smallest)) in selections.iter().zip(queries) {
                    case.expect_selected(best, [largest, smallest])?;
                }
            }
        }
    }
    Ok((!case.outputs.is_empty()).then_some(case))
}
