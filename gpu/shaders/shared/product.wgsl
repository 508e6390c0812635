// A tile of a product A B: a workgroup computes HIGH * 8 rows and WIDE * 4 columns of it, an invocation 8 x 4 elements,
// from panels of A and B that are DEPTH deep. Panels lie in workgroup memory with k as the slow index, so that four
// neighbours in a row or column are one load; each of its rows is permuted by `swizzle`.
//
// What the operands are, the importing kernel says by two functions, with zeros where nothing is to be added:
//     a_block(i, k): rows i..i+4 of A at k..k+4, a column for each k;
//     b_block(j, k): columns j..j+4 of B at k..k+4, a column for each k.
// `panels` makes them of rows of four; `store_tile` writes the sums.
// The flags A_TRANSPOSED and B_TRANSPOSED say along which of the two neighbours in memory lie. SUBGROUPS is for devices whose
// subgroups have eight lanes, or a multiple, and are no wider than the tile: all lanes of one need the same part of A, so each
// loads some of it and gets the rest from the others.

// Invocations along a row and a column of the product, powers of two, and the depth of a panel, which is 4, 8 or 16.
override WIDE: u32 = 16u;
override HIGH: u32 = 8u;
override DEPTH: u32 = 16u;

var<workgroup> a_panel: array<vec4<f32>, DEPTH * HIGH * 2u>;
var<workgroup> b_panel: array<vec4<f32>, DEPTH * WIDE>;

// The 8 x 4 elements of an invocation, a column for each row.
struct Tile {
    top: mat4x4<f32>,
    bottom: mat4x4<f32>,
}

// What is added without carry (^) to the place in a panel's row of `len` fours, for the four rows from k on. Lanes that
// fill a panel along k write the same place of rows that begin in the same memory bank; this spreads eight of them over
// all banks. It is even, so that pairs stay neighbours.
fn swizzle(k: u32, len: u32) -> u32 {
    return (k * 8u / DEPTH) & (len - 1u);
}

// A column for each element of a.
fn outer(a: vec4<f32>, b: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(a.x * b, a.y * b, a.z * b, a.w * b);
}

// The tile whose first element is at first_row, first_col, summed over ascending k from start to end, which begin panels,
// or behind the end there is nothing but zeros. Called by the whole workgroup.
fn product(first_row: u32, first_col: u32, start: u32, end: u32, local: vec3<u32>) -> Tile {
    let lane = local.y * WIDE + local.x;
    var top = mat4x4<f32>();
    var bottom = mat4x4<f32>();
#ifdef SUBGROUPS
    // Whether the subgroup lies in one row of the tile, and its first eight lanes are there: nothing promises that.
    let row = subgroupBroadcastFirst(local.y);
    let lanes = subgroupBallot(true).x & 0xffu;
    let whole = subgroupAll(local.y == row) && lanes == 0xffu;
    // The number of the lane, which naga has no builtin for in workgroups of two dimensions.
    let number = subgroupExclusiveAdd(1u);
    let part = number / 2u % 4u * HIGH * 2u + number % 2u;
#endif
    for (var panel = start; panel < end; panel += DEPTH) {
        // Blocks of 4 x 4, one after the other along what is contiguous, so that neighbours read neighbours.
        for (var block = lane; block < DEPTH / 4u * HIGH * 2u; block += WIDE * HIGH) {
#ifdef A_TRANSPOSED
            let i = block % (HIGH * 2u);
            let k = block / (HIGH * 2u) * 4u;
#else
            let i = block / (DEPTH / 4u);
            let k = block % (DEPTH / 4u) * 4u;
#endif
            let columns = a_block(first_row + 4u * i, panel + k);
            let at = k * HIGH * 2u + (i ^ swizzle(k, HIGH * 2u));
            a_panel[at] = columns[0];
            a_panel[at + HIGH * 2u] = columns[1];
            a_panel[at + HIGH * 4u] = columns[2];
            a_panel[at + HIGH * 6u] = columns[3];
        }
        // From the first lane on that A left idle, so that both are on their way at once.
        let idle = (lane + WIDE * HIGH - DEPTH / 4u * HIGH * 2u % (WIDE * HIGH)) % (WIDE * HIGH);
        for (var block = idle; block < DEPTH / 4u * WIDE; block += WIDE * HIGH) {
#ifdef B_TRANSPOSED
            let j = block / (DEPTH / 4u);
            let k = block % (DEPTH / 4u) * 4u;
#else
            let j = block % WIDE;
            let k = block / WIDE * 4u;
#endif
            let columns = b_block(first_col + 4u * j, panel + k);
            let at = k * WIDE + (j ^ swizzle(k, WIDE));
            b_panel[at] = columns[0];
            b_panel[at + WIDE] = columns[1];
            b_panel[at + WIDE * 2u] = columns[2];
            b_panel[at + WIDE * 3u] = columns[3];
        }
        workgroupBarrier();
        // Unrolled here, because compilers of WGSL do not.
        for (var k = 0u; k < DEPTH; k += 4u) {
            let ai = k * HIGH * 2u + ((local.y * 2u) ^ swizzle(k, HIGH * 2u));
            let bi = k * WIDE + (local.x ^ swizzle(k, WIDE));
#ifdef SUBGROUPS
            let own = a_panel[ai + part];
            var a0 = subgroupShuffle(own, 0u);
            var a1 = subgroupShuffle(own, 1u);
            var a2 = subgroupShuffle(own, 2u);
            var a3 = subgroupShuffle(own, 3u);
            var a4 = subgroupShuffle(own, 4u);
            var a5 = subgroupShuffle(own, 5u);
            var a6 = subgroupShuffle(own, 6u);
            var a7 = subgroupShuffle(own, 7u);
            if (!whole) {
                a0 = a_panel[ai];
                a1 = a_panel[ai + 1u];
                a2 = a_panel[ai + HIGH * 2u];
                a3 = a_panel[ai + HIGH * 2u + 1u];
                a4 = a_panel[ai + HIGH * 4u];
                a5 = a_panel[ai + HIGH * 4u + 1u];
                a6 = a_panel[ai + HIGH * 6u];
                a7 = a_panel[ai + HIGH * 6u + 1u];
            }
#else
            let a0 = a_panel[ai];
            let a1 = a_panel[ai + 1u];
            let a2 = a_panel[ai + HIGH * 2u];
            let a3 = a_panel[ai + HIGH * 2u + 1u];
            let a4 = a_panel[ai + HIGH * 4u];
            let a5 = a_panel[ai + HIGH * 4u + 1u];
            let a6 = a_panel[ai + HIGH * 6u];
            let a7 = a_panel[ai + HIGH * 6u + 1u];
#endif
            let b0 = b_panel[bi];
            top += outer(a0, b0);
            bottom += outer(a1, b0);
            let b1 = b_panel[bi + WIDE];
            top += outer(a2, b1);
            bottom += outer(a3, b1);
            let b2 = b_panel[bi + WIDE * 2u];
            top += outer(a4, b2);
            bottom += outer(a5, b2);
            let b3 = b_panel[bi + WIDE * 3u];
            top += outer(a6, b3);
            bottom += outer(a7, b3);
        }
        workgroupBarrier();
    }
    return Tile(top, bottom);
}
