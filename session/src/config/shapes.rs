//! Values that a file may write in more than one way. Each reads itself without buffering, so that an error keeps its line.

use std::{borrow::Cow, fmt, marker::PhantomData};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer,
    de::{Error, IgnoredAny, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};

/// `true`, a word, or the whole section.
#[derive(Clone, Debug)]
pub enum Shorthand<T> {
    /// On or off.
    Switch(bool),
    /// One word, e.g. `steal`.
    Word(String),
    /// The section.
    Section(Box<T>),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Shorthand<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Reader<T> {
            type Value = Shorthand<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, false, a word or an object")
            }
            fn visit_bool<E: Error>(self, on: bool) -> Result<Self::Value, E> {
                Ok(Shorthand::Switch(on))
            }
            fn visit_str<E: Error>(self, word: &str) -> Result<Self::Value, E> {
                Ok(Shorthand::Word(word.to_owned()))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
                    .map(|section| Shorthand::Section(Box::new(section)))
            }
        }
        deserializer.deserialize_any(Reader(PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for Shorthand<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("{}OrShorthand", T::schema_name()).into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let section = generator.subschema_for::<T>();
        json_schema!({ "anyOf": [{ "type": "boolean" }, { "type": "string" }, section] })
    }
}

/// A list of texts or one text; with `SPLIT` the one text may hold several with `;` between them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct List<const SPLIT: bool>(pub Vec<String>);

impl<'de, const SPLIT: bool> Deserialize<'de> for List<SPLIT> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader<const SPLIT: bool>;
        impl<'de, const SPLIT: bool> Visitor<'de> for Reader<SPLIT> {
            type Value = List<SPLIT>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a list of texts")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                if !SPLIT {
                    return Ok(List(vec![text.to_owned()]));
                }
                Ok(List(
                    text.split(';')
                        .map(str::trim)
                        .filter(|entry| !entry.is_empty())
                        .map(str::to_owned)
                        .collect(),
                ))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = list.next_element()? {
                    entries.push(entry);
                }
                Ok(List(entries))
            }
        }
        deserializer.deserialize_any(Reader::<SPLIT>)
    }
}

impl<const SPLIT: bool> JsonSchema for List<SPLIT> {
    fn schema_name() -> Cow<'static, str> {
        if SPLIT { "Names".into() } else { "Patterns".into() }
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "type": "array", "items": { "type": "string" } }, { "type": "string" }] })
    }
}

/// A key of mirrord that has no effect here: any value, only its presence is kept.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Unsupported {
    pub(super) present: bool,
}

impl<'de> Deserialize<'de> for Unsupported {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Self { present: true })
    }
}

/// The JSON schema of `T`, as editors and `mirrord-tui schema` take it.
#[must_use]
pub fn schema_of<T: JsonSchema>() -> serde_json::Value {
    SchemaGenerator::default().into_root_schema_for::<T>().to_value()
}
