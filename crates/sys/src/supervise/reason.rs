//! Turns the server's answers into words for an operator.

use serde_json::Value;

use super::relay::without_quotes;
use crate::http::Response;

/// A longer error document is not parsed.
const MAX_DOCUMENT: usize = 64 << 10;
/// The most issues that are named.
const MAX_ISSUES: usize = 4;

/// Says why `GET /config` was refused.
pub(super) fn refusal(response: &Response) -> String {
    if response.status == 401 {
        return "the server does not accept the password that it was given".to_owned();
    }
    if response.status == 200 {
        return "GET /config was answered with something that is not a configuration".to_owned();
    }
    let document = response.body.get(..MAX_DOCUMENT).is_none().then_some(&response.body);
    let value: Value =
        document.and_then(|body| serde_json::from_slice(body).ok()).unwrap_or_default();
    configuration(&value).unwrap_or_else(|| {
        let words =
            [text(&value, "/name"), text(&value, "/data/message"), text(&value, "/message")];
        let words: Vec<&str> = words.into_iter().flatten().collect();
        format!("GET /config was answered with status {}: {}", response.status, words.join(": "))
            .trim_end_matches([':', ' '])
            .to_owned()
    })
}

/// Reads opencode's `ConfigInvalidError` and `ConfigJsonError`:
/// `{"name": …, "data": {"path": FILE, "issues": [{"path": [KEY…], "message": …}], "message": …}}`.
fn configuration(value: &Value) -> Option<String> {
    let path = text(value, "/data/path")?;
    match text(value, "/name")? {
        "ConfigJsonError" => {
            let details = text(value, "/data/message").map(without_quotes).unwrap_or_default();
            Some(format!("{path} is not valid JSON: {details}"))
        }
        "ConfigInvalidError" => {
            let issues = value.pointer("/data/issues").and_then(Value::as_array);
            let mut issues = issues.into_iter().flatten().map(issue);
            let mut words: Vec<String> = issues.by_ref().take(MAX_ISSUES).collect();
            match issues.count() {
                0 => {}
                more => words.push(format!("and {more} more")),
            }
            words.extend(text(value, "/data/message").map(without_quotes));
            Some(format!("{path} is invalid: {}", words.join("; ")))
        }
        _ => None,
    }
}

/// One issue as `provider.x.npm: Expected …`.
fn issue(value: &Value) -> String {
    let keys = value.get("path").and_then(Value::as_array);
    let keys: Vec<String> = keys.into_iter().flatten().map(key).collect();
    let message = text(value, "/message").unwrap_or("invalid");
    if keys.is_empty() { message.to_owned() } else { format!("{}: {message}", keys.join(".")) }
}

fn key(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn text<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    value.pointer(pointer)?.as_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(status: u16, body: &[u8]) -> String {
        let content_type = "application/json".to_owned();
        refusal(&Response { status, content_type, body: body.to_vec(), truncated: false })
    }

    #[test]
    fn what_opencode_says_becomes_readable() {
        let invalid = br#"{"name":"ConfigInvalidError","data":{"path":"/p/opencode.json","issues":[
            {"path":["model"],"message":"Expected string | undefined, got 5"},
            {"path":["provider","x",0],"message":"Expected string | undefined, got 3"}]}}"#;
        assert_eq!(
            words(400, invalid),
            "/p/opencode.json is invalid: model: Expected string | undefined, got 5; \
             provider.x.0: Expected string | undefined, got 3"
        );
        let json = br#"{"name":"ConfigJsonError","data":{"path":"/p/opencode.json","message":
            "\n--- JSONC Input ---\n{\"key\": \"sk-1\" \n\n--- Errors ---\nValueExpected at line 2, column 1\nCloseBraceExpected at line 2, column 1\n--- End ---"}}"#;
        assert_eq!(
            words(400, json),
            "/p/opencode.json is not valid JSON: ValueExpected at line 2, column 1 · \
             CloseBraceExpected at line 2, column 1"
        );
    }

    #[test]
    fn anything_else_is_said_plainly() {
        assert_eq!(words(500, b"<html>"), "GET /config was answered with status 500");
        let unknown = br#"{"name":"UnknownError","data":{"message":"EROFS: read-only"}}"#;
        let expected = "GET /config was answered with status 500: UnknownError: EROFS: read-only";
        assert_eq!(words(500, unknown), expected);
        assert!(words(401, b"").contains("password"));
        assert!(words(200, b"<html>").contains("not a configuration"));
    }

    #[test]
    fn a_hostile_answer_is_no_trouble() {
        words(400, "[".repeat(60_000).as_bytes());
        words(400, "{\"data\":".repeat(60_000).as_bytes());
        let many = format!(
            r#"{{"name":"ConfigInvalidError","data":{{"path":"/p","issues":[1{}]}}}}"#,
            ",{}".repeat(9000)
        );
        assert!(words(400, many.as_bytes()).ends_with("and 8997 more"));
    }
}
