//! The page with the figures: each part is a section of it, from its heading to the next one.

/// What stands above the sections.
const HEAD: &str = "# Benchmarks\n\nWritten by `cargo xtask bench --write`, section by section: each says of which run it is.\nFigures \
                    of one run are compared with a baseline of the same run, never with another run's.\n";

/// Puts what is to be known of a run right below a section's heading.
pub(super) fn section(text: &str, run: &str) -> String {
    let (heading, rest) = text.split_once("\n\n").unwrap_or((text, ""));
    format!("{heading}\n\n{run}\n\n{}\n", rest.trim_end())
}

/// The page with a section in the place of the one with the same heading, or at the end.
pub(super) fn with(page: &str, section: &str) -> String {
    let page = if page.trim().is_empty() { HEAD } else { page };
    let heading = section.lines().next().unwrap_or_default();
    let mut made: Vec<String> = Vec::new();
    let mut placed = false;
    for one in sections(page) {
        let same = one.lines().next() == Some(heading);
        made.push(if same { section.to_owned() } else { one });
        placed |= same;
    }
    if !placed {
        made.push(section.to_owned());
    }
    let parts: Vec<&str> = made.iter().map(|one| one.trim_end()).collect();
    format!("{}\n", parts.join("\n\n"))
}

/// The head, and then each section.
fn sections(page: &str) -> Vec<String> {
    let mut all = vec![String::new()];
    for line in page.lines() {
        if line.starts_with("## ") {
            all.push(String::new());
        }
        if let Some(last) = all.last_mut() {
            last.push_str(line);
            last.push('\n');
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_section_is_replaced_and_the_others_stay() {
        let page = "# Benchmarks\n\nHead.\n\n## One\n\nold\n\n## Two\n\nkept\n";
        let one = section("## One\n\nnew\n", "A run.");
        assert_eq!(
            with(page, &one),
            "# Benchmarks\n\nHead.\n\n## One\n\nA run.\n\nnew\n\n## Two\n\nkept\n"
        );
        let three = section("## Three\n\nnew\n", "A run.");
        assert_eq!(with(page, &three), format!("{page}\n## Three\n\nA run.\n\nnew\n"));
        assert_eq!(with("", &three), format!("{HEAD}\n## Three\n\nA run.\n\nnew\n"));
    }
}
