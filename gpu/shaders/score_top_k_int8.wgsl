// As `score_top_k`, for rows of int8: products of codes are exact sums of integers, segment by segment.

struct Params {
    origin: vec3<u32>,
    rows: u32,
    queries: u32,
    cols: u32,
    rows_row: u32,
    queries_row: u32,
    norms_row: u32,
    factors_row: u32,
    offsets_row: u32,
    state_row: u32,
    // The example that the first row is.
    first: u32,
    // Candidates of a query and side.
    capacity: u32,
    adjust: u32,
    // Bits of the sides that are looked for, and of those that hold as many as they may.
    sides: u32,
    full: u32,
    block: u32,
    scales_row: u32,
    // Words of a segment of a query, of a query, and where its scales begin.
    pitch: u32,
    width: u32,
    scales: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> rows: array<u32>;
@group(0) @binding(2) var<storage, read> row_scales: array<f32>;
// Codes, and the bits of scales.
@group(0) @binding(3) var<storage, read> queries: array<u32>;
@group(0) @binding(4) var<storage, read> norms: array<f32>;
@group(0) @binding(5) var<storage, read> factors: array<f32>;
@group(0) @binding(6) var<storage, read> offsets: array<f32>;
@group(0) @binding(7) var<storage, read_write> state: array<atomic<u32>>;
@group(0) @binding(8) var<storage, read_write> candidates: array<vec2<u32>>;

#import candidates
#import segments

// Invocations along queries and rows, powers of two, and words of a panel.
override WIDE: u32 = 16u;
override HIGH: u32 = 8u;
override DEPTH: u32 = 16u;

// Words of four rows, and h and l of four queries; each row of a panel is permuted by `swizzle`.
var<workgroup> row_panel: array<vec4<u32>, DEPTH * HIGH * 2u>;
var<workgroup> high_panel: array<vec4<u32>, DEPTH * WIDE>;
var<workgroup> low_panel: array<vec4<u32>, DEPTH * WIDE>;

// What is added without carry (^) to the place in the k-th of a panel's rows of `len` fours. Lanes that fill a panel along
// k write the same place of rows that begin in the same memory bank; this spreads eight of them over all banks.
fn swizzle(k: u32, len: u32) -> u32 {
    return k & 7u & (len - 1u);
}

fn row_word(row: u32, word: u32, s: Segment) -> u32 {
    if (row >= params.rows || word >= s.words) {
        return 0u;
    }
    return rows[(params.rows_row + row) * ((params.cols + 3u) / 4u) + s.first_word + word];
}

// h, or l with `part` 1.
fn query_word(query: u32, word: u32, number: u32, s: Segment, part: u32) -> u32 {
    if (query >= params.queries || word >= s.words) {
        return 0u;
    }
    return queries[(params.queries_row + query) * params.width + (number * params.pitch + word) * 2u + part];
}

fn query_words(query: u32, word: u32, number: u32, s: Segment, part: u32) -> vec4<u32> {
    return vec4<u32>(
        query_word(query, word, number, s, part), query_word(query + 1u, word, number, s, part),
        query_word(query + 2u, word, number, s, part), query_word(query + 3u, word, number, s, part),
    );
}

// Four codes of a row times those of four queries.
fn dots(row: u32, q: vec4<u32>) -> vec4<i32> {
    return vec4<i32>(dot4I8Packed(row, q.x), dot4I8Packed(row, q.y), dot4I8Packed(row, q.z), dot4I8Packed(row, q.w));
}

fn query_scale(query: u32, block: u32) -> f32 {
    if (query >= params.queries) {
        return 0.0;
    }
    return bitcast<f32>(queries[(params.queries_row + query) * params.width + params.scales + block]);
}

fn row_scale(row: u32, block: u32) -> f32 {
    if (row >= params.rows) {
        return 0.0;
    }
    return row_scales[(params.scales_row + row) * ((params.cols - 1u) / params.block + 1u) + block];
}

@compute @workgroup_size(WIDE, HIGH)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let lane = local.y * WIDE + local.x;
    let first_row = (workgroup.y + params.origin.y) * HIGH * 8u;
    let first_query = (workgroup.x + params.origin.x) * WIDE * 4u;
    let row = first_row + local.y * 8u;
    let query = first_query + local.x * 4u;
    let parts = parts_of_block(params.block);
    let segments = ((params.cols - 1u) / params.block + 1u) * parts;
    var top = mat4x4<f32>();
    var bottom = mat4x4<f32>();
    for (var number = 0u; number < segments; number++) {
        let s = segment(number, params.block, params.cols);
        var s0 = vec4<i32>(); var s1 = vec4<i32>(); var s2 = vec4<i32>(); var s3 = vec4<i32>();
        var s4 = vec4<i32>(); var s5 = vec4<i32>(); var s6 = vec4<i32>(); var s7 = vec4<i32>();
        for (var start = 0u; start < s.words; start += DEPTH) {
            for (var i = lane; i < DEPTH * HIGH * 2u; i += WIDE * HIGH) {
                let k = i % DEPTH;
                let word = start + k;
                let r = first_row + i / DEPTH * 4u;
                row_panel[k * HIGH * 2u + ((i / DEPTH) ^ swizzle(k, HIGH * 2u))] = vec4<u32>(
                    row_word(r, word, s), row_word(r + 1u, word, s), row_word(r + 2u, word, s), row_word(r + 3u, word, s),
                );
            }
            for (var i = lane; i < DEPTH * WIDE; i += WIDE * HIGH) {
                let k = i % DEPTH;
                let word = start + k;
                let q = first_query + i / DEPTH * 4u;
                let at = k * WIDE + ((i / DEPTH) ^ swizzle(k, WIDE));
                high_panel[at] = query_words(q, word, number, s, 0u);
                low_panel[at] = query_words(q, word, number, s, 1u);
            }
            workgroupBarrier();
            var h0 = vec4<i32>(); var h1 = vec4<i32>(); var h2 = vec4<i32>(); var h3 = vec4<i32>();
            var h4 = vec4<i32>(); var h5 = vec4<i32>(); var h6 = vec4<i32>(); var h7 = vec4<i32>();
            for (var k = 0u; k < DEPTH; k++) {
                let place = (local.y * 2u) ^ swizzle(k, HIGH * 2u);
                let a = row_panel[k * HIGH * 2u + place];
                let b = row_panel[k * HIGH * 2u + (place ^ 1u)];
                let q = high_panel[k * WIDE + (local.x ^ swizzle(k, WIDE))];
                h0 += dots(a.x, q); h1 += dots(a.y, q); h2 += dots(a.z, q); h3 += dots(a.w, q);
                h4 += dots(b.x, q); h5 += dots(b.y, q); h6 += dots(b.z, q); h7 += dots(b.w, q);
            }
            s0 += 256 * h0; s1 += 256 * h1; s2 += 256 * h2; s3 += 256 * h3;
            s4 += 256 * h4; s5 += 256 * h5; s6 += 256 * h6; s7 += 256 * h7;
            // 128 times the sum of a row's codes, because l is less by that.
            var a_sum = vec4<i32>();
            var b_sum = vec4<i32>();
            for (var k = 0u; k < DEPTH; k++) {
                let place = (local.y * 2u) ^ swizzle(k, HIGH * 2u);
                let a = row_panel[k * HIGH * 2u + place];
                let b = row_panel[k * HIGH * 2u + (place ^ 1u)];
                let q = low_panel[k * WIDE + (local.x ^ swizzle(k, WIDE))];
                s0 += dots(a.x, q); s1 += dots(a.y, q); s2 += dots(a.z, q); s3 += dots(a.w, q);
                s4 += dots(b.x, q); s5 += dots(b.y, q); s6 += dots(b.z, q); s7 += dots(b.w, q);
                a_sum += dots(0x01010101u, a);
                b_sum += dots(0x01010101u, b);
            }
            s0 += vec4<i32>(128 * a_sum.x); s1 += vec4<i32>(128 * a_sum.y);
            s2 += vec4<i32>(128 * a_sum.z); s3 += vec4<i32>(128 * a_sum.w);
            s4 += vec4<i32>(128 * b_sum.x); s5 += vec4<i32>(128 * b_sum.y);
            s6 += vec4<i32>(128 * b_sum.z); s7 += vec4<i32>(128 * b_sum.w);
            workgroupBarrier();
        }
        if (s.words > 0u) {
            let b = s.block;
            let q = vec4<f32>(query_scale(query, b), query_scale(query + 1u, b), query_scale(query + 2u, b), query_scale(query + 3u, b));
            top += mat4x4<f32>(
                vec4<f32>(s0) * (row_scale(row, b) * q), vec4<f32>(s1) * (row_scale(row + 1u, b) * q),
                vec4<f32>(s2) * (row_scale(row + 2u, b) * q), vec4<f32>(s3) * (row_scale(row + 3u, b) * q),
            );
            bottom += mat4x4<f32>(
                vec4<f32>(s4) * (row_scale(row + 4u, b) * q), vec4<f32>(s5) * (row_scale(row + 5u, b) * q),
                vec4<f32>(s6) * (row_scale(row + 6u, b) * q), vec4<f32>(s7) * (row_scale(row + 7u, b) * q),
            );
        }
    }
    offer_tile(row, query, top, bottom);
}
