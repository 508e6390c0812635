// The sparse transform by its table: one invocation sums one bucket of four rows, gathering its coordinates in ascending
// order. No atomic additions, and the bits of the CPU. The table is read once for four rows, and four entries are taken
// at a time, so that sixteen reads at scattered places are under way at once.

struct Params {
    origin: vec3<u32>,
    dim_in: u32,
    dim_out: u32,
    rows: u32,
    x_row: u32,
    y_row: u32,
    norm: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
// Where the entries of each bucket start, and the end of the last.
@group(0) @binding(1) var<storage, read> starts: array<u32>;
// Coordinates with the sign in the highest bit.
@group(0) @binding(2) var<storage, read> entries: array<u32>;
@group(0) @binding(3) var<storage, read> x: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

// What entry i adds in each of the rows that start at first. Beyond the end it is 0, which changes no bit of a sum that
// began at 0: that is never -0.
fn term(first: vec4<u32>, i: u32, end: u32) -> vec4<f32> {
    let entry = entries[min(i, end - 1u)];
    let at = first + vec4<u32>(entry & 0x7fffffffu);
    let values = vec4<f32>(x[at.x], x[at.y], x[at.z], x[at.w]);
    return select(select(values, -values, entry > 0x7fffffffu), vec4<f32>(), i >= end);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let bucket = (workgroup.x + params.origin.x) * 64u + lane;
    let row = (workgroup.y + params.origin.y) * 4u;
    if (bucket >= params.dim_out) {
        return;
    }
    // Beyond the last row, the last row.
    let rows = min(vec4<u32>(row, row + 1u, row + 2u, row + 3u), vec4<u32>(params.rows - 1u));
    let first = (rows + vec4<u32>(params.x_row)) * params.dim_in;
    let end = starts[bucket + 1u];
    var sum = vec4<f32>();
    for (var i = starts[bucket]; i < end; i += 4u) {
        let a = term(first, i, end);
        let b = term(first, i + 1u, end);
        let c = term(first, i + 2u, end);
        let d = term(first, i + 3u, end);
        sum = sum + a + b + c + d;
    }
    let values = params.norm * sum;
    for (var r = 0u; r < min(4u, params.rows - row); r++) {
        y[(params.y_row + row + r) * params.dim_out + bucket] = values[r];
    }
}
