//! The values a checkpoint's pickle makes, and the names it may use.

use super::super::stored::StoredDType;
use crate::dtype::DType;

/// A value's number in the arena.
pub type Id = u32;

/// A value, its strings borrowed from the pickle.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(&'a str),
    /// Something of which only the presence matters: bytes, sets, huge integers.
    Opaque,
    /// Tuples and lists.
    Sequence(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Global(Global),
    /// An instance of an opaque class, with the state it was given.
    Object(Option<Id>),
    Storage(Storage<'a>),
    Tensor(TensorView),
}

/// A class or function that a pickle may name.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Global {
    RebuildTensor,
    RebuildParameter,
    /// OrderedDict and the like.
    Dict,
    Storage(StoredDType),
    /// Data kept without being looked at.
    Opaque,
}

/// A run of values in an archive entry of its own.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Storage<'a> {
    pub dtype: StoredDType,
    /// The entry's name is `data/{key}`.
    pub key: &'a str,
    /// Number of values.
    pub len: usize,
}

/// A view of a storage.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorView {
    pub storage: Id,
    pub offset: usize,
    pub shape: Vec<usize>,
    pub stride: Vec<usize>,
}

/// The globals a checkpoint may name.
pub fn global(module: &str, name: &str) -> Option<Global> {
    let other = |name, size| Some(Global::Storage(StoredDType::Other(name, Some(size))));
    match (module, name) {
        ("torch._utils", "_rebuild_tensor_v2" | "_rebuild_tensor") => Some(Global::RebuildTensor),
        ("torch._utils", "_rebuild_parameter") => Some(Global::RebuildParameter),
        ("collections", "OrderedDict" | "defaultdict") => Some(Global::Dict),
        ("torch", "FloatStorage") => Some(Global::Storage(StoredDType::Float(DType::F32))),
        ("torch", "HalfStorage") => Some(Global::Storage(StoredDType::Float(DType::F16))),
        ("torch", "BFloat16Storage") => Some(Global::Storage(StoredDType::Float(DType::Bf16))),
        ("torch", "DoubleStorage") => other("f64", 8),
        ("torch", "LongStorage") => other("i64", 8),
        ("torch", "IntStorage") => other("i32", 4),
        ("torch", "ShortStorage") => other("i16", 2),
        ("torch", "CharStorage") => other("i8", 1),
        ("torch", "ByteStorage") => other("u8", 1),
        ("torch", "BoolStorage") => other("bool", 1),
        ("torch", "ComplexFloatStorage") => other("complex64", 8),
        ("argparse", "Namespace")
        | ("torch", "Size" | "device" | "float32" | "float16" | "bfloat16")
        | ("typing", "Any" | "Union")
        | ("_codecs", "encode")
        | ("builtins" | "__builtin__", "set" | "frozenset" | "dict" | "list" | "tuple")
        | ("builtins" | "__builtin__", "str" | "int" | "float" | "bool" | "bytes") => {
            Some(Global::Opaque)
        }
        // The settings of a training run, as fairseq stores them: plain data holders.
        ("omegaconf.dictconfig", "DictConfig")
        | ("omegaconf.listconfig", "ListConfig")
        | ("omegaconf.base", "ContainerMetadata" | "Metadata")
        | (
            "omegaconf.nodes",
            "AnyNode" | "StringNode" | "IntegerNode" | "FloatNode" | "BooleanNode",
        ) => Some(Global::Opaque),
        _ => None,
    }
}
