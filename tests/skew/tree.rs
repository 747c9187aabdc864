//! Messages as trees that still know their structs: what MessagePack itself does not tell from other maps.

use std::fmt;

use serde::ser::{self, Serialize, SerializeMap as _, SerializeSeq as _, Serializer};

/// One value of a message.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Tree {
    Nil,
    Boolean(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(String),
    Bytes(Vec<u8>),
    List(Vec<Self>),
    Map(Vec<(Self, Self)>),
    /// A variant of an enum that holds something.
    Variant(&'static str, Box<Self>),
    Struct(Struct),
}

/// A struct, or a variant with fields.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Struct {
    /// `CheckIn`, or `CatalogReply.current`.
    pub(crate) name: String,
    /// Those that are there, in order.
    pub(crate) fields: Vec<(String, Tree)>,
}

/// Returns the tree of a message.
pub(crate) fn tree_of(message: &(impl Serialize + ?Sized)) -> Tree {
    message.serialize(Planter).unwrap()
}

impl Tree {
    /// Whether there is a struct anywhere in it.
    pub(crate) fn holds_struct(&self) -> bool {
        match self {
            Self::Struct(_) => true,
            Self::Variant(_, inside) => inside.holds_struct(),
            Self::List(values) => values.iter().any(Self::holds_struct),
            Self::Map(entries) => entries.iter().any(|(_, value)| value.holds_struct()),
            _ => false,
        }
    }
}

impl Serialize for Tree {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Nil => serializer.serialize_unit(),
            Self::Boolean(value) => serializer.serialize_bool(*value),
            Self::Unsigned(value) => serializer.serialize_u64(*value),
            Self::Signed(value) => serializer.serialize_i64(*value),
            Self::Float(value) => serializer.serialize_f64(*value),
            Self::Text(value) => serializer.serialize_str(value),
            Self::Bytes(value) => serializer.serialize_bytes(value),
            Self::List(values) => {
                let mut list = serializer.serialize_seq(Some(values.len()))?;
                values.iter().try_for_each(|value| list.serialize_element(value))?;
                list.end()
            }
            Self::Map(entries) => serializer.collect_map(entries.iter().map(|(key, value)| (key, value))),
            Self::Variant(name, value) => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry(name, value)?;
                map.end()
            }
            Self::Struct(Struct { fields, .. }) => serializer.collect_map(fields.iter().map(|(name, value)| (name, value))),
        }
    }
}

/// A message that has no tree.
#[derive(Debug)]
pub(crate) struct Barren(String);

impl fmt::Display for Barren {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Barren {}

impl ser::Error for Barren {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

/// Makes the tree of whatever is serialised with it.
struct Planter;

/// What is under way: values one after the other, and keys or names for them.
struct Growing {
    what: What,
    keys: Vec<Tree>,
    values: Vec<Tree>,
}

enum What {
    List,
    Map,
    Struct(String),
    /// With the variant that is around it.
    Fields(&'static str, String),
    VariantList(&'static str),
}

impl Growing {
    const fn new(what: What) -> Self {
        Self { what, keys: Vec::new(), values: Vec::new() }
    }

    fn push(&mut self, value: &(impl Serialize + ?Sized)) -> Result<(), Barren> {
        self.values.push(value.serialize(Planter)?);
        Ok(())
    }

    fn push_field(&mut self, name: &'static str, value: &(impl Serialize + ?Sized)) -> Result<(), Barren> {
        self.keys.push(Tree::Text(name.to_owned()));
        self.push(value)
    }

    fn grown(self) -> Tree {
        let fields = |name: String, keys: Vec<Tree>, values: Vec<Tree>| {
            let text = |key| if let Tree::Text(text) = key { text } else { unreachable!("fields have names") };
            Tree::Struct(Struct { name, fields: keys.into_iter().map(text).zip(values).collect() })
        };
        match self.what {
            What::List => Tree::List(self.values),
            What::Map => Tree::Map(self.keys.into_iter().zip(self.values).collect()),
            What::Struct(name) => fields(name, self.keys, self.values),
            What::Fields(variant, name) => Tree::Variant(variant, Box::new(fields(name, self.keys, self.values))),
            What::VariantList(variant) => Tree::Variant(variant, Box::new(Tree::List(self.values))),
        }
    }
}

macro_rules! leaves {
    ($($method:ident($type:ty) => $variant:ident;)*) => {
        $(fn $method(self, value: $type) -> Result<Tree, Barren> { Ok(Tree::$variant(value.into())) })*
    };
}

impl Serializer for Planter {
    type Ok = Tree;
    type Error = Barren;
    type SerializeSeq = Growing;
    type SerializeTuple = Growing;
    type SerializeTupleStruct = Growing;
    type SerializeTupleVariant = Growing;
    type SerializeMap = Growing;
    type SerializeStruct = Growing;
    type SerializeStructVariant = Growing;

    leaves! {
        serialize_bool(bool) => Boolean;
        serialize_i8(i8) => Signed;
        serialize_i16(i16) => Signed;
        serialize_i32(i32) => Signed;
        serialize_i64(i64) => Signed;
        serialize_u8(u8) => Unsigned;
        serialize_u16(u16) => Unsigned;
        serialize_u32(u32) => Unsigned;
        serialize_u64(u64) => Unsigned;
        serialize_f32(f32) => Float;
        serialize_f64(f64) => Float;
        serialize_char(char) => Text;
        serialize_str(&str) => Text;
        serialize_bytes(&[u8]) => Bytes;
    }

    // As the codec has it: what names are compact does not matter here.
    fn is_human_readable(&self) -> bool {
        false
    }

    fn serialize_none(self) -> Result<Tree, Barren> {
        Ok(Tree::Nil)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<Tree, Barren> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<Tree, Barren> {
        Ok(Tree::Nil)
    }

    fn serialize_unit_struct(self, _name: &'static str) -> Result<Tree, Barren> {
        Ok(Tree::Nil)
    }

    fn serialize_unit_variant(self, _name: &'static str, _at: u32, variant: &'static str) -> Result<Tree, Barren> {
        Ok(Tree::Text(variant.to_owned()))
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _name: &'static str, value: &T) -> Result<Tree, Barren> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        _at: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<Tree, Barren> {
        Ok(Tree::Variant(variant, Box::new(value.serialize(self)?)))
    }

    fn serialize_seq(self, _length: Option<usize>) -> Result<Growing, Barren> {
        Ok(Growing::new(What::List))
    }

    fn serialize_tuple(self, _length: usize) -> Result<Growing, Barren> {
        Ok(Growing::new(What::List))
    }

    fn serialize_tuple_struct(self, _name: &'static str, _length: usize) -> Result<Growing, Barren> {
        Ok(Growing::new(What::List))
    }

    fn serialize_tuple_variant(self, _: &'static str, _: u32, variant: &'static str, _: usize) -> Result<Growing, Barren> {
        Ok(Growing::new(What::VariantList(variant)))
    }

    fn serialize_map(self, _length: Option<usize>) -> Result<Growing, Barren> {
        Ok(Growing::new(What::Map))
    }

    fn serialize_struct(self, name: &'static str, _length: usize) -> Result<Growing, Barren> {
        Ok(Growing::new(What::Struct(name.to_owned())))
    }

    fn serialize_struct_variant(self, name: &'static str, _: u32, variant: &'static str, _: usize) -> Result<Growing, Barren> {
        Ok(Growing::new(What::Fields(variant, format!("{name}.{variant}"))))
    }
}

macro_rules! growing {
    ($($trait:ident :: $method:ident,)*) => {
        $(impl ser::$trait for Growing {
            type Ok = Tree;
            type Error = Barren;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Barren> {
                self.push(value)
            }

            fn end(self) -> Result<Tree, Barren> {
                Ok(self.grown())
            }
        })*
    };
}

growing! {
    SerializeSeq::serialize_element,
    SerializeTuple::serialize_element,
    SerializeTupleStruct::serialize_field,
    SerializeTupleVariant::serialize_field,
}

macro_rules! growing_fields {
    ($($trait:ident,)*) => {
        $(impl ser::$trait for Growing {
            type Ok = Tree;
            type Error = Barren;

            fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), Barren> {
                self.push_field(name, value)
            }

            fn end(self) -> Result<Tree, Barren> {
                Ok(self.grown())
            }
        })*
    };
}

growing_fields! { SerializeStruct, SerializeStructVariant, }

impl ser::SerializeMap for Growing {
    type Ok = Tree;
    type Error = Barren;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Barren> {
        self.keys.push(key.serialize(Planter)?);
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Barren> {
        self.push(value)
    }

    fn end(self) -> Result<Tree, Barren> {
        Ok(self.grown())
    }
}
