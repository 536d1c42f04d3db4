//! The algorithms that the simulated cuBLASLt offers: what one may meet in the real one's list, traps first.

use std::ffi::c_int;

use crate::matmul::Order;

/// `cublasLtMatmulAlgo_t`, opaque to callers: a mark, the place in `OFFERS`, the workspace.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Algorithm {
    data: [u64; 8],
}

const MARK: u64 = u64::from_le_bytes(*b"cuda-sim");
/// Most algorithms want this much, if they may, and scribble on it.
const WORKSPACE: u64 = 16 << 10;

const SCHEME_NONE: u32 = 0;
const SCHEME_COMPUTE_TYPE: u32 = 2;

pub struct Offer {
    /// SPLITK_NUM and REDUCTION_SCHEME, as it says of itself.
    says: (i32, u32),
    /// What it does.
    pub order: Order,
    /// Its time is this times that of a plain one.
    pub slowness: f64,
    /// Without it it cannot work.
    needs: u64,
    /// It serves no fewer rows of x than this.
    pub fewest_columns: u64,
}

const PLAIN: Offer = Offer {
    says: (1, SCHEME_NONE),
    order: Order::Whole,
    slowness: 1.0,
    needs: 0,
    fewest_columns: 1,
};

/// In the order in which they are offered.
const OFFERS: [Offer; 8] = [
    // Fast, and with more workspace than most allow.
    Offer {
        needs: 64 << 20,
        slowness: 0.4,
        ..PLAIN
    },
    // Splits K and says so: whoever asks for no reduction is not offered it.
    Offer {
        says: (4, SCHEME_COMPUTE_TYPE),
        order: Order::Parts(4),
        slowness: 0.5,
        ..PLAIN
    },
    // Splits K, and names no scheme for it.
    Offer {
        says: (2, SCHEME_NONE),
        order: Order::Parts(2),
        slowness: 0.6,
        ..PLAIN
    },
    // Splits K where there are many rows, and does not say so.
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
    // The heuristic's best is not the fastest.
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
/// What is used where the caller names none.
const DEFAULT: u64 = 6;

impl Algorithm {
    pub fn default_for(max_workspace: u64) -> Self {
        let workspace = WORKSPACE.min(max_workspace);
        Self {
            data: [MARK, DEFAULT, workspace, 0, 0, 0, 0, 0],
        }
    }

    /// Those that a preference allows, best first as the library thinks.
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

    /// `None` for bytes that are no algorithm of this library.
    pub fn offer(&self) -> Option<&'static Offer> {
        let [mark, index, workspace, rest @ ..] = self.data;
        let known = mark == MARK && workspace <= 64 << 20 && rest == [0; 5];
        OFFERS.get(index as usize).filter(|_| known)
    }

    pub fn workspace(&self) -> usize {
        self.data[2] as usize
    }

    /// An attribute of its configuration: its value, and its size in bytes.
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
