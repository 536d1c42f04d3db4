//! How much work an operation is: its floating-point operations, and the bytes that it has to move at
//! least. Both backends tell it to the trace, so that times become rates.

use crate::trace::Args;

/// The work of one operation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Work {
    /// The floating-point operations of matrix products; a multiplication and an addition are two.
    /// Operations that only move rows have none that matter.
    pub flops: u64,
    /// The bytes that are read and written if each value is moved once.
    pub bytes: u64,
    /// The columns of the output and of the input, for a matrix product.
    pub shape: Option<(usize, usize)>,
}

impl Work {
    /// Returns the work of a product of `rows` rows with a weight `[outputs, inputs]`, whose operands
    /// have `size` bytes per value. `stored` bytes are moved for each value of the result.
    pub fn product(
        rows: usize,
        (outputs, inputs): (usize, usize),
        size: usize,
        stored: usize,
    ) -> Self {
        let moved = (rows + outputs) * inputs * size + rows * stored;
        Self {
            flops: 2 * (rows * outputs * inputs) as u64,
            bytes: moved as u64,
            shape: Some((outputs, inputs)),
        }
    }

    /// Returns the work of attention in sequences that begin at `starts`, of heads that have `width`
    /// columns together: 4·L²·width operations for a sequence of L tokens. q, k, v and the result are
    /// moved once.
    pub fn attention(starts: &[usize], width: usize, size: usize) -> Self {
        let squares = starts.windows(2).map(|s| ((s[1] - s[0]) as u64).pow(2));
        let rows = starts.last().map_or(0, |last| *last);
        Self {
            flops: 4 * squares.sum::<u64>() * width as u64,
            bytes: (4 * rows * width * size) as u64,
            shape: None,
        }
    }

    /// Returns the work of an operation that moves `bytes` bytes for each of `rows` rows.
    pub fn rows(rows: usize, bytes: usize) -> Self {
        Self {
            bytes: (rows * bytes) as u64,
            ..Self::default()
        }
    }

    /// Adds the work to the arguments of an interval.
    pub fn note(&self, args: &mut Args) {
        args.flops = Some(self.flops).filter(|flops| *flops > 0);
        args.bytes = Some(self.bytes);
        if let Some((outputs, inputs)) = self.shape {
            args.outputs = Some(outputs as u64);
            args.inputs = Some(inputs as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_counted_by_hand() {
        // 3 rows of 5 inputs, 7 outputs, f16, stored in f16.
        let product = Work::product(3, (7, 5), 2, 7 * 2);
        assert_eq!((product.flops, product.bytes), (210, 30 + 70 + 42));
        // Sequences of 2 and 3 tokens, heads of 4 columns together, f32: 4 * (4 + 9) * 4.
        let attention = Work::attention(&[0, 2, 5], 4, 4);
        assert_eq!((attention.flops, attention.bytes), (208, 4 * 5 * 4 * 4));
        assert_eq!(Work::attention(&[0], 4, 4), Work::default());
        let mut args = Args::default();
        Work::rows(3, 8).note(&mut args);
        assert_eq!(
            (args.bytes, args.flops, args.outputs),
            (Some(24), None, None)
        );
    }
}
