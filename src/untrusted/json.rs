//! Parses JSON with a bound on the number of its values, and refuses repeated keys.
//!
//! A value of two bytes in a file takes some hundred bytes in memory, so a bound on the file's
//! length alone bounds little. If an object has a key twice, some parsers take the first value and
//! others the last, and a file must not mean one thing here and another thing elsewhere.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::Shown;

/// Reads one JSON value. It may consist of at most `most` values, counting itself and all values
/// inside it.
///
/// # Errors
/// Fails if the bytes are not JSON, if an object has a key twice, or if there are more values.
pub fn value(bytes: &[u8], most: usize) -> Result<Value, serde_json::Error> {
    let left = Cell::new(most);
    let bounded = Bounded { left: &left };
    whole(bytes, bounded)
}

/// Reads one JSON object and keeps only the keys in `known`; other keys are skipped without being
/// stored. The kept part may consist of at most `most` values.
///
/// # Errors
/// Fails as [`value`] does, and if the JSON value is not an object.
pub fn object(
    bytes: &[u8],
    known: &[&str],
    most: usize,
) -> Result<Map<String, Value>, serde_json::Error> {
    let left = Cell::new(most);
    whole(bytes, Known { known, left: &left })
}

fn whole<'de, S: DeserializeSeed<'de>>(
    bytes: &'de [u8],
    seed: S,
) -> Result<S::Value, serde_json::Error> {
    let mut parser = serde_json::Deserializer::from_slice(bytes);
    let value = seed.deserialize(&mut parser)?;
    parser.end()?;
    Ok(value)
}

/// Reads a value, and counts how many more values there may be.
#[derive(Clone, Copy)]
struct Bounded<'a> {
    left: &'a Cell<usize>,
}

impl<'de> DeserializeSeed<'de> for Bounded<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        match self.left.get().checked_sub(1) {
            Some(left) => self.left.set(left),
            None => return Err(D::Error::custom("there are more values than can be needed")),
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Bounded<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = sequence.next_element_seed(self)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            once(&object, &key)?;
            let value = map.next_value_seed(self)?;
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

fn once<E: Error>(object: &Map<String, Value>, key: &str) -> Result<(), E> {
    match object.contains_key(key) {
        true => Err(E::custom(format!(
            "the key \"{}\" stands twice",
            Shown(key)
        ))),
        false => Ok(()),
    }
}

/// Reads an object and keeps some of its keys.
struct Known<'a> {
    known: &'a [&'a str],
    left: &'a Cell<usize>,
}

impl<'de> DeserializeSeed<'de> for Known<'_> {
    type Value = Map<String, Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Known<'_> {
    type Value = Map<String, Value>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            if self.known.contains(&key.as_str()) {
                once(&object, &key)?;
                let value = map.next_value_seed(Bounded { left: self.left })?;
                object.insert(key, value);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_of_the_crate() {
        for text in [
            "null",
            r#"{"b": [1, -2, 1.5e3, true, "\u00e9", {}], "a": {"x": null}}"#,
            "18446744073709551615",
            r#""text""#,
            " [ ] ",
        ] {
            let expected: Value = serde_json::from_str(text).unwrap();
            assert_eq!(value(text.as_bytes(), 100).unwrap(), expected);
        }
        for text in ["", "{", "[1,]", "1 2", r#"{"a" 1}"#, "nul"] {
            assert!(value(text.as_bytes(), 100).is_err(), "{text}");
        }
        let deep = "[".repeat(100_000);
        assert!(value(deep.as_bytes(), 1 << 20).is_err());
    }

    #[test]
    fn values_are_counted() {
        let five = br#"{"a": [1, 2], "b": 3}"#;
        assert!(value(five, 5).is_ok());
        let message = value(five, 4).unwrap_err().to_string();
        assert!(
            message.contains("more values") && message.contains("line 1 column"),
            "{message}"
        );
        let many = format!("[{}0]", "0,".repeat(1 << 20));
        assert!(value(many.as_bytes(), 1 << 20).is_err());
    }

    #[test]
    fn no_key_stands_twice() {
        for text in [r#"{"a": 1, "a": 1}"#, r#"[{"x": {"a": 1, "\u0061": 2}}]"#] {
            let message = value(text.as_bytes(), 100).unwrap_err().to_string();
            assert!(
                message.contains("\"a\" stands twice") && message.contains("line 1"),
                "{message}"
            );
        }
    }

    #[test]
    fn unknown_keys_are_skipped_and_not_counted() {
        let text = format!(
            r#"{{"x": [{}0], "size": 7, "x": {{"":0,"":0}}}}"#,
            "{},".repeat(1000)
        );
        let kept = object(text.as_bytes(), &["size", "other"], 1).unwrap();
        assert_eq!(Value::Object(kept), serde_json::json!({"size": 7}));
        for text in [r#"{"size": 7, "size": 7}"#, "[]", "{", r#"{"size": 1} 2"#] {
            assert!(object(text.as_bytes(), &["size"], 100).is_err(), "{text}");
        }
    }
}
