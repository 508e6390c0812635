// C = beta C + alpha X^T W X for a diagonal W, by the tiles of `panels`. On the diagonal, tiles below it have nothing to
// do: what is above it is stored twice. Beside it, in other pieces of C, every element is summed where it is stored;
// the weight goes to the same of both factors, so that the bits are symmetric all the same. Where C is too small to keep a
// device busy, each element is as many sums as there are slices of rows, which slice_sum.wgsl then adds.

struct Params {
    origin: vec3<u32>,
    // Rows and columns of the part of C, and rows of X.
    m: u32,
    n: u32,
    k: u32,
    // The first elements in X that make a row and a column of the part, and the distance of rows of X.
    a_first: u32,
    b_first: u32,
    stride: u32,
    c_first: u32,
    c_stride: u32,
    // The depth of a slice, a multiple of that of a panel, and the distance of the slices' results.
    slice: u32,
    slice_stride: u32,
    weights_row: u32,
    alpha: f32,
    beta: f32,
    part: u32,
}

// Values of `params.part`.
const DIAGONAL = 0u;
const LOWER = 1u;

@group(0) @binding(0) var<uniform> params: Params;
#ifdef VEC4
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
#else
@group(0) @binding(1) var<storage, read> x: array<f32>;
#endif
@group(0) @binding(2) var<storage, read> weights: array<f32>;
@group(0) @binding(3) var<storage, read_write> c: array<f32>;

#import panels
#import store_tile

fn x4(at: u32, col: u32, cols: u32) -> vec4<f32> {
#ifdef VEC4
    return x[at / 4u];
#else
    var v = vec4<f32>(x[at], 0.0, 0.0, 0.0);
    if (col + 1u < cols) { v.y = x[at + 1u]; }
    if (col + 2u < cols) { v.z = x[at + 2u]; }
    if (col + 3u < cols) { v.w = x[at + 3u]; }
    return v;
#endif
}

fn weight(row: u32, weighted: bool) -> f32 {
#ifdef WEIGHTED
    if (weighted) { return weights[params.weights_row + row]; }
#endif
    return 1.0;
}

fn a4(row: u32, col: u32) -> vec4<f32> {
    if (row >= params.k || col >= params.m) {
        return vec4<f32>();
    }
    let v = x4(params.a_first + row * params.stride + col, col, params.m);
    return weight(row, params.part != LOWER) * v;
}

fn b4(row: u32, col: u32) -> vec4<f32> {
    if (row >= params.k || col >= params.n) {
        return vec4<f32>();
    }
    let v = x4(params.b_first + row * params.stride + col, col, params.n);
    return weight(row, params.part == LOWER) * v;
}

// The first element of the part of C, or of a slice's sums.
var<private> first: u32;

fn store(row: u32, col: u32, sum: vec4<f32>) {
    for (var j = 0u; j < 4u; j++) {
        let below = params.part == DIAGONAL && col + j < row;
        if (row >= params.m || col + j >= params.n || below) {
            continue;
        }
        let at = first + row * params.c_stride + col + j;
        var v = params.alpha * sum[j];
        // What C held does not count when beta is zero, NaN included.
        if (params.beta != 0.0) { v += params.beta * c[at]; }
        c[at] = v;
        if (params.part == DIAGONAL && col + j > row) {
            c[first + (col + j) * params.c_stride + row] = v;
        }
    }
}

@compute @workgroup_size(WIDE, HIGH)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let first_row = (workgroup.y + params.origin.y) * HIGH * 8u;
    let first_col = (workgroup.x + params.origin.x) * WIDE * 4u;
    if (params.part == DIAGONAL && first_col + WIDE * 4u <= first_row) {
        return;
    }
    let slice = workgroup.z + params.origin.z;
    first = params.c_first + slice * params.slice_stride;
    let end = min(params.k, (slice + 1u) * params.slice);
    store_tile(product(first_row, first_col, slice * params.slice, end, local), first_row, first_col, local);
}
