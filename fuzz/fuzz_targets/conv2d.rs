//! Convolutions of any geometry, sizes and floats: a typed error, or patches of pixels and zeros, and gradients that
//! are the sums over them.
#![no_main]

use arbitrary::Arbitrary;
use ascribe_core::{MatMut, MatRef};
use ascribe_solvers::curvature::{Conv2d, ConvLayer, DenoiserJacobian};
use libfuzzer_sys::fuzz_target;

#[derive(Debug, Arbitrary)]
struct Input {
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
    dilation: [usize; 2],
    groups: usize,
    image: [usize; 3],
    d_out: usize,
    bias: bool,
    small: bool,
    examples: u8,
    group: usize,
    numbers: Vec<f32>,
}

fn same(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()))
}

fn matrix(data: &[f32], rows: usize, cols: usize) -> MatRef<'_, f32> {
    let Ok(matrix) = MatRef::new(data, rows, cols) else { panic!("the shape fits") };
    matrix
}

/// Every entry of a patch is a pixel of the image or a zero, and every group has its part of the gradients.
fn check(layer: &ConvLayer, image: [usize; 3], d_out: usize, examples: usize, group: usize, numbers: &[f32]) {
    let mut number = numbers.iter().copied().cycle();
    let mut take = |len: usize| -> Vec<f32> { (0..len).map(|_| number.next().unwrap_or(0.5)).collect() };
    let (pixels, positions, shape) = (image.iter().product(), layer.positions(), layer.shape());
    let (images, grads) = (take(examples * pixels), take(examples * d_out * positions));
    let (images, grads) = (matrix(&images, examples, pixels), matrix(&grads, examples, d_out * positions));
    let rows = examples * positions;
    let mut patches = vec![1234.5; rows * shape.d_in];
    let Ok(out) = MatMut::new(&mut patches, rows, shape.d_in) else { panic!("the shape fits") };
    assert_eq!(layer.unfold(out, images, group).is_ok(), group < layer.conv().groups);
    if group < layer.conv().groups {
        for (row, patch) in patches.chunks_exact(shape.d_in).enumerate() {
            let image = images.row(row / positions);
            assert!(patch.iter().all(|x| x.to_bits() == 0 || image.iter().any(|y| same(&[*x], &[*y]))));
        }
    } else {
        assert!(patches.iter().all(|x| *x == 1234.5), "an error, and the output was written");
    }
    let mut gradients = vec![1234.5; examples * layer.dim()];
    let Ok(out) = MatMut::new(&mut gradients, examples, layer.dim()) else { panic!("the shape fits") };
    assert!(layer.gradients(out, images, grads).is_ok());
    let mut visited = vec![1234.5; examples * layer.dim()];
    let len = layer.dim() / layer.conv().groups;
    let result = layer.each_record(images, &[grads, grads], |group, examples, record, more| {
        assert!(same(record.output_grads().as_span(), more[0].as_span()));
        for (n, example) in examples.enumerate() {
            record.gradient(&mut visited[example * layer.dim() + group * len..][..len], n)?;
        }
        Ok(())
    });
    assert!(result.is_ok() && same(&gradients, &visited));
    // The output gradients as the Jacobian of a denoiser whose outputs are the output channels.
    if let Ok(jacobian) =
        DenoiserJacobian::new(examples, positions, matrix(grads.as_span(), examples * d_out, positions))
    {
        let mut draw = vec![1234.5; examples * positions];
        let Ok(out) = MatMut::new(&mut draw, examples * positions, 1) else { panic!("the shape fits") };
        let noise = take(examples * jacobian.outputs());
        assert!(jacobian.sampled(out, matrix(&noise, examples, jacobian.outputs())).is_ok());
    }
}

fuzz_target!(|input: Input| {
    let Input { kernel, stride, padding, dilation, groups, image, d_out, bias, small, examples, group, numbers } =
        input;
    let conv = Conv2d { kernel, stride, padding, dilation, groups };
    // Sizes as they come are only checked; what is made of them would not fit into memory.
    if let Ok(layer) = conv.layer(image, d_out, bias) {
        assert_eq!(conv.output_size([image[1], image[2]]), Ok(layer.output_size()));
        assert!(layer.positions() > 0);
    }
    let (one, mut entry) = ([0.0_f32], [1234.5]);
    if let Ok(layer) = conv.layer(image, d_out, bias) {
        let fits = layer.unfold(MatMut::from_row(&mut entry), MatRef::from_row(&one), group).is_ok();
        assert_eq!(fits, entry != [1234.5]);
        let _ = layer.each_record(MatRef::from_row(&one), &[], |_, _, _, _| Ok(()));
        let _ = DenoiserJacobian::new(groups, d_out, MatRef::from_row(&one));
    }
    let below = |x: [usize; 2], n: usize| x.map(|x| x % n);
    let steps = |x: [usize; 2]| if small { below(x, 4) } else { x };
    let conv = Conv2d {
        kernel: below(kernel, 5),
        stride: steps(stride),
        padding: below(padding, 5),
        dilation: steps(dilation),
        groups: groups % 4,
    };
    let image = [image[0] % 5, image[1] % 8, image[2] % 8];
    let d_out = d_out % 5;
    let Ok(layer) = conv.layer(image, d_out, bias) else { return };
    for group in [group, group % conv.groups] {
        check(&layer, image, d_out, usize::from(examples % 5), group, &numbers);
    }
});
