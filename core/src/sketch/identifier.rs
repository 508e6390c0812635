//! The Philox key that a name stands for.

/// The key of the matrix of that name: the first two little-endian words of the MD5 digest of the name in UTF-8.
///
/// Any program that follows the convention makes the same matrix from the same name, whatever its language or device.
/// MD5 spreads names over keys here and protects nothing. Cost: one pass over the name.
///
/// # Examples
/// ```
/// use ascribe_core::sketch::identifier_key;
/// assert_eq!(identifier_key("abc"), [0x9850_0190, 0xB04F_D23C]);
/// ```
///
/// # References
/// Rivest, "The MD5 message-digest algorithm", RFC 1321.
#[must_use]
pub fn identifier_key(identifier: &str) -> [u32; 2] {
    let [k0, k1, ..] = md5(identifier.as_bytes());
    [k0, k1]
}

/// How far each step of a round rotates, the four steps in turn.
const SHIFTS: [[u32; 4]; 4] = [[7, 12, 17, 22], [5, 9, 14, 20], [4, 11, 16, 23], [6, 10, 15, 21]];

/// `floor(2^32 |sin(i + 1)|)`.
#[rustfmt::skip]
const SINES: [u32; 64] = [
    0xD76A_A478, 0xE8C7_B756, 0x2420_70DB, 0xC1BD_CEEE, 0xF57C_0FAF, 0x4787_C62A, 0xA830_4613, 0xFD46_9501,
    0x6980_98D8, 0x8B44_F7AF, 0xFFFF_5BB1, 0x895C_D7BE, 0x6B90_1122, 0xFD98_7193, 0xA679_438E, 0x49B4_0821,
    0xF61E_2562, 0xC040_B340, 0x265E_5A51, 0xE9B6_C7AA, 0xD62F_105D, 0x0244_1453, 0xD8A1_E681, 0xE7D3_FBC8,
    0x21E1_CDE6, 0xC337_07D6, 0xF4D5_0D87, 0x455A_14ED, 0xA9E3_E905, 0xFCEF_A3F8, 0x676F_02D9, 0x8D2A_4C8A,
    0xFFFA_3942, 0x8771_F681, 0x6D9D_6122, 0xFDE5_380C, 0xA4BE_EA44, 0x4BDE_CFA9, 0xF6BB_4B60, 0xBEBF_BC70,
    0x289B_7EC6, 0xEAA1_27FA, 0xD4EF_3085, 0x0488_1D05, 0xD9D4_D039, 0xE6DB_99E5, 0x1FA2_7CF8, 0xC4AC_5665,
    0xF429_2244, 0x432A_FF97, 0xAB94_23A7, 0xFC93_A039, 0x655B_59C3, 0x8F0C_CC92, 0xFFEF_F47D, 0x8584_5DD1,
    0x6FA8_7E4F, 0xFE2C_E6E0, 0xA301_4314, 0x4E08_11A1, 0xF753_7E82, 0xBD3A_F235, 0x2AD7_D2BB, 0xEB86_D391,
];

/// The digest as four little-endian words.
fn md5(message: &[u8]) -> [u32; 4] {
    let mut state = [0x6745_2301, 0xEFCD_AB89, 0x98BA_DCFE, 0x1032_5476];
    let (blocks, rest) = message.as_chunks::<64>();
    for block in blocks {
        state = compress(state, block);
    }
    // The end is marked by one bit, and the length in bits stands in the last eight bytes of a block.
    let mut block = [0; 64];
    block[..rest.len()].copy_from_slice(rest);
    block[rest.len()] = 0x80;
    if rest.len() >= 56 {
        state = compress(state, &block);
        block = [0; 64];
    }
    block[56..].copy_from_slice(&(8 * message.len() as u64).to_le_bytes());
    compress(state, &block)
}

fn compress(state: [u32; 4], block: &[u8; 64]) -> [u32; 4] {
    let [mut a, mut b, mut c, mut d] = state;
    for step in 0..64 {
        let (mixed, word) = match step / 16 {
            0 => (b & c | !b & d, step),
            1 => (d & b | !d & c, 5 * step + 1),
            2 => (b ^ c ^ d, 3 * step + 5),
            _ => (c ^ (b | !d), 7 * step),
        };
        let word = u32::from_le_bytes(block.as_chunks().0[word % 16]);
        let sum = a.wrapping_add(mixed).wrapping_add(SINES[step]).wrapping_add(word);
        (a, b, c, d) = (d, b.wrapping_add(sum.rotate_left(SHIFTS[step / 16][step % 4])), b, c);
    }
    let [s0, s1, s2, s3] = state;
    [s0.wrapping_add(a), s1.wrapping_add(b), s2.wrapping_add(c), s3.wrapping_add(d)]
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::md5;
    use std::string::String;

    /// The test suite of RFC 1321, and lengths around the padding's two cases.
    #[test]
    fn known_digests() {
        let digits = String::from("1234567890").repeat(8);
        let cases = [
            ("", 0xd41d_8cd9_8f00_b204_e980_0998_ecf8_427e_u128),
            ("a", 0x0cc1_75b9_c0f1_b6a8_31c3_99e2_6977_2661),
            ("abc", 0x9001_5098_3cd2_4fb0_d696_3f7d_28e1_7f72),
            ("message digest", 0xf96b_697d_7cb7_938d_525a_2f31_aaf1_61d0),
            ("abcdefghijklmnopqrstuvwxyz", 0xc3fc_d3d7_6192_e400_7dfb_496c_ca67_e13b),
            (
                "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789",
                0xd174_ab98_d277_d9f5_a561_1c2c_9f41_9d9f,
            ),
            (&digits, 0x57ed_f4a2_2be3_c955_ac49_da2e_2107_b67a),
            (&digits[..55], 0xc9cc_f168_914a_1bcf_c322_9f19_48e6_7da0),
            (&digits[..56], 0x49f1_93ad_ce17_8490_e34d_1b3a_4ec0_064c),
            (&digits[..64], 0xeb6c_4179_c0a7_c82c_c282_8c1e_6338_e165),
        ];
        for (message, digest) in cases {
            // Digests are written byte by byte, so each word appears with its lowest byte first.
            let written =
                md5(message.as_bytes()).into_iter().fold(0, |all, word| all << 32 | u128::from(word.swap_bytes()));
            assert_eq!(written, digest, "{message}");
        }
    }
}
