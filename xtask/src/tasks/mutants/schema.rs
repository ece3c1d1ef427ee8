//! A source file with all its mutants in it, each behind a switch that is chosen at run time: one build for all of them.
//!
//! What a mutant changes becomes a `match` on the switch, whose first arm is what was there; the others are a mutant each,
//! of the text as it was: no two are on at once.

use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::ops::Range;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{BinOp, Expr};

/// Of a mutant, from 1: which one the switch chooses.
pub type Id = u32;

/// A mutant as `cargo mutants --list --json` names it.
#[derive(serde::Deserialize)]
pub struct Mutant {
    pub name: String,
    pub file: String,
    genre: Genre,
    span: Lines,
    replacement: String,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, serde::Deserialize)]
enum Genre {
    FnValue,
    BinaryOperator,
    UnaryOperator,
    MatchArm,
    MatchArmGuard,
    StructField,
}

#[derive(serde::Deserialize)]
struct Lines {
    start: Place,
}

/// Lines and columns count from 1.
#[derive(serde::Deserialize)]
struct Place {
    line: usize,
    column: usize,
}

/// A piece of the text that was made, and whose it is: what does not compile there is a mutant's fault.
pub struct Owned {
    pub range: Range<usize>,
    pub mutants: Vec<Id>,
}

/// The text with those of the mutants in it that a `match` can hold; the others are not in any [`Owned`].
pub fn combine(source: &str, mutants: &[(Id, &Mutant)]) -> Result<(String, Vec<Owned>)> {
    let starts: Vec<_> = [0]
        .into_iter()
        .chain(source.match_indices('\n').map(|(at, _)| at + 1))
        .collect();
    let mut wanted = BTreeMap::<_, Vec<_>>::new();
    for (id, mutant) in mutants {
        let Place { line, column } = mutant.span.start;
        let start = line.checked_sub(1).and_then(|line| starts.get(line));
        let start = *start.with_context(|| format!("no line {line} in {}", mutant.file))?;
        let before = source[start..].chars().take(column - 1);
        let at = start + before.map(char::len_utf8).sum::<usize>();
        let change = (*id, mutant.replacement.as_str());
        wanted.entry((mutant.genre, at)).or_default().push(change);
    }
    let mut finder = Finder {
        source,
        wanted,
        sites: Vec::new(),
    };
    finder.visit_file(&syn::parse_file(source)?);
    Ok(render(source, finder.sites))
}

/// Text that is put in, and the mutant whose it is.
type Piece = (String, Option<Id>);

/// What is put around a range of the source.
struct Site {
    range: Range<usize>,
    before: Vec<Piece>,
    after: Vec<Piece>,
}

fn render(source: &str, mut sites: Vec<Site>) -> (String, Vec<Owned>) {
    // Outer ones first; of those with one range, the first is the outer one.
    sites.sort_by_key(|site| (site.range.start, usize::MAX - site.range.end));
    let mut made = Made::default();
    let mut open: Vec<(Site, usize)> = Vec::new();
    let mut at = 0;
    for site in sites.into_iter().map(Some).chain([None]) {
        let until = site.as_ref().map_or(source.len(), |site| site.range.start);
        while let Some((inner, from)) = open.pop_if(|(open, _)| open.range.end <= until) {
            made.text += &source[at..inner.range.end];
            at = inner.range.end;
            made.close(inner, from);
        }
        made.text += &source[at..until];
        at = until;
        if let Some(site) = site {
            let from = made.text.len();
            made.put(&site.before);
            open.push((site, from));
        }
    }
    (made.text, made.owned)
}

#[derive(Default)]
struct Made {
    text: String,
    owned: Vec<Owned>,
}

impl Made {
    fn put(&mut self, pieces: &[Piece]) {
        for (text, mutant) in pieces {
            let from = self.text.len();
            self.text += text;
            if let Some(id) = mutant {
                let range = from..self.text.len();
                let mutants = vec![*id];
                self.owned.push(Owned { range, mutants });
            }
        }
    }

    fn close(&mut self, site: Site, from: usize) {
        self.put(&site.after);
        let all = site.before.iter().chain(&site.after);
        let mutants = all.filter_map(|(_, mutant)| *mutant).collect();
        let range = from..self.text.len();
        self.owned.push(Owned { range, mutants });
    }
}

struct Finder<'a> {
    source: &'a str,
    /// By what they change and where it starts: their replacements.
    wanted: BTreeMap<(Genre, usize), Vec<(Id, &'a str)>>,
    sites: Vec<Site>,
}

impl<'a> Finder<'a> {
    fn take(&mut self, genre: Genre, of: &impl Spanned) -> Vec<(Id, &'a str)> {
        let at = of.span().byte_range().start;
        self.wanted.remove(&(genre, at)).unwrap_or_default()
    }

    fn text(&self, of: &impl Spanned) -> &'a str {
        &self.source[of.span().byte_range()]
    }

    /// Puts `node`, and what each mutant makes of it, into a `match`.
    fn switch(&mut self, node: &impl Spanned, before: &str, arms: Vec<(Id, String)>) {
        if arms.is_empty() {
            return;
        }
        let mut after = vec![(")".to_owned(), None)];
        for (id, text) in &arms {
            after.push((format!(", {id} => ({text})"), Some(*id)));
        }
        after.push((", _ => unreachable!() })".to_owned(), None));
        let before = format!("{before}(match {} {{ 0 => (", of(&arms));
        self.sites.push(Site {
            range: node.span().byte_range(),
            before: vec![(before, None)],
            after,
        });
    }

    /// Mutants of a function's value return before its first statement.
    fn value(&mut self, block: &syn::Block) {
        let (Some(first), Some(last)) = (block.stmts.first(), block.stmts.last()) else {
            return;
        };
        let arms = self.take(Genre::FnValue, first);
        if arms.is_empty() {
            return;
        }
        let mut before = vec![(format!("match {} {{ 0 => {{}}", of(&arms)), None)];
        for (id, value) in arms {
            before.push((format!(", {id} => return {value}"), Some(id)));
        }
        before.push((", _ => unreachable!() } ".to_owned(), None));
        let range = first.span().byte_range().start..last.span().byte_range().end;
        self.sites.push(Site {
            range,
            before,
            after: Vec::new(),
        });
    }
}

/// The switch, as the mutants of one place see it.
fn of<T>(arms: &[(Id, T)]) -> String {
    let ids: Vec<_> = arms.iter().map(|(id, _)| *id).collect();
    format!("crate::mutant::of(&{ids:?})")
}

/// Whether it is a part of an `if let` chain, which stands in no other expression.
fn binds(expression: &Expr) -> bool {
    match expression {
        Expr::Let(_) => true,
        Expr::Binary(it) if matches!(it.op, BinOp::And(_)) => binds(&it.left) || binds(&it.right),
        _ => false,
    }
}

impl<'ast> Visit<'ast> for Finder<'_> {
    fn visit_item_fn(&mut self, node: &'ast syn::ItemFn) {
        self.value(&node.block);
        visit::visit_item_fn(self, node);
    }

    fn visit_impl_item_fn(&mut self, node: &'ast syn::ImplItemFn) {
        self.value(&node.block);
        visit::visit_impl_item_fn(self, node);
    }

    fn visit_trait_item_fn(&mut self, node: &'ast syn::TraitItemFn) {
        if let Some(block) = &node.default {
            self.value(block);
        }
        visit::visit_trait_item_fn(self, node);
    }

    fn visit_expr_binary(&mut self, node: &'ast syn::ExprBinary) {
        if !binds(&node.left) && !binds(&node.right) {
            let (whole, op) = (node.span().byte_range(), node.op.span().byte_range());
            let left = &self.source[whole.start..op.start];
            let right = &self.source[op.end..whole.end];
            let changes = self.take(Genre::BinaryOperator, &node.op);
            let changed = |(id, op)| (id, format!("{left}{op}{right}"));
            self.switch(node, "", changes.into_iter().map(changed).collect());
        }
        visit::visit_expr_binary(self, node);
    }

    fn visit_expr_unary(&mut self, node: &'ast syn::ExprUnary) {
        let operand = self.text(&*node.expr);
        let changes = self.take(Genre::UnaryOperator, &node.op);
        let changed = |(id, op)| (id, format!("{op}{operand}"));
        self.switch(node, "", changes.into_iter().map(changed).collect());
        visit::visit_expr_unary(self, node);
    }

    fn visit_arm(&mut self, node: &'ast syn::Arm) {
        for (id, _) in self.take(Genre::MatchArm, node) {
            let is_off = format!("{} == 0", of(&[(id, ())]));
            let (range, before, after) = match &node.guard {
                Some((_, guard)) => (guard.span(), format!("{is_off} && ("), ")".to_owned()),
                None => (node.pat.span(), String::new(), format!(" if {is_off}")),
            };
            self.sites.push(Site {
                range: range.byte_range(),
                before: vec![(before, Some(id))],
                after: vec![(after, Some(id))],
            });
        }
        if let Some((_, guard)) = &node.guard {
            let changes = self.take(Genre::MatchArmGuard, &**guard);
            let changed = |(id, value): (Id, &str)| (id, value.to_owned());
            self.switch(&**guard, "", changes.into_iter().map(changed).collect());
        }
        visit::visit_arm(self, node);
    }

    fn visit_expr_struct(&mut self, node: &'ast syn::ExprStruct) {
        if let Some(rest) = &node.rest {
            let rest = self.text(&**rest);
            for field in &node.fields {
                let changes = self.take(Genre::StructField, field);
                let name = self.text(&field.member);
                let named = match field.colon_token {
                    Some(_) => String::new(),
                    None => format!("{name}: "),
                };
                let changed = |(id, _)| (id, format!("({rest}).{name}"));
                let arms = changes.into_iter().map(changed).collect();
                self.switch(&field.expr, &named, arms);
            }
        }
        visit::visit_expr_struct(self, node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text with one mutant of each line and column, of what the text there is.
    fn combined(source: &str, mutants: &[(&str, usize, usize, &str)]) -> (String, Vec<Owned>) {
        let mutants: Vec<_> = (1..)
            .zip(mutants)
            .map(|(id, (genre, line, column, replacement))| {
                let json = serde_json::json!({
                    "name": "", "file": "a.rs", "genre": genre, "replacement": replacement,
                    "span": {"start": {"line": line, "column": column}, "end": {"line": 0, "column": 0}},
                });
                (id, serde_json::from_value(json).expect("a mutant"))
            })
            .collect();
        let mutants: Vec<(Id, &Mutant)> = mutants.iter().map(|(id, it)| (*id, it)).collect();
        let (text, owned) = combine(source, &mutants).expect("Rust");
        syn::parse_file(&text).expect("still Rust");
        (text, owned)
    }

    #[test]
    fn operators_are_within_each_other() {
        let source = "fn f() -> u8 {\n    a + !b * 2\n}\n";
        let (text, owned) = combined(
            source,
            &[
                ("BinaryOperator", 2, 7, "-"),
                ("BinaryOperator", 2, 12, "/"),
                ("UnaryOperator", 2, 9, ""),
                ("BinaryOperator", 2, 7, "|"),
            ],
        );
        let not = "(match crate::mutant::of(&[3]) { 0 => (!b), 3 => (b), _ => unreachable!() })";
        let times = format!(
            "(match crate::mutant::of(&[2]) {{ 0 => ({not} * 2), 2 => (!b / 2), _ => unreachable!() }})"
        );
        let plus = format!(
            "(match crate::mutant::of(&[1, 4]) {{ 0 => (a + {times}), 1 => (a - !b * 2), 4 => (a | !b * 2), \
             _ => unreachable!() }})"
        );
        assert_eq!(text, source.replace("a + !b * 2", &plus));
        // An error in an arm is its mutant's; one in what was there, of the innermost place.
        let whose = |of: &str| {
            let at = text.find(of).expect("in the text");
            let around = owned.iter().filter(|it| it.range.contains(&at));
            let smallest = around.min_by_key(|it| it.range.len());
            smallest.map(|it| it.mutants.clone())
        };
        assert_eq!(whose("a - !b"), Some(vec![1]));
        assert_eq!(whose("a | !b"), Some(vec![4]));
        assert_eq!(whose("a + "), Some(vec![1, 4]));
        assert_eq!(whose(" * 2), 2"), Some(vec![2]));
        assert_eq!(whose("fn"), None);
    }

    #[test]
    fn a_value_is_returned_before_the_first_statement() {
        let (text, _) = combined(
            "fn f() -> u8 {\n    a();\n    1\n}\n",
            &[("FnValue", 2, 5, "0"), ("FnValue", 2, 5, "1")],
        );
        let switch = "match crate::mutant::of(&[1, 2]) { 0 => {}, 1 => return 0, 2 => return 1, _ => unreachable!() } a();";
        assert_eq!(text, format!("fn f() -> u8 {{\n    {switch}\n    1\n}}\n"));
    }

    #[test]
    fn arms_guards_and_fields_have_their_forms() {
        let source = "fn f() {\n    match x {\n        A | B => 1,\n        C if x == y => 2,\n        _ => 3,\n    };\n    \
                      S { a, b: c + 1, ..s }\n}\n";
        let (text, _) = combined(
            source,
            &[
                ("MatchArm", 3, 9, ""),
                ("MatchArm", 4, 9, ""),
                ("MatchArmGuard", 4, 14, "true"),
                ("StructField", 7, 9, ""),
                ("StructField", 7, 12, ""),
            ],
        );
        let of = "crate::mutant::of";
        for part in [
            format!("A | B if {of}(&[1]) == 0 => 1,"),
            format!(
                "C if {of}(&[2]) == 0 && ((match {of}(&[3]) {{ 0 => (x == y), 3 => (true), _ => unreachable!() }})) => 2,"
            ),
            format!(
                "S {{ a: (match {of}(&[4]) {{ 0 => (a), 4 => ((s).a), _ => unreachable!() }}), b: (match {of}(&[5]) {{ 0 => (c + 1), \
                 5 => ((s).b), _ => unreachable!() }}), ..s }}"
            ),
        ] {
            assert!(text.contains(&part), "{part} in {text}");
        }
    }

    #[test]
    fn a_chain_with_let_has_no_place_for_a_switch() {
        let source = "fn f() {\n    if let Some(é) = g && é == 1 {}\n}\n";
        let mutants = [
            ("BinaryOperator", 2, 24, "||"),
            ("BinaryOperator", 2, 29, "!="),
        ];
        let (text, owned) = combined(source, &mutants);
        let equal =
            "(match crate::mutant::of(&[2]) { 0 => (é == 1), 2 => (é != 1), _ => unreachable!() })";
        assert_eq!(text, source.replace("é == 1", equal));
        assert!(owned.iter().all(|it| it.mutants == [2]));
    }
}
