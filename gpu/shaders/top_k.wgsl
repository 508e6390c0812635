// The best of what is kept and of the candidates, for each query and side: a workgroup finds the k-th of them by its
// digits, the most significant first, and keeps what is not behind it. No two rank alike, so the set is unique; its
// order is not, and left to who reads it.

#import ranking

struct Params {
    origin: vec3<u32>,
    queries: u32,
    // To keep for each side, and how many are kept.
    proponents: u32,
    opponents: u32,
    kept: u32,
    capacity: u32,
    // The first query in the pieces of the lists and of the state.
    lists_row: u32,
    state_row: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> state: array<u32>;
@group(0) @binding(2) var<storage, read> candidates: array<vec2<u32>>;
// Scores, as bits, and examples: a row a query, the proponents first.
@group(0) @binding(3) var<storage, read_write> lists: array<vec2<u32>>;
@group(0) @binding(4) var<storage, read_write> next: array<vec2<u32>>;

const LANES = 256u;

var<workgroup> histogram: array<atomic<u32>, LANES>;
var<workgroup> sums: array<u32, LANES>;
// The digit of the k-th, and its place among those that share the digits so far.
var<workgroup> chosen: vec2<u32>;
var<workgroup> candidate_count: u32;
var<workgroup> slots: atomic<u32>;

// The rank of an entry as a number of 64 bits, the greater the better.
fn rank(entry: vec2<u32>, side: u32) -> vec2<u32> {
    return vec2<u32>(key(entry.x, side), ~entry.y);
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let query = workgroup.x + params.origin.x;
    let side = workgroup.y + params.origin.y;
    let k = select(params.proponents, params.opponents, side == OPPONENTS);
    let kept = min(params.kept, k);
    let width = params.proponents + params.opponents;
    let list = (params.lists_row + query) * width + select(0u, params.proponents, side == OPPONENTS);
    let scratch = query * width + select(0u, params.proponents, side == OPPONENTS);
    let first = (side * params.queries + query) * params.capacity;
    let at = state_of(params.state_row + query, side);
    if (lane == 0u) {
        // No more than there is room for, whatever a state holds that was never cleared.
        candidate_count = min(state[at], params.capacity);
        atomicStore(&slots, 0u);
    }
    let count = workgroupUniformLoad(&candidate_count);
    // A full list that nothing came for stays as it is, and so does its state.
    if (count == 0u && kept == k) {
        return;
    }
    let total = kept + count;
    var prefix = vec2<u32>();
    if (k > 0u && total >= k) {
        var mask = vec2<u32>();
        var place = k;
        for (var byte = 0u; byte < 8u; byte++) {
            let shift = 24u - 8u * (byte & 3u);
            let high = byte < 4u;
            atomicStore(&histogram[lane], 0u);
            workgroupBarrier();
            for (var i = lane; i < total; i += LANES) {
                var entry: vec2<u32>;
                if (i < kept) { entry = lists[list + i]; } else { entry = candidates[first + i - kept]; }
                let r = rank(entry, side);
                if (all((r & mask) == prefix)) {
                    atomicAdd(&histogram[(select(r.y, r.x, high) >> shift) & 0xffu], 1u);
                }
            }
            workgroupBarrier();
            // How many have this lane's digit or a greater one.
            let own = atomicLoad(&histogram[lane]);
            var sum = own;
            for (var step = 1u; step < LANES; step *= 2u) {
                sums[lane] = sum;
                workgroupBarrier();
                if (lane + step < LANES) { sum += sums[lane + step]; }
                workgroupBarrier();
            }
            if (sum >= place && sum - own < place) {
                chosen = vec2<u32>(lane, place - (sum - own));
            }
            let found = workgroupUniformLoad(&chosen);
            place = found.y;
            let digit = found.x << shift;
            prefix |= select(vec2<u32>(0u, digit), vec2<u32>(digit, 0u), high);
            mask |= select(vec2<u32>(0u, 0xffu << shift), vec2<u32>(0xffu << shift, 0u), high);
        }
    }
    // The list is read until all of it has been, so what stays goes to other memory and back.
    for (var i = lane; i < total; i += LANES) {
        var entry: vec2<u32>;
        if (i < kept) { entry = lists[list + i]; } else { entry = candidates[first + i - kept]; }
        let r = rank(entry, side);
        if (r.x > prefix.x || (r.x == prefix.x && r.y >= prefix.y)) {
            let slot = atomicAdd(&slots, 1u);
            if (slot < k) { next[scratch + slot] = entry; }
        }
    }
    storageBarrier();
    for (var i = lane; i < min(k, total); i += LANES) {
        lists[list + i] = next[scratch + i];
    }
    if (lane == 0u) {
        state[at] = 0u;
        state[at + 1u] = prefix.x;
        state[at + 2u] = ~prefix.y;
    }
}
