//! The algorithms that the simulated cuBLASLt offers: kinds that occur in the real library's list,
//! with the traps first.

use std::ffi::c_int;

use crate::matmul::Order;

/// `cublasLtMatmulAlgo_t`, opaque to callers: a mark, the index in `OFFERS`, the workspace.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Algorithm {
    data: [u64; 8],
}

const MARK: u64 = u64::from_le_bytes(*b"cuda-sim");
/// The workspace that most algorithms use, if they may, and overwrite.
const WORKSPACE: u64 = 16 << 10;

const SCHEME_NONE: u32 = 0;
const SCHEME_COMPUTE_TYPE: u32 = 2;

/// One algorithm of the list.
pub struct Offer {
    /// The SPLITK_NUM and REDUCTION_SCHEME that the algorithm reports.
    says: (i32, u32),
    /// The order in which it really sums.
    pub order: Order,
    /// Its time, as a multiple of the time of a plain algorithm.
    pub slowness: f64,
    /// The workspace in bytes without which it cannot work.
    needs: u64,
    /// The smallest number of rows of x that it supports.
    pub fewest_columns: u64,
}

const PLAIN: Offer = Offer {
    says: (1, SCHEME_NONE),
    order: Order::Whole,
    slowness: 1.0,
    needs: 0,
    fewest_columns: 1,
};

/// The algorithms, in the order in which they are offered.
const OFFERS: [Offer; 8] = [
    // This algorithm is fast, but needs more workspace than most callers allow.
    Offer {
        needs: 64 << 20,
        slowness: 0.4,
        ..PLAIN
    },
    // This algorithm splits K and reports it: a caller that excludes reductions is not offered it.
    Offer {
        says: (4, SCHEME_COMPUTE_TYPE),
        order: Order::Parts(4),
        slowness: 0.5,
        ..PLAIN
    },
    // This algorithm splits K, but reports no reduction scheme.
    Offer {
        says: (2, SCHEME_NONE),
        order: Order::Parts(2),
        slowness: 0.6,
        ..PLAIN
    },
    // This algorithm splits K if there are many rows, and does not report it.
    Offer {
        order: Order::PartsIfMany,
        slowness: 0.7,
        ..PLAIN
    },
    Offer {
        fewest_columns: 8,
        slowness: 0.8,
        ..PLAIN
    },
    // This is the heuristic's best algorithm, but not the fastest.
    Offer {
        slowness: 1.5,
        ..PLAIN
    },
    PLAIN,
    Offer {
        slowness: 1.1,
        ..PLAIN
    },
];
/// The index of the algorithm that is used if the caller names none.
const DEFAULT: u64 = 6;

impl Algorithm {
    /// Returns the algorithm that the library uses if the caller names none.
    pub fn default_for(max_workspace: u64) -> Self {
        let workspace = WORKSPACE.min(max_workspace);
        Self {
            data: [MARK, DEFAULT, workspace, 0, 0, 0, 0, 0],
        }
    }

    /// Returns the algorithms that a preference allows, in the library's order, best first.
    pub fn offered(max_workspace: u64, schemes: u32) -> Vec<Self> {
        let allowed = |offer: &Offer| {
            let scheme = offer.says.1;
            offer.needs <= max_workspace && (scheme == SCHEME_NONE || scheme & schemes != 0)
        };
        (0..)
            .zip(&OFFERS)
            .filter(|(_, offer)| allowed(offer))
            .map(|(i, offer)| {
                let workspace = WORKSPACE.min(max_workspace).max(offer.needs);
                Self {
                    data: [MARK, i, workspace, 0, 0, 0, 0, 0],
                }
            })
            .collect()
    }

    /// Returns the list entry, or `None` for bytes that are not an algorithm of this library.
    pub fn offer(&self) -> Option<&'static Offer> {
        let [mark, index, workspace, rest @ ..] = self.data;
        let known = mark == MARK && workspace <= 64 << 20 && rest == [0; 5];
        OFFERS.get(index as usize).filter(|_| known)
    }

    /// Returns the workspace in bytes.
    pub fn workspace(&self) -> usize {
        self.data[2] as usize
    }

    /// Returns an attribute of the algorithm's configuration: its value, and its size in bytes.
    pub fn config(&self, name: c_int) -> Option<(u32, usize)> {
        let offer = self.offer()?;
        Some(match name {
            0 => (60 + self.data[1] as u32, 4), // ID
            1 => (20, 4),                       // TILE_ID
            2 => (offer.says.0 as u32, 4),      // SPLITK_NUM
            3 => (offer.says.1, 4),             // REDUCTION_SCHEME
            4..=6 => (0, 4),                    // CTA_SWIZZLING, CUSTOM_OPTION, STAGES_ID
            7 | 8 => (0, 2),                    // INNER_SHAPE_ID, CLUSTER_SHAPE_ID
            _ => return None,
        })
    }
}
