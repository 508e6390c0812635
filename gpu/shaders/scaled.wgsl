// A matrix times a number, or over the number that a matrix of one element holds.

struct Params {
    origin: vec3<u32>,
    len: u32,
    x_first: u32,
    y_first: u32,
    factor: f32,
    // What is added to the divisor.
    epsilon: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> divisor: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

const LANES = 256u;
const ROUNDS = 4u;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let first = (workgroup.x + params.origin.x) * LANES * ROUNDS + lane;
#ifdef DIVIDED
    let by = divisor[0] + params.epsilon;
#endif
    for (var i = first; i < min(first + LANES * ROUNDS, params.len); i += LANES) {
#ifdef DIVIDED
        // Zero over zero is zero, and by its bits, which a NaN has too.
        var v = 0.0;
        if ((bitcast<u32>(by) & 0x7fffffffu) != 0u) { v = x[params.x_first + i] / by; }
        y[params.y_first + i] = v;
#else
        y[params.y_first + i] = params.factor * x[params.x_first + i];
#endif
    }
}
