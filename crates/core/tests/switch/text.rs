//! Unit files as NixOS reads them: the same parser, the same way of putting drop-ins on top.

use std::collections::BTreeMap;

use ini::{Ini, ParseOption};

/// The files below `/etc/systemd/system`, by their path in it: units and drop-ins.
pub(crate) type Files = BTreeMap<String, String>;

/// A unit with its drop-ins: section, directive, values in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct UnitText(BTreeMap<String, BTreeMap<String, Vec<String>>>);

impl UnitText {
    /// Reads a unit and what lies in its `.d` directory, or nothing where there is no such unit.
    ///
    /// Mirrors `parse_unit`. A file named in full hides its template, as all of ours are, so
    /// templates are left out.
    pub(crate) fn of(files: &Files, name: &str) -> Option<Self> {
        let mut unit = Self::default();
        unit.add(files.get(name)?);
        let below = format!("{name}.d/");
        for (path, text) in files.range(below.clone()..) {
            if !path.starts_with(&below) {
                break;
            }
            let file = path.strip_prefix(&below).and_then(|file| file.strip_suffix(".conf"));
            if file.is_some_and(|file| !file.contains('/')) {
                unit.add(text);
            }
        }
        Some(unit)
    }

    /// Puts one more file on top.
    ///
    /// Mirrors `parse_systemd_ini`: `[Install]` does not count, and an empty value forgets those
    /// before it, also those of earlier files.
    fn add(&mut self, text: &str) {
        let option =
            ParseOption { enabled_quote: true, enabled_escape: false, ..ParseOption::default() };
        let parsed = Ini::load_from_str_opt(text, option).unwrap();
        for (section, properties) in &parsed {
            let Some(section) = section.filter(|section| *section != "Install") else { continue };
            let own = self.0.entry(section.to_owned()).or_default();
            let mut added: BTreeMap<&str, (bool, Vec<String>)> = BTreeMap::new();
            for (directive, value) in properties {
                let (forget, values) = added.entry(directive).or_default();
                if value.is_empty() {
                    *forget = true;
                    values.clear();
                } else {
                    values.push(value.to_owned());
                }
            }
            for (directive, (forget, values)) in added {
                let known = own.entry(directive.to_owned()).or_default();
                if forget {
                    known.clear();
                }
                known.extend(values);
            }
        }
    }

    /// All sections.
    pub(crate) fn sections(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// All directives of a section, which may be missing.
    pub(crate) fn directives(&self, section: &str) -> impl Iterator<Item = &str> {
        self.0.get(section).into_iter().flat_map(BTreeMap::keys).map(String::as_str)
    }

    /// Whether there is such a section.
    pub(crate) fn has(&self, section: &str) -> bool {
        self.0.contains_key(section)
    }

    /// All values of a directive, if it is there.
    pub(crate) fn values(&self, section: &str, directive: &str) -> Option<&[String]> {
        self.0.get(section)?.get(directive).map(Vec::as_slice)
    }

    /// The words of a directive's values: what a list of units is.
    pub(crate) fn words(&self, section: &str, directive: &str) -> impl Iterator<Item = &str> {
        let values = self.values(section, directive).unwrap_or_default();
        values.iter().flat_map(|value| value.split_whitespace())
    }

    /// A yes or no, of which the last one counts. Mirrors `parse_systemd_bool`.
    pub(crate) fn flag(&self, section: &str, directive: &str, default: bool) -> bool {
        let last = self.values(section, directive).and_then(<[String]>::last);
        last.map_or(default, |last| matches!(last.as_str(), "1" | "yes" | "true" | "on"))
    }
}

#[cfg(test)]
mod tests {
    use super::{Files, UnitText};

    fn unit(files: &[(&str, &str)]) -> UnitText {
        let files: Files =
            files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        UnitText::of(&files, "a.service").unwrap()
    }

    #[test]
    fn drop_ins_add_and_an_empty_value_forgets() {
        let unit = unit(&[
            ("a.service", "[Service]\nExecStart=/a\nEnvironment=A=1\nType=simple\n"),
            ("a.service.d/10.conf", "[Service]\nExecStart=\nExecStart=/b\nEnvironment=B=2\n"),
            ("a.service.d/10.txt", "[Service]\nType=notify\n"),
            ("a.service.d.old/10.conf", "[Service]\nType=notify\n"),
        ]);
        assert_eq!(unit.values("Service", "ExecStart").unwrap(), ["/b"]);
        assert_eq!(unit.values("Service", "Environment").unwrap(), ["A=1", "B=2"]);
        assert_eq!(unit.values("Service", "Type").unwrap(), ["simple"]);
    }

    #[test]
    fn what_is_installed_where_does_not_count() {
        let unit = unit(&[("a.service", "[Unit]\nWants=b c\n[Install]\nWantedBy=d\n")]);
        assert_eq!(unit.sections().collect::<Vec<_>>(), ["Unit"]);
        assert_eq!(unit.words("Unit", "Wants").collect::<Vec<_>>(), ["b", "c"]);
    }

    /// Unlike systemd, the parser ends a value at ` #` and ` ;`, unless it stands in quotes that
    /// begin the value.
    #[test]
    fn a_comment_may_follow_a_value() {
        let unit = unit(&[("a.service", "[Service]\nExecStart=/a b #c\nNice=\"1 #2\"\n")]);
        assert_eq!(unit.values("Service", "ExecStart").unwrap(), ["/a b"]);
        assert_eq!(unit.values("Service", "Nice").unwrap(), ["1 #2"]);
    }
}
