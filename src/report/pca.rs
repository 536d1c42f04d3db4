//! The two directions in which rows differ most (principal components), by subspace iteration.
//!
//! The result depends on the rows alone: the iteration begins with fixed vectors, and sums are made
//! in a fixed order.

/// The number of vectors that are iterated. More than two, so that the first two are separated from
/// the rest soon.
const VECTORS: usize = 6;
/// The most iterations.
const MOST: usize = 100;
/// The iteration ends when the two variances change by no more than this part.
const ENOUGH: f64 = 1e-10;

/// Where rows lie in the plane of the first two principal components.
#[derive(Debug, Clone, PartialEq)]
pub struct Plane {
    /// The place of each row.
    pub places: Vec<(f64, f64)>,
    /// The parts of the whole variance, from 0 to 1, that lie along the two directions.
    pub explained: (f64, f64),
}

/// Projects rows of `width` values, which lie end to end. Returns `None` if there are fewer than
/// three rows, or if all rows are equal.
pub fn project(rows: &[f32], width: usize) -> Option<Plane> {
    let count = rows.len().checked_div(width)?;
    if count < 3 {
        return None;
    }
    let mut mean = vec![0.0; width];
    for row in rows.chunks_exact(width) {
        mean.iter_mut()
            .zip(row)
            .for_each(|(m, v)| *m += f64::from(*v));
    }
    mean.iter_mut().for_each(|m| *m /= count as f64);
    let centred = rows.chunks_exact(width).flat_map(|row| {
        let differences = row.iter().zip(&mean).map(|(v, m)| f64::from(*v) - m);
        differences.collect::<Vec<f64>>()
    });
    let centred: Vec<f64> = centred.collect();
    let total: f64 = centred.iter().map(|v| v * v).sum();
    if !(total.is_finite() && total > 0.0) {
        return None;
    }
    let mut basis = start(width);
    orthonormalize(&mut basis);
    let mut before = (0.0, 0.0);
    for _ in 0..MOST {
        let products = multiply(&centred, &basis);
        let (values, _) = ritz(&products);
        let now = (values[0].0 / total, values[1].0 / total);
        if (now.0 - before.0).abs() <= ENOUGH * now.0 && (now.1 - before.1).abs() <= ENOUGH * now.0
        {
            break;
        }
        before = now;
        basis = multiply_back(&centred, &products, width);
        orthonormalize(&mut basis);
    }
    let products = multiply(&centred, &basis);
    let (values, vectors) = ritz(&products);
    let axis = |which: usize| {
        let (value, column) = values[which];
        let weights: Vec<f64> = vectors.iter().map(|row| row[column]).collect();
        // Which of two opposite directions comes out is chance, so one is chosen: that in which the
        // largest component is positive.
        let mut direction = vec![0.0; width];
        for (vector, weight) in basis.iter().zip(&weights) {
            let sums = direction.iter_mut().zip(vector);
            sums.for_each(|(d, v)| *d += weight * v);
        }
        let largest = direction
            .iter()
            .fold(0.0f64, |most, v| match v.abs() > most.abs() {
                true => *v,
                false => most,
            });
        let sign = if largest < 0.0 { -1.0 } else { 1.0 };
        let places = products.iter().map(move |row| {
            let sum: f64 = row.iter().zip(&weights).map(|(p, w)| p * w).sum();
            sign * sum
        });
        (places.collect::<Vec<f64>>(), value / total)
    };
    let ((x, first), (y, second)) = (axis(0), axis(1));
    Some(Plane {
        places: x.into_iter().zip(y).collect(),
        explained: (first, second),
    })
}

/// Returns vectors that are not orthogonal to any direction that one might think of.
fn start(width: usize) -> Vec<Vec<f64>> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        // xorshift64 (Marsaglia 2003)
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 53) as f64 - 0.5
    };
    let vector = |_| (0..width).map(|_| next()).collect();
    (0..VECTORS.min(width).max(2)).map(vector).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

/// Makes the vectors orthogonal and of length 1 (Gram and Schmidt, twice). A vector that depends on
/// those before it becomes 0.
fn orthonormalize(vectors: &mut [Vec<f64>]) {
    for i in 0..vectors.len() {
        let (before, rest) = vectors.split_at_mut(i);
        let Some(vector) = rest.first_mut() else {
            continue;
        };
        let length = dot(vector, vector).sqrt();
        for _ in 0..2 {
            for other in before.iter() {
                let part = dot(vector, other);
                vector
                    .iter_mut()
                    .zip(other)
                    .for_each(|(v, o)| *v -= part * o);
            }
        }
        let left = dot(vector, vector).sqrt();
        let scale = if left > 1e-12 * length {
            1.0 / left
        } else {
            0.0
        };
        vector.iter_mut().for_each(|v| *v *= scale);
    }
}

/// Returns the product of each row with each vector.
fn multiply(centred: &[f64], basis: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let width = basis.first().map_or(1, Vec::len);
    let rows = centred.chunks_exact(width);
    rows.map(|row| basis.iter().map(|v| dot(row, v)).collect())
        .collect()
}

/// Returns the sums of all rows, weighted by their products with each vector.
fn multiply_back(centred: &[f64], products: &[Vec<f64>], width: usize) -> Vec<Vec<f64>> {
    let vectors = products.first().map_or(0, Vec::len);
    let mut sums = vec![vec![0.0; width]; vectors];
    for (row, weights) in centred.chunks_exact(width).zip(products) {
        for (sum, weight) in sums.iter_mut().zip(weights) {
            sum.iter_mut().zip(row).for_each(|(s, v)| *s += weight * v);
        }
    }
    sums
}

/// Returns the eigenvalues of the small matrix of products, the greatest first, each with the number
/// of its column in the matrix of eigenvectors, which comes second.
fn ritz(products: &[Vec<f64>]) -> (Vec<(f64, usize)>, Vec<Vec<f64>>) {
    let size = products.first().map_or(0, Vec::len);
    let mut matrix = vec![vec![0.0; size]; size];
    for row in products {
        for (sums, a) in matrix.iter_mut().zip(row) {
            sums.iter_mut().zip(row).for_each(|(s, b)| *s += a * b);
        }
    }
    let vectors = jacobi(&mut matrix);
    let mut values: Vec<(f64, usize)> = (0..size).map(|i| (matrix[i][i], i)).collect();
    values.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    (values, vectors)
}

/// Makes a symmetric matrix diagonal by Jacobi's rotations, and returns the eigenvectors as columns.
fn jacobi(a: &mut [Vec<f64>]) -> Vec<Vec<f64>> {
    let n = a.len();
    let mut vectors = vec![vec![0.0; n]; n];
    (0..n).for_each(|i| vectors[i][i] = 1.0);
    for _ in 0..50 {
        let off = |i: usize| (0..i).map(|j| a[i][j] * a[i][j]).sum::<f64>();
        let outside: f64 = (0..n).map(off).sum();
        let scale: f64 = (0..n).map(|i| a[i][i] * a[i][i]).sum();
        if outside <= 1e-30 * scale {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                if a[p][q] == 0.0 {
                    continue;
                }
                let theta = (a[q][q] - a[p][p]) / (2.0 * a[p][q]);
                let sign = if theta < 0.0 { -1.0 } else { 1.0 };
                let t = sign / (theta.abs() + (theta * theta + 1.0).sqrt());
                let c = 1.0 / (t * t + 1.0).sqrt();
                let s = t * c;
                for row in a.iter_mut().chain(&mut vectors) {
                    (row[p], row[q]) = (c * row[p] - s * row[q], s * row[p] + c * row[q]);
                }
                let (above, below) = a.split_at_mut(q);
                for (x, y) in above[p].iter_mut().zip(&mut below[0]) {
                    (*x, *y) = (c * *x - s * *y, s * *x + c * *y);
                }
            }
        }
    }
    vectors
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Points in a plane of a space of seven dimensions, three times as wide as high.
    fn flat(count: usize) -> (Vec<f32>, Vec<(f64, f64)>) {
        let (u, v) = (
            [3.0, 0.0, 4.0, 0.0, 0.0, 0.0, 0.0],
            [0.0, 5.0, 0.0, 0.0, 12.0, 0.0, 0.0],
        );
        let places: Vec<(f64, f64)> = (0..count)
            .map(|i| {
                let angle = i as f64 / count as f64 * std::f64::consts::TAU;
                (3.0 * angle.cos(), angle.sin())
            })
            .collect();
        let rows = places.iter().flat_map(|(x, y)| {
            (0..7).map(move |d| (7.0 + x * u[d] / 5.0 + y * v[d] / 13.0) as f32)
        });
        (rows.collect(), places)
    }

    #[test]
    fn a_plane_is_found_with_its_places_and_variances() {
        let (rows, places) = flat(40);
        let plane = project(&rows, 7).unwrap();
        for (found, place) in plane.places.iter().zip(&places) {
            assert!((found.0 - place.0).abs() < 1e-5, "{found:?} {place:?}");
            assert!((found.1 - place.1).abs() < 1e-5, "{found:?} {place:?}");
        }
        assert!(
            (plane.explained.0 - 0.9).abs() < 1e-6,
            "{:?}",
            plane.explained
        );
        assert!(
            (plane.explained.1 - 0.1).abs() < 1e-6,
            "{:?}",
            plane.explained
        );
        assert_eq!(project(&rows, 7).unwrap(), plane);
    }

    #[test]
    fn rows_without_a_plane_have_none() {
        assert_eq!(project(&[], 4), None);
        assert_eq!(project(&[1.0; 8], 4), None);
        assert_eq!(project(&[1.0; 40], 4), None);
        assert_eq!(project(&[1.0, f32::NAN, 2.0, 3.0], 1), None);
        // One dimension: everything lies on a line.
        let line = project(&[1.0, 2.0, 3.0, 4.0], 1).unwrap();
        assert!((line.explained.0 - 1.0).abs() < 1e-12);
        assert!(line.places.iter().all(|p| p.1.abs() < 1e-12), "{line:?}");
    }
}
