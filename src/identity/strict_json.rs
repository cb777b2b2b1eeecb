//! JSON in which every member of an object has a name of its own. Parsers that disagree about
//! which of two equal members counts can be played against each other (SPIFFE Trust Domain
//! and Bundle §6.3, RFC 7515 §4, RFC 7519 §4), so a second one is an error here.

use std::{cell::Cell, fmt};

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Why a text is not such JSON.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum JsonError {
    /// Not JSON, or nested deeper than 128 levels.
    Syntax(String),
    /// Two members of one object with this name.
    Duplicate(String),
    /// More values than anybody needs.
    TooManyValues,
}

/// Most values in one text, so that small text cannot become a large tree.
const MAX_VALUES: usize = 65_536;

/// Reads one JSON value and nothing after it.
pub(super) fn parse(text: &[u8]) -> Result<Value, JsonError> {
    let found = Observed::default();
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let value = Strict(&found).deserialize(&mut deserializer);
    match value.and_then(|value| deserializer.end().map(|()| value)) {
        Ok(value) => Ok(value),
        Err(_) if found.values.get() > MAX_VALUES => Err(JsonError::TooManyValues),
        Err(error) => Err(match found.duplicate.take() {
            Some(name) => JsonError::Duplicate(name),
            None => JsonError::Syntax(error.to_string()),
        }),
    }
}

/// What the visitor has to say apart from a text.
#[derive(Default)]
struct Observed {
    values: Cell<usize>,
    duplicate: Cell<Option<String>>,
}

#[derive(Clone, Copy)]
struct Strict<'a>(&'a Observed);

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.0.values.set(self.0.values.get() + 1);
        if self.0.values.get() > MAX_VALUES {
            return Err(D::Error::custom("too many values"));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON without duplicate members")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
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

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = seq.next_element_seed(self)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            if members.contains_key(&name) {
                self.0.duplicate.set(Some(name.chars().take(64).collect()));
                return Err(A::Error::custom("duplicate member"));
            }
            let value = map.next_value_seed(self)?;
            members.insert(name, value);
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_member_of_a_name_is_an_error_at_any_depth() {
        for text in [r#"{"a":1,"a":1}"#, r#"[{"b":{"a":1,"a":2}}]"#, r#"{"a":1,"\u0061":2}"#] {
            assert_eq!(parse(text.as_bytes()), Err(JsonError::Duplicate("a".into())), "{text}");
        }
        let value = parse(br#"{"a":{"a":[1,-1,1.5,"x",null,true]},"b":{"a":1}}"#).unwrap();
        assert_eq!(value["a"]["a"].as_array().unwrap().len(), 6);
    }

    #[test]
    fn what_is_not_one_bounded_value_is_an_error() {
        let deep = "[".repeat(10_000);
        for text in ["", "{", "{}x", "\u{feff}{}", "nan", r#""\ud800""#, &deep] {
            assert!(matches!(parse(text.as_bytes()), Err(JsonError::Syntax(_))), "{text:.20}");
        }
        assert!(matches!(parse(b"\"\xff\""), Err(JsonError::Syntax(_))));
        let wide = format!("[{}0]", "0,".repeat(MAX_VALUES));
        assert_eq!(parse(wide.as_bytes()), Err(JsonError::TooManyValues));
    }
}
