use super::super::value::{Global, Globals, Value};
use super::Pickle;

fn refusal(bytes: &[u8]) -> String {
    Pickle::read(bytes).unwrap_err().what
}

#[test]
fn numbers_strings_and_containers() {
    // {'a': (1, -2, True), 'b': [0.5, None]} in protocol 2
    let bytes = b"\x80\x02}(X\x01\x00\x00\x00aK\x01J\xfe\xff\xff\xff\x88\x87X\x01\x00\x00\x00b](G\x3f\xe0\0\0\0\0\0\0Neu.";
    let pickle = Pickle::read(bytes).unwrap();
    let a = pickle.entry(pickle.root(), "a").unwrap();
    let Value::Sequence(items) = pickle.get(a) else {
        panic!("{:?}", pickle.get(a))
    };
    let items: Vec<&Value> = items.iter().map(|i| pickle.get(*i)).collect();
    assert_eq!(items, [&Value::Int(1), &Value::Int(-2), &Value::Bool(true)]);
    let b = pickle.entry(pickle.root(), "b").unwrap();
    let Value::Sequence(items) = pickle.get(b) else {
        panic!("{:?}", pickle.get(b))
    };
    assert_eq!(*pickle.get(items[0]), Value::Float(0.5));
    assert_eq!(pickle.entry(pickle.root(), "c"), None);
}

#[test]
fn long_integers_are_twos_complement() {
    let number = |bytes: &'static [u8]| {
        let pickle = Pickle::read(bytes).unwrap();
        pickle.get(pickle.root()).clone()
    };
    assert_eq!(number(b"\x8a\x02\xff\xff."), Value::Int(-1));
    assert_eq!(number(b"\x8a\x00."), Value::Int(0));
    assert_eq!(number(b"\x8a\x03\xff\xff\x00."), Value::Int(65535));
    assert_eq!(
        number(b"\x8a\x09\xff\xff\xff\xff\xff\xff\xff\xff\x00."),
        Value::Opaque
    );
}

#[test]
fn a_namespace_is_data() {
    // argparse.Namespace(x=3)
    let bytes = b"\x80\x02cargparse\nNamespace\n)\x81}X\x01\x00\x00\x00xK\x03sb.";
    let pickle = Pickle::read(bytes).unwrap();
    assert_eq!(
        *pickle.get(pickle.entry(pickle.root(), "x").unwrap()),
        Value::Int(3)
    );
}

#[test]
fn code_is_refused_by_name() {
    let message = refusal(b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.");
    assert!(
        message.contains("os.system") && message.contains("byte 2"),
        "{message}"
    );
    // The same call, whose function STACK_GLOBAL names.
    let message = refusal(b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.");
    assert!(message.contains("posix.system"), "{message}");
    for (module, name) in [
        ("builtins", "eval"),
        ("builtins", "getattr"),
        ("torch", "load"),
        ("os", "Namespace"),
    ] {
        let message = refusal(format!("c{module}\n{name}\n.").as_bytes());
        assert!(message.contains(&format!("{module}.{name}")), "{message}");
    }
}

#[test]
fn names_that_may_stand_are_never_called() {
    let pickle =
        Pickle::read(b"c_codecs\nencode\nX\x01\x00\x00\x00aX\x06\x00\x00\x00latin1\x86R.").unwrap();
    assert_eq!(*pickle.get(pickle.root()), Value::Object(None));
    assert!(matches!(
        super::global("torch", "FloatStorage", Globals::Model),
        Some(Global::Storage(_))
    ));
}

#[test]
fn malformed_programs_are_refused() {
    for bytes in [
        &b""[..],
        b".",
        b"(.",
        b"(0.",
        b"u.",
        b"N",
        b"Na.",
        b"NNs.",
        b"}(Nu.",
        b"h\x05.",
        b"q\x05.",
        b"\x80\x09N.",
        b"\xffN.",
        b"X\xff\xff\xff\xffa.",
        b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffa.",
        b"X\x01\x00\x00\x00\xff.",
        b"NR.",
        b"NNR.",
        b"NQ.",
        b"NNb.",
        b"cargparse\nNamespace",
        b"ctorch._utils\n_rebuild_tensor_v2\n)R.",
        b"ctorch._utils\n_rebuild_parameter\nN\x85R.",
        b"ctorch\nFloatStorage\n)R.",
    ] {
        assert!(Pickle::read(bytes).is_err(), "{}", bytes.escape_ascii());
    }
}

#[test]
fn nesting_and_cycles_are_harmless() {
    let mut deep = vec![b')'];
    deep.resize(1_000_000, 0x85);
    deep.push(b'.');
    assert!(Pickle::read(&deep).is_ok());
    // A list that contains itself.
    let pickle = Pickle::read(b"]q\x00h\x00a.").unwrap();
    assert_eq!(
        *pickle.get(pickle.root()),
        Value::Sequence(vec![pickle.root()])
    );
}

#[test]
fn memory_is_bounded() {
    let mut many = vec![b'N'; 3_000_000];
    many.push(b'.');
    let message = refusal(&many);
    assert!(
        message.contains("at its byte 1048576, it goes on after 1048576 instructions"),
        "{message}"
    );
}
