//! A strict reader of `OpenMetrics` text that is also Prometheus's older text format, for tests.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail, ensure};

/// What was read: the samples by name and labels.
#[derive(Clone, Debug, Default)]
pub struct Metrics(BTreeMap<(String, BTreeMap<String, String>), f64>);

impl Metrics {
    /// The value of a sample with exactly these labels.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        self.0.get(&(name.to_owned(), labels.collect())).copied()
    }
}

#[derive(Default)]
struct Family {
    name: String,
    kind: String,
    unit: Option<String>,
    help: bool,
    samples: bool,
}

/// Reads a text, and refuses whatever the format does not allow.
pub fn read(text: &str) -> Result<Metrics> {
    let body = text.strip_suffix("# EOF\n").context("it does not end in `# EOF`")?;
    ensure!(!body.contains('\r'), "a carriage return");
    let mut metrics = Metrics::default();
    let (mut seen, mut family) = (BTreeSet::new(), Family::default());
    for line in body.lines() {
        if let Some(rest) = line.strip_prefix("# ") {
            describe(rest, &mut family, &mut seen).with_context(|| line.to_owned())?;
        } else {
            ensure!(!line.starts_with('#') && !line.is_empty(), "no line of the format: {line}");
            let (name, labels, value) = sample(line).with_context(|| line.to_owned())?;
            let suffix = if family.kind == "counter" { "_total" } else { "" };
            ensure!(name == format!("{}{suffix}", family.name), "not of {}: {line}", family.name);
            ensure!(family.help, "without HELP: {line}");
            ensure!(family.kind != "counter" || value >= 0.0, "a negative counter: {line}");
            family.samples = true;
            let known = metrics.0.insert((name, labels), value);
            ensure!(known.is_none(), "twice: {line}");
        }
    }
    Ok(metrics)
}

fn describe(rest: &str, family: &mut Family, seen: &mut BTreeSet<String>) -> Result<()> {
    let (word, rest) = rest.split_once(' ').context("nothing behind the word")?;
    let (name, rest) = rest.split_once(' ').context("nothing behind the name")?;
    ensure!(is_name(name), "no name: {name}");
    if name != family.name {
        ensure!(seen.insert(name.to_owned()), "a family in two pieces");
        *family = Family { name: name.to_owned(), ..Family::default() };
    }
    ensure!(!family.samples, "behind the samples");
    match word {
        "TYPE" => {
            ensure!(family.kind.is_empty() && matches!(rest, "gauge" | "counter"), "type {rest}");
            ensure!(!name.ends_with("_total"), "a family is named without _total");
            rest.clone_into(&mut family.kind);
        }
        "UNIT" => {
            ensure!(family.unit.is_none() && name.ends_with(&format!("_{rest}")), "unit {rest}");
            family.unit = Some(rest.to_owned());
        }
        "HELP" => {
            ensure!(!family.help, "HELP twice");
            unescape(rest)?;
            family.help = true;
        }
        _ => bail!("no word of the format"),
    }
    Ok(())
}

fn is_name(text: &str) -> bool {
    let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    first && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn sample(line: &str) -> Result<(String, BTreeMap<String, String>, f64)> {
    let (name, rest) = line.split_once('{').context("no labels")?;
    ensure!(is_name(name), "no name: {name}");
    let mut labels = BTreeMap::new();
    let mut rest = rest;
    loop {
        let (label, after) = rest.split_once("=\"").context("no label")?;
        ensure!(is_name(label), "no name of a label: {label}");
        let end = end_of_quotes(after).context("the quotes do not end")?;
        let (value, after) = after.split_at(end);
        ensure!(labels.insert(label.to_owned(), unescape(value)?).is_none(), "a label twice");
        rest = after.strip_prefix('"').context("no quote")?;
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None => break,
        }
    }
    let value = rest.strip_prefix("} ").context("the labels do not end")?;
    ensure!(value.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.'), "no value: {value}");
    Ok((name.to_owned(), labels, value.parse()?))
}

fn end_of_quotes(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.char_indices().find_map(|(at, one)| {
        let end = one == '"' && !escaped;
        escaped = one == '\\' && !escaped;
        end.then_some(at)
    })
}

fn unescape(text: &str) -> Result<String> {
    let mut plain = String::new();
    let mut chars = text.chars();
    while let Some(one) = chars.next() {
        match one {
            '\\' => plain.push(match chars.next() {
                Some('n') => '\n',
                Some(one @ ('\\' | '"')) => one,
                _ => bail!("no escape of the format"),
            }),
            '"' => bail!("a quote that is not escaped"),
            _ => plain.push(one),
        }
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "# TYPE a_seconds counter\n# UNIT a_seconds seconds\n# HELP a_seconds It.\n\
                        a_seconds_total{x=\"1\\\"\\n\"} 1.5\n# EOF\n";

    #[test]
    fn only_the_format_is_read() {
        let read_it = read(GOOD).unwrap();
        assert_eq!(read_it.value("a_seconds_total", &[("x", "1\"\n")]), Some(1.5));
        for (from, to) in [
            ("# EOF\n", ""),
            ("counter", "info"),
            ("_total", ""),
            ("UNIT a_seconds seconds", "UNIT a_seconds bytes"),
            ("# HELP a_seconds It.\n", ""),
            ("\\n\"}", "\\x\"}"),
            ("\\\"", "\""),
            ("} 1.5", "} x"),
            ("} 1.5", "}  1.5"),
            ("# EOF", "a_seconds_total{x=\"1\\\"\\n\"} 1\n# EOF"),
            ("# EOF", "\n# EOF"),
        ] {
            assert!(read(&GOOD.replace(from, to)).is_err(), "{from} -> {to}");
        }
    }
}
