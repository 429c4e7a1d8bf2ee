//! What looks like a secret where everybody can read it.

/// How well-known keys begin.
const PREFIXES: &[&str] = &[
    "sk-",
    "sk_live_",
    "rk_live_",
    "ghp_",
    "gho_",
    "ghs_",
    "github_pat_",
    "glpat-",
    "AKIA",
    "ASIA",
    "AIza",
    "xoxb-",
    "xoxp-",
    "xapp-",
    "hf_",
    "gsk_",
    "npm_",
    "pypi-",
    "nvapi-",
    "dop_v1_",
    "-----BEGIN",
];

/// What names of secrets have in them, in lower case and without separators.
const NAMES: &[&str] =
    &["apikey", "accesskey", "secret", "token", "password", "passwd", "credential"];

/// The shortest text that is taken for a secret.
const SHORTEST: usize = 12;

/// Whether a value looks like a key, by itself or by its name. A mark such as `{file:…}` stands for
/// a secret and is none; so does a path, and words are none.
pub(crate) fn looks_like_one(name: &str, value: &str) -> bool {
    let value = value.strip_prefix("Bearer ").unwrap_or(value);
    if value.len() < SHORTEST || value.contains('{') {
        return false;
    }
    if PREFIXES.iter().any(|prefix| value.starts_with(prefix)) {
        return true;
    }
    let name: String =
        name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase();
    let named = NAMES.iter().any(|part| name.contains(part)) || name == "authorization";
    let opaque = value.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.+=/~".contains(&b))
        && !value.starts_with('/')
        && value.bytes().any(|b| b.is_ascii_digit());
    named && opaque
}

#[cfg(test)]
mod tests {
    use super::looks_like_one;

    #[test]
    fn keys_are_told_from_what_stands_for_them() {
        for (name, value) in [
            ("x", "sk-ant-REDACTED"),
            ("GITHUB", "ghp_0123456789abcdef"),
            ("apiKey", "0123456789abcdef"),
            ("API_TOKEN", "zzzz-1111-yyyy-2222"),
            ("authorization", "Bearer abcdef0123456789"),
        ] {
            assert!(looks_like_one(name, value), "{name} {value}");
        }
        for (name, value) in [
            ("apiKey", "{file:/run/credentials/x/key}"),
            ("apiKey", "{env:ANTHROPIC_API_KEY}"),
            ("apiKey", "{credential:anthropic}"),
            ("apiKey", "x"),
            ("TOKEN_FILE", "/run/secrets/token1234"),
            ("max_tokens", "unlimited-please"),
            ("model", "anthropic/claude-sonnet-4-5-20250929"),
            ("PASSWORD_HINT", "the usual words here 123"),
        ] {
            assert!(!looks_like_one(name, value), "{name} {value}");
        }
    }
}
