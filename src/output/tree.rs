//! The BLAKE3 hash of a file whose blocks are hashed one by one, in any order and on any thread.
//!
//! BLAKE3 hashes a file as a binary tree over its bytes, so the hash of an aligned block does not
//! depend on the other blocks, and the hashes of all blocks together give the hash of the file.

use blake3::hazmat::{
    ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root,
};
use blake3::{Hash, Hasher};

/// Bytes per block. It is a power of two, as the tree demands. A block stays in the second cache of
/// a core while it is encoded, hashed and written.
pub(super) const BLOCK: usize = 1 << 18;

/// Hashes block number `index` of a file. Only the last block may have fewer bytes than [`BLOCK`].
pub(super) fn hash_block(index: u64, bytes: &[u8]) -> ChainingValue {
    let mut hasher = Hasher::new();
    hasher.set_input_offset(index * BLOCK as u64);
    hasher.update(bytes);
    hasher.finalize_non_root()
}

/// Returns the hash of a file of several blocks.
pub(super) fn hash_file_of(blocks: &[ChainingValue]) -> Hash {
    let (left, right) = halves(blocks);
    merge_subtrees_root(&subtree(left), &subtree(right), Mode::Hash)
}

fn subtree(blocks: &[ChainingValue]) -> ChainingValue {
    if let [block] = blocks {
        return *block;
    }
    let (left, right) = halves(blocks);
    merge_subtrees_non_root(&subtree(left), &subtree(right), Mode::Hash)
}

/// Splits two or more blocks. The left part is the largest power of two that leaves something.
fn halves(blocks: &[ChainingValue]) -> (&[ChainingValue], &[ChainingValue]) {
    blocks.split_at(blocks.len().next_power_of_two() / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_give_the_hash_of_the_whole() {
        let bytes: Vec<u8> = (0..6 * BLOCK + 5).map(|i| (i * 31 % 251) as u8).collect();
        let lengths = (2..=6).flat_map(|n| [n * BLOCK - 1, n * BLOCK, n * BLOCK + 1]);
        for length in lengths.chain([BLOCK + 1, BLOCK + 1024, 2 * BLOCK - 1024]) {
            let blocks = bytes[..length].chunks(BLOCK).enumerate();
            let blocks: Vec<_> = blocks.map(|(i, b)| hash_block(i as u64, b)).collect();
            assert_eq!(hash_file_of(&blocks), blake3::hash(&bytes[..length]));
        }
    }
}
