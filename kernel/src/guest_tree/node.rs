//! A node of a device tree, and all of them as the flattened tree that a kernel reads (DTSpec 5).

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

/// A property's value (DTSpec 2.2.4).
#[derive(Clone, Copy)]
pub enum Value<'a> {
    /// As they stand.
    Bytes(&'a [u8]),
    /// Numbers of 32 bits.
    Cells(&'a [u32]),
    /// One string.
    Text(&'a str),
    /// A list of strings.
    Texts(&'a [&'a str]),
}

/// What is the value of a property as it is.
pub trait ToValue {
    /// The value.
    fn value(&self) -> Value<'_>;
}

impl ToValue for u32 {
    fn value(&self) -> Value<'_> {
        Value::Cells(core::slice::from_ref(self))
    }
}

impl<const N: usize> ToValue for [u32; N] {
    fn value(&self) -> Value<'_> {
        Value::Cells(self)
    }
}

impl ToValue for &[u32] {
    fn value(&self) -> Value<'_> {
        Value::Cells(self)
    }
}

impl ToValue for &[u8] {
    fn value(&self) -> Value<'_> {
        Value::Bytes(self)
    }
}

impl ToValue for &str {
    fn value(&self) -> Value<'_> {
        Value::Text(self)
    }
}

impl ToValue for &[&str] {
    fn value(&self) -> Value<'_> {
        Value::Texts(self)
    }
}

/// One node. Names are constants, numbers, or from a device tree: nothing checks them, and a NUL would end them.
pub struct Node(Box<Inner>);

struct Inner {
    name: String,
    properties: Vec<(String, Vec<u8>)>,
    children: Vec<Node>,
}

impl Node {
    pub fn new(name: &str) -> Self {
        Self(Box::new(Inner {
            name: name.into(),
            properties: Vec::new(),
            children: Vec::new(),
        }))
    }

    /// With one property more.
    #[inline]
    pub fn set(self, name: &str, value: impl ToValue) -> Self {
        self.with(name, value.value())
    }

    fn with(mut self, name: &str, value: Value<'_>) -> Self {
        let mut bytes = Vec::new();
        match value {
            Value::Bytes(value) => bytes.extend_from_slice(value),
            Value::Cells(value) => value.iter().for_each(|&cell| word(&mut bytes, cell)),
            Value::Text(value) => text(&mut bytes, value),
            Value::Texts(value) => value.iter().for_each(|value| text(&mut bytes, value)),
        }
        self.0.properties.push((name.into(), bytes));
        self
    }

    /// With one child more, behind those that it has.
    pub fn add(mut self, child: Node) -> Self {
        self.0.children.push(child);
        self
    }

    pub fn add_all(self, children: impl IntoIterator<Item = Node>) -> Self {
        children.into_iter().fold(self, Self::add)
    }

    /// The flattened tree with this root, of version 17: header, no reservations, structure, strings.
    pub fn flatten(&self) -> Vec<u8> {
        const HEADER: usize = 40;
        const RESERVATIONS: usize = 16;
        let mut flat = Flat::default();
        flat.node(self);
        word(&mut flat.structure, END);
        let structure = HEADER + RESERVATIONS;
        let strings = structure + flat.structure.len();
        let header = [
            0xd00d_feed,
            strings + flat.strings.len(),
            structure,
            strings,
            HEADER,
            17,
            16,
            0,
            flat.strings.len(),
            flat.structure.len(),
        ];
        let mut tree = Vec::with_capacity(strings + flat.strings.len());
        header
            .iter()
            .for_each(|&value| word(&mut tree, value as u32));
        tree.resize(structure, 0);
        tree.append(&mut flat.structure);
        tree.append(&mut flat.strings);
        tree
    }
}

// Tokens of the structure block (DTSpec 5.4.1).
const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROP: u32 = 3;
const END: u32 = 9;

#[derive(Default)]
struct Flat {
    structure: Vec<u8>,
    /// Names of properties, each once.
    strings: Vec<u8>,
}

impl Flat {
    fn node(&mut self, node: &Node) {
        let node = &node.0;
        word(&mut self.structure, BEGIN_NODE);
        text(&mut self.structure, &node.name);
        self.align();
        for (name, value) in &node.properties {
            let name = self.string(name);
            word(&mut self.structure, PROP);
            word(&mut self.structure, value.len() as u32);
            word(&mut self.structure, name);
            self.structure.extend_from_slice(value);
            self.align();
        }
        for child in &node.children {
            self.node(child);
        }
        word(&mut self.structure, END_NODE);
    }

    fn align(&mut self) {
        let len = self.structure.len().next_multiple_of(4);
        self.structure.resize(len, 0);
    }

    /// Where `name` is among the strings, if need be from now on.
    fn string(&mut self, name: &str) -> u32 {
        let mut at = 0;
        for known in self.strings.split(|&byte| byte == 0) {
            if known == name.as_bytes() {
                return at;
            }
            at += known.len() as u32 + 1;
        }
        let end = self.strings.len();
        text(&mut self.strings, name);
        end as u32
    }
}

fn word(to: &mut Vec<u8>, value: u32) {
    to.extend_from_slice(&value.to_be_bytes());
}

fn text(to: &mut Vec<u8>, value: &str) {
    to.extend_from_slice(value.as_bytes());
    to.push(0);
}
