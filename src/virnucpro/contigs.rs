//! A verdict per contig from the scores of its chunks.
//!
//! The rule is that of the program `virnucpro_contigs` of viral-ngs. Only the chunks with a kept
//! frame count.

use std::cmp::Ordering;
use std::fmt::Write as _;

/// The two scores of a fragment: probabilities, which add up to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scores {
    /// The probability that the fragment is from no virus; class 0, `score1` in the tables.
    pub others: f32,
    /// The probability that the fragment is from a virus; class 1, `score2` in the tables.
    pub virus: f32,
}

impl Scores {
    /// Returns whether the fragment is called a virus: where both are equal, it is not.
    pub fn is_virus(self) -> bool {
        self.virus > self.others
    }
}

impl From<[f32; 2]> for Scores {
    /// Takes the scores in the order of the classes: class 0 is "others", class 1 is "virus".
    fn from([others, virus]: [f32; 2]) -> Self {
        Self { others, virus }
    }
}

/// The best scores of a chunk over its kept frames.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ChunkScores {
    /// The number of the chunk within its contig, from 1.
    pub chunk: u32,
    /// The largest `others`, and the largest `virus`, which may be of different frames.
    pub best: Scores,
}

impl ChunkScores {
    /// Whether the original calls the chunk viral.
    pub fn is_virus(&self) -> bool {
        self.best.virus >= self.best.others
    }

    /// Takes in the scores of one more frame of the chunk.
    pub fn add(&mut self, scores: Scores) {
        self.best.others = self.best.others.max(scores.others);
        self.best.virus = self.best.virus.max(scores.virus);
    }
}

/// The numbers of the rule per contig. The default is that of viral-ngs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ContigRule {
    /// A contig is called when its weighted difference exceeds this, in either direction.
    pub call_delta: f64,
    /// A call is of high confidence when its weighted difference exceeds this.
    pub high_delta: f64,
    /// A chunk is confident when one score exceeds this ...
    pub confident_above: f64,
    /// ... and the other one is below this.
    pub confident_below: f64,
    /// A chunk is ambiguous when both scores exceed this.
    pub ambiguous_above: f64,
    /// The least share of confident viral chunks of a viral call that is more than of low confidence.
    pub least_viral_share: f64,
    /// The least share of confident chunks that are not viral, likewise.
    pub least_nonviral_share: f64,
    /// With fewer chunks, every call loses a level.
    pub least_chunks: usize,
}

impl Default for ContigRule {
    fn default() -> Self {
        Self {
            call_delta: 0.3,
            high_delta: 0.6,
            confident_above: 0.8,
            confident_below: 0.3,
            ambiguous_above: 0.7,
            least_viral_share: 0.1,
            least_nonviral_share: 0.1,
            least_chunks: 5,
        }
    }
}

/// What a contig is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// From a virus.
    Viral,
    /// Not from a virus.
    NonViral,
    /// Undecided.
    Ambiguous,
}

/// How sure a call is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// High confidence.
    High,
    /// Moderate confidence.
    Moderate,
    /// Low confidence.
    Low,
    /// To be looked at by a person.
    Review,
}

/// The verdict on one contig.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Verdict {
    /// The call.
    pub call: Call,
    /// Its confidence.
    pub tier: Tier,
    /// The mean of virus minus others over the chunks, each weighted by the root of its size.
    pub weighted_delta: f64,
    /// The number of chunks with a kept frame.
    pub chunks: usize,
    /// The number of chunks that are viral with confidence.
    pub confident_viral: usize,
    /// The number of chunks that are not viral with confidence.
    pub confident_nonviral: usize,
    /// The number of chunks whose scores contradict each other.
    pub ambiguous: usize,
    /// The share of confident viral chunks among those that are not ambiguous.
    pub viral_share: f64,
    /// The share of confident chunks that are not viral, likewise.
    pub nonviral_share: f64,
}

impl ContigRule {
    /// Judges a contig by its chunks; `None` if it has none.
    ///
    /// The scores are compared as the f64 values of what [`Style::Broad`](super::Style::Broad) writes, which are the f32
    /// values themselves.
    pub fn judge(&self, chunks: &[ChunkScores]) -> Option<Verdict> {
        if chunks.is_empty() {
            return None;
        }
        let pairs = || {
            chunks
                .iter()
                .map(|c| (f64::from(c.best.others), f64::from(c.best.virus)))
        };
        let count = |test: &dyn Fn(f64, f64) -> bool| pairs().filter(|&(a, b)| test(a, b)).count();
        let (high, low, both) = (
            self.confident_above,
            self.confident_below,
            self.ambiguous_above,
        );
        let confident_viral = count(&|a, b| b > high && a < low);
        let confident_nonviral = count(&|a, b| a > high && b < low);
        let ambiguous = count(&|a, b| a > both && b > both);
        let weights: f64 = pairs().map(|(a, b)| (b - a).abs().sqrt()).sum();
        let weighted: f64 = pairs().map(|(a, b)| (b - a) * (b - a).abs().sqrt()).sum();
        // Where all weights are 0, so are all differences.
        let delta = if weights > 0.0 {
            weighted / weights
        } else {
            0.0
        };
        let effective = chunks.len() - ambiguous;
        let share = |count: usize| match effective {
            0 => 0.0,
            n => count as f64 / n as f64,
        };
        let (viral_share, nonviral_share) = (share(confident_viral), share(confident_nonviral));
        let (call, supported) = if delta > self.call_delta {
            let supported = confident_viral >= 1 && viral_share >= self.least_viral_share;
            (Call::Viral, supported)
        } else if delta < -self.call_delta {
            let supported = confident_nonviral >= 1 && nonviral_share >= self.least_nonviral_share;
            (Call::NonViral, supported)
        } else {
            (Call::Ambiguous, false)
        };
        let tier = match (call, supported) {
            (Call::Ambiguous, _) => Tier::Review,
            (_, false) => Tier::Low,
            (_, true) if delta.abs() > self.high_delta => Tier::High,
            (_, true) => Tier::Moderate,
        };
        let tier = match tier {
            tier if chunks.len() >= self.least_chunks => tier,
            Tier::High | Tier::Moderate => Tier::Low,
            Tier::Low | Tier::Review => Tier::Review,
        };
        Some(Verdict {
            call,
            tier,
            weighted_delta: delta,
            chunks: chunks.len(),
            confident_viral,
            confident_nonviral,
            ambiguous,
            viral_share,
            nonviral_share,
        })
    }
}

impl Call {
    /// The name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Viral => "Viral",
            Self::NonViral => "Non-viral",
            Self::Ambiguous => "Ambiguous",
        }
    }
}

impl Tier {
    /// The name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::High => "high_confidence",
            Self::Moderate => "moderate_confidence",
            Self::Low => "low_confidence",
            Self::Review => "review",
        }
    }
}

/// The header of the table of contigs.
pub(super) const HEADER: &str = "ID\tcall\ttier\tweighted_delta\tn_chunks\tn_confident_viral\t\
     n_confident_nonviral\tn_ambiguous\tviral_proportion\tnonviral_proportion\n";

/// Appends the line of a contig. The proportions and the weighted difference are rounded to three
/// decimals and written as Python writes them.
pub(super) fn write_line(id: &str, verdict: &Verdict, out: &mut String) {
    let v = verdict;
    // Writing to a string cannot fail.
    let _ = writeln!(
        out,
        "{id}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}",
        v.call.name(),
        v.tier.name(),
        rounded(v.weighted_delta),
        v.chunks,
        v.confident_viral,
        v.confident_nonviral,
        v.ambiguous,
        rounded(v.viral_share),
        rounded(v.nonviral_share),
    );
}

/// A number between -1 and 1 with at most three decimals and at least one.
fn rounded(value: f64) -> String {
    let text = format!("{value:.3}");
    let short = text.trim_end_matches('0');
    match short.strip_suffix('.') {
        Some(whole) => format!("{whole}.0"),
        None => short.to_owned(),
    }
}

/// Orders ids as people do: runs of digits by their number, everything else by its text without
/// regard to case. It is the order of viral-ngs for ids of ASCII letters.
pub fn natural_order(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (parts(a), parts(b));
    loop {
        let order = match (a.next(), b.next()) {
            (None, None) => return Ordering::Equal,
            (None, _) => Ordering::Less,
            (_, None) => Ordering::Greater,
            (Some(x), Some(y)) => match (x.starts_with(is_digit), y.starts_with(is_digit)) {
                (true, true) => by_number(x, y),
                _ => x.to_lowercase().cmp(&y.to_lowercase()),
            },
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}

fn is_digit(c: char) -> bool {
    c.is_ascii_digit()
}

/// Splits a text into runs of digits and the runs between them. The first run is one without digits,
/// which may be empty.
fn parts(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    let mut digits = false;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = rest.find(|c| is_digit(c) != digits).unwrap_or(rest.len());
        let (part, after) = rest.split_at(end);
        (rest, digits) = (after, !digits);
        Some(part)
    })
}

/// Compares two numbers of any length by their digits.
fn by_number(a: &str, b: &str) -> Ordering {
    let significant = |text: &str| text.trim_start_matches('0').to_owned();
    let (a, b) = (significant(a), significant(b));
    a.len().cmp(&b.len()).then(a.cmp(&b))
}
