//! Writes a file that `torch.load(weights_only=True)` reads: a dictionary with a text and
//! dictionaries of tensors.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use zip::ZipWriter;

use super::ExportError;
use super::npz::{failed, start_file};
use crate::output::OutputDtype;

/// A tensor: its shape, and its values as they are stored.
pub(super) struct Tensor<'a> {
    pub shape: Vec<u64>,
    pub values: &'a [u8],
}

/// A value of the outer dictionary.
pub(super) enum Value<'a> {
    Text(&'a str),
    /// Tensors by layer.
    Layers(BTreeMap<usize, Tensor<'a>>),
}

/// Writes the dictionary to a file. The file is not synced.
pub(super) fn write(
    path: &Path,
    file: File,
    dtype: OutputDtype,
    entries: &[(&str, Value<'_>)],
) -> Result<(), ExportError> {
    let mut zip = ZipWriter::new(BufWriter::new(file));
    let mut add = |name: &str, bytes: &[u8]| {
        start_file(
            &mut zip,
            path,
            &format!("archive/{name}"),
            bytes.len() as u64,
        )?;
        zip.write_all(bytes)
            .map_err(|e| ExportError::write(path, e))
    };
    let mut pickle = Pickle::new(dtype);
    pickle.dictionary(entries);
    add("data.pkl", &pickle.bytes)?;
    add("byteorder", b"little")?;
    for (number, values) in pickle.storages.iter().enumerate() {
        add(&format!("data/{number}"), values)?;
    }
    add("version", b"3\n")?;
    let mut file = zip.finish().map_err(|e| failed(path, e))?;
    file.flush().map_err(|e| ExportError::write(path, e))
}

/// A pickle of protocol 2. It names three callables, all of which `weights_only` allows.
struct Pickle<'a> {
    bytes: Vec<u8>,
    dtype: OutputDtype,
    storages: Vec<&'a [u8]>,
}

impl<'a> Pickle<'a> {
    fn new(dtype: OutputDtype) -> Self {
        Self {
            bytes: vec![0x80, 2],
            dtype,
            storages: Vec::new(),
        }
    }

    fn dictionary(&mut self, entries: &[(&str, Value<'a>)]) {
        self.bytes.extend(b"}(");
        for (name, value) in entries {
            self.text(name);
            match value {
                Value::Text(text) => self.text(text),
                Value::Layers(layers) => {
                    self.bytes.extend(b"}(");
                    for (layer, tensor) in layers {
                        self.integer(*layer as u64);
                        self.tensor(tensor);
                    }
                    self.bytes.push(b'u');
                }
            }
        }
        self.bytes.extend(b"u.");
    }

    fn text(&mut self, text: &str) {
        self.bytes.push(b'X');
        // A name is a line of at most 2 GiB.
        self.bytes.extend((text.len() as u32).to_le_bytes());
        self.bytes.extend(text.as_bytes());
    }

    fn integer(&mut self, n: u64) {
        match u32::try_from(n) {
            Ok(n) if n < 256 => self.bytes.extend([b'K', n as u8]),
            Ok(n) if n <= i32::MAX as u32 => {
                self.bytes.push(b'J');
                self.bytes.extend(n.to_le_bytes());
            }
            _ => {
                // Nine bytes, since the last bit would be the sign.
                self.bytes.extend([0x8a, 9]);
                self.bytes.extend(n.to_le_bytes());
                self.bytes.push(0);
            }
        }
    }

    fn global(&mut self, module: &str, name: &str) {
        self.bytes.extend(format!("c{module}\n{name}\n").bytes());
    }

    /// `torch._utils._rebuild_tensor_v2(storage, 0, shape, strides, False, OrderedDict())`.
    fn tensor(&mut self, tensor: &Tensor<'a>) {
        let number = self.storages.len();
        self.storages.push(tensor.values);
        self.global("torch._utils", "_rebuild_tensor_v2");
        self.bytes.extend(b"((");
        self.text("storage");
        self.global(
            "torch",
            match self.dtype {
                OutputDtype::F32 => "FloatStorage",
                OutputDtype::F16 => "HalfStorage",
            },
        );
        self.text(&number.to_string());
        self.text("cpu");
        self.integer((tensor.values.len() / self.dtype.size()) as u64);
        self.bytes.extend(b"tQ");
        self.integer(0);
        self.bytes.push(b'(');
        tensor.shape.iter().for_each(|n| self.integer(*n));
        self.bytes.extend(b"t(");
        let strides = (1..=tensor.shape.len()).map(|i| tensor.shape[i..].iter().product());
        strides.for_each(|n| self.integer(n));
        self.bytes.extend(b"t\x89");
        self.global("collections", "OrderedDict");
        self.bytes.extend(b")RtR");
    }
}
