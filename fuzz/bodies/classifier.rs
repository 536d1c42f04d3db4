//! Any bytes as a file of a classifier: an error with a remedy, or a classifier whose scores are
//! probabilities.

use std::path::Path;

use seqstream::virnucpro::Classifier;

pub fn check(bytes: &[u8]) {
    match Classifier::from_bytes(Path::new("fuzz"), bytes) {
        Err(error) => {
            assert!(error.to_string().starts_with("fuzz: "), "{error}");
            assert!(error.remedy().is_some(), "{error}");
        }
        Ok(classifier) => {
            let width = classifier.width();
            if width <= 1 << 16 {
                let scores = classifier.scores(&vec![0.5; width]);
                // Values near the end of the range may overflow even f64's range of exponents.
                assert!(scores.iter().all(|s| s.is_nan() || (0.0..=1.0).contains(s)));
            }
        }
    }
}
