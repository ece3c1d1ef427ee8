//! How a finding in a configuration is shown: file, line and column, the text underlined, the other place, a hint.

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use std::ops::Range;

/// Something wrong with a configuration, at bytes of its text.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Finding {
    /// What is wrong, in one line.
    pub message: String,
    /// Where.
    pub span: Range<usize>,
    /// What stands beside the underlined text.
    pub label: String,
    /// The other place, where two collide, and what stands beside it.
    pub other: Option<(Range<usize>, String)>,
    /// What to do.
    pub help: Option<String>,
}

/// All that is wrong with one file.
#[derive(Clone, Debug)]
pub struct Report {
    /// Name of the file, as shown.
    pub path: String,
    /// Its text.
    pub text: String,
    /// What was found, by place.
    pub findings: Vec<Finding>,
}

impl Report {
    /// The findings as text, with colours if asked for. Empty without findings.
    pub fn render(&self, colour: bool) -> String {
        let renderer = match colour {
            true => Renderer::styled(),
            false => Renderer::plain(),
        };
        let mut out = String::new();
        for finding in &self.findings {
            out += &renderer.render(&[self.group(finding)]);
            out += "\n\n";
        }
        out
    }

    fn group<'a>(&'a self, finding: &'a Finding) -> Group<'a> {
        let mark = |kind: AnnotationKind, span: &Range<usize>, label: &'a str| {
            let annotation = kind.span(self.visible(span));
            match label {
                "" => annotation,
                label => annotation.label(label),
            }
        };
        let mut snippet = Snippet::source(&self.text)
            .path(&self.path)
            .annotation(mark(AnnotationKind::Primary, &finding.span, &finding.label));
        if let Some((span, label)) = &finding.other {
            snippet = snippet.annotation(mark(AnnotationKind::Context, span, label));
        }
        let group = Level::ERROR
            .primary_title(&finding.message)
            .element(snippet);
        match &finding.help {
            Some(help) => group.element(Level::HELP.message(help)),
            None => group,
        }
    }

    /// A span of whole characters within the text, cut to its first line: tables span many.
    fn visible(&self, span: &Range<usize>) -> Range<usize> {
        let start = floor(&self.text, span.start.min(self.text.len()));
        let end = floor(&self.text, span.end.min(self.text.len())).max(start);
        let line = self.text[start..end].lines().next().unwrap_or_default();
        start..start + line.trim_end().len()
    }

    /// Line and column of a byte, both from 1.
    #[cfg(test)]
    pub fn position(&self, at: usize) -> (usize, usize) {
        let before = &self.text[..at.min(self.text.len())];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = before.matches('\n').count() + 1;
        (line, before[line_start..].chars().count() + 1)
    }
}

fn floor(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}
