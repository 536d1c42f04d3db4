//! Interprets the pickles that describe PyTorch checkpoints.
//!
//! A pickle is a program for a stack machine whose instructions may import and call anything. This
//! interpreter calls nothing. It understands by name the few callables that tensors need, keeps a
//! few more classes as opaque data, and refuses every other name with an error that gives the name.
//!
//! Values are stored in one arena and refer to one another by number, so that neither deep nesting
//! nor cycles can overflow the stack or leak memory. The number of instructions bounds the memory.

use std::collections::HashMap;

use super::super::stored::Malformed;
use super::value::{Global, Globals, Id, Storage, TensorView, Value, global};
use crate::untrusted::Shown;

/// The longest pickle that is read, in bytes; real pickles are well below 1 MiB.
pub const LONGEST: u64 = 32 << 20;
/// The most instructions that are run. Each instruction makes at most one value, one place on the
/// stack, one mark and one entry of the memo, and each element of a list or a dict had a place on
/// the stack before. The limit therefore bounds all of these, to some 150 MB together. A tensor
/// takes some 45 instructions: ESM-2 15B in one file takes some 40 000, and with the state of its
/// training three or four times as many.
pub(super) const MOST_INSTRUCTIONS: usize = 1 << 20;

/// The values that a pickle describes.
#[derive(Debug)]
pub struct Pickle<'a> {
    values: Vec<Value<'a>>,
    root: Id,
}

impl<'a> Pickle<'a> {
    /// Runs the pickle program in `bytes`, which may name the globals of a model's checkpoint.
    ///
    /// # Errors
    /// [`Malformed`] if the program is malformed or too large, or if it needs more than the data of
    /// a checkpoint may need.
    pub fn read(bytes: &'a [u8]) -> Result<Self, Malformed> {
        Self::read_with(bytes, Globals::Model)
    }

    /// Runs the pickle program in `bytes`, which may name these globals.
    ///
    /// # Errors
    /// Fails as [`read`](Self::read) does.
    pub fn read_with(bytes: &'a [u8], globals: Globals) -> Result<Self, Malformed> {
        let mut machine = Interpreter {
            bytes,
            globals,
            at: 0,
            start: 0,
            values: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
        };
        let root = machine.run()?;
        Ok(Self {
            values: machine.values,
            root,
        })
    }

    /// The number of the value that the whole pickle stands for.
    pub fn root(&self) -> Id {
        self.root
    }

    /// The value of this number.
    pub fn get(&self, id: Id) -> &Value<'a> {
        self.values.get(id as usize).unwrap_or(&Value::None)
    }

    /// The value under a string key of a dict, or of an object's state. If the key occurs several
    /// times, the last entry counts.
    pub fn entry(&self, id: Id, key: &str) -> Option<Id> {
        let pairs = match self.get(id) {
            Value::Dict(pairs) => pairs,
            // The state of an object is a dict of its attributes.
            Value::Object(Some(state)) => match self.get(*state) {
                Value::Dict(pairs) => pairs,
                _ => return None,
            },
            _ => return None,
        };
        pairs
            .iter()
            .rev()
            .find(|(k, _)| *self.get(*k) == Value::Str(key))
            .map(|(_, v)| *v)
    }
}

struct Interpreter<'a> {
    bytes: &'a [u8],
    globals: Globals,
    /// The position of the next byte.
    at: usize,
    /// The position of the instruction that is being run.
    start: usize,
    values: Vec<Value<'a>>,
    stack: Vec<Id>,
    /// The heights of the stack at which marks were set.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

type Step<T> = Result<T, Malformed>;

impl<'a> Interpreter<'a> {
    fn run(&mut self) -> Step<Id> {
        for _ in 0..MOST_INSTRUCTIONS {
            self.start = self.at;
            let op = self.byte()?;
            if op == b'.' {
                return self.pop();
            }
            self.step(op)?;
        }
        self.start = self.at;
        Err(self.wrong(&format!(
            "it goes on after {MOST_INSTRUCTIONS} instructions, more than a checkpoint can need"
        )))
    }

    fn step(&mut self, op: u8) -> Step<()> {
        match op {
            // PROTO, FRAME
            0x80 => match self.byte()? {
                0..=5 => Ok(()),
                version => Err(self.wrong(&format!("protocol {version} is unknown"))),
            },
            0x95 => self.take(8).map(|_| ()),
            // MARK, POP, POP_MARK, DUP
            b'(' => {
                self.marks.push(self.stack.len());
                Ok(())
            }
            b'0' => self.pop().map(|_| ()),
            b'1' => self.pop_to_mark().map(|_| ()),
            b'2' => {
                let top = self.top()?;
                self.stack.push(top);
                Ok(())
            }
            b'N' => self.push(Value::None),
            0x88 => self.push(Value::Bool(true)),
            0x89 => self.push(Value::Bool(false)),
            // BININT, BININT1, BININT2, LONG1, LONG4, BINFLOAT, INT, LONG, FLOAT
            b'J' => {
                let n = i32::from_le_bytes(self.array()?);
                self.push(Value::Int(n.into()))
            }
            b'K' => {
                let n = self.byte()?;
                self.push(Value::Int(n.into()))
            }
            b'M' => {
                let n = u16::from_le_bytes(self.array()?);
                self.push(Value::Int(n.into()))
            }
            0x8a => {
                let n = self.byte()?.into();
                self.long(n)
            }
            0x8b => {
                let n = self.length4()?;
                self.long(n)
            }
            b'G' => {
                let n = f64::from_be_bytes(self.array()?);
                self.push(Value::Float(n))
            }
            b'I' | b'L' => {
                let text = self.line()?;
                let value = match text {
                    "00" => Value::Bool(false),
                    "01" => Value::Bool(true),
                    text => text
                        .trim_end_matches('L')
                        .parse()
                        .map_or(Value::Opaque, Value::Int),
                };
                self.push(value)
            }
            b'F' => {
                let value = self.line()?.parse().map_or(Value::Opaque, Value::Float);
                self.push(value)
            }
            // Strings and bytes, by the width of their length.
            b'X' => {
                let n = self.length4()?;
                self.string(n)
            }
            0x8c => {
                let n = self.byte()?.into();
                self.string(n)
            }
            0x8d => {
                let n = self.length8()?;
                self.string(n)
            }
            b'U' | b'C' => {
                let n = self.byte()?.into();
                self.opaque(n)
            }
            b'T' | b'B' => {
                let n = self.length4()?;
                self.opaque(n)
            }
            0x8e => {
                let n = self.length8()?;
                self.opaque(n)
            }
            // Tuples and lists.
            b')' | b']' => self.push(Value::Sequence(Vec::new())),
            b't' | b'l' => {
                let items = self.pop_to_mark()?;
                self.push(Value::Sequence(items))
            }
            0x85..=0x87 => {
                let mut items = Vec::new();
                for _ in 0x84..op {
                    items.push(self.pop()?);
                }
                items.reverse();
                self.push(Value::Sequence(items))
            }
            b'a' => {
                let item = self.pop()?;
                self.append(&[item])
            }
            b'e' => {
                let items = self.pop_to_mark()?;
                self.append(&items)
            }
            // Dicts.
            b'}' => self.push(Value::Dict(Vec::new())),
            b'd' => {
                let items = self.pop_to_mark()?;
                self.push(Value::Dict(Vec::new()))?;
                self.set_items(&items)
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set_items(&[key, value])
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                self.set_items(&items)
            }
            // Sets: EMPTY_SET, ADDITEMS, FROZENSET.
            0x8f => self.push(Value::Opaque),
            0x90 => self.pop_to_mark().map(|_| ()),
            0x91 => {
                self.pop_to_mark()?;
                self.push(Value::Opaque)
            }
            // Names and calls.
            b'c' => {
                let module = self.line()?;
                let name = self.line()?;
                self.name_global(module, name)
            }
            0x93 => {
                let name = self.pop()?;
                let module = self.pop()?;
                match (self.value(module), self.value(name)) {
                    (Value::Str(module), Value::Str(name)) => {
                        let (module, name) = (*module, *name);
                        self.name_global(module, name)
                    }
                    _ => Err(self.wrong("a global is named by something other than two strings")),
                }
            }
            b'R' | 0x81 => {
                let arguments = self.pop()?;
                let callable = self.pop()?;
                self.call(callable, arguments)
            }
            b'b' => {
                let state = self.pop()?;
                self.build(state)
            }
            b'Q' => {
                let id = self.pop()?;
                self.persistent(id)
            }
            // The memo.
            b'q' => {
                let key = self.byte()?.into();
                self.remember(key)
            }
            b'r' => {
                let key = u32::from_le_bytes(self.array()?);
                self.remember(key)
            }
            0x94 => {
                let key = self.memo.len() as u32;
                self.remember(key)
            }
            b'h' => {
                let key = self.byte()?.into();
                self.recall(key)
            }
            b'j' => {
                let key = u32::from_le_bytes(self.array()?);
                self.recall(key)
            }
            op => Err(self.wrong(&format!(
                "the instruction {op:#04x} has no place in a checkpoint"
            ))),
        }
    }

    // Helpers that the instructions share.

    fn wrong(&self, what: &str) -> Malformed {
        Malformed::new(
            format!(
                "the pickle cannot be read: at its byte {}, {what}",
                self.start
            ),
            "the file is damaged or no PyTorch checkpoint of tensors; download it again, or look for the \
             model in safetensors format",
        )
    }

    fn take(&mut self, count: usize) -> Step<&'a [u8]> {
        let taken = self.bytes.get(self.at..).and_then(|rest| rest.get(..count));
        let taken = taken.ok_or_else(|| self.wrong("it ends in the middle of an instruction"))?;
        self.at += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Step<[u8; N]> {
        let taken = self.take(N)?;
        taken
            .try_into()
            .map_err(|_| self.wrong("it ends in the middle of an instruction"))
    }

    fn byte(&mut self) -> Step<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn length4(&mut self) -> Step<usize> {
        self.array().map(|bytes| u32::from_le_bytes(bytes) as usize)
    }

    fn length8(&mut self) -> Step<usize> {
        let length = u64::from_le_bytes(self.array()?);
        usize::try_from(length).map_err(|_| self.wrong("a string is longer than memory"))
    }

    fn text(&self, bytes: &'a [u8]) -> Step<&'a str> {
        std::str::from_utf8(bytes).map_err(|_| self.wrong("a string is not UTF-8"))
    }

    fn line(&mut self) -> Step<&'a str> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let end = rest.iter().position(|&b| b == b'\n');
        let end = end.ok_or_else(|| self.wrong("it ends in the middle of an instruction"))?;
        let line = self.take(end + 1)?;
        self.text(&line[..end])
    }

    fn string(&mut self, length: usize) -> Step<()> {
        let bytes = self.take(length)?;
        let text = self.text(bytes)?;
        self.push(Value::Str(text))
    }

    fn opaque(&mut self, length: usize) -> Step<()> {
        self.take(length)?;
        self.push(Value::Opaque)
    }

    /// Pushes a little-endian integer of `length` bytes in two's complement. An integer of more
    /// than 8 bytes is opaque.
    fn long(&mut self, length: usize) -> Step<()> {
        let bytes = self.take(length)?;
        let value = if bytes.len() > 8 {
            Value::Opaque
        } else {
            let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
            let mut wide = if negative { [0xff; 8] } else { [0; 8] };
            wide[..bytes.len()].copy_from_slice(bytes);
            Value::Int(i64::from_le_bytes(wide))
        };
        self.push(value)
    }

    fn push(&mut self, value: Value<'a>) -> Step<()> {
        self.stack.push(self.values.len() as Id);
        self.values.push(value);
        Ok(())
    }

    /// The top of the stack, unless a mark protects it.
    fn top(&self) -> Step<Id> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.last() {
            Some(&id) if self.stack.len() > floor => Ok(id),
            _ => Err(self.wrong("it takes more from the stack than is there")),
        }
    }

    fn pop(&mut self) -> Step<Id> {
        let id = self.top()?;
        self.stack.pop();
        Ok(id)
    }

    fn pop_to_mark(&mut self) -> Step<Vec<Id>> {
        let mark = self
            .marks
            .pop()
            .ok_or_else(|| self.wrong("it goes back to a mark that it never made"))?;
        // No pop goes below the last mark, so the stack is at least as high as the mark.
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    fn value(&self, id: Id) -> &Value<'a> {
        self.values.get(id as usize).unwrap_or(&Value::None)
    }

    fn remember(&mut self, key: u32) -> Step<()> {
        let top = self.top()?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, key: u32) -> Step<()> {
        let id = self.memo.get(&key).copied();
        let id = id.ok_or_else(|| self.wrong("it recalls what it never stored"))?;
        self.stack.push(id);
        Ok(())
    }

    fn append(&mut self, items: &[Id]) -> Step<()> {
        let list = self.top()?;
        match self.values.get_mut(list as usize) {
            Some(Value::Sequence(list)) => list.extend_from_slice(items),
            Some(Value::Object(_) | Value::Opaque) => {}
            _ => return Err(self.wrong("it appends to something other than a list")),
        }
        Ok(())
    }

    fn set_items(&mut self, items: &[Id]) -> Step<()> {
        let dict = self.top()?;
        let (pairs, []) = items.as_chunks::<2>() else {
            return Err(self.wrong("a key has no value"));
        };
        match self.values.get_mut(dict as usize) {
            Some(Value::Dict(dict)) => dict.extend(pairs.iter().map(|[k, v]| (*k, *v))),
            Some(Value::Object(_) | Value::Opaque) => {}
            _ => return Err(self.wrong("it sets items of something other than a dict")),
        }
        Ok(())
    }

    fn name_global(&mut self, module: &str, name: &str) -> Step<()> {
        match global(module, name, self.globals) {
            Some(global) => self.push(Value::Global(global)),
            None => Err(Malformed::new(
                format!(
                    "at byte {} of its pickle the file asks for {}.{}, which loading weights does not need",
                    self.start,
                    Shown(module),
                    Shown(name)
                ),
                "nothing was executed; if you trust the file, load it in PyTorch and save its state_dict() \
                 as safetensors",
            )),
        }
    }

    fn call(&mut self, callable: Id, arguments: Id) -> Step<()> {
        let Value::Global(global) = *self.value(callable) else {
            return Err(self.wrong("it calls something other than a global"));
        };
        match global {
            Global::RebuildTensor => {
                let view = self.tensor(arguments)?;
                self.push(Value::Tensor(view))
            }
            Global::RebuildParameter => match self.sequence(arguments) {
                Some([tensor, ..]) if matches!(self.value(*tensor), Value::Tensor(_)) => {
                    let tensor = *tensor;
                    self.stack.push(tensor);
                    Ok(())
                }
                _ => Err(self.wrong("a parameter is made of something other than a tensor")),
            },
            Global::Dict => self.push(Value::Dict(Vec::new())),
            Global::Opaque => self.push(Value::Object(None)),
            Global::Storage(_) => Err(self.wrong("it makes a storage outside the archive")),
        }
    }

    fn build(&mut self, state: Id) -> Step<()> {
        let object = self.top()?;
        match self.values.get_mut(object as usize) {
            Some(Value::Object(slot)) => *slot = Some(state),
            // A state_dict carries `_metadata`, which says nothing about its tensors.
            Some(Value::Dict(_) | Value::Opaque) => {}
            _ => return Err(self.wrong("it sets the state of something that has none")),
        }
        Ok(())
    }

    fn sequence(&self, id: Id) -> Option<&[Id]> {
        match self.value(id) {
            Value::Sequence(items) => Some(items),
            _ => None,
        }
    }

    fn size(&self, id: Id) -> Option<usize> {
        match *self.value(id) {
            Value::Int(n) => usize::try_from(n).ok(),
            _ => None,
        }
    }

    /// Reads a shape or strides of at most 8 dimensions. The limit keeps a pickle from having one
    /// long list read again and again.
    fn sizes(&self, id: Id) -> Option<Vec<usize>> {
        let items = self.sequence(id).filter(|items| items.len() <= 8)?;
        items.iter().map(|&n| self.size(n)).collect()
    }

    /// Makes a tensor from the arguments of PyTorch's function: (storage, storage_offset, size,
    /// stride, ...).
    fn tensor(&self, arguments: Id) -> Step<TensorView> {
        let view = match self.sequence(arguments) {
            Some(&[storage, offset, shape, stride, ..])
                if matches!(self.value(storage), Value::Storage(_)) =>
            {
                let parts = (self.size(offset), self.sizes(shape), self.sizes(stride));
                match parts {
                    (Some(offset), Some(shape), Some(stride)) if shape.len() == stride.len() => {
                        Some(TensorView {
                            storage,
                            offset,
                            shape,
                            stride,
                        })
                    }
                    _ => None,
                }
            }
            _ => None,
        };
        view.ok_or_else(|| {
            self.wrong("a tensor's storage, offset, shape and strides are not what they should be")
        })
    }

    /// Pushes the storage that a persistent id describes: ('storage', storage class, key, location,
    /// number of values).
    fn persistent(&mut self, id: Id) -> Step<()> {
        let storage = match self.sequence(id) {
            Some(&[tag, class, key, _, len]) if *self.value(tag) == Value::Str("storage") => {
                match (self.value(class), self.value(key), self.size(len)) {
                    (Value::Global(Global::Storage(dtype)), Value::Str(key), Some(len)) => {
                        Some(Storage {
                            dtype: *dtype,
                            key,
                            len,
                        })
                    }
                    _ => None,
                }
            }
            _ => None,
        };
        let storage =
            storage.ok_or_else(|| self.wrong("a reference to the archive is no storage"))?;
        self.push(Value::Storage(storage))
    }
}

#[cfg(test)]
#[path = "pickle_tests.rs"]
mod tests;
