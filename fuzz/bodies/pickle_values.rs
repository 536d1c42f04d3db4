//! A value made from any bytes, written as a pickle in one of the many ways that there are, is the
//! value that the interpreter reads. `fuzz_targets/pickle_values.rs` drives this with a fuzzer,
//! `tests/weights/pickle_values.rs` with made-up bytes.
//!
//! Random bytes alone, which `torch_zip` feeds to the interpreter, seldom get past a few
//! instructions, and show that nothing panics, not that what is read is what was written.

use std::fmt::Write;

use seqstream::weights::pickle_text;

/// Values deeper than this are not made: the text of deeper ones is cut.
const DEEPEST: usize = 6;
/// Values at most, so that no input makes a long run.
const MOST_VALUES: usize = 300;

#[derive(Clone)]
enum Value {
    None,
    Bool(bool),
    Int(i64),
    Float(u64),
    Text(String),
    Opaque,
    Sequence(Vec<Value>),
    Dict(Vec<(Value, Value)>),
    Tensor {
        key: String,
        offset: u16,
        shape: Vec<u8>,
    },
}

/// The text that [`pickle_text`] should give.
fn text(value: &Value, out: &mut String) {
    match value {
        Value::None => out.push_str("none"),
        Value::Bool(b) => write!(out, "{b}").unwrap(),
        Value::Int(n) => write!(out, "{n}").unwrap(),
        Value::Float(bits) => write!(out, "{bits:#018x}").unwrap(),
        Value::Text(s) => write!(out, "{s:?}").unwrap(),
        Value::Opaque => out.push('?'),
        Value::Sequence(items) => {
            out.push('[');
            for item in items {
                text(item, out);
                out.push(',');
            }
            out.push(']');
        }
        Value::Dict(pairs) => {
            out.push('{');
            for (key, value) in pairs {
                text(key, out);
                out.push(':');
                text(value, out);
                out.push(',');
            }
            out.push('}');
        }
        Value::Tensor { key, offset, shape } => {
            let strides = strides(shape);
            write!(
                out,
                "tensor({key:?} of 7 in f16, {offset}, {shape:?}, {strides:?})"
            )
            .unwrap();
        }
    }
}

/// How many values this one is, unless it is too large or too deep to be recalled.
fn size(value: &Value) -> Option<usize> {
    fn count(value: &Value, depth: usize) -> Option<usize> {
        let depth = depth.checked_sub(1)?;
        match value {
            Value::Sequence(items) => items
                .iter()
                .try_fold(1, |sum, item| Some(sum + count(item, depth)?)),
            Value::Dict(pairs) => pairs.iter().try_fold(1, |sum, (key, value)| {
                Some(sum + count(key, depth)? + count(value, depth)?)
            }),
            _ => Some(1),
        }
    }
    count(value, DEEPEST).filter(|count| *count <= 50)
}

fn strides(shape: &[u8]) -> Vec<usize> {
    let after = |i: usize| shape[i + 1..].iter().map(|&n| usize::from(n)).product();
    (0..shape.len()).map(after).collect()
}

/// Makes values and writes them, both as the input's bytes say.
struct Writer<'a> {
    choices: &'a [u8],
    pickle: Vec<u8>,
    /// What was remembered, by key.
    memo: Vec<Value>,
    made: usize,
}

impl Writer<'_> {
    /// The next byte of the input; 0 after its end.
    fn choice(&mut self) -> u8 {
        match self.choices.split_first() {
            Some((&first, rest)) => {
                self.choices = rest;
                first
            }
            None => 0,
        }
    }

    fn op(&mut self, bytes: &[u8]) {
        self.pickle.extend_from_slice(bytes);
    }

    /// Writes one value, with what leaves no trace before it, and sometimes a memory after it.
    fn value(&mut self, depth: usize) -> Value {
        match self.choice() {
            // NONE POP, MARK POP_MARK, MARK NONE POP_MARK, a frame, the protocol once more
            0xf0 => self.op(b"N0"),
            0xf1 => self.op(b"(1"),
            0xf2 => self.op(b"(N1"),
            0xf3 => self.op(b"\x95\x07\0\0\0\0\0\0\0"),
            0xf4 => self.op(b"\x80\x04"),
            // A value that is recalled stands for one more value.
            0xf5..=0xf9 if !self.memo.is_empty() => {
                let key = usize::from(self.choice()) % self.memo.len();
                match u8::try_from(key) {
                    Ok(key) => self.op(&[b'h', key]),
                    Err(_) => {
                        self.op(b"j");
                        self.op(&(key as u32).to_le_bytes());
                    }
                }
                return self.memo[key].clone();
            }
            _ => {}
        }
        let value = self.new_value(depth);
        // What holds what was recalled, again and again, would grow without bound.
        if size(&value).is_none() {
            return value;
        }
        let key = self.memo.len() as u32;
        match self.choice() {
            0x80..=0x9f => self.op(b"\x94"),
            0xa0..=0xbf => {
                self.op(b"r");
                self.op(&key.to_le_bytes());
            }
            0xc0..=0xdf if key < 256 => self.op(&[b'q', key as u8]),
            // DUP POP
            0xe0 => {
                self.op(b"20");
                return value;
            }
            _ => return value,
        }
        self.memo.push(value.clone());
        value
    }

    fn new_value(&mut self, depth: usize) -> Value {
        self.made += 1;
        let kind = self.choice();
        if depth == DEEPEST || self.made > MOST_VALUES {
            return self.small(kind % 6);
        }
        match kind % 9 {
            6 => Value::Sequence(self.sequence(depth)),
            7 => Value::Dict(self.dict(depth)),
            8 => self.tensor(),
            kind => self.small(kind),
        }
    }

    fn small(&mut self, kind: u8) -> Value {
        match kind {
            0 => {
                self.op(b"N");
                Value::None
            }
            1 => {
                let yes = self.choice() & 1 == 1;
                match self.choice() & 1 {
                    0 => self.op(&[0x89 - u8::from(yes)]),
                    _ => self.op(if yes { b"I01\n" } else { b"I00\n" }),
                }
                Value::Bool(yes)
            }
            2 => Value::Int(self.int()),
            3 => {
                let bits = u64::from_be_bytes([0; 8].map(|_: u8| self.choice()));
                self.op(b"G");
                self.op(&bits.to_be_bytes());
                Value::Float(bits)
            }
            4 => Value::Text(self.string()),
            _ => {
                // Bytes, in their four widths; an empty set, a set
                match self.choice() % 6 {
                    0 => self.op(b"U\x02ab"),
                    1 => self.op(b"T\x02\0\0\0ab"),
                    2 => self.op(b"C\x01\xff"),
                    3 => self.op(b"\x8e\x01\0\0\0\0\0\0\0\xff"),
                    4 => self.op(b"\x8f(N\x90"),
                    _ => self.op(b"(NN\x91"),
                }
                Value::Opaque
            }
        }
    }

    fn int(&mut self) -> i64 {
        let bytes = [0; 8].map(|_: u8| self.choice());
        match self.choice() % 6 {
            0 => {
                self.op(&[b'K', bytes[0]]);
                bytes[0].into()
            }
            1 => {
                self.op(&[b'M', bytes[0], bytes[1]]);
                u16::from_le_bytes([bytes[0], bytes[1]]).into()
            }
            2 => {
                let four = [bytes[0], bytes[1], bytes[2], bytes[3]];
                self.op(b"J");
                self.op(&four);
                i32::from_le_bytes(four).into()
            }
            // LONG1 and LONG4, of any number of bytes up to 8, in two's complement
            kind @ (3 | 4) => {
                let length = usize::from(self.choice() % 9);
                match kind {
                    3 => self.op(&[0x8a, length as u8]),
                    _ => self.op(&[0x8b, length as u8, 0, 0, 0]),
                }
                self.op(&bytes[..length]);
                let shift = 64 - 8 * length as u32;
                let wide = i64::from_le_bytes(bytes);
                wide.checked_shl(shift).map_or(0, |n| n >> shift)
            }
            _ => {
                let n = i64::from_le_bytes(bytes);
                // Two texts of numbers are those of the truth values.
                self.op(format!("L{n}L\n").as_bytes());
                n
            }
        }
    }

    fn string(&mut self) -> String {
        let length = self.choice() % 8;
        let text: String = (0..length).map(|_| char::from(self.choice())).collect();
        self.text(&text);
        text
    }

    fn text(&mut self, text: &str) {
        let length = text.len() as u64;
        match self.choice() % 3 {
            0 => {
                self.op(b"X");
                self.op(&(length as u32).to_le_bytes());
            }
            1 => self.op(&[0x8c, length as u8]),
            _ => {
                self.op(b"\x8d");
                self.op(&length.to_le_bytes());
            }
        }
        self.op(text.as_bytes());
    }

    fn sequence(&mut self, depth: usize) -> Vec<Value> {
        let count = usize::from(self.choice() % 6);
        let way = self.choice() % 5;
        match (way, count) {
            (0, 0) => self.op(b")"),
            // TUPLE1 to TUPLE3
            (0, 1..=3) => {}
            (0..=2, _) => self.op(b"("),
            (3, _) => self.op(b"]("),
            (_, _) => self.op(b"]"),
        }
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(self.value(depth + 1));
            if way == 4 {
                self.op(b"a");
            }
        }
        match (way, count) {
            (0, 0) | (4, _) => {}
            (0, 1..=3) => self.op(&[0x84 + count as u8]),
            (0 | 1, _) => self.op(b"t"),
            (2, _) => self.op(b"l"),
            (_, _) => self.op(b"e"),
        }
        items
    }

    fn dict(&mut self, depth: usize) -> Vec<(Value, Value)> {
        let count = usize::from(self.choice() % 5);
        let way = self.choice() % 4;
        match way {
            0 => self.op(b"("),
            1 => self.op(b"}("),
            2 => self.op(b"ccollections\nOrderedDict\n)R("),
            _ => self.op(b"}"),
        }
        let mut pairs = Vec::new();
        for _ in 0..count {
            pairs.push((self.value(depth + 1), self.value(depth + 1)));
            if way == 3 {
                self.op(b"s");
            }
        }
        match way {
            0 => self.op(b"d"),
            1 | 2 => self.op(b"u"),
            _ => {}
        }
        pairs
    }

    fn global(&mut self, module: &str, name: &str) {
        match self.choice() & 1 {
            0 => self.op(format!("c{module}\n{name}\n").as_bytes()),
            _ => {
                self.text(module);
                self.text(name);
                self.op(b"\x93");
            }
        }
    }

    fn tensor(&mut self) -> Value {
        let parameter = self.choice() & 1 == 1;
        if parameter {
            self.global("torch._utils", "_rebuild_parameter");
            self.op(b"(");
        }
        self.global("torch._utils", "_rebuild_tensor_v2");
        self.op(b"((");
        self.text("storage");
        self.global("torch", "HalfStorage");
        let key = self.string();
        self.text("cpu");
        self.op(b"K\x07tQ");
        let offset = u16::from_le_bytes([self.choice(), self.choice()]);
        self.op(b"M");
        self.op(&offset.to_le_bytes());
        let count = self.choice() % 9;
        let shape: Vec<u8> = (0..count).map(|_| self.choice() % 16).collect();
        self.op(b"(");
        for &size in &shape {
            self.op(&[b'K', size]);
        }
        self.op(b"t(");
        for stride in strides(&shape) {
            self.op(b"\x8a\x08");
            self.op(&(stride as u64).to_le_bytes());
        }
        self.op(b"t\x89}tR");
        if parameter {
            self.op(b"\x88}tR");
        }
        Value::Tensor { key, offset, shape }
    }
}

/// Makes a value of these bytes, and looks whether it is read as what it is.
pub fn check(input: &[u8]) {
    let mut writer = Writer {
        choices: input,
        pickle: b"\x80\x02".to_vec(),
        memo: Vec::new(),
        made: 0,
    };
    let value = writer.value(0);
    writer.op(b".");
    let mut expected = String::new();
    text(&value, &mut expected);
    match pickle_text(&writer.pickle) {
        Ok(found) => assert_eq!(found, expected, "{}", writer.pickle.escape_ascii()),
        Err(error) => panic!("{error:?}: {}", writer.pickle.escape_ascii()),
    }
    // The same with an end that is missing: an error, and nothing else.
    let short = &writer.pickle[..writer.pickle.len() - 1];
    let error = pickle_text(short).unwrap_err();
    assert!(error.what.contains("ends in the middle") && !error.hint.is_empty());
}
