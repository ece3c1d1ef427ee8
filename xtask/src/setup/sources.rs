//! The machine's own package sources, read so that another suite can be had from the same place.
//! Both forms of sources.list(5): one line (`.list`) and deb822 (`.sources`). No mirror is named anywhere.

use std::fs;
use std::path::Path;

/// Where the machine gets Debian from, and how it trusts it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Source {
    /// `http://.../debian`, `mirror+file:...` and the like.
    pub uris: Vec<String>,
    suites: Vec<String>,
    components: Vec<String>,
    /// Path of the keyring that the machine names for it.
    pub signed_by: Option<String>,
    /// The machine trusts it unsigned.
    pub trusted: bool,
}

/// Suites that only Debian's main archive has.
const SUITES: &[&str] = &[
    "bookworm",
    "trixie",
    "forky",
    "oldstable",
    "stable",
    "testing",
    "unstable",
    "sid",
];

impl Source {
    /// A third party may name its suite `bookworm` as well; its key is another one.
    fn is_debian(&self) -> bool {
        let ours = self
            .signed_by
            .as_deref()
            .is_none_or(|key| key.contains("debian-archive"));
        ours && !self.uris.is_empty()
            && self.components.iter().any(|name| name == "main")
            && self
                .suites
                .iter()
                .any(|name| SUITES.contains(&name.as_str()))
    }

    /// The same place with other suites, as lines of a sources.list.
    /// `keyring` is used where the machine names none.
    pub fn lines(&self, suites: &[&str], keyring: Option<&str>) -> String {
        let mut options = Vec::new();
        if let Some(key) = self.signed_by.as_deref().or(keyring) {
            options.push(format!("signed-by={key}"));
        }
        if self.trusted {
            options.push("trusted=yes".into());
        }
        let options = match options.is_empty() {
            true => String::new(),
            false => format!("[{}] ", options.join(" ")),
        };
        let mut text = String::new();
        for uri in &self.uris {
            for suite in suites {
                text += &format!("deb {options}{uri} {suite} main\n");
            }
        }
        text
    }
}

/// The machine's source of Debian's main archive, if it has one. `etc` is `/etc/apt`.
pub fn find(etc: &Path) -> Option<Source> {
    let mut files = vec![etc.join("sources.list")];
    if let Ok(entries) = fs::read_dir(etc.join("sources.list.d")) {
        let mut more: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        more.sort();
        files.append(&mut more);
    }
    let sources = files.iter().flat_map(|path| {
        let text = fs::read_to_string(path).unwrap_or_default();
        match path.extension().and_then(|end| end.to_str()) {
            Some("list") => one_line(&text),
            Some("sources") => deb822(&text),
            _ => Vec::new(),
        }
    });
    let mut debian: Vec<_> = sources.filter(Source::is_debian).collect();
    // One that names the archive's key is surely Debian's.
    debian.sort_by_key(|source| source.signed_by.is_none());
    debian.into_iter().next()
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn one_line(text: &str) -> Vec<Source> {
    let mut found = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let Some(rest) = line.strip_prefix("deb ") else {
            continue;
        };
        let rest = rest.trim_start();
        let (options, rest) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some(both) => both,
            None => ("", rest),
        };
        let rest = words(rest);
        let [uri, suite, components @ ..] = rest.as_slice() else {
            continue;
        };
        let option = |name: &str| {
            options
                .split_whitespace()
                .filter_map(|option| option.split_once('='))
                .find(|(key, _)| key.eq_ignore_ascii_case(name))
                .map(|(_, value)| value.to_owned())
        };
        found.push(Source {
            uris: vec![uri.clone()],
            suites: vec![suite.clone()],
            components: components.to_vec(),
            signed_by: option("signed-by"),
            trusted: option("trusted").as_deref() == Some("yes"),
        });
    }
    found
}

fn deb822(text: &str) -> Vec<Source> {
    let mut found = Vec::new();
    let text = text.replace("\r\n", "\n");
    for stanza in stanzas(&text) {
        let field = |name: &str| {
            stanza
                .iter()
                .find(|(key, _)| key.eq_ignore_ascii_case(name))
                .map(|(_, value)| value.as_str())
        };
        let deb =
            field("Types").is_some_and(|types| types.split_whitespace().any(|kind| kind == "deb"));
        if !deb || field("Enabled").is_some_and(|value| value.trim().eq_ignore_ascii_case("no")) {
            continue;
        }
        found.push(Source {
            uris: words(field("URIs").unwrap_or_default()),
            suites: words(field("Suites").unwrap_or_default()),
            components: words(field("Components").unwrap_or_default()),
            // An embedded key is not a path; then the machine's own keyring decides.
            signed_by: field("Signed-By")
                .map(str::trim)
                .filter(|key| key.starts_with('/') && !key.contains(char::is_whitespace))
                .map(str::to_owned),
            trusted: field("Trusted").is_some_and(|value| value.trim().eq_ignore_ascii_case("yes")),
        });
    }
    found
}

fn stanzas(text: &str) -> Vec<Vec<(String, String)>> {
    let mut all = vec![Vec::<(String, String)>::new()];
    for line in text.lines() {
        if line.starts_with('#') {
            continue;
        }
        if line.trim().is_empty() {
            all.push(Vec::new());
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = all.last_mut().and_then(|stanza| stanza.last_mut()) {
                value.push(' ');
                value.push_str(line.trim());
            }
        } else if let (Some((key, value)), Some(stanza)) = (line.split_once(':'), all.last_mut()) {
            stanza.push((key.trim().to_owned(), value.trim().to_owned()));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

    fn machine(files: &[(&str, &str)]) -> Option<Source> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir(dir.path().join("sources.list.d")).expect("a folder");
        for (name, text) in files {
            fs::write(dir.path().join(name), text).expect("a file");
        }
        find(dir.path())
    }

    #[test]
    fn deb822_source_is_found_and_derived() {
        let text = "# comment\nTypes: deb\n# inside\nURIs: http://a.example/debian\nSuites: bookworm bookworm-updates\n\
                    Components: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n";
        let source = machine(&[("sources.list.d/debian.sources", text)]).expect("found");
        assert_eq!(
            source.lines(&["trixie", "trixie-backports"], None),
            format!(
                "deb [signed-by={KEY}] http://a.example/debian trixie main\n\
                 deb [signed-by={KEY}] http://a.example/debian trixie-backports main\n"
            )
        );
    }

    #[test]
    fn one_line_source_is_found_and_takes_the_keyring_of_the_machine() {
        let text = "deb http://b.example/debian/ trixie main contrib # note\ndeb-src http://c.example/debian trixie main\n";
        let source = machine(&[("sources.list", text)]).expect("found");
        assert_eq!(
            source.lines(&["trixie"], Some(KEY)),
            format!("deb [signed-by={KEY}] http://b.example/debian/ trixie main\n")
        );
    }

    #[test]
    fn options_of_a_line_are_kept() {
        let text = "deb [ arch=amd64 trusted=yes ] http://d.example/debian stable main\n";
        let source = machine(&[("sources.list", text)]).expect("found");
        assert_eq!(
            source.lines(&["trixie"], None),
            "deb [trusted=yes] http://d.example/debian trixie main\n"
        );
    }

    #[test]
    fn third_parties_security_and_disabled_sources_are_passed_over() {
        let third = "deb [signed-by=/etc/apt/keyrings/vendor.gpg] https://vendor.example bookworm main\n\
                     deb https://sdk.example/apt sdk-bookworm main\n\
                     deb http://security.example/debian-security bookworm-security main\n";
        let off = "Enabled: no\nTypes: deb\nURIs: http://a.example/debian\nSuites: bookworm\nComponents: main\n";
        let source_only =
            "Types: deb-src\nURIs: http://a.example/debian\nSuites: bookworm\nComponents: main\n";
        assert_eq!(
            machine(&[
                ("sources.list", third),
                ("sources.list.d/off.sources", off),
                ("sources.list.d/src.sources", source_only)
            ]),
            None
        );
    }

    #[test]
    fn source_with_the_archive_key_comes_first() {
        let plain = "deb http://plain.example/debian bookworm main\n";
        let keyed = "Types: deb deb-src\nURIs: http://keyed.example/debian\n http://second.example/debian\nSuites: bookworm\n\
                     Components: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n";
        let source = machine(&[
            ("sources.list", plain),
            ("sources.list.d/debian.sources", keyed),
        ])
        .expect("found");
        assert_eq!(
            source.uris,
            [
                "http://keyed.example/debian",
                "http://second.example/debian"
            ]
        );
    }

    #[test]
    fn embedded_key_is_not_taken_for_a_path() {
        let text = "Types: deb\nURIs: http://a.example/debian\nSuites: bookworm\nComponents: main\n\
                    Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc\n";
        let source = machine(&[("sources.list.d/debian.sources", text)]).expect("found");
        assert_eq!(source.signed_by, None);
    }
}
